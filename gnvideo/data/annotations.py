"""What an annotation says: which clip, or which file, shows what; and how its values are spelled.

Rows of two kinds: an `Annotation` names a clip by the id of its video and its seconds, a
`ListedVideo` names a file. `annotations_reading.py` reads both from files.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path

from gnvideo.errors import AnnotationError

# A file is a video if its name ends so, in capitals or not.
VIDEO_SUFFIXES = (".mp4", ".mkv", ".webm", ".avi", ".mov", ".m4v")

_SPLIT_OF_SPELLING = {
    "train": "train",
    "training": "train",
    "val": "val",
    "validate": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
_CLIP_NAME = re.compile(r"(?P<video>.+)_(?P<start>\d{1,6})_(?P<end>\d{1,6})", re.DOTALL)


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


@dataclass(frozen=True, slots=True)
class ListedVideo:
    """One line of a list of files: a video, or a folder with its frames as images, and its class.

    Attributes:
        path: As in the list: relative to the folder of videos, or absolute; with `/`.
        label: Class name; None where the list gives none (test splits).
        split: "train", "val" or "test".
        num_frames: Images in the folder `path`; None: `path` is a video file.
    """

    path: str
    label: str | None
    split: str
    num_frames: int | None = None


AnnotationRow = Annotation | ListedVideo


def make_clip_id(youtube_id: str, start_seconds: int, end_seconds: int) -> str:
    """Returns `<youtube id>_<start:06d>_<end:06d>`."""
    return f"{youtube_id}_{start_seconds:06d}_{end_seconds:06d}"


def parse_clip_id(name: str) -> tuple[str, int, int] | None:
    """Returns (video id, start, end) of a name `<id>_<start>_<end>`, None for any other name.

    Times may have one to six digits, and the end must come after the start.
    """
    match = _CLIP_NAME.fullmatch(name)
    if match is None or int(match["start"]) >= int(match["end"]):
        return None
    return match["video"], int(match["start"]), int(match["end"])


def parse_split(spelling: str) -> str | None:
    """Returns "train", "val" or "test" for any usual spelling, None for anything else."""
    return _SPLIT_OF_SPELLING.get(spelling.strip().lower())


def parse_split_of_file(path: Path) -> str | None:
    """Returns the split that a file's name says: `train.csv`, `kinetics400_val_list_videos.txt`.

    None where the name says none, or more than one.
    """
    words = path.stem.lower().replace("-", "_").replace(".", "_").split("_")
    splits = {split for word in words if (split := parse_split(word)) is not None}
    return splits.pop() if len(splits) == 1 else None


def make_annotation(
    youtube_id: str, label: str | None, start: str | float, end: str | float, split: str
) -> Annotation:
    """Returns the annotation; times are seconds, and are truncated.

    Raises:
        AnnotationError: a value is not allowed; the message lacks the place, which the caller adds.
    """
    if not youtube_id or not youtube_id.isprintable():
        raise AnnotationError(
            f"the youtube_id is {youtube_id!r}; it must be one line of printable text"
        )
    start_seconds = _parse_seconds("time_start", start)
    end_seconds = _parse_seconds("time_end", end)
    if end_seconds <= start_seconds:
        raise AnnotationError(
            f"time_end is {end_seconds} and time_start {start_seconds}; the end must come after"
            " the start"
        )
    if label is None and split != "test":
        clip_id = make_clip_id(youtube_id, start_seconds, end_seconds)
        raise AnnotationError(
            f"clip {clip_id} of split {split!r} has no label; only test clips may lack one"
        )
    return Annotation(youtube_id, label, start_seconds, end_seconds, split)


def check_label(label: str) -> str:
    """Returns `label`.

    Raises:
        AnnotationError: it is more than one line of printable text.
    """
    if not label.isprintable():
        raise AnnotationError(f"the label {label!r} must be one line of printable text")
    return label


def clean_value(text: str) -> str:
    """Returns `text` without the spaces and quotes around it, which some copies double."""
    return text.strip().strip('"').strip()


def _parse_seconds(column: str, value: str | float) -> int:
    try:
        seconds = float(value)
    except (ValueError, OverflowError):
        seconds = math.nan
    # Six digits of seconds are what a clip's name holds.
    if not 0 <= seconds < 1_000_000:
        raise AnnotationError(
            f"{column} is {value!r}; it must be a number of seconds from 0 to 999999"
        )
    return int(seconds)
