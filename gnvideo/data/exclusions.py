"""Lists of clips to leave out, such as Kinetics-400's val in a training on Kinetics-700.

A list is an annotation file of any form, or has one id or clip id a line. A row of an annotation
excludes every clip of its video, since releases cut a video at other seconds and another clip of it
shows the same scene; so does an id. A clip id `<id>_<start>_<end>` on a line of its own excludes
that clip alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from gnvideo.data.annotations import parse_clip_id
from gnvideo.data.annotations_csv import read_csv
from gnvideo.data.annotations_json import read_json
from gnvideo.data.annotations_lists import read_list_lines
from gnvideo.data.annotations_reading import find_form, read_annotation_text
from gnvideo.data.preparation_plan import ClipJob, encode_name
from gnvideo.errors import AnnotationError


@dataclass(frozen=True, slots=True)
class Exclusions:
    """What is left out, and the name of the file that says so.

    Attributes:
        file_of_id: By video id.
        file_of_times: By video id, then by (start, end).
    """

    file_of_id: dict[str, str]
    file_of_times: dict[str, dict[tuple[int, int], str]]

    def find_file(self, job: ClipJob) -> str | None:
        """Returns the name of the file that excludes `job`, or None."""
        if job.video_id in self.file_of_id:
            return self.file_of_id[job.video_id]
        for (start, end), file in self.file_of_times.get(job.video_id, {}).items():
            # The end of a whole video is not known before it is opened.
            if start == job.start_seconds and job.end_seconds in (None, end):
                return file
        return None


def read_exclusions(paths: Sequence[Path]) -> Exclusions:
    """Returns what the files at `paths` exclude.

    Raises:
        InputFileError: a file is missing or unreadable.
        AnnotationError: a file is empty, or an annotation file has a wrong value.
    """
    exclusions = Exclusions({}, {})
    for path in paths:
        text = read_annotation_text(path)
        if not text.strip():
            raise AnnotationError(f"{path} is empty; give one id a line, or leave --exclude out")
        form = find_form(text)
        if form in ("csv", "json"):
            # Whatever the split, all rows count, and a row of "test" needs no label.
            rows = read_json(path, text) if form == "json" else read_csv(path, text, "test")
            for _, row in rows:
                exclusions.file_of_id.setdefault(row.youtube_id, path.name)
        elif form == "list":
            for line in read_list_lines(path, text):
                stem = PurePosixPath(line.path).stem
                clip = parse_clip_id(stem)
                exclusions.file_of_id.setdefault(clip[0] if clip else encode_name(stem), path.name)
        else:
            for line in filter(None, map(str.strip, text.split("\n"))):
                clip = parse_clip_id(line)
                if clip:
                    times = exclusions.file_of_times.setdefault(clip[0], {})
                    times.setdefault(clip[1:], path.name)
                exclusions.file_of_id.setdefault(line, path.name)
    return exclusions


def exclude_jobs(jobs: Sequence[ClipJob], exclusions: Exclusions) -> list[ClipJob]:
    """Returns `jobs`, with the reason in those that are excluded."""
    marked: list[ClipJob] = []
    for job in jobs:
        file = exclusions.find_file(job)
        marked.append(
            job if file is None else dataclasses.replace(job, excluded=f"listed in {file}")
        )
    return marked
