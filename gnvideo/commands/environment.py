"""What a run was made with: versions, machine, command."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

import gnvideo

_PACKAGES = (
    "torch",
    "torchvision",
    "pytorchvideo",
    "av",
    "decord",
    "torchcodec",
    "numpy",
    "triton",
)


def describe_environment() -> dict[str, Any]:
    """Returns plain values that tell one machine and installation from another."""
    return {
        "gnvideo": gnvideo.__version__,
        "commit": _read_commit(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": _read_processor(),
        "cores": os.cpu_count(),
        "gpus": [torch.cuda.get_device_name(n) for n in range(torch.cuda.device_count())],
        "cuda": torch.version.cuda,
        "packages": {name: read_version(name) for name in _PACKAGES},
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
    }


def read_version(package: str) -> str | None:
    """Returns the installed version of `package`, or None."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _read_commit() -> str | None:
    """Returns the commit of the source tree, with `-dirty` after uncommitted changes."""
    folder = Path(gnvideo.__file__).parents[1]
    try:
        described = subprocess.run(
            ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=12"],
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return described.stdout.strip()


def _read_processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
