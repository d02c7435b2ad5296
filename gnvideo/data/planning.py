"""Plans a preparation: what the user names becomes jobs, and what is not plain in it is said."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gnvideo.data.annotated_clips import plan_annotated_clips
from gnvideo.data.annotations_reading import AnnotationTable, read_annotation_files
from gnvideo.data.class_list import match_class_names, read_class_file
from gnvideo.data.differences import DIFFERENCES_NAME, Difference, find_differences
from gnvideo.data.exclusions import exclude_jobs, read_exclusions
from gnvideo.data.own_videos import plan_class_folders, plan_listed_videos
from gnvideo.data.preparation_plan import ClipJob, find_videos, finish_plan
from gnvideo.errors import AnnotationError, InputFileError


@dataclass(frozen=True, slots=True)
class PreparationRequest:
    """What the user asks to be prepared.

    Attributes:
        videos: Folder of the downloads.
        output: The data root.
        annotations: Annotation files; empty: folders are classes.
        split: Only this one; where nothing else says the split, that of all videos.
        val_share: Without annotations: share of the videos for val.
        class_file: Class list; None: derived from the labels.
        exclusions: Files that say which clips to leave out.
        has_rawframes_fps: A frame rate for folders of images is given.
    """

    videos: Path
    output: Path
    annotations: Sequence[Path] = ()
    split: str | None = None
    val_share: float | None = None
    class_file: Path | None = None
    exclusions: Sequence[Path] = ()
    has_rawframes_fps: bool = False


@dataclass(frozen=True, slots=True)
class PreparationPlan:
    """What is to be prepared.

    Attributes:
        jobs: One a clip, missing and excluded ones too.
        classes: The class list that the user gave, or None.
        differences: Between annotations and files; None where there are no annotations.
        notes: Lines for the user, each on something that was decided in reading the input.
    """

    jobs: list[ClipJob]
    classes: tuple[str, ...] | None
    differences: list[Difference] | None
    notes: list[str]


def plan_preparation(request: PreparationRequest) -> PreparationPlan:
    """Returns the plan; reads annotations and the names of files, and writes nothing.

    Raises:
        InputFileError: a file or folder is missing or of the wrong kind.
        AnnotationError: an annotation is wrong, or there is none of the split.
        ClassListError: a label is none of the given classes, or means two of them.
        OutputError: the videos lie among the prepared ones.
    """
    classes = None if request.class_file is None else read_class_file(request.class_file)
    notes: list[str] = []
    if request.annotations:
        table = _read_annotations(request, classes, notes)
        jobs, asked_paths, files = _plan_annotations(request, table, notes)
    else:
        files = find_videos(request.videos, request.output)
        jobs = plan_class_folders(files, request.split, request.val_share, classes)
        asked_paths = [""] * len(jobs)
    jobs = finish_plan(jobs)
    if request.exclusions:
        jobs = exclude_jobs(jobs, read_exclusions(request.exclusions))
        num_excluded = sum(job.excluded is not None for job in jobs)
        notes.append(f"{num_excluded} of {len(jobs)} clips are excluded by --exclude")
    differences = None
    if request.annotations:
        differences = find_differences(jobs, asked_paths, files)
        _note_differences(request, differences, len(jobs), len(files), notes)
    jobs = [job for job in jobs if request.split in (None, job.split)]
    if not jobs:
        named = ", ".join(map(str, request.annotations)) or f"videos below {request.videos}"
        wanted = f" of split {request.split!r}" if request.split else ""
        raise AnnotationError(f"{named}: no row{wanted}; choose another file or --split")
    return PreparationPlan(jobs, classes, differences, notes)


def _read_annotations(
    request: PreparationRequest, classes: tuple[str, ...] | None, notes: list[str]
) -> AnnotationTable:
    if request.val_share is not None:
        raise InputFileError("--val-share is for videos without annotations; leave it out")
    table = read_annotation_files(request.annotations, default_split=request.split, classes=classes)
    if table.num_repeated:
        notes.append(f"{table.num_repeated} rows stand twice in the annotations and count once")
    if classes is not None:
        name_of_label = match_class_names(table.list_labels(), classes, str(request.class_file))
        num_respelled = sum(label != name for label, name in name_of_label.items())
        if num_respelled:
            notes.append(f"{num_respelled} labels are spelled as in {request.class_file}")
            table = table.rename_labels(name_of_label)
    if not request.has_rawframes_fps and any(row.num_frames is not None for row in table.videos):
        raise AnnotationError(
            "the annotations list folders of images, which do not say their frame rate; add"
            " --rawframes-fps, such as 30"
        )
    return table


def _plan_annotations(
    request: PreparationRequest, table: AnnotationTable, notes: list[str]
) -> tuple[list[ClipJob], list[str], list[str]]:
    """Returns the jobs, the path that the row of each names, and all files."""
    files = find_videos(request.videos, request.output, allow_none=bool(table.videos))
    plan = plan_annotated_clips(table.clips, files)
    if plan.num_replaced:
        notes.append(f"{plan.num_replaced} clips have a replacement, preferred to the original")
    if plan.num_shifted:
        notes.append(
            f"{plan.num_shifted} clips are taken from files named up to a second otherwise"
        )
    listed = plan_listed_videos(table.videos, request.videos, files, request.output)
    asked_paths = [""] * len(plan.jobs) + [row.path for row in table.videos]
    return plan.jobs + listed, asked_paths, files


def _note_differences(
    request: PreparationRequest,
    differences: Sequence[Difference],
    num_rows: int,
    num_files: int,
    notes: list[str],
) -> None:
    num_lacking = sum(difference.side == "list" for difference in differences)
    if num_lacking:
        notes.append(f"{num_lacking} of {num_rows} annotation rows have no video")
    if num_lacking < len(differences):
        num_unasked = len(differences) - num_lacking
        notes.append(f"{num_unasked} of {num_files} videos belong to no annotation row")
    if differences:
        notes.append(f"each of them, with reasons: {request.output / DIFFERENCES_NAME}")
