from __future__ import annotations

import ctypes
import mmap
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gnvideo.data.limited_process import JobFailure, JobLimits
from gnvideo.data.process_pool import run_in_processes
from gnvideo.errors import VideoError, WorkFailedError

MIB = 2**20


def double(number: int) -> int:
    return 2 * number


def misbehave(how: str) -> str:
    """What a decoder may do to its process; words without a meaning here are harmless."""
    match how:
        case "loop":
            while True:
                pass
        case "hang in C":
            # Unlike CDLL, PyDLL keeps the interpreter's lock: no Python code runs meanwhile.
            ctypes.PyDLL(None).sleep(600)
        case "ignore signals":
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGALRM):
                signal.signal(number, signal.SIG_IGN)
            time.sleep(600)
        case "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        case "abort":
            os.abort()
        case "be killed":
            os.kill(os.getpid(), signal.SIGKILL)
        case "leave":
            os._exit(3)
        case "allocate":
            return str(len(bytearray(1024 * MIB)))
        case "allocate at once and let go":
            # Before anybody else can have looked.
            bytearray(400 * MIB)
        case "allocate too much":
            return str(len(bytearray(8192 * MIB)))
        case "allocate too much in C":
            # As careless C code does: the pointer is not looked at before it is written to.
            allocate = ctypes.CDLL(None).malloc
            allocate.restype = ctypes.c_void_p
            ctypes.memset(allocate(ctypes.c_size_t(8192 * MIB)) or 0, 1, 1)
        case "share memory":
            # No limit of the system is on such memory.
            shared = mmap.mmap(-1, 4096 * MIB)
            for start in range(0, len(shared), MIB):
                shared[start : start + MIB] = bytes(MIB)
                time.sleep(0.001)
        case _:
            pass
    return how.upper()


def hold_and_return(number: int) -> int:
    """Takes 150 MiB that are free again afterwards."""
    return len(bytearray(150 * MIB)) // MIB + number


def keep(number: int) -> int:
    """Takes 60 MiB that are never free again."""
    _KEPT.append(bytearray(60 * MIB))
    return number


_KEPT: list[bytearray] = []


def refuse(number: int) -> int:
    raise KeyError(f"number {number}")


def refuse_in_one_line(number: int) -> int:
    raise VideoError(f"{number}.mp4 is empty")


class UnportableError(Exception):
    def __init__(self, first: str, second: str) -> None:
        super().__init__(first + second)


def refuse_unportably(number: int) -> int:
    raise UnportableError("number ", str(number))


def answer_unportably(number: int) -> object:
    return lambda: number


@pytest.fixture(autouse=True)
def no_process_stays() -> Iterator[None]:
    before = set(multiprocessing.active_children())
    yield
    assert set(multiprocessing.active_children()) == before


def test_every_job_comes_back_with_its_result() -> None:
    assert sorted(run_in_processes(double, range(50), 2)) == [(i, 2 * i) for i in range(50)]


def test_no_work_starts_no_process() -> None:
    assert list(run_in_processes(double, [], 2)) == []


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("crash", "crashed its process with SIGSEGV"),
        ("abort", "crashed its process with SIGABRT"),
        ("be killed", "had its process killed by SIGKILL, as happens where the system is short"),
        ("leave", "ended its process with exit code 3"),
        ("loop", "took longer than 0.5 s"),
        ("hang in C", "took longer than 0.5 s"),
        ("ignore signals", "took longer than 0.5 s"),
        ("allocate", "needed more than 200 MiB of memory"),
        ("allocate at once and let go", "needed more than 200 MiB of memory"),
        ("allocate too much", "needed more than 200 MiB of memory"),
        ("allocate too much in C", "crashed its process with SIGSEGV"),
        ("share memory", "needed more than 200 MiB of memory"),
    ],
)
def test_a_job_that_ruins_its_process_is_the_only_one_lost(how: str, reason: str) -> None:
    timeout = 30 if "memory" in how or "allocate" in how else 0.5
    jobs = ["a", how, "b", "c", how]
    outcomes = list(run_in_processes(misbehave, jobs, 2, JobLimits(timeout, memory_mib=200)))
    assert sorted(job for job, _ in outcomes) == sorted(jobs)
    for job, result in outcomes:
        if job == how:
            assert isinstance(result, JobFailure)
            assert result.reason.startswith(reason)
        else:
            assert result == job.upper()


