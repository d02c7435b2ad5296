"""What is to be prepared: every clip that was asked for, with the files that may hold it.

Clips come from annotations, or from folders of a user's own videos, one folder a class. Files are
looked up by name in one listing of the folder. This module only reads names; it opens no video.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from gnvideo.data.annotations import Annotation, make_clip_id, parse_split
from gnvideo.errors import InputFileError, OutputError

VIDEO_SUFFIXES = (".mp4", ".mkv", ".webm", ".avi", ".mov", ".m4v")
UNLABELLED_FOLDER = "unlabelled"

_CLIP_NAME = re.compile(r"(?P<video>.+)_(?P<start>\d{1,6})_(?P<end>\d{1,6})", re.DOTALL)
# What no file system, or not every one, can hold in a name; "%" so that the encoding is reversible,
# and bytes that are not text (lone surrogates), so that every name can be written as UTF-8.
_UNSAFE = re.compile(r"^\.|[%/\\\x00-\x1f\x7f\ud800-\udfff]")
# In bytes. File systems hold 255; the temporary file's name is longer than the final one.
_MAX_NAME_BYTES = 200


@dataclass(frozen=True, slots=True)
class Source:
    """A file, or a folder of images, that may hold a clip.

    Attributes:
        path: Relative to the folder of videos, with `/`.
        is_clip: The file is the clip itself; otherwise the clip has to be cut out of it.
        num_frames: How many images the folder holds; None: a video file.
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
    """

    video_id: str
    label: str | None
    split: str
    start_seconds: int
    end_seconds: int | None
    sources: tuple[Source, ...]


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


def find_videos(folder: Path, output: Path) -> list[str]:
    """Returns the paths, relative to `folder` and sorted, of all video files below it.

    Links to folders are followed, each folder is visited once, and what was prepared into the data
    root `output` is left out, as are hidden files and folders.

    Raises:
        OutputError: `folder` lies among the prepared videos of `output`.
        InputFileError: `folder` is missing, is not a folder, or holds no video.
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
    if not found:
        raise InputFileError(
            f"no video below {folder}; files must end in {', '.join(VIDEO_SUFFIXES)}"
        )
    return sorted(found)


def plan_annotated_clips(annotations: Sequence[Annotation], files: Sequence[str]) -> list[ClipJob]:
    """Returns one job an annotation, with the files in `files` that are named after its clip.

    `<id>_<start>_<end>.<ext>` is the clip, `<id>.<ext>` the video to cut it from. Of several, a
    clip comes before a video, and a file below a folder named after the split before others.

    Raises:
        InputFileError: not one file is named after a clip.
    """
    files_of_name: defaultdict[str, list[str]] = defaultdict(list)
    for file in files:
        stem = PurePosixPath(file).stem
        for name in {stem, _canonical_name(stem)}:
            files_of_name[name].append(file)

    def find_sources(annotation: Annotation) -> tuple[Source, ...]:
        clips = files_of_name.get(annotation.clip_id, [])
        videos = files_of_name.get(annotation.youtube_id, [])
        return tuple(
            Source(file, is_clip)
            for is_clip, candidates in ((True, clips), (False, videos))
            for file in sorted(
                candidates, key=lambda name: (annotation.split not in _splits(name), name)
            )
        )

    jobs = [
        ClipJob(
            video_id=annotation.youtube_id,
            label=annotation.label,
            split=annotation.split,
            start_seconds=annotation.start_seconds,
            end_seconds=annotation.end_seconds,
            sources=find_sources(annotation),
        )
        for annotation in annotations
    ]
    if not any(job.sources for job in jobs):
        example = f", for example {annotations[0].clip_id}.mp4" if annotations else ""
        raise InputFileError(
            f"none of the {len(files)} videos is one of the {len(jobs)} annotated clips; they must"
            f" be named <id>_<start>_<end>.<ext> or <id>.<ext>{example}"
        )
    return jobs


