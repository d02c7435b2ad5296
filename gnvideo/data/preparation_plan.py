"""What is to be prepared: every clip that was asked for, with the files that may hold it.

Clips come from annotations (`annotated_clips.py`), or from lists and folders of a user's own videos
(`own_videos.py`). This file says what a planned clip is, which videos there are and under which
names prepared ones lie. It only reads names; it opens no video.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from gnvideo.data.annotations import VIDEO_SUFFIXES, make_clip_id
from gnvideo.errors import InputFileError, OutputError

UNLABELLED_FOLDER = "unlabelled"

# What no file system, or not every one, can hold in a name; "%" so that the encoding is reversible,
# and bytes that are not text (lone surrogates), so that every name can be written as UTF-8.
_UNSAFE = re.compile(r"^\.|[. ]\Z|[%/\\<>:\"|?*\x00-\x1f\x7f\ud800-\udfff]")
# In bytes. File systems hold 255; the temporary file's name is longer than the final one.
_MAX_NAME_BYTES = 200


@dataclass(frozen=True, slots=True)
class Source:
    """A file that may hold a clip, or a folder with the clip's frames as images.

    Attributes:
        path: Relative to the folder of videos, with `/`; absolute, or with `..`, only where a list
            of files says so. It is only read.
        is_clip: The file is the clip itself; otherwise the clip has to be cut out of it.
        num_frames: How many images the folder `path` holds; None: `path` is a video file.
    """

    path: str
    is_clip: bool
    num_frames: int | None = None


@dataclass(frozen=True, slots=True)
class ClipJob:
    """One clip to prepare.

    Attributes:
        video_id: YouTube id, or the name of a user's own video.
        label: Class name; None if unknown.
        split: "train", "val" or "test".
        start_seconds: Start of the clip in its video.
        end_seconds: Its end, exclusive; None: the whole file, however long it is.
        sources: Files to try, in this order; empty: there is none.
        excluded: Why the clip is left out, though it was asked for; None: it is not.
        has_shared_name: Another clip's file would have the same name but for capitals, which some
            file systems do not tell; this one's gets a hash.
    """

    video_id: str
    label: str | None
    split: str
    start_seconds: int
    end_seconds: int | None
    sources: tuple[Source, ...]
    excluded: str | None = None
    has_shared_name: bool = False

    @property
    def planned_id(self) -> str:
        """The clip's id as far as it is known without opening its video: the end may be 0."""
        return make_clip_id(self.video_id, self.start_seconds, self.end_seconds or 0)


def check_folders(videos: Path, output: Path) -> None:
    """Makes sure that preparing `videos` into the data root `output` overwrites no source.

    Raises:
        OutputError: `videos` lies among the prepared videos of `output`.
    """
    if videos.resolve().is_relative_to(output.resolve() / "videos"):
        raise OutputError(
            f"the videos {videos} lie among the prepared ones of {output}, which would be"
            " overwritten; choose another output folder"
        )


def finish_plan(jobs: Sequence[ClipJob]) -> list[ClipJob]:
    """Returns `jobs`, with `has_shared_name` set where it must be.

    Raises:
        InputFileError: two jobs of a split are the same clip.
    """
    job_of_id: dict[tuple[str, str], ClipJob] = {}
    for job in jobs:
        other = job_of_id.setdefault((job.split, job.planned_id), job)
        if other is not job:
            files = [each.sources[0].path for each in (other, job) if each.sources]
            raise InputFileError(
                f"{' and '.join(files) or 'two rows'} are the same clip {job.planned_id} of split"
                f" {job.split!r}; keep one of them"
            )
    folded_names = [
        (job.split, (job.label or UNLABELLED_FOLDER).casefold(), job.planned_id.casefold())
        for job in jobs
    ]
    count_of_name = Counter(folded_names)
    return [
        replace(job, has_shared_name=True) if count_of_name[name] > 1 else job
        for job, name in zip(jobs, folded_names, strict=True)
    ]


def find_videos(folder: Path, output: Path, *, allow_none: bool = False) -> list[str]:
    """Returns the paths, relative to `folder` and sorted, of all video files below it.

    Links to folders are followed, each folder is visited once, and what was prepared into the data
    root `output` is left out, as are hidden files and folders.

    Raises:
        OutputError: `folder` lies among the prepared videos of `output`.
        InputFileError: `folder` is missing, is not a folder, or holds no video, unless that is
            allowed.
    """
    if not folder.is_dir():
        raise InputFileError(f"no folder of videos {folder}; pass the folder with the downloads")
    check_folders(folder, output)
    prepared = output / "videos"
    visited = {_identity(prepared)} if prepared.is_dir() else set[tuple[int, int]]()
    found: list[str] = []
    for place, folders, files in os.walk(folder, followlinks=True):
        identity = _identity(Path(place))
        if identity in visited:
            folders.clear()
            continue
        visited.add(identity)
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [
            PurePosixPath(Path(place, name).relative_to(folder)).as_posix()
            for name in files
            if name.lower().endswith(VIDEO_SUFFIXES) and not name.startswith(".")
        ]
    if not found and not allow_none:
        raise InputFileError(
            f"no video below {folder}; files must end in {', '.join(VIDEO_SUFFIXES)}"
        )
    return sorted(found)


def get_stem(file: str) -> str:
    """Returns the name of `file`, a path with `/`, without folders and suffix."""
    # Much faster than pathlib, for hundreds of thousands of files.
    name = file[file.rfind("/") + 1 :]
    dot = name.rfind(".")
    return name[:dot] if dot > 0 else name


def make_relative_path(
    split: str, label: str | None, clip_id: str, *, has_shared_name: bool = False
) -> str:
    """Returns where a prepared clip lies in the data root, with `/`; never outside it.

    Names over 200 bytes end in a hash, as do clips' whose name is shared, see `ClipJob`.
    """
    folder = UNLABELLED_FOLDER if label is None else _limit_name(label, add_hash=False)
    return f"videos/{split}/{folder}/{_limit_name(clip_id, add_hash=has_shared_name)}.mp4"


def encode_name(name: str) -> str:
    r"""Returns `name` as a file system can hold it; `urllib.parse.unquote` gives `name` back.

    A leading dot, a last dot or space, `%`, `/`, what Windows forbids and control characters become
    their percent code.
    """
    return _UNSAFE.sub(
        lambda match: "".join(f"%{byte:02X}" for byte in os.fsencode(match.group())), name
    )


def make_short_hash(text: str) -> str:
    """Returns 8 digits that depend on `text` alone."""
    return hashlib.blake2b(os.fsencode(text), digest_size=4).hexdigest()


def _limit_name(name: str, add_hash: bool) -> str:
    encoded = encode_name(name)
    is_long = len(encoded.encode()) > _MAX_NAME_BYTES
    if is_long:
        encoded = encoded.encode()[: _MAX_NAME_BYTES - 20].decode(errors="ignore")
    return f"{encoded}-{make_short_hash(name)}" if is_long or add_hash else encoded


def _identity(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino
