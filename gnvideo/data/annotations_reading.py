"""Reads annotation files of any form; the form is recognised by the content, not by the name.

The forms are those of `annotations_csv.py`, `annotations_json.py` and `annotations_lists.py`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

from gnvideo.data.annotations import Annotation, AnnotationRow, ListedVideo
from gnvideo.data.annotations_csv import is_csv_header, read_csv
from gnvideo.data.annotations_json import read_json
from gnvideo.data.annotations_lists import is_list_line, read_list
from gnvideo.errors import AnnotationError, InputFileError

Form = Literal["csv", "json", "list"]

_Row = TypeVar("_Row", Annotation, ListedVideo)

_FORMS = (
    "a Kinetics CSV file with a header (label,youtube_id,time_start,time_end,split), DeepMind's or"
    " 3D-ResNets' JSON, or a list '<video> <label>'"
)


@dataclass(frozen=True, slots=True)
class AnnotationTable:
    """The rows of some annotation files, each once, in their order.

    Attributes:
        clips: Rows that name clips by id and seconds.
        videos: Rows that name files.
        num_repeated: Rows left out because an equal one came before.
    """

    clips: list[Annotation]
    videos: list[ListedVideo]
    num_repeated: int

    def list_labels(self) -> list[str]:
        """Returns the distinct labels, sorted by code point."""
        rows: list[AnnotationRow] = [*self.clips, *self.videos]
        return sorted({row.label for row in rows if row.label is not None})

    def rename_labels(self, name_of_label: Mapping[str, str]) -> AnnotationTable:
        """Returns the table with every label replaced by its name in `name_of_label`."""

        def rename(row: _Row) -> _Row:
            if row.label is None or name_of_label[row.label] == row.label:
                return row
            return dataclasses.replace(row, label=name_of_label[row.label])

        return AnnotationTable(
            clips=[rename(row) for row in self.clips],
            videos=[rename(row) for row in self.videos],
            num_repeated=self.num_repeated,
        )


def read_annotation_files(
    paths: Sequence[Path],
    *,
    default_split: str | None = None,
    classes: Sequence[str] | None = None,
) -> AnnotationTable:
    """Returns the rows of several annotation files, each once.

    A row is repeated when an equal one came before. A clip may belong to two splits.

    Args:
        paths: The files, in UTF-8.
        default_split: The split of rows of which neither a column nor the file's name says it.
        classes: Class names, for lists whose labels are numbers; the position is the number.

    Raises:
        InputFileError: a file is missing or unreadable.
        AnnotationError: a file is in no known form, a value is wrong, or one clip has two labels;
            the message names file, line and value.
    """
    # A place is one number, since a tuple for each of 650,000 rows would be most of the memory.
    place_of_row: dict[AnnotationRow, int] = {}
    first_row_of_clip: dict[object, AnnotationRow] = {}
    units: list[str] = []
    num_rows = 0

    def name_place(place: int) -> str:
        number, file_number = divmod(place, len(paths))
        return f"{paths[file_number]}, {units[file_number]} {number}"

    for file_number, path in enumerate(paths):
        unit, rows = _open_rows(path, default_split, classes)
        units.append(unit)
        for number, row in rows:
            num_rows += 1
            place = number * len(paths) + file_number
            place_of_row.setdefault(row, place)
            first = first_row_of_clip.setdefault(_get_key(row), row)
            if first.label != row.label:
                raise AnnotationError(
                    f"{name_place(place)}: {_name_row(row)} has the label {row.label!r}, but"
                    f" {first.label!r} in {name_place(place_of_row[first])}; it has one label:"
                    " remove one of the rows"
                )
    return AnnotationTable(
        clips=[row for row in place_of_row if isinstance(row, Annotation)],
        videos=[row for row in place_of_row if isinstance(row, ListedVideo)],
        num_repeated=num_rows - len(place_of_row),
    )


def read_annotation_text(path: Path) -> str:
    """Returns the text of an annotation file.

    Raises:
        InputFileError: the file is missing or unreadable.
    """
    try:
        # `utf-8-sig` takes away the mark that spreadsheets put before the header.
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise InputFileError(f"no annotation file {path}; pass {_FORMS}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputFileError(f"cannot read the annotation file {path}: {error}") from None


def find_form(text: str) -> Form | None:
    """Returns the form of an annotation file with the content `text`; None if it is of none."""
    first_line = next((line.strip() for line in text.split("\n") if line.strip()), "")
    if first_line.startswith("{"):
        return "json"
    if is_csv_header(first_line):
        return "csv"
    return "list" if is_list_line(first_line) else None


def _open_rows(
    path: Path, default_split: str | None, classes: Sequence[str] | None
) -> tuple[str, Iterator[tuple[int, AnnotationRow]]]:
    """Returns what the rows are counted in, and (number, row) of all."""
    text = read_annotation_text(path)
    match find_form(text):
        case "csv":
            return "line", read_csv(path, text, default_split)
        case "json":
            return "entry", read_json(path, text)
        case "list":
            return "line", read_list(path, text, default_split, classes)
        case None:
            start = text.strip().partition("\n")[0][:80]
            raise AnnotationError(
                f"{path} is in no form that can be read; it must be {_FORMS}, and it begins with"
                f" {start!r}"
            )


def _get_key(row: AnnotationRow) -> object:
    if isinstance(row, ListedVideo):
        return row.path
    return row.youtube_id, row.start_seconds, row.end_seconds


def _name_row(row: AnnotationRow) -> str:
    return row.path if isinstance(row, ListedVideo) else f"clip {row.clip_id}"
