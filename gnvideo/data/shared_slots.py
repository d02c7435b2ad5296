"""Pieces of memory of equal size that processes share, and that are used again and again."""

from __future__ import annotations

import mmap
import os
import tempfile
import weakref
from multiprocessing.reduction import DupFd
from typing import Any

import numpy as np
import numpy.typing as npt


class SharedSlots:
    """Memory in slots, numbered from 0, which worker processes write and their parent reads.

    It is memory without a name: nothing is left behind by processes that are killed, and it does
    not count against the size of /dev/shm, which is small in containers. There are as many slots as
    were ever in use at once; used ones come first, since fresh memory costs time. Only the process
    that made the object takes slots.
    """

    def __init__(self, slot_bytes: int) -> None:
        """Takes no memory before the first slot is written.

        Args:
            slot_bytes: Size of a slot, positive.
        """
        if hasattr(os, "memfd_create"):
            descriptor = os.memfd_create("gnvideo", os.MFD_CLOEXEC)
        else:
            with tempfile.TemporaryFile() as file:
                descriptor = os.dup(file.fileno())
        self._slot_bytes = slot_bytes
        self._start(descriptor)

    def _start(self, descriptor: int) -> None:
        self._descriptor = descriptor
        weakref.finalize(self, os.close, descriptor).atexit = False
        self._maps: list[mmap.mmap | None] = []
        self._free: list[int] = []

    def __getstate__(self) -> dict[str, Any]:
        return {"descriptor": DupFd(self._descriptor), "slot_bytes": self._slot_bytes}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._slot_bytes = state["slot_bytes"]
        self._start(state["descriptor"].detach())

    def take(self) -> int:
        """Returns a slot that is free until `lend` is called for it."""
        if self._free:
            return self._free.pop()
        slot = len(self._maps)
        os.ftruncate(self._descriptor, (slot + 1) * self._stride_bytes)
        self._maps.append(None)
        return slot

    def open(self, slot: int) -> npt.NDArray[np.uint8]:
        """Returns the bytes of `slot`, to be written; all processes see the same."""
        self._maps.extend([None] * (slot + 1 - len(self._maps)))
        mapped = self._maps[slot]
        if mapped is None:
            mapped = mmap.mmap(self._descriptor, self._slot_bytes, offset=slot * self._stride_bytes)
            self._maps[slot] = mapped
        return np.frombuffer(mapped, np.uint8)

    def lend(self, slot: int) -> npt.NDArray[np.uint8]:
        """Returns the bytes of `slot`, which is free again once nothing refers to them any more."""
        content = self.open(slot)
        weakref.finalize(content, self._free.append, slot).atexit = False
        return content

    @property
    def _stride_bytes(self) -> int:
        return -(-self._slot_bytes // mmap.ALLOCATIONGRANULARITY) * mmap.ALLOCATIONGRANULARITY
