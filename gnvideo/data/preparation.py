"""Prepares a data root: every planned clip re-encoded and verified, in parallel and resumable.

Each finished clip is written down at once, so that a run which was interrupted, even killed, goes
on where it was and ends with the manifest that an uninterrupted run writes. Clips that do not
decode are listed, never dropped silently; sources are only ever read.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from gnvideo.atomic_file import write_text_atomic
from gnvideo.data.annotations import make_clip_id
from gnvideo.data.class_list import write_classes
from gnvideo.data.coverage import write_coverage
from gnvideo.data.encoding import DEFAULT_SETTINGS, EncodedVideo, EncodingSettings
from gnvideo.data.index_packing import write_video_indexes
from gnvideo.data.manifest import (
    MANIFEST_NAME,
    ManifestRow,
    make_failed_row,
    read_manifest,
    write_manifest,
)
from gnvideo.data.preparation_log import PreparationLog, open_preparation_log
from gnvideo.data.preparation_plan import ClipJob, Source, check_folders, make_relative_path
from gnvideo.data.process_pool import run_in_processes
from gnvideo.data.transcoding import read_duration_seconds, transcode_video
from gnvideo.errors import VideoError

QUARANTINE_NAME = "quarantine.csv"
_QUARANTINE_COLUMNS = ("id", "split", "label", "source", "reason")

# A video at most this much longer than the clip, and ending before it does, is the clip itself.
_CLIP_TOLERANCE_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class PreparationSettings:
    """How clips are prepared.

    Attributes:
        short_side_pixels: Of the prepared videos; smaller videos keep their size. Even.
        encoding: How they are encoded.
    """

    short_side_pixels: int = 256
    encoding: EncodingSettings = DEFAULT_SETTINGS


@dataclass(frozen=True, slots=True)
class PreparedClip:
    """A clip that was written, the file it came from, and what it holds."""

    clip_id: str
    path: str
    source: str
    video: EncodedVideo


@dataclass(frozen=True, slots=True)
class UnreadableClip:
    """A clip of which no source decodes, and why."""

    clip_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class PreparationResult:
    """What a run left.

    Attributes:
        coverage: As in coverage.json.
        num_kept: Clips that an earlier run had prepared.
        num_written: Clips that this run prepared.
        num_leaked: Videos of "val" and "test" with the very frames of a video of "train".
    """

    coverage: dict[str, Any]
    num_kept: int
    num_written: int
    num_leaked: int


def prepare_videos(
    jobs: Sequence[ClipJob],
    videos: Path,
    output: Path,
    *,
    settings: PreparationSettings,
    num_workers: int,
    on_progress: Callable[[int, int], None],
) -> PreparationResult:
    """Prepares all `jobs` into the data root `output` and returns what it then holds.

    Clips that an earlier run prepared with the same settings from the same source (name, size,
    time of change) are kept; unreadable ones are tried again. Rows of splits that are in no job
    stay in the manifest, so splits may be prepared one by one.

    Args:
        jobs: What to prepare; clip ids are unique in each split.
        videos: The folder of the sources.
        output: The data root; made if missing.
        settings: How to prepare.
        num_workers: Processes.
        on_progress: Called with (clips done, clips to do) at the start and after every clip.

    Raises:
        OutputError: `output` cannot be written, holds the sources as its own prepared videos, or is
            being written by another run.
        SaveFailedError: the disk is full.
        ManifestError: the manifest of an earlier run is damaged.
    """
    check_folders(videos, output)
    splits = {job.split for job in jobs}
    with open_preparation_log(output, videos, settings=asdict(settings)) as log:
        old_rows = read_manifest(output) if (output / MANIFEST_NAME).exists() else []
        rows = [row for row in old_rows if row.split not in splits]
        quarantine = [entry for entry in _read_quarantine(output) if entry[1] not in splits]
        waiting: list[ClipJob] = []
        num_kept = 0
        for job in jobs:
            row = log.find(job)
            if row is not None:
                rows.append(row)
                num_kept += 1
            elif job.sources:
                waiting.append(job)
            else:
                rows.append(_make_missing_row(job))
        failed = _prepare_all(
            waiting,
            partial(prepare_clip, videos=videos, output=output, settings=settings),
            num_workers,
            log,
            rows,
            on_progress,
        )
        for job, row in failed:
            rows.append(row)
            source = str(videos / job.sources[0].path)
            quarantine.append([row.id, row.split, row.label or "", source, row.reason or ""])
        write_classes(output, (row.label for row in rows if row.label is not None))
        _write_quarantine(output, quarantine)
        coverage = write_coverage(output, rows)
        # It is what says that the folder is complete; indexes can be made of it at any time.
        write_manifest(output, rows)
        write_video_indexes(output)
    return PreparationResult(coverage, num_kept, len(waiting) - len(failed), _count_leaked(rows))


def prepare_clip(
    job: ClipJob, *, videos: Path, output: Path, settings: PreparationSettings
) -> PreparedClip | UnreadableClip:
    """Writes the clip of `job` from the first of its sources that decodes.

    Raises:
        OutputError: the folder of the clip cannot be written.
        SaveFailedError: writing failed half-way, for example because the disk is full.
    """
    reasons: list[str] = []
    clip_id = _make_planned_id(job)
    for source in job.sources:
        file = videos / source.path
        try:
            start, end, clip_id = _find_window(job, source, file)
            path = make_relative_path(job.split, job.label, clip_id)
            video = transcode_video(
                file,
                output / path,
                start_seconds=start,
                end_seconds=end,
                short_side_pixels=settings.short_side_pixels,
                settings=settings.encoding,
            )
        except VideoError as error:
            # Without the folder, so that the same videos give the same manifest anywhere.
            reasons.append(str(error).replace(str(file), source.path))
        else:
            return PreparedClip(clip_id, path, source.path, video)
    return UnreadableClip(clip_id, "; ".join(reasons))


def _prepare_all(
    jobs: Sequence[ClipJob],
    function: Callable[[ClipJob], PreparedClip | UnreadableClip],
    num_workers: int,
    log: PreparationLog,
    rows: list[ManifestRow],
    on_progress: Callable[[int, int], None],
) -> list[tuple[ClipJob, ManifestRow]]:
    """Runs `jobs`, appends to `rows` those that were prepared and returns those that failed."""
    failed: list[tuple[ClipJob, ManifestRow]] = []
    on_progress(0, len(jobs))
    with closing(run_in_processes(function, jobs, num_workers)) as results:
        for done, (job, result) in enumerate(results, start=1):
            if isinstance(result, PreparedClip):
                row = _make_row(job, result)
                log.append(job, result.source, row)
                rows.append(row)
            else:
                failed.append((job, _make_unreadable_row(job, result)))
            on_progress(done, len(jobs))
    return failed


def _find_window(
    job: ClipJob, source: Source, file: Path
) -> tuple[float | None, float | None, str]:
    """Returns which seconds of `file` are the clip (None: all from, or up to, there) and its id."""
    if job.end_seconds is None:
        end = math.ceil(read_duration_seconds(file))
        return None, None, make_clip_id(job.video_id, job.start_seconds, end)
    clip_id = make_clip_id(job.video_id, job.start_seconds, job.end_seconds)
    if source.is_clip:
        return None, None, clip_id
    # Copies exist in which clips that are already cut bear the bare id of their video.
    duration = read_duration_seconds(file)
    longest = job.end_seconds - job.start_seconds + _CLIP_TOLERANCE_SECONDS
    if 0 < duration <= min(longest, job.end_seconds - _CLIP_TOLERANCE_SECONDS):
        return None, None, clip_id
    return job.start_seconds, job.end_seconds, clip_id


def _make_row(job: ClipJob, clip: PreparedClip) -> ManifestRow:
    return ManifestRow(
        id=clip.clip_id,
        path=clip.path,
        label=job.label,
        split=job.split,
        **asdict(clip.video),
        status="ok",
        reason=None,
    )


def _make_unreadable_row(job: ClipJob, clip: UnreadableClip | None) -> ManifestRow:
    if clip is None:
        reason = f"{job.sources[0].path} crashes the decoder or exhausts the memory"
        clip = UnreadableClip(_make_planned_id(job), reason)
    return make_failed_row(clip.clip_id, job.label, job.split, "unreadable", clip.reason)


def _make_missing_row(job: ClipJob) -> ManifestRow:
    reason = "no file of this name"
    return make_failed_row(_make_planned_id(job), job.label, job.split, "missing", reason)


def _make_planned_id(job: ClipJob) -> str:
    """Returns the clip's id as far as it is known without opening its video."""
    return make_clip_id(job.video_id, job.start_seconds, job.end_seconds or 0)


def _count_leaked(rows: Iterable[ManifestRow]) -> int:
    readable = [row for row in rows if row.status == "ok"]
    trained = {row.content_hash for row in readable if row.split == "train"}
    return sum(row.split != "train" and row.content_hash in trained for row in readable)


def _read_quarantine(output: Path) -> list[list[str]]:
    try:
        text = (output / QUARANTINE_NAME).read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    return list(csv.reader(io.StringIO(text, newline="")))[1:]


def _write_quarantine(output: Path, entries: Iterable[list[str]]) -> None:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_QUARANTINE_COLUMNS)
    writer.writerows(sorted(entries))
    # A source's name need not be text.
    readable = text.getvalue().encode(errors="backslashreplace").decode()
    write_text_atomic(output / QUARANTINE_NAME, readable)
