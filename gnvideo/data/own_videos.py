"""Plans a user's own videos: those in folders, one a class, and those that a list of files names.

A file named `<id>_<start>_<end>` keeps these three; any other is a whole video whose id is its
name, with a hash of its path added where another file of its split has the same name.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from gnvideo.data.annotations import ListedVideo, parse_clip_id, parse_split
from gnvideo.data.class_list import group_by_spelling, match_class_names
from gnvideo.data.preparation_plan import ClipJob, Source, encode_name, get_stem, make_short_hash
from gnvideo.errors import InputFileError, OutputError


@dataclass(frozen=True, slots=True)
class _OwnVideo:
    split: str
    label: str | None
    path: str
    num_frames: int | None = None
    is_there: bool = True


def plan_class_folders(
    files: Sequence[str],
    split: str | None = None,
    val_share: float | None = None,
    classes: Sequence[str] | None = None,
) -> list[ClipJob]:
    """Returns one job a file of `<class>/**/<name>` or `<split>/<class>/**/<name>`.

    Args:
        files: Paths relative to the folder of videos.
        split: With split folders: keep only this one. Without: the split of all files.
        val_share: Without split folders: the share of videos that go to "val", the others to
            "train", chosen by a hash of the file's name and so the same in every run. With it,
            `split` keeps only that one.
        classes: The classes that the folders may mean, in any usual spelling; None: folders name
            them.

    Raises:
        InputFileError: a file lies in no class folder, or nothing says the split.
        ClassListError: a folder means no class, or two folders differ only in spelling.
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
    placed: list[_OwnVideo] = []
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
            placed.append(_OwnVideo(own_split, label, file))
    folders = {video.label for video in placed if video.label is not None}
    if classes is None:
        group_by_spelling(sorted(folders), "the folders", "or name both in a list with --classes")
        class_of_folder = {folder: folder for folder in folders}
    else:
        class_of_folder = match_class_names(folders, classes, "the given class list")
    return _make_jobs(
        [_OwnVideo(each.split, class_of_folder[each.label or ""], each.path) for each in placed]
    )


def plan_listed_videos(
    rows: Sequence[ListedVideo], folder: Path, files: Sequence[str], output: Path
) -> list[ClipJob]:
    """Returns one job a row, with its file or folder of images if that exists.

    Args:
        rows: Of lists; their paths are relative to `folder`, or absolute.
        folder: Of the videos.
        files: The videos in it, as `find_videos` lists them.
        output: The data root.

    Raises:
        OutputError: a row names a prepared video of `output`, which would be overwritten.
        InputFileError: not one row's file exists, or two rows are the same clip.
    """
    known = set(files)
    prepared = output.resolve() / "videos"
    placed: list[_OwnVideo] = []
    root = PurePosixPath(folder.absolute().as_posix())
    for row in rows:
        # Most are known as they stand; pathlib is slow for hundreds of thousands.
        path = row.path if row.path in known else _make_relative(row.path, root)
        is_there = row.num_frames is None and path in known
        if not is_there:
            # Hidden, outside of the folder, or a folder of images.
            place = folder / path
            is_there = _is_there(place, is_folder=row.num_frames is not None)
            if is_there and place.resolve().is_relative_to(prepared):
                raise OutputError(
                    f"the list names {row.path}, a prepared video of {output}, which would be"
                    " overwritten; choose another output folder"
                )
        placed.append(_OwnVideo(row.split, row.label, path, row.num_frames, is_there))
    if placed and not any(video.is_there for video in placed):
        raise InputFileError(
            f"none of the {len(placed)} listed files exists; the first is {folder / placed[0].path}"
            ": name the folder to which the paths are relative with --videos"
        )
    return _make_jobs(placed)


def _make_jobs(videos: Sequence[_OwnVideo]) -> list[ClipJob]:
    stems = [
        get_stem(video.path) if video.num_frames is None else PurePosixPath(video.path).name
        for video in videos
    ]
    clips = [parse_clip_id(stem) for stem in stems]
    # Some file systems do not tell capitals.
    names = [
        (video.split, (clip[0] if clip else stem).casefold())
        for video, stem, clip in zip(videos, stems, clips, strict=True)
    ]
    count_of_name = Counter(names)
    jobs: list[ClipJob] = []
    for video, stem, clip, name in zip(videos, stems, clips, names, strict=True):
        if clip:
            video_id, start, end = clip
        else:
            video_id, start, end = encode_name(stem), 0, None
            if count_of_name[name] > 1:
                video_id += f"-{make_short_hash(video.path)}"
        source = Source(video.path, is_clip=True, num_frames=video.num_frames)
        sources = (source,) if video.is_there else ()
        jobs.append(ClipJob(video_id, video.label, video.split, start, end, sources))
    return jobs


def _is_there(place: Path, *, is_folder: bool) -> bool:
    try:
        return place.is_dir() if is_folder else place.is_file()
    except OSError:
        # The name is too long for the file system, or the folder may not be entered.
        return False


def _make_relative(path: str, root: PurePosixPath) -> str:
    """Returns `path`, relative to `root` where it is absolute and lies in it."""
    plain = PurePosixPath(path)
    if plain.is_absolute() and ".." not in plain.parts and plain.is_relative_to(root):
        plain = plain.relative_to(root)
    return plain.as_posix()


def _hash_share(name: str) -> float:
    digest = hashlib.blake2b(os.fsencode(name), digest_size=8).digest()
    return int.from_bytes(digest) / 2**64
