"""Runs a script as two processes of torch.distributed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def run_two_processes(script: Path, folder: Path) -> None:
    """Runs `script folder` by torchrun and returns when both processes have ended well."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    finished = subprocess.run(
        [*launcher, "--nproc-per-node", "2", str(script), str(folder)],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert finished.returncode == 0, finished.stderr