def test_a_limit_is_on_each_job_and_not_on_their_sum() -> None:
    limits = JobLimits(timeout_seconds=2, memory_mib=200)
    assert [result for _, result in run_in_processes(hold_and_return, range(6), 1, limits)] == [
        150 + number for number in range(6)
    ]
    assert list(run_in_processes(keep, range(6), 1, limits)) == [(i, i) for i in range(6)]
    slow = list(run_in_processes(time.sleep, [0.8] * 3, 1, limits))
    assert slow == [(0.8, None)] * 3


def test_results_that_wait_for_a_slow_reader_are_in_time() -> None:
    limits = JobLimits(timeout_seconds=0.3)
    results: list[tuple[int, int | JobFailure]] = []
    for outcome in run_in_processes(double, range(6), 1, limits):
        time.sleep(0.4)
        results.append(outcome)
    assert results == [(i, 2 * i) for i in range(6)]


def test_a_job_that_hangs_holds_up_no_more_than_the_next_one() -> None:
    jobs = ["hang in C", *"abcdefgh"]
    outcomes = run_in_processes(misbehave, jobs, 2, JobLimits(timeout_seconds=20))
    began = time.monotonic()
    results = [next(outcomes)[1] for _ in range(7)]
    outcomes.close()
    assert time.monotonic() - began < 10
    assert set(results) < set("ABCDEFGH")


@pytest.mark.parametrize(
    ("function", "error", "message"),
    [
        (refuse, KeyError, "number 0"),
        (refuse_in_one_line, VideoError, "0.mp4 is empty"),
        (refuse_unportably, WorkFailedError, "UnportableError: number 0"),
        (answer_unportably, Exception, "pickle"),
    ],
)
def test_an_error_of_the_work_ends_it(
    function: Callable[[int], object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message) as caught:
        list(run_in_processes(function, range(3), 1))
    if function is refuse_in_one_line:
        assert str(caught.value) == message
        # Where in the process it happened.
        assert "in refuse_in_one_line" in caught.value.__notes__[0]


def test_closing_early_ends_the_processes() -> None:
    results = run_in_processes(double, range(1000), 1)
    next(iter(results))
    results.close()


def test_a_worker_that_starts_after_its_parents_death_takes_no_job(tmp_path: Path) -> None:
    script = tmp_path / "start.py"
    script.write_text(
        """
import multiprocessing, multiprocessing.connection, os
from gnvideo.data.job_worker import die_with_parent

def start_late():
    multiprocessing.connection.wait([multiprocessing.parent_process().sentinel])
    print("starts", flush=True)
    die_with_parent()
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


@pytest.mark.parametrize("how", ["loop", "hang in C", "ignore signals"])
def test_processes_die_with_a_parent_that_is_killed(tmp_path: Path, how: str) -> None:
    script = tmp_path / "start.py"
    script.write_text(
        f"""
import os, signal, sys, threading
sys.path.insert(0, {str(Path(__file__).parent)!r})
from gnvideo.data.process_pool import run_in_processes
from test_process_pool import misbehave

if __name__ == "__main__":
    results = run_in_processes(misbehave, ["fine", *[{how!r}] * 5], 2)
    print(next(results)[1], flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""
    )
    # Ends when the last process with this output has ended.
    done = subprocess.run([sys.executable, str(script)], stdout=subprocess.PIPE, timeout=60)
    assert done.returncode == -signal.SIGKILL
    assert done.stdout == b"FINE\n"


def test_a_script_without_a_guarded_entry_is_told_so(tmp_path: Path) -> None:
    script = tmp_path / "start.py"
    script.write_text(
        "from gnvideo.data.process_pool import run_in_processes\n"
        "print(list(run_in_processes(abs, [-1], 1)))\n"
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "guards its entry" in done.stderr.splitlines()[-1]
