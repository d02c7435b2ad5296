from __future__ import annotations

import pytest

from gnvideo.data.annotated_clips import plan_annotated_clips
from gnvideo.data.annotations import Annotation
from gnvideo.data.preparation_plan import Source
from gnvideo.errors import InputFileError

CLIP = Annotation("-bc_efghijk", "high jump", 3, 13, "val")


@pytest.mark.parametrize(
    ("file", "is_clip"),
    [
        ("-bc_efghijk_000003_000013.mp4", True),
        ("val/high_jump/-bc_efghijk_000003_000013.webm", True),
        ("deep/-bc_efghijk_3_13.mkv", True),
        ("-bc_efghijk.mp4", False),
    ],
)
def test_a_clip_is_found_by_its_name(file: str, is_clip: bool) -> None:
    (job,) = plan_annotated_clips([CLIP], ["other.mp4", file]).jobs
    assert job.sources == (Source(file, is_clip),)


def test_clips_come_before_videos_and_files_of_the_split_before_others() -> None:
    name = "-bc_efghijk_000003_000013.mp4"
    files = ["-bc_efghijk.mp4", f"b/{name}", f"validate/{name}"]
    (job,) = plan_annotated_clips([CLIP], files).jobs
    assert [source.path for source in job.sources] == [files[2], files[1], files[0]]


def test_a_replacement_is_preferred_to_the_original_and_counted() -> None:
    name = "-bc_efghijk_000003_000013.mp4"
    files = [f"k400/val/{name}", f"k400/replacement/replacement_for_corrupted_k400/{name}"]
    plan = plan_annotated_clips([CLIP], files)
    assert [source.path for source in plan.jobs[0].sources] == files[::-1]
    assert plan.num_replaced == 1
    assert plan_annotated_clips([CLIP], files[1:]).num_replaced == 0
    assert plan_annotated_clips([CLIP], files[:1]).num_replaced == 0


@pytest.mark.parametrize(
    ("times", "is_used"),
    [("000004_000014", True), ("000002_000013", True), ("5_15", False), ("000003_000015", False)],
)
def test_a_file_is_the_clip_if_its_times_are_at_most_a_second_off(
    times: str, is_used: bool
) -> None:
    other = Annotation("other", "a", 0, 10, "val")
    plan = plan_annotated_clips([CLIP, other], ["other.mp4", f"-bc_efghijk_{times}.mp4"])
    assert bool(plan.jobs[0].sources) is is_used
    assert plan.num_shifted == is_used


def test_a_file_a_second_off_is_not_used_where_the_clip_or_its_video_is_there() -> None:
    shifted = "-bc_efghijk_000004_000014.mp4"
    for file in ("-bc_efghijk_000003_000013.mp4", "-bc_efghijk.mp4"):
        plan = plan_annotated_clips([CLIP], [file, shifted])
        assert [source.path for source in plan.jobs[0].sources] == [file]
        assert plan.num_shifted == 0


def test_a_file_between_two_clips_is_neither() -> None:
    rows = [CLIP, Annotation("-bc_efghijk", "high jump", 5, 15, "val")]
    rows.append(Annotation("other", "a", 0, 10, "val"))
    plan = plan_annotated_clips(rows, ["other.mp4", "-bc_efghijk_000004_000014.mp4"])
    assert [len(job.sources) for job in plan.jobs] == [0, 0, 1]


def test_the_file_of_another_clip_is_not_taken_for_one_a_second_off() -> None:
    rows = [CLIP, Annotation("-bc_efghijk", "high jump", 4, 14, "val")]
    plan = plan_annotated_clips(rows, ["-bc_efghijk_000004_000014.mp4"])
    assert [len(job.sources) for job in plan.jobs] == [0, 1]


def test_a_clip_without_file_has_no_source_but_a_plan_without_any_is_an_error() -> None:
    other = Annotation("other", "a", 0, 10, "val")
    jobs = plan_annotated_clips([CLIP, other], ["other.mp4"]).jobs
    assert [len(job.sources) for job in jobs] == [0, 1]
    with pytest.raises(
        InputFileError, match=r"none of the 1 videos.*-bc_efghijk_000003_000013\.mp4"
    ):
        plan_annotated_clips([CLIP], ["unrelated.mp4"])
