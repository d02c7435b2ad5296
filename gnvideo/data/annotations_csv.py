"""Kinetics annotations as CSV files with a header, in every shape in which they are published.

    label,youtube_id,time_start,time_end,split,is_cc             Kinetics-400 train and val
    label,youtube_id,time_start,time_end,split                   Kinetics-600 and -700
    youtube_id,time_start,time_end,split                         test: no label
    YouTube Identifier,Start time,End time,Class label           the first crawler

Source: github.com/activitynet/ActivityNet, Crawler/Kinetics (headers and file names).
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path

from gnvideo.data.annotations import (
    Annotation,
    check_label,
    clean_value,
    make_annotation,
    parse_split,
    parse_split_of_file,
)
from gnvideo.errors import AnnotationError

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


def is_csv_header(line: str) -> bool:
    """Returns whether `line` names a column that only Kinetics' CSV files have."""
    # A header is short; a long line may be more than the CSV reader takes.
    return any(_find_field(name) in _REQUIRED for name in next(csv.reader([line[:1000]]), []))


def read_csv(
    path: Path, text: str, default_split: str | None = None
) -> Iterator[tuple[int, Annotation]]:
    """Yields (line, annotation) of the CSV file `path` with the content `text`.

    Columns may stand in any order; those that are not needed are ignored. In a file without a split
    column all rows belong to the split that its name says, or else to `default_split`.

    Raises:
        AnnotationError: a wrong header, column or value; the message names file, line and value.
    """
    reader = csv.reader(io.StringIO(text, newline=""))
    label_of_text: dict[str, str | None] = {"": None}
    split_of_text: dict[str, str] = {}
    try:
        header = next(reader)
        while not any(map(str.strip, header)):
            header = next(reader)
        columns = _read_header(header)
        file_split = parse_split_of_file(path) or default_split
        for values in reader:
            if not any(map(str.strip, values)):
                continue
            if len(values) != len(header):
                raise AnnotationError(
                    f"{len(values)} values, but the header has {len(header)} columns;"
                    " put a value that contains a comma in quotes"
                )
            # Looked up: there are a few hundred labels and three splits in 650,000 rows.
            text = values[columns["label"]] if "label" in columns else ""
            if text not in label_of_text:
                label_of_text[text] = check_label(clean_value(text)) or None
            label = label_of_text[text]
            text = values[columns["split"]] if "split" in columns else ""
            if text not in split_of_text:
                split_of_text[text] = _parse_split(text, file_split, "split" in columns)
            yield (
                reader.line_num,
                make_annotation(
                    clean_value(values[columns["youtube_id"]]),
                    label,
                    clean_value(values[columns["time_start"]]),
                    clean_value(values[columns["time_end"]]),
                    split_of_text[text],
                ),
            )
    except (AnnotationError, csv.Error) as error:
        raise AnnotationError(f"{path}, line {reader.line_num}: {error}") from None


def _read_header(header: list[str]) -> dict[str, int]:
    columns: dict[str, int] = {}
    for position, name in enumerate(header):
        field = _find_field(name)
        if field is None:
            continue
        if field in columns:
            raise AnnotationError(f"two columns mean {field!r}; keep one of them")
        columns[field] = position
    missing = [field for field in _REQUIRED if field not in columns]
    if missing:
        raise AnnotationError(
            f"the header {','.join(header)!r} lacks {', '.join(missing)};"
            " it must name the columns, as in label,youtube_id,time_start,time_end,split"
        )
    return columns


def _find_field(name: str) -> str | None:
    return _FIELD_OF_HEADER.get(clean_value(name).lower().replace(" ", "_"))


def _parse_split(spelling: str, file_split: str | None, has_column: bool) -> str:
    split = parse_split(clean_value(spelling)) if has_column else file_split
    if split is not None:
        return split
    raise AnnotationError(
        f"the split is {spelling!r}; write train, val (or validate) or test"
        if has_column
        else "no column and no file name says the split; name it with --split"
    )
