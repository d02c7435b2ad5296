from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gnvideo.data.worker_pool import StartMethod, WorkerSettings, iterate_items
from gnvideo.errors import VideoError, WorkerDiedError

Report = Callable[[int], None]


def find_path(video: int) -> Path:
    return Path(f"videos/{video}.mp4")


def iterate(make_item: Any, count: int, **settings: Any) -> Iterator[Any]:
    defaults: dict[str, Any] = {"num_workers": 2, "timeout_seconds": 30.0}
    return iterate_items(make_item, range(count), WorkerSettings(**defaults | settings), find_path)


def describe_process(request: int, report: Report) -> tuple[int, int, int]:
    import torch

    report(request)
    # The even ones take longer, so that items do not end in their order.
    time.sleep(0.02 * (request % 2 == 0))
    return request, os.getpid(), torch.get_num_threads()


@pytest.mark.parametrize("method", ["auto", "fork", "forkserver", "spawn"])
def test_items_come_in_order_from_all_workers_with_one_thread_each(method: StartMethod) -> None:
    items = list(iterate(describe_process, 12, start_method=method))
    assert [request for request, _, _ in items] == list(range(12))
    processes = {process for _, process, _ in items}
    assert os.getpid() not in processes
    assert len(processes) <= 2
    assert {threads for _, _, threads in items} == {1}


def test_requests_are_asked_for_only_so_far_ahead() -> None:
    asked: list[int] = []

    def requests() -> Iterator[int]:
        for request in range(20):
            asked.append(request)
            yield request

    settings = WorkerSettings(2, prefetch=3)
    for number, _ in enumerate(iterate_items(describe_process, requests(), settings, find_path)):
        assert len(asked) <= number + 1 + 3


def hang_at_three(request: int, report: Report) -> int:
    report(request)
    if request == 3:
        # Never returns to Python, as a decoder that is stuck in C.
        signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))
        ctypes.PyDLL(None).sleep(1000)
    report(-1)
    return request


def test_a_worker_that_is_stuck_is_killed_and_its_video_named() -> None:
    start = time.monotonic()
    items: list[int] = []
    with pytest.raises(VideoError, match=r"videos/3\.mp4.*stuck.*1\.5 s") as caught:
        items.extend(iterate(hang_at_three, 20, timeout_seconds=1.5))
    assert "\n" not in str(caught.value)
    assert time.monotonic() - start < 20
    assert list_children() == []


def die_at_three(request: int, report: Report) -> int:
    report(request)
    if request == 3:
        os.kill(os.getpid(), signal.SIGSEGV)
    return request


def test_a_worker_that_dies_names_its_video() -> None:
    with pytest.raises(WorkerDiedError, match=r"SIGSEGV.*videos/3\.mp4") as caught:
        list(iterate(die_at_three, 20))
    assert "\n" not in str(caught.value)
    assert list_children() == []


def fail_at_three(request: int, report: Report) -> int:
    if request == 3:
        raise VideoError("videos/3.mp4: broken")
    return request


def test_an_error_of_a_worker_comes_in_its_turn() -> None:
    items = iterate(fail_at_three, 20)
    assert [next(items) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(VideoError, match=r"videos/3\.mp4: broken"):
        next(items)
    assert list_children() == []


def test_workers_end_with_the_iterator() -> None:
    items = iterate(describe_process, 100)
    next(items)
    assert len(list_children()) == 2
    items.close()  # type: ignore[attr-defined]
    assert list_children() == []


@pytest.mark.parametrize(
    ("method", "end", "code"),
    [
        ("fork", "pass", 0),
        ("fork", "os.kill(os.getpid(), 9)", -9),
        pytest.param("forkserver", "os.kill(os.getpid(), 9)", -9, marks=pytest.mark.slow),
    ],
)
def test_workers_neither_outlive_a_killed_parent_nor_keep_one_from_leaving(
    method: str, end: str, code: int
) -> None:
    script = f"""
import os, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
if __name__ == "__main__":
    import test_worker_pool
    items = test_worker_pool.iterate(
        test_worker_pool.describe_process, 1000, start_method={method!r}
    )
    print(*{{next(items)[1] for _ in range(20)}}, flush=True)
    {end}
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == code, done.stderr
    workers = [int(word) for word in done.stdout.split()]
    assert workers
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{worker}").exists() for worker in workers):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def list_children() -> list[Any]:
    import multiprocessing

    return multiprocessing.active_children()


def test_settings_out_of_range_are_refused() -> None:
    for settings in ({"num_workers": -1}, {"prefetch": 0}, {"timeout_seconds": 0.0}):
        with pytest.raises(ValueError, match="must be"):
            WorkerSettings(**settings)  # pyright: ignore[reportArgumentType]
