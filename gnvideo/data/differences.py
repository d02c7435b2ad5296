"""differences.csv of a prepared folder: where annotations and files on the disk differ.

Columns `side,id,split,label,path,reason`. Side `list`: a row without a file. Side `disk`: a file
that no row names. The table is of the last run's annotations, whatever split that run prepared.
"""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from gnvideo.atomic_file import write_text_atomic
from gnvideo.data.annotations import make_clip_id, parse_clip_id
from gnvideo.data.preparation_plan import ClipJob, get_stem

DIFFERENCES_NAME = "differences.csv"

_MAX_NAMES_SHOWN = 3


class Difference(NamedTuple):
    """One row of differences.csv; its fields are the columns."""

    side: Literal["list", "disk"]
    id: str
    split: str
    label: str
    path: str
    reason: str


def find_differences(
    jobs: Sequence[ClipJob], asked_paths: Sequence[str], files: Iterable[str]
) -> list[Difference]:
    """Returns the jobs without a file, then the files that are in no job.

    Excluded jobs need no file.

    Args:
        jobs: Of all annotation rows.
        asked_paths: Of each job, the path that its row names; empty where it names none.
        files: Paths of all videos, relative to the folder of videos.
    """
    used = {source.path for job in jobs for source in job.sources}
    unused = [file for file in files if file not in used]
    files_of_video: defaultdict[str, list[str]] = defaultdict(list)
    for file in unused:
        clip = parse_clip_id(get_stem(file))
        if clip:
            files_of_video[clip[0]].append(file)
    clips_of_video: defaultdict[str, list[str]] = defaultdict(list)
    differences: list[Difference] = []
    for job, path in zip(jobs, asked_paths, strict=True):
        if job.video_id in files_of_video:
            clips_of_video[job.video_id].append(job.planned_id)
        if job.sources or job.excluded is not None:
            continue
        others = files_of_video.get(job.video_id)
        reason = f"files of this id have other times: {_join(others)}" if others else "no file"
        differences.append(
            Difference("list", job.planned_id, job.split, job.label or "", path, reason)
        )
    for file in unused:
        stem = get_stem(file)
        clip = parse_clip_id(stem)
        others = clips_of_video.get(clip[0]) if clip else None
        reason = f"rows of this id have other times: {_join(others)}" if others else "no row"
        clip_id = make_clip_id(*clip) if clip else stem
        differences.append(Difference("disk", clip_id, "", "", file, reason))
    return differences


def write_differences(root: Path, differences: Sequence[Difference]) -> None:
    """Writes differences.csv of the prepared folder `root`.

    Raises:
        OutputError: the folder cannot be written.
        SaveFailedError: writing failed half-way; the previous file is untouched.
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(Difference._fields)
    writer.writerows(differences)
    # A file's name need not be text.
    readable = text.getvalue().encode(errors="backslashreplace").decode()
    write_text_atomic(root / DIFFERENCES_NAME, readable)


def _join(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MAX_NAMES_SHOWN} more" if len(names) > _MAX_NAMES_SHOWN else ""
    return ", ".join(names[:_MAX_NAMES_SHOWN]) + more
