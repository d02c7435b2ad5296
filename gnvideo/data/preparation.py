"""Prepares a data root: every planned clip re-encoded and verified, in parallel and resumable.

Each finished clip is written down at once, so that a run which was interrupted, even killed, goes
on where it was and ends with the manifest that an uninterrupted run writes. Clips that do not
decode are listed, never dropped silently; sources are only ever read.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

from gnvideo.data.annotations import make_clip_id
from gnvideo.data.class_list import choose_classes, write_classes
from gnvideo.data.coverage import write_coverage
from gnvideo.data.duplicates import Duplicate, find_duplicates, write_duplicates
from gnvideo.data.encoding import EncodedVideo
from gnvideo.data.encoding_profiles import DEFAULT_SETTINGS, EncodingSettings
from gnvideo.data.index_packing import write_video_indexes
from gnvideo.data.limited_process import JobFailure
from gnvideo.data.manifest import (
    MANIFEST_NAME,
    ManifestRow,
    make_failed_row,
    read_manifest,
    write_manifest,
)
from gnvideo.data.preparation_log import (
    PreparationLog,
    open_preparation_log,
    read_source_state,
)
from gnvideo.data.preparation_plan import ClipJob, Source, check_folders, make_relative_path
from gnvideo.data.preparation_survey import survey_jobs
from gnvideo.data.quarantine import read_quarantine, write_quarantine
from gnvideo.data.transcoding import read_duration_seconds, transcode_images, transcode_video
from gnvideo.errors import VideoError

# A video at most this much longer than the clip, and ending before it does, is the clip itself.
_CLIP_TOLERANCE_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class PreparationSettings:
    """How clips are prepared.

    Attributes:
        short_side_pixels: Of the prepared videos; smaller videos keep their size. Even.
        encoding: How they are encoded.
        rawframes_fps: Images per second of sources that are folders of images; None: there is no
            such source.
    """

    short_side_pixels: int = 256
    encoding: EncodingSettings = DEFAULT_SETTINGS
    rawframes_fps: float | None = None


@dataclass(frozen=True, slots=True)
class PreparedClip:
    """A clip that was written, the file it came from and its state then, and what it holds."""

    clip_id: str
    path: str
    source: str
    source_state: list[int] | None
    video: EncodedVideo


@dataclass(frozen=True, slots=True)
class UnreadableClip:
    """A source that does not decode, and why."""

    reason: str


ClipOutcome = PreparedClip | UnreadableClip
RunJobs = Callable[
    [Callable[[ClipJob], ClipOutcome], Sequence[ClipJob]],
    Generator[tuple[ClipJob, ClipOutcome | JobFailure]],
]


@dataclass(frozen=True, slots=True)
class PreparationResult:
    """What a run left.

    Attributes:
        coverage: As in coverage.json.
        num_kept: Clips that an earlier run had prepared.
        num_written: Clips that this run prepared.
        duplicates: Videos of "val" and "test" that are in "train" too, as in duplicates.csv.
    """

    coverage: dict[str, Any]
    num_kept: int
    num_written: int
    duplicates: list[Duplicate]


def prepare_videos(
    jobs: Sequence[ClipJob],
    videos: Path,
    output: Path,
    *,
    settings: PreparationSettings,
    run_jobs: RunJobs,
    on_progress: Callable[[int, int], None],
    classes: Sequence[str] | None = None,
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
        run_jobs: Applies a function to jobs and yields (job, result) as they finish; a job that is
            to blame for having no result comes with the reason. See `run_in_processes`.
        on_progress: Called with (clips done, clips to do) at the start and after every clip.
        classes: The class list, which must have every label; None: see `choose_classes`.

    Raises:
        ClassListError: a label is not in a given list, or two labels differ only in spelling.
        OutputError: `output` cannot be written, holds the sources as its own prepared videos, or is
            being written by another run.
        SaveFailedError: the disk is full.
        ManifestError: the manifest of an earlier run is damaged.
    """
    check_folders(videos, output)
    splits = {job.split for job in jobs}
    with open_preparation_log(output, videos, asdict(settings)) as (prepared, log):
        old_rows = read_manifest(output) if (output / MANIFEST_NAME).exists() else []
        rows = [row for row in old_rows if row.split not in splits]
        labels = {each.label for each in (*rows, *jobs) if each.label is not None}
        earlier_labels = {row.label for row in old_rows if row.label is not None}
        classes = choose_classes(output, labels, given=classes, earlier_labels=earlier_labels)
        quarantine = [entry for entry in read_quarantine(output) if entry[1] not in splits]
        survey = survey_jobs(jobs, prepared)
        rows += survey.kept
        rows += [_make_missing_row(job) for job in survey.missing]
        rows += [_make_excluded_row(job) for job in survey.excluded]
        failed = _prepare_all(
            survey.waiting,
            partial(prepare_clip, videos=videos, output=output, settings=settings),
            run_jobs,
            log,
            rows,
            on_progress,
        )
        for job, row in failed:
            rows.append(row)
            source = str(videos / job.sources[0].path)
            quarantine.append([row.id, row.split, row.label or "", source, row.reason or ""])
        write_classes(output, classes)
        write_quarantine(output, quarantine)
        duplicates = find_duplicates(rows)
        write_duplicates(output, duplicates)
        coverage = write_coverage(output, rows)
        # It is what says that the folder is complete; indexes can be made of it at any time.
        write_manifest(output, rows)
        write_video_indexes(output)
    return PreparationResult(
        coverage, len(survey.kept), len(survey.waiting) - len(failed), duplicates
    )