def plan_class_folders(
    files: Sequence[str], split: str | None = None, val_share: float | None = None
) -> list[ClipJob]:
    """Returns one job a file of `<class>/**/<name>` or `<split>/<class>/**/<name>`.

    A file named `<id>_<start>_<end>` keeps these three; any other is a whole video whose id is its
    name, with a hash of its path added where another file of its split has the same name.

    Args:
        files: Paths relative to the folder of videos.
        split: With split folders: keep only this one. Without: the split of all files.
        val_share: Without split folders: the share of videos that go to "val", the others to
            "train", chosen by a hash of the file's name and so the same in every run. With it,
            `split` keeps only that one.

    Raises:
        InputFileError: a file lies in no class folder, or nothing says the split.
    """
    tops = {PurePosixPath(file).parts[0] for file in files if "/" in file}
    has_splits = bool(tops) and all(parse_split(top) for top in tops)
    if not has_splits and split is None and val_share is None:
        raise InputFileError(
            "nothing says which videos are for training: name the split of all with --split, divide"
            " them with --val-share 0.2, or sort them into folders train and val"
        )
    if has_splits and val_share is not None:
        raise InputFileError(
            f"the videos lie in split folders ({', '.join(sorted(tops))}): leave out --val-share"
        )
    placed: list[tuple[str, str, str]] = []
    for file in files:
        parts = PurePosixPath(file).parts
        if len(parts) < (3 if has_splits else 2):
            raise InputFileError(f"{file} lies in no class folder; move it to one named so")
        label = parts[1 if has_splits else 0]
        if not label.isprintable():
            raise InputFileError(f"the class folder {label!r} must be named with printable text")
        if has_splits:
            own_split = parse_split(parts[0]) or ""
        elif val_share is not None:
            own_split = "val" if _hash_share(parts[-1]) < val_share else "train"
        else:
            own_split = split or ""
        if split in (None, own_split):
            placed.append((own_split, label, file))
    return _make_own_jobs(placed)


def make_relative_path(split: str, label: str | None, clip_id: str) -> str:
    """Returns where a prepared clip lies in the data root, with `/`; never outside it."""
    folder = UNLABELLED_FOLDER if label is None else encode_name(label)
    name = encode_name(clip_id)
    if len(name.encode()) > _MAX_NAME_BYTES:
        start = name.encode()[: _MAX_NAME_BYTES - 20].decode(errors="ignore")
        name = f"{start}-{_short_hash(clip_id)}"
    return f"videos/{split}/{folder}/{name}.mp4"


def encode_name(name: str) -> str:
    r"""Returns `name` as a file system can hold it; `urllib.parse.unquote` gives `name` back.

    A leading dot, `%`, `/`, `\` and control characters become their percent code.
    """
    return _UNSAFE.sub(
        lambda match: "".join(f"%{byte:02X}" for byte in os.fsencode(match.group())), name
    )


def _make_own_jobs(placed: Sequence[tuple[str, str, str]]) -> list[ClipJob]:
    """Returns one job for each (split, label, file)."""
    count_of_name: defaultdict[tuple[str, str], int] = defaultdict(int)
    for split, _, file in placed:
        # Some file systems do not tell capitals.
        count_of_name[split, PurePosixPath(file).stem.lower()] += 1
    jobs: list[ClipJob] = []
    file_of_clip: dict[tuple[str, str], str] = {}
    for split, label, file in placed:
        stem = PurePosixPath(file).stem
        match = _CLIP_NAME.fullmatch(stem)
        if match and int(match["start"]) < int(match["end"]):
            video_id, start, end = match["video"], int(match["start"]), int(match["end"])
            clip = (split, make_clip_id(video_id, start, end))
            if clip in file_of_clip:
                raise InputFileError(
                    f"{file_of_clip[clip]} and {file} are the same clip {clip[1]}; keep one of them"
                )
            file_of_clip[clip] = file
        else:
            video_id, start, end = encode_name(stem), 0, None
            if count_of_name[split, stem.lower()] > 1:
                video_id += f"-{_short_hash(file)}"
        jobs.append(ClipJob(video_id, label, split, start, end, (Source(file, is_clip=True),)))
    return jobs


def _canonical_name(stem: str) -> str:
    match = _CLIP_NAME.fullmatch(stem)
    return make_clip_id(match["video"], int(match["start"]), int(match["end"])) if match else stem


def _splits(file: str) -> set[str | None]:
    return {parse_split(part) for part in PurePosixPath(file).parts[:-1]}


def _hash_share(name: str) -> float:
    digest = hashlib.blake2b(os.fsencode(name), digest_size=8).digest()
    return int.from_bytes(digest) / 2**64


def _short_hash(text: str) -> str:
    return hashlib.blake2b(os.fsencode(text), digest_size=4).hexdigest()


def _identity(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino
