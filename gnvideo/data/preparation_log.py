"""The memory of a preparation: what was prepared, from what and how; one JSON line a clip.

A line is written when its clip stands under its name. It reaches the operating system at once, so a
kill costs nothing that was finished; it is flushed to the disk every few seconds, so a power cut
costs the work of these. Should a line outlive its file, the file's size tells.
"""

from __future__ import annotations

import io
import json
import os
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from gnvideo.atomic_file import make_write_error, open_atomic, remove_partial_files
from gnvideo.data.manifest import ManifestRow
from gnvideo.data.preparation_plan import ClipJob
from gnvideo.errors import OutputError

LOG_NAME = ".progress.jsonl"
_LOCK_NAME = ".lock"
_SECONDS_BETWEEN_FLUSHES = 10.0


class PreparedClips:
    """What earlier runs prepared into a data root; looking at it changes nothing.

    A clip counts as prepared when job and settings are the same, its source has the size and time
    of change that it had, and the prepared file has the size that it had.

    Args:
        file: The log, open for reading as bytes.
        output: The data root, which need not exist.
        videos: The folder of the sources.
        settings: What the prepared files depend on besides their sources; plain JSON data.
    """

    def __init__(
        self, file: BinaryIO, output: Path, videos: Path, settings: dict[str, Any]
    ) -> None:
        self._file = file
        # Places, not entries: these would take a gigabyte for 650,000 clips.
        self._place_of_key, _ = _find_entries(file)
        self._output = output
        self._videos = videos
        self._settings = settings

    def find(self, job: ClipJob) -> ManifestRow | None:
        """Returns the row of the clip if it is already prepared and nothing changed since."""
        place = self._place_of_key.get(_make_key(job))
        if place is None:
            return None
        self._file.seek(place)
        entry = json.loads(self._file.readline())
        try:
            source, row = entry["source"], ManifestRow(**entry["row"])
            if entry["settings"] != self._settings or source not in [
                known.path for known in job.sources
            ]:
                return None
            unchanged = entry["state"] == _read_state(self._videos / source)
            present = (self._output / (row.path or "")).stat().st_size == row.bytes
        except (OSError, KeyError, TypeError):
            # A file is gone, or another version wrote the entry.
            return None
        return row if unchanged and present else None


class PreparationLog:
    """Writes down what is prepared.

    Args:
        file: Open for appending.
        videos: The folder of the sources.
        settings: As of `PreparedClips`.
    """

    def __init__(self, file: TextIO, videos: Path, settings: dict[str, Any]) -> None:
        self._file = file
        self._videos = videos
        self._settings = settings
        self._flushed = time.monotonic()

    def append(self, job: ClipJob, source: str, row: ManifestRow) -> None:
        """Writes down that the clip is prepared.

        Raises:
            SaveFailedError: the disk is full.
        """
        try:
            entry = {
                "key": _make_key(job),
                "settings": self._settings,
                "source": source,
                "state": _read_state(self._videos / source),
                "row": asdict(row),
            }
        except OSError:
            # The source is gone already; the row stays good for this run.
            return
        try:
            self._file.write(json.dumps(entry) + "\n")
            self._file.flush()
            if time.monotonic() - self._flushed > _SECONDS_BETWEEN_FLUSHES:
                os.fsync(self._file.fileno())
                self._flushed = time.monotonic()
        except OSError as error:
            raise make_write_error(Path(self._file.name), error) from error


@contextmanager
def open_prepared_clips(
    output: Path, videos: Path, settings: dict[str, Any]
) -> Generator[PreparedClips]:
    """Opens what the data root `output`, if it exists, remembers; writes nothing."""
    path = output / LOG_NAME
    with path.open("rb") if path.exists() else io.BytesIO() as file:
        yield PreparedClips(file, output, videos, settings)


@contextmanager
def open_preparation_log(
    output: Path, videos: Path, settings: dict[str, Any]
) -> Generator[tuple[PreparedClips, PreparationLog]]:
    """Opens the data root `output` for one run at a time; makes the folder if missing.

    Yields what is prepared, and the log of what will be. Half-written files, of this run and of
    killed ones, are removed at the end.

    Raises:
        OutputError: the folder cannot be written, or another run is writing it.
        SaveFailedError: the disk is full.
    """
    path = output / LOG_NAME
    try:
        output.mkdir(parents=True, exist_ok=True)
        lock = (output / _LOCK_NAME).open("a")
    except OSError as error:
        raise make_write_error(output, error) from error
    with lock:
        if not _try_lock(lock):
            raise OutputError(f"another run is writing {output}; wait until it has ended")
        try:
            _remove_stale_lines(path)
            with (
                path.open("a", encoding="utf-8") as file,
                open_prepared_clips(output, videos, settings) as prepared,
            ):
                yield prepared, PreparationLog(file, videos, settings)
        finally:
            remove_partial_files(output)


def _try_lock(file: TextIO) -> bool:
    if sys.platform == "win32":
        # Windows has no lock that ends with its process and lets others read; runs must take turns.
        return True
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _make_key(job: ClipJob) -> str:
    return json.dumps([job.split, job.label, job.video_id, job.start_seconds, job.end_seconds])


def _read_state(source: Path) -> list[int]:
    status = source.stat()
    return [status.st_size, status.st_mtime_ns]


def _find_entries(file: BinaryIO) -> tuple[dict[str, int], int]:
    """Returns where in the log the last entry of each key begins, and the number of all lines."""
    place_of_key: dict[str, int] = {}
    num_lines = place = 0
    for line in file:
        num_lines += 1
        # Without its end it was cut off by a kill, or another may have been appended to it.
        if line.endswith(b"\n"):
            # A power cut can leave any bytes; their clips are prepared again.
            with suppress(ValueError, KeyError, TypeError):
                place_of_key[str(json.loads(line)["key"])] = place
        place += len(line)
    return place_of_key, num_lines


def _remove_stale_lines(path: Path) -> None:
    """Rewrites the log if it has lines that later ones replace or that are not whole."""
    if not path.exists():
        return
    with path.open("rb") as old:
        place_of_key, num_lines = _find_entries(old)
        if num_lines == len(place_of_key):
            return
        with open_atomic(path) as new:
            for place in place_of_key.values():
                old.seek(place)
                new.write(old.readline())
