"""Files that appear under their final name only when complete; errors of a disk that refuses."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from gnvideo.errors import GnvideoError, OutputError, SaveFailedError

PARTIAL_SUFFIX = ".partial"

# The folder refuses to be written at all: the user's choice of output, not the work, is at fault.
_REFUSED = frozenset(
    {
        errno.EACCES,
        errno.EPERM,
        errno.EROFS,
        errno.ENOTDIR,
        errno.EISDIR,
        errno.EEXIST,
        errno.ENAMETOOLONG,
    }
)


def make_write_error(path: Path, error: OSError) -> GnvideoError:
    """Returns the user error for an operating-system error met while writing `path`."""
    reason = error.strerror or str(error)
    if error.errno in _REFUSED:
        return OutputError(
            f"cannot write {path}: {reason}; choose an output folder that you may write"
        )
    if error.errno == errno.ENOSPC:
        return SaveFailedError(f"no space left while writing {path}; free some space and run again")
    return SaveFailedError(f"writing {path} failed: {reason}; nothing stands under that name")


@contextmanager
def open_atomic(path: Path) -> Generator[BinaryIO]:
    """Opens a temporary file beside `path` for reading and writing; on leaving it becomes `path`.

    The folder is made if it is missing. The content is flushed to the disk before the rename, so
    after a kill or a power cut `path` is either what it was before or complete. The rename itself
    is not flushed: a power cut soon after may undo it. When the block raises, the temporary file is
    removed.

    Raises:
        OutputError: the folder cannot be written.
        SaveFailedError: writing failed half-way, for example because the disk is full.
    """
    # Two processes, of two machines even, may be writing the same file.
    partial = path.with_name(f".{path.name}.{os.urandom(8).hex()}{PARTIAL_SUFFIX}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("w+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        raise make_write_error(path, error) from error
    finally:
        # Gone already when all went well; not there either when the folder cannot be written.
        with suppress(OSError):
            partial.unlink()


def write_text_atomic(path: Path, text: str) -> None:
    """Writes `text` as UTF-8 to `path`, all of it or nothing; raises as `open_atomic`."""
    with open_atomic(path) as file:
        file.write(text.encode())


@contextmanager
def make_folder_atomic(path: Path) -> Generator[Path]:
    """Makes a temporary folder beside `path`; on leaving it becomes `path`, with all it holds.

    What is written in it must be flushed by its writer, as `open_atomic` does. When the block
    raises, the temporary folder is removed.

    Raises:
        OutputError: there is something at `path` already, or the folder cannot be written.
        SaveFailedError: writing failed half-way, for example because the disk is full.
    """
    if path.exists():
        raise OutputError(f"{path} exists; choose another output folder or remove it")
    partial = path.with_name(f".{path.name}.{os.urandom(8).hex()}{PARTIAL_SUFFIX}")
    try:
        partial.mkdir(parents=True)
        yield partial
        partial.rename(path)
    except OSError as error:
        raise make_write_error(path, error) from error
    finally:
        # Gone already when all went well.
        shutil.rmtree(partial, ignore_errors=True)


def remove_partial_files(folder: Path) -> None:
    """Removes what killed processes left half-written anywhere below `folder`.

    Reads the names of all files below and nothing else: 0.05 s for 100,000 on a local disk.
    """
    for place, _, names in os.walk(folder):
        for name in names:
            if name.startswith(".") and name.endswith(PARTIAL_SUFFIX):
                # The process may be dying only now and remove it itself.
                Path(place, name).unlink(missing_ok=True)
