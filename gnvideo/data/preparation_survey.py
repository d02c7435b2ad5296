"""What a preparation finds before it starts: clips done, to do, without a file, or left out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gnvideo.data.manifest import SPLITS, ManifestRow
from gnvideo.data.preparation_log import PreparedClips
from gnvideo.data.preparation_plan import ClipJob


@dataclass(frozen=True, slots=True)
class Survey:
    """Where the clips of a plan stand.

    Attributes:
        kept: Rows of clips that an earlier run prepared and of which nothing changed since.
        waiting: Clips to prepare, those included that were unreadable.
        missing: Clips without a file.
        excluded: Clips that are left out, whether there is a file or not.
    """

    kept: list[ManifestRow]
    waiting: list[ClipJob]
    missing: list[ClipJob]
    excluded: list[ClipJob]

    def count_by_split(self) -> dict[str, tuple[int, ...]]:
        """Returns (to prepare, kept, missing, excluded) of each split that has any."""
        groups = (self.waiting, self.kept, self.missing, self.excluded)
        counts = {
            split: tuple(sum(clip.split == split for clip in group) for group in groups)
            for split in SPLITS
        }
        return {split: numbers for split, numbers in counts.items() if any(numbers)}


def survey_jobs(jobs: Sequence[ClipJob], prepared: PreparedClips) -> Survey:
    """Returns where each of `jobs` stands; looks at the sizes and times of files only."""
    survey = Survey([], [], [], [])
    for job in jobs:
        if job.excluded is not None:
            survey.excluded.append(job)
            continue
        row = prepared.find(job)
        if row is not None:
            survey.kept.append(row)
        elif job.sources:
            survey.waiting.append(job)
        else:
            survey.missing.append(job)
    return survey
