"""Joins annotations of clips with the video files that there are, by name.

A clip `<id>_<start>_<end>` is looked for, in this order, as
1. a file of that name: the clip; times may have fewer than six digits;
2. a file `<id>`: the video to cut it from;
3. a file `<id>_<s>_<e>` whose times are both at most one second off: the clip, as some downloaders
   round them. It is used only if no other clip may be meant by it, and counted.
Of several, one below a folder named `replacement...` comes first, as the Kinetics copy of CVDF
keeps mended files apart, then one below a folder named after the split. Any other file of the same
id is another clip.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from gnvideo.data.annotations import Annotation, make_clip_id, parse_clip_id, parse_split
from gnvideo.data.preparation_plan import ClipJob, Source, get_stem
from gnvideo.errors import InputFileError

_MAX_SECONDS_OFF = 1
_REPLACEMENT_PREFIX = "replacement"

_Times = tuple[int, int]


@dataclass(frozen=True, slots=True)
class ClipPlan:
    """The jobs of annotated clips, and what was not plain in finding their files.

    Attributes:
        jobs: One an annotation, in order.
        num_replaced: Clips for which a replacement is preferred to the original file.
        num_shifted: Clips whose file has times up to a second off.
    """

    jobs: list[ClipJob]
    num_replaced: int
    num_shifted: int


def plan_annotated_clips(annotations: Sequence[Annotation], files: Sequence[str]) -> ClipPlan:
    """Returns one job an annotation, with those of `files` that hold its clip by their name.

    Raises:
        InputFileError: not one file is named after a clip.
    """
    clip_ids = [annotation.clip_id for annotation in annotations]
    clip_of_id = dict(zip(clip_ids, annotations, strict=True))
    names = clip_of_id.keys() | {annotation.youtube_id for annotation in annotations}
    files_of_name: defaultdict[str, list[str]] = defaultdict(list)
    others_of_video: defaultdict[str, list[tuple[_Times, str]]] = defaultdict(list)
    for file in files:
        stem = get_stem(file)
        clip = parse_clip_id(stem)
        name = make_clip_id(*clip) if clip else stem
        if name in names or stem in names:
            files_of_name[name].append(file)
            if stem != name:
                files_of_name[stem].append(file)
        elif clip:
            others_of_video[clip[0]].append((clip[1:], file))
    files_of_shifted = _find_shifted(clip_of_id, files_of_name, others_of_video)

    jobs: list[ClipJob] = []
    num_replaced = num_shifted = 0
    for clip_id, annotation in zip(clip_ids, annotations, strict=True):
        clips = files_of_name.get(clip_id, [])
        videos = files_of_name.get(annotation.youtube_id, [])
        shifted = files_of_shifted.get(clip_id, [])
        num_shifted += bool(shifted)
        num_replaced += len(clips) > 1 and len({_is_replacement(file) for file in clips}) == 2
        sources = [
            Source(file, is_clip)
            for is_clip, candidates in ((True, clips), (False, videos), (True, shifted))
            if candidates
            for file in _sort_files(candidates, annotation.split)
        ]
        jobs.append(
            ClipJob(
                video_id=annotation.youtube_id,
                label=annotation.label,
                split=annotation.split,
                start_seconds=annotation.start_seconds,
                end_seconds=annotation.end_seconds,
                sources=tuple(sources),
            )
        )
    if annotations and not any(job.sources for job in jobs):
        raise InputFileError(
            f"none of the {len(files)} videos is one of the {len(jobs)} annotated clips; they must"
            " be named <id>_<start>_<end>.<ext> or <id>.<ext>, for example"
            f" {annotations[0].clip_id}.mp4"
        )
    return ClipPlan(jobs, num_replaced, num_shifted)


def _find_shifted(
    clip_of_id: dict[str, Annotation],
    files_of_name: dict[str, list[str]],
    others_of_video: dict[str, list[tuple[_Times, str]]],
) -> dict[str, list[str]]:
    """Returns the files with times up to a second off, for clips that have no other file."""
    found: dict[str, list[str]] = {}
    clips_of_file: defaultdict[str, set[str]] = defaultdict(set)
    for clip_id, clip in clip_of_id.items():
        others = others_of_video.get(clip.youtube_id)
        if not others or clip_id in files_of_name or clip.youtube_id in files_of_name:
            continue
        for (start, end), file in others:
            seconds_off = max(abs(start - clip.start_seconds), abs(end - clip.end_seconds))
            if seconds_off <= _MAX_SECONDS_OFF:
                found.setdefault(clip_id, []).append(file)
                clips_of_file[file].add(clip_id)
    sole = {
        clip_id: [file for file in files if len(clips_of_file[file]) == 1]
        for clip_id, files in found.items()
    }
    return {clip_id: files for clip_id, files in sole.items() if files}


def _sort_files(files: Sequence[str], split: str) -> Sequence[str]:
    """Returns `files` in the order in which they are to be tried."""

    def rank(file: str) -> tuple[bool, bool, str]:
        is_of_split = any(parse_split(part) == split for part in PurePosixPath(file).parts[:-1])
        return not _is_replacement(file), not is_of_split, file

    return sorted(files, key=rank) if len(files) > 1 else files


def _is_replacement(file: str) -> bool:
    folders = PurePosixPath(file).parts[:-1]
    return any(part.lower().startswith(_REPLACEMENT_PREFIX) for part in folders)
