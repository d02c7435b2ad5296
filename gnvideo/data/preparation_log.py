"""The memory of a preparation: what was prepared, from what and how; one JSON line a clip."""

from __future__ import annotations

import json
import sys
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO

from gnvideo.atomic_file import make_write_error, remove_partial_files, write_text_atomic
from gnvideo.data.manifest import ManifestRow
from gnvideo.data.preparation_plan import ClipJob
from gnvideo.errors import OutputError

LOG_NAME = ".progress.jsonl"
_LOCK_NAME = ".lock"


class PreparationLog:
    """Remembers prepared clips across runs, killed ones too.

    A clip counts as prepared when job and settings are the same, its source has the size and time
    of change that it had, and the prepared file has the size that it had.

    Args:
        file: Open for appending.
        entries: What earlier runs wrote, by `key`.
        output: The data root.
        videos: The folder of the sources.
        settings: What the prepared files depend on besides their sources; plain JSON data.
    """

    def __init__(
        self,
        file: TextIO,
        entries: dict[str, dict[str, Any]],
        output: Path,
        videos: Path,
        settings: dict[str, Any],
    ) -> None:
        self._file = file
        self._entries = entries
        self._output = output
        self._videos = videos
        self._settings = settings

    def find(self, job: ClipJob) -> ManifestRow | None:
        """Returns the row of the clip if it is already prepared and nothing changed since."""
        entry = self._entries.get(_make_key(job))
        if entry is None or entry["settings"] != self._settings:
            return None
        if entry["source"] not in [source.path for source in job.sources]:
            return None
        row = ManifestRow(**entry["row"])
        try:
            unchanged = entry["state"] == self._read_state(entry["source"])
            present = (self._output / (row.path or "")).stat().st_size == row.bytes
        except OSError:
            return None
        return row if unchanged and present else None

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
                "state": self._read_state(source),
                "row": asdict(row),
            }
        except OSError:
            # The source is gone already; the row stays good for this run.
            return
        try:
            self._file.write(json.dumps(entry) + "\n")
            self._file.flush()
        except OSError as error:
            raise make_write_error(self._output / LOG_NAME, error) from error

    def _read_state(self, source: str) -> list[int]:
        status = (self._videos / source).stat()
        return [status.st_size, status.st_mtime_ns]


@contextmanager
def open_preparation_log(
    output: Path, videos: Path, settings: dict[str, Any]
) -> Generator[PreparationLog]:
    """Opens the log in the data root `output`, for one run at a time; makes the folder if missing.

    Half-written files of killed runs are removed.

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
        remove_partial_files(output)
        entries = _read_entries(path)
        # Without lines that later ones replace, and without one that was cut off.
        write_text_atomic(path, "".join(json.dumps(entry) + "\n" for entry in entries.values()))
        with path.open("a", encoding="utf-8") as file:
            yield PreparationLog(file, entries, output, videos, settings)


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


def _read_entries(path: Path) -> dict[str, dict[str, Any]]:
    entries: dict[str, dict[str, Any]] = {}
    try:
        with path.open(encoding="utf-8") as file:
            for line in file:
                try:
                    entry = json.loads(line)
                    entries[entry["key"]] = entry
                except (json.JSONDecodeError, KeyError, TypeError):
                    # Cut off by a kill; the clip is prepared again.
                    continue
    except FileNotFoundError:
        return {}
    return entries
