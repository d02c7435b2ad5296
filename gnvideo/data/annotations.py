"""Kinetics annotation files: which clip of which video shows what.

Read by column name, in every shape in which they are published:
    label,youtube_id,time_start,time_end,split,is_cc             Kinetics-400 train and val
    label,youtube_id,time_start,time_end,split                   Kinetics-600 and -700
    youtube_id,time_start,time_end,split                         test: no label
    YouTube Identifier,Start time,End time,Class label           the first crawler

Source: github.com/activitynet/ActivityNet, Crawler/Kinetics (headers and file names).
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from gnvideo.errors import AnnotationError, InputFileError

_SPLIT_OF_SPELLING = {
    "train": "train",
    "training": "train",
    "val": "val",
    "validate": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
_FIELD_OF_HEADER = {
    "label": "label",
    "class_label": "label",
    "youtube_id": "youtube_id",
    "youtube_identifier": "youtube_id",
    "time_start": "time_start",
    "start_time": "time_start",
    "time_end": "time_end",
    "end_time": "time_end",
    "split": "split",
}
_REQUIRED = ("youtube_id", "time_start", "time_end")


@dataclass(frozen=True, slots=True)
class Annotation:
    """One clip: the seconds [start, end) of a video, and its class.

    Attributes:
        youtube_id: Of the video; 11 characters on YouTube, anything in a user's own file.
        label: Class name; None where the file gives none (test splits).
        start_seconds: Start of the clip in the video.
        end_seconds: Its end, exclusive.
        split: "train", "val" or "test".
    """

    youtube_id: str
    label: str | None
    start_seconds: int
    end_seconds: int
    split: str

    @property
    def clip_id(self) -> str:
        """`<youtube id>_<start:06d>_<end:06d>`, the clip's name in file names and manifests."""
        return make_clip_id(self.youtube_id, self.start_seconds, self.end_seconds)


class _Row(NamedTuple):
    annotation: Annotation
    place: str


def make_clip_id(youtube_id: str, start_seconds: int, end_seconds: int) -> str:
    """Returns `<youtube id>_<start:06d>_<end:06d>`."""
    return f"{youtube_id}_{start_seconds:06d}_{end_seconds:06d}"


def parse_split(spelling: str) -> str | None:
    """Returns "train", "val" or "test" for any usual spelling, None for anything else."""
    return _SPLIT_OF_SPELLING.get(spelling.strip().lower())


def read_annotations(path: Path, split: str | None = None) -> list[Annotation]:
    """Returns the annotations in the CSV file `path`, in its order, each once.

    Args:
        path: CSV with a header line, in UTF-8. Columns may stand in any order; those that are not
            needed are ignored. Times may be floats and are truncated.
        split: Keep only rows of this split. In a file without a split column all rows belong to
            the split that the file's name says (`train.csv`, `kinetics-400_val.csv`), or else
            to this one.

    Raises:
        InputFileError: the file is missing or unreadable.
        AnnotationError: a wrong header, column or value, or one clip with two labels; the message
            names file, line and value.
    """
    return read_annotation_files([path], split)[0]


def read_annotation_files(
    paths: Sequence[Path], split: str | None = None
) -> tuple[list[Annotation], int]:
    """Returns the annotations of several files, each once, and the number of repeated rows.

    A row is repeated when an equal one came before. A clip may belong to two splits. Arguments and
    errors are those of `read_annotations`.
    """
    return _merge(row for path in paths for row in _read_rows(path, split))


def _merge(rows: Iterable[_Row]) -> tuple[list[Annotation], int]:
    first_of_clip: dict[str, _Row] = {}
    merged: dict[Annotation, None] = {}
    count = 0
    for row in rows:
        count += 1
        first = first_of_clip.setdefault(row.annotation.clip_id, row)
        if first.annotation.label != row.annotation.label:
            raise AnnotationError(
                f"{row.place}: clip {row.annotation.clip_id} has the label"
                f" {row.annotation.label!r}, but {first.annotation.label!r} in {first.place};"
                " a clip has one label: remove one of the rows"
            )
        merged[row.annotation] = None
    return list(merged), count - len(merged)


