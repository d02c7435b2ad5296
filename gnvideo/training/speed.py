"""Measures how fast a run is, what share of its time goes to waiting, and its peak memory."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager

import torch


class SpeedMeter:
    """Measures from each `measure` or `restart` to the next `measure`."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        # Idle, so that what is put there happens at once.
        self._idle_stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self.restart()

    def restart(self) -> None:
        """Leaves out the time until now, such as that of an evaluation, and its clips."""
        self._start_seconds = time.perf_counter()
        self._waited_seconds = 0.0
        self._clips = 0

    def count(self, clips: int) -> None:
        """Adds `clips` that were trained on."""
        self._clips += clips

    @contextmanager
    def waiting_for_data(self) -> Generator[None]:
        """Adds the time inside to the time waited for the loader.

        On a GPU, only that part of it in which the GPU had nothing to do: while it still works on
        what it was given before, a wait costs nothing.
        """
        start_seconds = time.perf_counter()
        if self._idle_stream is None:
            yield
            self._waited_seconds += time.perf_counter() - start_seconds
            return
        work_end, wait_end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        work_end.record(torch.cuda.current_stream(self._device))
        yield
        if work_end.query():
            waited_seconds = time.perf_counter() - start_seconds
            wait_end.record(self._idle_stream)
            wait_end.synchronize()
            idle_seconds = work_end.elapsed_time(wait_end) / 1000
            self._waited_seconds += min(idle_seconds, waited_seconds)

    def measure(self) -> dict[str, float]:
        """Returns the fields of the log's "speed" event and starts again.

        `clips_per_second` is of all processes; `data_wait_share` (0 to 1) and `peak_memory_mib`
        are of this one. The memory is that of tensors on a GPU, of the whole process on the CPU,
        since the start.
        """
        elapsed_seconds = max(time.perf_counter() - self._start_seconds, 1e-9)
        speed = {
            "clips_per_second": self._clips / elapsed_seconds,
            "data_wait_share": self._waited_seconds / elapsed_seconds,
            "peak_memory_mib": _measure_peak_memory_bytes(self._device) / 2**20,
        }
        self.restart()
        return speed


def _measure_peak_memory_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Linux counts KiB, macOS bytes.
    return peak if sys.platform == "darwin" else peak * 1024
