"""Brings batches to the device; to a GPU while it works on the one before."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import torch


class Batch(Protocol):
    """What the loader yields: clips as uint8 and their class indices, on the CPU."""

    @property
    def clips_NCTHW(self) -> torch.Tensor: ...  # noqa: D102

    @property
    def labels_N(self) -> torch.Tensor: ...  # noqa: D102


@dataclass(frozen=True, slots=True, eq=False)
class DeviceBatch:
    """A batch on the device; see `Batch`."""

    clips_NCTHW: torch.Tensor
    labels_N: torch.Tensor


class DeviceBatches:
    """The batches of a loader, one after the other, on the device."""

    def __init__(self, batches: Iterable[Batch], device: torch.device) -> None:
        """Takes no batch yet."""
        self._batches = iter(batches)
        self._device = device
        # Copies on a stream of their own run beside the work on the current one.
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._next: DeviceBatch | None = None

    def prefetch(self) -> None:
        """On a GPU, waits for the loader and starts to copy the next batch, unless it has begun.

        To be called once the device has work. At the end of the batches it does nothing.
        """
        if self._stream is None or self._next is not None:
            return
        batch = next(self._batches, None)
        if batch is None:
            return
        with torch.cuda.stream(self._stream):
            # Only from pinned memory does a copy run beside the CPU. torch's pinned memory is used
            # again, and not before the copy is done.
            self._next = DeviceBatch(
                *(
                    tensor.pin_memory().to(self._device, non_blocking=True)
                    for tensor in (batch.clips_NCTHW, batch.labels_N)
                )
            )

    def fetch(self) -> Batch:
        """Returns the next batch, which work on the current stream may use.

        Raises:
            StopIteration: there is none left.
        """
        if self._stream is None:
            return next(self._batches)
        self.prefetch()
        batch, self._next = self._next, None
        if batch is None:
            raise StopIteration
        stream = torch.cuda.current_stream(self._device)
        stream.wait_stream(self._stream)
        for tensor in (batch.clips_NCTHW, batch.labels_N):
            # Its memory belongs to the other stream, which must not take it back too early.
            tensor.record_stream(stream)
        return batch
