"""How long a step takes on a CPU or a GPU, and how fast the device copies memory."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol, TypeVar

import torch

from gnvideo.commands.norm_step import NormStep

_Result = TypeVar("_Result")

_GIBIBYTE = 2**30
# A sample on a CPU repeats the step for so long.
_CPU_SAMPLE_SECONDS = 0.004
_CPU_COPY_BYTES = 256 * 2**20
# Below the 32 MiB up to which glibc learns from what is freed.
_CPU_FREED_BYTES = 31 * 2**20
# The host is to be done with launching a pass before the GPU has read the buffer so often.
_MAX_READS = 16


class StepTimer(Protocol):
    """Times steps on one device."""

    def time_step(self, step: NormStep) -> tuple[float, float]:
        """Returns the seconds of a forward and of a backward pass."""
        ...

    def time_copy(self) -> float:
        """Returns the bytes a second, read and written, of a copy far larger than any cache."""
        ...

    def count_launches(self, step: NormStep) -> tuple[int, int] | None:
        """Returns how many kernels forward and backward launch; None where there are none."""
        ...


class CpuTimer:
    """CPU time of the process with one thread, which other processes do not change; else wall time.

    Caches are as the step before left them.
    """

    def __init__(self) -> None:
        self._clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
        # Where nothing large was ever freed, glibc gives memory back whenever some is freed, and
        # the system clears it again for the next tensor, page by page. In the training of a
        # network that ends with the first steps.
        torch.empty(_CPU_FREED_BYTES, dtype=torch.uint8)

    def time_step(self, step: NormStep) -> tuple[float, float]:
        """Returns the mean seconds of as many passes as fill some milliseconds."""
        forward = backward = 0.0
        num_passes = 0
        while forward + backward < _CPU_SAMPLE_SECONDS:
            start = self._clock()
            y = step.run_forward()
            middle = self._clock()
            step.run_backward(y)
            end = self._clock()
            forward += middle - start
            backward += end - middle
            num_passes += 1
        return forward / num_passes, backward / num_passes

    def time_copy(self) -> float:
        """Returns the bytes a second of one copy."""
        source = torch.ones(_CPU_COPY_BYTES, dtype=torch.uint8)
        target = torch.zeros_like(source)
        start = self._clock()
        target.copy_(source)
        return 2 * _CPU_COPY_BYTES / (self._clock() - start)

    def count_launches(self, step: NormStep) -> None:
        """Returns None."""


class CudaTimer:
    """Time between two CUDA events, with nothing of the step's tensors in the L2 cache.

    Before each pass a buffer far larger than the cache is read: written, it would leave lines there
    that the pass has to write back. Meanwhile the host launches the whole pass, so what is timed is
    the GPU's work and not the host's.

    Attributes:
        num_late: Passes that the GPU had to wait for all the same: their times are upper bounds.
    """

    def __init__(self, device: str) -> None:
        self.num_late = 0
        self._device = torch.device(device)
        cache_bytes: int = torch.cuda.get_device_properties(self._device).L2_cache_size
        num_bytes = max(_GIBIBYTE, 4 * cache_bytes)
        self._buffer = torch.zeros(num_bytes // 4, dtype=torch.float32, device=self._device)

    def time_step(self, step: NormStep) -> tuple[float, float]:
        """Returns the seconds of one pass each."""
        num_reads = 1
        while True:
            y, forward, is_forward_late = self._time(num_reads, step.run_forward)
            _, backward, is_backward_late = self._time(num_reads, lambda y=y: step.run_backward(y))
            num_late = is_forward_late + is_backward_late
            if num_late == 0 or num_reads == _MAX_READS:
                self.num_late += num_late
                return forward, backward
            num_reads *= 2

    def time_copy(self) -> float:
        """Returns the bytes a second of one copy."""
        half = self._buffer.numel() // 2
        target, source = self._buffer[:half], self._buffer[half : 2 * half]
        _, seconds, _ = self._time(1, lambda: target.copy_(source))
        return 2 * target.nbytes / seconds

    def count_launches(self, step: NormStep) -> tuple[int, int]:
        """Returns the kernels, fills and copies that the GPU is given."""
        y = step.run_forward()
        step.run_backward(y)
        forward = self._count_launches(step.run_forward)
        y = step.run_forward()
        return forward, self._count_launches(lambda: step.run_backward(y))

    def _time(self, num_reads: int, run: Callable[[], _Result]) -> tuple[_Result, float, bool]:
        """Returns what `run` returns, its seconds, and whether the GPU waited for its launches."""
        start = torch.cuda.Event(enable_timing=True)
        end = torch.cuda.Event(enable_timing=True)
        torch.cuda.synchronize(self._device)
        for _ in range(num_reads):
            self._buffer.sum()
        start.record()
        result = run()
        end.record()
        is_late = start.query()
        end.synchronize()
        return result, start.elapsed_time(end) / 1000, is_late

    def _count_launches(self, run: Callable[[], object]) -> int:
        from torch.autograd import DeviceType
        from torch.profiler import ProfilerActivity, profile

        torch.cuda.synchronize(self._device)
        with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
            run()
            torch.cuda.synchronize(self._device)
        events = profiler.events() or []
        return sum(event.device_type == DeviceType.CUDA for event in events)
