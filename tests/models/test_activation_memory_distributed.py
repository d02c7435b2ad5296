"""Recomputation under DistributedDataParallel, with normalizers that communicate or not."""

from __future__ import annotations

from pathlib import Path

from two_processes import run_two_processes


def test_two_processes_train_the_same_whatever_is_kept(tmp_path: Path) -> None:
    run_two_processes(Path(__file__).with_name("activation_memory_processes.py"), tmp_path)
