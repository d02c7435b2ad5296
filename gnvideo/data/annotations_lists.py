"""Lists of files, one a line, as the peers read them.

    <video> <label>                     PySlowFast, pytorchvideo, VideoMAE, mmaction2
    <folder of images> <count> <label>  mmaction2's and VideoMAE's raw frames
    <video>                             without labels: test clips

Separated by a space, a tab, a comma or `::`, with or without a header line. A path may contain
spaces: it ends with its file's suffix, or, for a folder, before the last two separators. A label is
a class name, or a number that counts the lines of a class list from 0.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from gnvideo.data.annotations import (
    VIDEO_SUFFIXES,
    ListedVideo,
    check_label,
    clean_value,
    parse_split_of_file,
)
from gnvideo.errors import AnnotationError

_SUFFIXES = "|".join(map(re.escape, VIDEO_SUFFIXES))
# As much as possible before the suffix, so that a name may contain separators, or even a suffix.
_VIDEO_LINE = re.compile(
    rf'(?P<path>"?.*(?:{_SUFFIXES})"?)(?P<rest>(?:\s|,|::).*)?', re.IGNORECASE | re.DOTALL
)
_SEPARATORS = ("::", "\t", ",", " ")
_NAME_OF_SEPARATOR = {"::": "::", "\t": "a tab", ",": "a comma", " ": "a space"}
# What a header may call its columns; one word of each.
_PATH_WORD = re.compile(r"(video|file|frame)?_?(path|name|dir)|filename|video|file|folder")
_COUNT_WORD = re.compile(r"((total|num|n)_)?frames|count")
_LABEL_WORD = re.compile(r"(label|class)(_?(id|name|index))?|category|target")


@dataclass(frozen=True, slots=True)
class ListLine:
    """One line of a list, as it is written there.

    Attributes:
        number: Of the line in its file, from 1.
        path: Without quotes; with `/`.
        num_frames: Images in the folder `path`; None: `path` is a video file.
        label: Text of the label; None if there is none.
    """

    number: int
    path: str
    num_frames: int | None
    label: str | None


def is_list_line(line: str) -> bool:
    """Returns whether `line` is the header or a line, perhaps a wrong one, of a list of files."""
    try:
        return _is_header(line) or _parse_line(line) is not None
    except AnnotationError:
        return True


def read_list(
    path: Path,
    text: str,
    default_split: str | None = None,
    classes: Sequence[str] | None = None,
) -> Iterator[tuple[int, ListedVideo]]:
    """Yields (line, video) of the list `path` with the content `text`.

    All rows belong to the split that the file's name says, or else to `default_split`.

    Args:
        path: Of the list.
        text: Its content.
        default_split: See above.
        classes: Class names; the position is the number that stands for the class.

    Raises:
        AnnotationError: a line is in no known form or in two, labels are partly numbers and partly
            names, or are numbers of no class; the message names file, line and value.
    """
    lines = read_list_lines(path, text)
    split = parse_split_of_file(path) or default_split
    if split is None:
        raise AnnotationError(f"{path}: the file's name does not say the split; add --split")
    label_of_text = _read_labels(path, lines, classes)
    for line in lines:
        if line.label is None and split != "test":
            raise AnnotationError(
                f"{path}, line {line.number}: {line.path} of split {split!r} has no label;"
                " only test clips may lack one"
            )
        label = None if line.label is None else label_of_text[line.label]
        yield line.number, ListedVideo(line.path, label, split, line.num_frames)


def read_list_lines(path: Path, text: str) -> list[ListLine]:
    """Returns the lines of the list `path`, without its header and without empty ones.

    Raises:
        AnnotationError: a line is in no known form, in two, or in another than the first one's.
    """
    lines: list[ListLine] = []
    has_header = False
    for number, text_line in enumerate(text.split("\n"), start=1):
        text_line = text_line.strip()
        if not text_line:
            continue
        if not (lines or has_header) and _is_header(text_line):
            has_header = True
            continue
        try:
            parsed = _parse_line(text_line)
        except AnnotationError as error:
            raise AnnotationError(f"{path}, line {number}: {error}") from None
        if parsed is None:
            raise AnnotationError(
                f"{path}, line {number}: {text_line[:200]!r} is neither '<video> <label>' with a"
                f" video that ends in {', '.join(VIDEO_SUFFIXES)}, nor"
                " '<folder of images> <count> <label>'"
            )
        lines.append(ListLine(number, *parsed))
        if (parsed[1] is None) != (lines[0].num_frames is None):
            raise AnnotationError(
                f"{path}, line {number}: this line names a {_name_kind(lines[-1])}, but line"
                f" {lines[0].number} a {_name_kind(lines[0])}; give them in two files"
            )
    return lines


def _parse_line(line: str) -> tuple[str, int | None, str | None] | None:
    """Returns (path, number of images or None, label or None), or None if it is no such line."""
    match = _VIDEO_LINE.fullmatch(line)
    parsed = _parse_frames_line(line) if match is None else _parse_video_line(match)
    if parsed is None:
        return None
    path, num_frames, label = parsed
    path = clean_value(path)
    if not path or "\0" in path:
        raise AnnotationError(f"the path is {path!r}; it must name a file")
    return path, num_frames, check_label(clean_value(label)) or None


def _parse_video_line(match: re.Match[str]) -> tuple[str, None, str]:
    rest = (match["rest"] or "").strip(" ")
    separator = next((each for each in ("::", "\t", ",") if rest.startswith(each)), " ")
    label = rest.removeprefix(separator)
    if separator == ",":
        labels = next(csv.reader([label.strip()]), [])
    elif separator == " ":
        # Names may contain spaces; two numbers are not a name.
        words = label.split()
        labels = words if all(map(_is_number, words)) else [label]
    else:
        labels = label.split(separator)
    if len(labels) > 1:
        raise AnnotationError(
            f"{clean_value(match['path'])} has {len(labels)} labels, {label.strip()!r}; a video has"
            " one: keep one of them, and put a name that contains a comma in quotes"
        )
    return match["path"], None, labels[0] if labels else ""


def _parse_frames_line(line: str) -> tuple[str, int, str] | None:
    fits: list[tuple[str, list[str]]] = []
    for separator in _SEPARATORS:
        # Only a space stands in so many folders' names that a path has to keep it.
        parts = line.rsplit(separator, 2) if separator == " " else line.split(separator)
        if len(parts) == 3 and _is_number(parts[1].strip()) and all(map(str.strip, parts)):
            fits.append((separator, parts))
    if len(fits) > 1:
        names = " and at ".join(_NAME_OF_SEPARATOR[separator] for separator, _ in fits)
        raise AnnotationError(
            f"{line[:200]!r} can be cut at {names}; rename the folder, or separate by ::"
        )
    if not fits:
        return None
    path, count, label = fits[0][1]
    return path, int(count), label


def _is_header(line: str) -> bool:
    """Returns whether `line` names columns: a path first, then perhaps a count and a label."""
    split_line = re.split(r"::|,|\s+", line.lower())
    words = [word for word in map(clean_value, split_line) if word]
    patterns = (
        [_PATH_WORD, _COUNT_WORD, _LABEL_WORD] if len(words) == 3 else [_PATH_WORD, _LABEL_WORD]
    )
    return 0 < len(words) <= len(patterns) and all(
        pattern.fullmatch(word) for pattern, word in zip(patterns, words, strict=False)
    )


def _read_labels(
    path: Path, lines: Sequence[ListLine], classes: Sequence[str] | None
) -> dict[str, str]:
    """Returns the class name of every text that stands as a label in `lines`."""
    first_lines: dict[str, ListLine] = {}
    for line in lines:
        if line.label is not None:
            first_lines.setdefault(line.label, line)
    numbers = [label for label in first_lines if _is_number(label)]
    if not numbers:
        return {label: label for label in first_lines}
    number = first_lines[numbers[0]]
    place = f"{path}, line {number.number}"
    if len(numbers) < len(first_lines):
        name = next(line for label, line in first_lines.items() if not _is_number(label))
        raise AnnotationError(
            f"{place}: the label is the number {number.label}, but in line {name.number} the name"
            f" {name.label!r}; write all as numbers or all as names"
        )
    if classes is None:
        raise AnnotationError(
            f"{place}: the label is the number {number.label}, and nothing says which class that"
            " is; add --classes FILE, a list with one class name a line"
        )
    for text in numbers:
        if int(text) >= len(classes):
            raise AnnotationError(
                f"{path}, line {first_lines[text].number}: the label is {text}, but the class list"
                f" has {len(classes)} names, 0 to {len(classes) - 1}; give the list's own classes"
                " with --classes"
            )
    return {text: classes[int(text)] for text in numbers}


def _is_number(text: str) -> bool:
    return text.isdecimal() and len(text) < 10


def _name_kind(line: ListLine) -> str:
    return "video file" if line.num_frames is None else "folder of images"
