from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gnvideo.data.process_pool import run_in_processes


def double(number: int) -> int:
    return 2 * number


def die_at_three(number: int) -> int:
    if number == 3:
        os.kill(os.getpid(), signal.SIGSEGV)
    return 2 * number


def refuse(number: int) -> int:
    raise KeyError(f"number {number}")


@pytest.fixture(autouse=True)
def no_process_stays() -> Iterator[None]:
    before = set(multiprocessing.active_children())
    yield
    assert set(multiprocessing.active_children()) == before


def test_every_job_comes_back_with_its_result() -> None:
    assert sorted(run_in_processes(double, range(7), 2)) == [(i, 2 * i) for i in range(7)]


def test_a_job_that_kills_its_process_is_the_only_one_lost() -> None:
    results = dict(run_in_processes(die_at_three, range(6), 2))
    assert results == {0: 0, 1: 2, 2: 4, 3: None, 4: 8, 5: 10}


def test_an_error_of_the_work_ends_it() -> None:
    with pytest.raises(KeyError, match="number"):
        list(run_in_processes(refuse, range(3), 1))


def test_closing_early_ends_the_processes() -> None:
    results = run_in_processes(double, range(1000), 1)
    next(iter(results))
    results.close()


def test_a_worker_that_starts_after_its_parents_death_takes_no_job(tmp_path: Path) -> None:
    script = tmp_path / "start.py"
    script.write_text(
        """
import multiprocessing, multiprocessing.connection, os, threading
from gnvideo.data.process_pool import _start_worker

def start_late():
    multiprocessing.connection.wait([multiprocessing.parent_process().sentinel])
    print("starts", flush=True)
    # As if the thread that ends the process got its turn late.
    threading.Thread.start = lambda thread: None
    _start_worker()
    print("takes a job", flush=True)

if __name__ == "__main__":
    multiprocessing.get_context("spawn").Process(target=start_late).start()
    os._exit(0)
"""
    )
    # Ends when the last process with this output has ended.
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == "starts\n"