def _read_rows(path: Path, split: str | None) -> Iterator[_Row]:
    try:
        # `utf-8-sig` takes away the mark that spreadsheets put before the header.
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file)
            columns = _read_header(path, next(reader, []))
            default_split = _split_of_name(path) or split
            for values in reader:
                if not any(value.strip() for value in values):
                    continue
                place = f"{path}, line {reader.line_num}"
                annotation = _parse_row(place, columns, values, default_split)
                if split is None or annotation.split == split:
                    yield _Row(annotation, place)
    except FileNotFoundError:
        raise InputFileError(f"no annotation file {path}; pass a Kinetics CSV file") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputFileError(f"cannot read the annotation file {path}: {error}") from None


def _read_header(path: Path, header: list[str]) -> dict[str, int]:
    columns: dict[str, int] = {}
    for position, name in enumerate(header):
        field = _FIELD_OF_HEADER.get(_clean(name).lower().replace(" ", "_"))
        if field is None:
            continue
        if field in columns:
            raise AnnotationError(f"{path}, line 1: two columns mean {field!r}; keep one of them")
        columns[field] = position
    missing = [field for field in _REQUIRED if field not in columns]
    if missing:
        raise AnnotationError(
            f"{path}, line 1: the header {','.join(header)!r} lacks {', '.join(missing)};"
            " it must name the columns, as in label,youtube_id,time_start,time_end,split"
        )
    columns["count"] = len(header)
    return columns


def _parse_row(
    place: str, columns: dict[str, int], values: list[str], default_split: str | None
) -> Annotation:
    if len(values) != columns["count"]:
        raise AnnotationError(
            f"{place}: {len(values)} values, but the header has {columns['count']} columns;"
            " put a value that contains a comma in quotes"
        )

    def value(field: str) -> str:
        return _clean(values[columns[field]]) if field in columns else ""

    youtube_id = value("youtube_id")
    if not youtube_id or "\0" in youtube_id:
        raise AnnotationError(f"{place}: the youtube_id is {youtube_id!r}; it must not be empty")
    start = _parse_seconds(place, "time_start", value("time_start"))
    end = _parse_seconds(place, "time_end", value("time_end"))
    if end <= start:
        raise AnnotationError(
            f"{place}: time_end is {end} and time_start {start}; the end must come after the start"
        )
    spelling = value("split")
    split = parse_split(spelling) if "split" in columns else default_split
    if split is None:
        raise AnnotationError(
            f"{place}: the split is {spelling!r}; write train, val (or validate) or test"
            if "split" in columns
            else f"{place}: no column and no file name says the split; name it with --split"
        )
    label = value("label") or None
    if label is not None and not label.isprintable():
        raise AnnotationError(f"{place}: the label {label!r} must be one line of printable text")
    if label is None and split != "test":
        raise AnnotationError(
            f"{place}: clip {make_clip_id(youtube_id, start, end)} of split {split!r} has no label;"
            " only test clips may lack one"
        )
    return Annotation(youtube_id, label, start, end, split)


def _parse_seconds(place: str, column: str, text: str) -> int:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    # Six digits of seconds are what a clip's name holds.
    if not 0 <= seconds < 1_000_000:
        raise AnnotationError(
            f"{place}: {column} is {text!r}; it must be a number of seconds from 0 to 999999"
        )
    return int(seconds)


def _split_of_name(path: Path) -> str | None:
    words = path.stem.lower().replace("-", "_").replace(".", "_").split("_")
    splits = {split for word in words if (split := parse_split(word)) is not None}
    return splits.pop() if len(splits) == 1 else None


def _clean(text: str) -> str:
    return text.strip().strip('"').strip()
