"""Decides that only one comparison at a time writes a comparison folder.

The lock is a `flock` on `<folder>/.lock`. The runs' processes inherit the open file, so the lock
also holds while runs of a comparison that was killed still go on, and it ends with the last of
them, whatever way they end. Linux and macOS.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from types import TracebackType
from typing import Self

from gnvideo.errors import OutputError


class FolderLock:
    """Holds the lock of a comparison folder, made if it is missing, within a `with` block.

    Raises:
        OutputError: on entering, when the folder cannot be written, or another process holds the
            lock; the message gives its processes.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / ".lock"
        self._descriptor = -1

    def __enter__(self) -> Self:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise OutputError(
                f"cannot write {self._path.parent}: {error.strerror or error}; pass another folder"
            ) from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owners = ", ".join(os.pread(descriptor, 4096, 0).decode().split()) or "unknown"
            os.close(descriptor)
            raise OutputError(
                f"another comparison, or runs that one left behind, still write"
                f" {self._path.parent} (processes {owners}); wait for them or stop them"
            ) from None
        self._descriptor = descriptor
        self.write_processes([])
        return self

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        os.close(self._descriptor)

    @property
    def descriptor(self) -> int:
        """The open file that a child process must inherit to keep the lock."""
        return self._descriptor

    def write_processes(self, process_ids: list[int]) -> None:
        """Writes this process and `process_ids` into the lock, for the message to a second one."""
        text = "\n".join(str(process_id) for process_id in [os.getpid(), *process_ids]) + "\n"
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, text.encode(), 0)