def prepare_clip(
    job: ClipJob, *, videos: Path, output: Path, settings: PreparationSettings
) -> PreparedClip | UnreadableClip:
    """Writes the clip of `job` from its one source.

    Raises:
        OutputError: the folder of the clip cannot be written.
        SaveFailedError: writing failed half-way, for example because the disk is full.
    """
    (source,) = job.sources
    file = videos / source.path
    state = read_source_state(file)
    try:
        clip_id, path, video = _transcode(job, source, file, output, settings)
    except VideoError as error:
        # Without the folder, so that the same videos give the same manifest anywhere.
        return UnreadableClip(str(error).replace(str(file), source.path))
    return PreparedClip(clip_id, path, source.path, state, video)


def _transcode(
    job: ClipJob, source: Source, file: Path, output: Path, settings: PreparationSettings
) -> tuple[str, str, EncodedVideo]:
    """Writes the clip of `job` from `source` and returns its id, relative path and content."""
    if source.num_frames is not None:
        assert settings.rawframes_fps is not None
        # To a rate that both 29.97 and 30000 / 1001 are.
        fps = Fraction(settings.rawframes_fps).limit_denominator(1001)
        end = job.end_seconds or math.ceil(source.num_frames / fps)
        clip_id = make_clip_id(job.video_id, job.start_seconds, end)
        path = _make_path(job, clip_id)
        video = transcode_images(
            file,
            output / path,
            num_frames=source.num_frames,
            fps=fps,
            short_side_pixels=settings.short_side_pixels,
            settings=settings.encoding,
        )
        return clip_id, path, video
    start, end, clip_id = _find_window(job, source, file)
    path = _make_path(job, clip_id)
    video = transcode_video(
        file,
        output / path,
        start_seconds=start,
        end_seconds=end,
        short_side_pixels=settings.short_side_pixels,
        settings=settings.encoding,
    )
    return clip_id, path, video


def _make_path(job: ClipJob, clip_id: str) -> str:
    return make_relative_path(job.split, job.label, clip_id, has_shared_name=job.has_shared_name)


def _prepare_all(
    jobs: Sequence[ClipJob],
    function: Callable[[ClipJob], ClipOutcome],
    run_jobs: RunJobs,
    log: PreparationLog,
    rows: list[ManifestRow],
    on_progress: Callable[[int, int], None],
) -> list[tuple[ClipJob, ManifestRow]]:
    """Runs `jobs`, appends to `rows` those that were prepared and returns those that failed.

    Each source of a job is an attempt of its own, so that one that takes its process along is named
    and the next is still tried.
    """
    failed: list[tuple[ClipJob, ManifestRow]] = []
    done = 0
    on_progress(done, len(jobs))
    # The job and why its earlier sources failed, by the job with only the source to be tried.
    attempts = {_keep_source(job, 0): (job, list[str]()) for job in jobs}
    while attempts:
        later: dict[ClipJob, tuple[ClipJob, list[str]]] = {}
        with closing(run_jobs(function, list(attempts))) as results:
            for attempt, result in results:
                job, reasons = attempts[attempt]
                if isinstance(result, PreparedClip):
                    row = _make_row(job, result)
                    log.append(job, result.source, result.source_state, row)
                    rows.append(row)
                else:
                    # A process that was ended did not say which file it was on.
                    named = isinstance(result, UnreadableClip)
                    prefix = "" if named else f"{attempt.sources[0].path} "
                    reasons.append(prefix + result.reason)
                    if len(reasons) < len(job.sources):
                        later[_keep_source(job, len(reasons))] = job, reasons
                        continue
                    failed.append((job, _make_unreadable_row(job, reasons)))
                done += 1
                on_progress(done, len(jobs))
        attempts = later
    return failed


def _keep_source(job: ClipJob, place: int) -> ClipJob:
    return replace(job, sources=(job.sources[place],))


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


def _make_unreadable_row(job: ClipJob, reasons: Sequence[str]) -> ManifestRow:
    return make_failed_row(job.planned_id, job.label, job.split, "unreadable", "; ".join(reasons))


def _make_missing_row(job: ClipJob) -> ManifestRow:
    reason = "no file of this name"
    return make_failed_row(job.planned_id, job.label, job.split, "missing", reason)


def _make_excluded_row(job: ClipJob) -> ManifestRow:
    return make_failed_row(job.planned_id, job.label, job.split, "excluded", job.excluded or "")
