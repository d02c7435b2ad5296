from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest

from gnvideo.data.annotations import Annotation
from gnvideo.data.differences import Difference, find_differences, write_differences
from gnvideo.data.exclusions import exclude_jobs, read_exclusions
from gnvideo.data.planning import PreparationPlan, PreparationRequest, plan_preparation
from gnvideo.data.preparation_plan import ClipJob, Source
from gnvideo.errors import AnnotationError, ClassListError, InputFileError

HEADER = "label,youtube_id,time_start,time_end,split"


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def write(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n")
    return path


def plan(folder: Path, *annotations: Path, **options: Any) -> PreparationPlan:
    """Returns the plan for the videos in `folder / "videos"`."""
    request = PreparationRequest(folder / "videos", folder / "out", annotations, **options)
    return plan_preparation(request)


def list_sources(plan: PreparationPlan) -> dict[str, list[str]]:
    return {job.planned_id: [source.path for source in job.sources] for job in plan.jobs}


def test_the_layout_of_the_cvdf_copy_is_found_with_its_replacements(tmp_path: Path) -> None:
    replacements = "replacement/replacement_for_corrupted_k400"
    names = ["-_aaaaaaaaa_000001_000011", "bbbbbbbbbbb_000002_000012", "ccccccccccc_000003_000013"]
    touch(tmp_path / "videos", *(f"k400/train/{name}.mp4" for name in names[:2]))
    touch(tmp_path / "videos", f"k400/val/{names[2]}.mp4", f"k400/{replacements}/{names[1]}.mp4")
    train = write(
        tmp_path / "train.csv",
        HEADER,
        *(f'"x",{name[:11]},{name[17]},{name[22:]},train' for name in names[:2]),
    )
    val = write(tmp_path / "val.csv", HEADER, f"y,{names[2][:11]},3,13,validate")
    made = plan(tmp_path, train, val)
    assert list_sources(made) == {
        names[0]: [f"k400/train/{names[0]}.mp4"],
        names[1]: [f"k400/{replacements}/{names[1]}.mp4", f"k400/train/{names[1]}.mp4"],
        names[2]: [f"k400/val/{names[2]}.mp4"],
    }
    assert made.notes == ["1 clips have a replacement, preferred to the original"]
    assert made.differences == []


def test_the_layout_after_the_cvdf_script_takes_classes_from_the_annotation(tmp_path: Path) -> None:
    touch(
        tmp_path / "videos", "val/high_jump/a_000001_000011.mkv", "train/yoga/b_000001_000011.mp4"
    )
    rows = write(tmp_path / "all.csv", HEADER, "high jump,a,1,11,val", "yoga,b,1,11,train")
    made = plan(tmp_path, rows)
    assert [(job.label, len(job.sources)) for job in made.jobs] == [("high jump", 1), ("yoga", 1)]


def test_differences_are_told_from_both_sides_whatever_split_is_prepared(tmp_path: Path) -> None:
    touch(tmp_path / "videos", "a_000001_000011.mp4", "other_000040_000050.mp4", "nobody asked.mp4")
    rows = write(
        tmp_path / "all.csv",
        HEADER,
        "x,a,1,11,val",
        "x,absent,0,10,val",
        "y,other,0,10,train",
    )
    expected = [
        Difference("list", "absent_000000_000010", "val", "x", "", "no file"),
        Difference(
            *("list", "other_000000_000010", "train", "y", ""),
            "files of this id have other times: other_000040_000050.mp4",
        ),
        Difference("disk", "nobody asked", "", "", "nobody asked.mp4", "no row"),
        Difference(
            *("disk", "other_000040_000050", "", "", "other_000040_000050.mp4"),
            "rows of this id have other times: other_000000_000010",
        ),
    ]
    for split, num_jobs in ((None, 3), ("val", 2), ("train", 1)):
        made = plan(tmp_path, rows, split=split)
        assert made.differences == expected
        assert len(made.jobs) == num_jobs
        assert made.notes == [
            "2 of 3 annotation rows have no video",
            "2 of 3 videos belong to no annotation row",
            f"each of them, with reasons: {tmp_path / 'out' / 'differences.csv'}",
        ]


def test_differences_on_disk_hold_any_name(tmp_path: Path) -> None:
    jobs = [ClipJob('a,"b"', None, "test", 0, 10, ())]
    write_differences(tmp_path, find_differences(jobs, ["../p q.mp4"], ["é\udcff.mp4"]))
    with (tmp_path / "differences.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["side", "id", "split", "label", "path", "reason"]
    assert rows[1] == ["list", 'a,"b"_000000_000010', "test", "", "../p q.mp4", "no file"]
    assert rows[2] == ["disk", "é\\udcff", "", "", "é\\udcff.mp4", "no row"]


def test_lists_and_annotations_can_be_planned_together(tmp_path: Path) -> None:
    touch(tmp_path / "videos", "a_000001_000011.mp4", "my folder/b.mp4")
    touch(tmp_path, "outside.mp4")
    official = write(tmp_path / "val.csv", HEADER, "x,a,1,11,val")
    listed = write(tmp_path / "train.txt", "my folder/b.mp4 x", "../outside.mp4 y", "gone.mp4 y")
    made = plan(tmp_path, official, listed)
    assert [[source.path for source in job.sources] for job in made.jobs] == [
        ["a_000001_000011.mp4"],
        ["my folder/b.mp4"],
        ["../outside.mp4"],
        [],
    ]
    assert made.differences == [
        Difference("list", "gone_000000_000000", "train", "y", "gone.mp4", "no file")
    ]


def test_a_list_of_files_elsewhere_needs_no_video_in_the_folder(tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    touch(tmp_path / "elsewhere", "a.mp4")
    listed = write(tmp_path / "train.txt", f"{tmp_path / 'elsewhere' / 'a.mp4'} x")
    assert [len(job.sources) for job in plan(tmp_path, listed).jobs] == [1]


def test_labels_are_spelled_as_in_the_class_list_and_that_is_said(tmp_path: Path) -> None:
    touch(tmp_path / "videos", "a_000001_000011.mp4", "b.mp4")
    classes = write(tmp_path / "label_map.txt", "yoga", "high jump")
    official = write(tmp_path / "val.csv", HEADER, "high_jump,a,1,11,val")
    listed = write(tmp_path / "train.txt", "b.mp4 0")
    made = plan(tmp_path, official, listed, class_file=classes)
    assert [job.label for job in made.jobs] == ["high jump", "yoga"]
    assert made.classes == ("yoga", "high jump")
    assert made.notes == [f"1 labels are spelled as in {classes}"]
    unknown = write(tmp_path / "test.csv", HEADER, "long jump,a,1,11,test")
    with pytest.raises(ClassListError, match=r"'long jump' is none.*label_map\.txt"):
        plan(tmp_path, unknown, class_file=classes)


def test_folders_of_images_need_a_frame_rate(tmp_path: Path) -> None:
    touch(tmp_path / "videos", "x/v_1_11/img_00001.jpg")
    listed = write(tmp_path / "train_rawframes.txt", "x/v_1_11 300 x")
    with pytest.raises(AnnotationError, match="--rawframes-fps"):
        plan(tmp_path, listed)
    (job,) = plan(tmp_path, listed, has_rawframes_fps=True).jobs
    assert job.sources == (Source("x/v_1_11", is_clip=True, num_frames=300),)
    assert job.planned_id == "v_000001_000011"


def test_the_same_clip_from_a_list_and_an_annotation_is_an_error(tmp_path: Path) -> None:
    touch(tmp_path / "videos", "a_000001_000011.mp4")
    official = write(tmp_path / "val.csv", HEADER, "x,a,1,11,val")
    listed = write(tmp_path / "val.txt", "a_000001_000011.mp4 x")
    with pytest.raises(InputFileError, match="are the same clip a_000001_000011"):
        plan(tmp_path, official, listed)


def test_no_row_of_the_split_is_an_error(tmp_path: Path) -> None:
    touch(tmp_path / "videos", "a_000001_000011.mp4")
    official = write(tmp_path / "val.csv", HEADER, "x,a,1,11,val")
    with pytest.raises(AnnotationError, match=r"val\.csv: no row of split 'test'"):
        plan(tmp_path, official, split="test")


KINETICS400_VAL = [
    pytest.param([f"{HEADER},is_cc", "x,-leak_00000,1,11,val,0"], id="official"),
    pytest.param(["youtube_id,time_start,time_end,split", "-leak_00000,2,12,test"], id="no-label"),
    pytest.param(
        ['{"-leak_00000": {"subset": "test", "annotations": {"segment": [5, 15]}}}'], id="json"
    ),
    pytest.param(["k400/val/-leak_00000_000001_000011.mp4 12"], id="list-with-numbers"),
    pytest.param(["-leak_00000.mp4"], id="bare-paths"),
    pytest.param(["-leak_00000", "", "unknown"], id="ids"),
    pytest.param(["-leak_00000_000001_000011"], id="clip-ids"),
]


@pytest.mark.parametrize("lines", KINETICS400_VAL)
def test_clips_of_another_sets_validation_are_excluded(tmp_path: Path, lines: list[str]) -> None:
    touch(tmp_path / "videos", "-leak_00000_000001_000011.mp4", "kept_000001_000011.mp4")
    rows = write(tmp_path / "train.csv", HEADER, "x,-leak_00000,1,11,train", "x,kept,1,11,train")
    leaks = write(tmp_path / "k400 leaks.txt", *lines)
    made = plan(tmp_path, rows, exclusions=[leaks])
    assert [job.excluded for job in made.jobs] == ["listed in k400 leaks.txt", None]
    assert made.notes == ["1 of 2 clips are excluded by --exclude"]
    assert made.differences == []


def test_an_annotation_or_id_excludes_all_clips_of_a_video_and_a_clip_id_one(
    tmp_path: Path,
) -> None:
    clips = [Annotation("v", "x", start, start + 10, "train") for start in (0, 20)]
    jobs = [ClipJob("v", "x", "train", clip.start_seconds, clip.end_seconds, ()) for clip in clips]
    jobs.append(ClipJob("v", "x", "train", 0, None, ()))

    def exclude(*lines: str) -> list[bool]:
        exclusions = read_exclusions([write(tmp_path / "list", *lines)])
        return [job.excluded is not None for job in exclude_jobs(jobs, exclusions)]

    assert exclude(HEADER, "x,v,0,10,train") == [True, True, True]
    assert exclude("v") == [True, True, True]
    assert exclude("v_000020_000030") == [False, True, False]
    # The whole video's end is not known yet; its manifest id begins so.
    assert exclude("v_000000_000012") == [False, False, True]


def test_an_excluded_clip_needs_no_file(tmp_path: Path) -> None:
    touch(tmp_path / "videos", "kept_000001_000011.mp4")
    rows = write(tmp_path / "train.csv", HEADER, "x,gone,1,11,train", "x,kept,1,11,train")
    made = plan(tmp_path, rows, exclusions=[write(tmp_path / "ids", "gone")])
    assert made.differences == []


def test_an_empty_or_missing_exclusion_list_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(AnnotationError, match="is empty"):
        read_exclusions([write(tmp_path / "empty", "")])
    with pytest.raises(InputFileError, match="absent"):
        read_exclusions([tmp_path / "absent"])
