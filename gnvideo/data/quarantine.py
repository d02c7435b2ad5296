"""The list of videos that could not be prepared, each with its reason: quarantine.csv."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from pathlib import Path

from gnvideo.atomic_file import write_text_atomic

QUARANTINE_NAME = "quarantine.csv"
_COLUMNS = ("id", "split", "label", "source", "reason")


def read_quarantine(root: Path) -> list[list[str]]:
    """Returns the entries of the data root `root`, in the order of the columns; none without file.

    Columns: id, split, label, source, reason.
    """
    try:
        text = (root / QUARANTINE_NAME).read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    return list(csv.reader(io.StringIO(text, newline="")))[1:]


def write_quarantine(root: Path, entries: Iterable[list[str]]) -> None:
    """Writes the list, sorted, all of it or nothing.

    Raises:
        OutputError: the folder cannot be written.
        SaveFailedError: the disk is full.
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_COLUMNS)
    writer.writerows(sorted(entries))
    # A source's name need not be text.
    readable = text.getvalue().encode(errors="backslashreplace").decode()
    write_text_atomic(root / QUARANTINE_NAME, readable)
