from __future__ import annotations

from pathlib import Path

import pytest

from gnvideo.data.annotations import ListedVideo
from gnvideo.data.own_videos import plan_class_folders, plan_listed_videos
from gnvideo.data.preparation_plan import Source, find_videos, finish_plan
from gnvideo.errors import ClassListError, InputFileError, OutputError


def test_split_and_class_folders_name_split_and_class() -> None:
    files = ["train/a b/x.mp4", "validate/c/deep/y.webm"]
    jobs = plan_class_folders(files)
    assert [(job.split, job.label, job.video_id, job.end_seconds) for job in jobs] == [
        ("train", "a b", "x", None),
        ("val", "c", "y", None),
    ]
    assert [job.label for job in plan_class_folders(files, split="val")] == ["c"]


def test_a_file_named_as_a_clip_keeps_its_id_and_times() -> None:
    (job,) = plan_class_folders(["val/a/-bc_efghijk_000003_000013.mp4"])
    assert (job.video_id, job.start_seconds, job.end_seconds) == ("-bc_efghijk", 3, 13)


def test_a_whole_video_named_as_the_video_of_a_clip_gets_another_id() -> None:
    files = ["a/x.mp4", "a/x_000000_000010.mp4", "a/y.mp4"]
    ids = [job.video_id for job in plan_class_folders(files, split="train")]
    assert ids[0].startswith("x-")
    assert ids[1:] == ["x", "y"]


def test_equal_names_get_distinct_ids_that_other_files_do_not_change() -> None:
    files = ["a/x.mp4", "b/X.mp4", "b/y.mp4"]
    ids = [job.video_id for job in plan_class_folders(files, split="train")]
    assert len(set(ids)) == 3
    assert ids[2] == "y"
    more = plan_class_folders([*files, "c/z.mp4"], split="train")
    assert [job.video_id for job in more][:3] == ids


def test_val_share_is_kept_by_name_whatever_the_folder_holds() -> None:
    files = [f"class{i % 5}/video{i}.mp4" for i in range(400)]
    splits = {job.sources[0].path: job.split for job in plan_class_folders(files, val_share=0.25)}
    assert 70 <= sum(split == "val" for split in splits.values()) <= 130
    few = plan_class_folders(files[:7], val_share=0.25)
    assert all(splits[job.sources[0].path] == job.split for job in few)


@pytest.mark.parametrize(
    ("files", "val_share", "message"),
    [
        (["a/x.mp4"], None, "--val-share"),
        (["train/a/x.mp4"], 0.2, "leave out --val-share"),
        (["x.mp4"], 0.2, "no class folder"),
        (["train/x.mp4", "train/a/y.mp4"], None, "no class folder"),
    ],
)
def test_folders_that_leave_the_class_or_split_open_are_an_error(
    files: list[str], val_share: float | None, message: str
) -> None:
    with pytest.raises(InputFileError, match=message):
        plan_class_folders(files, val_share=val_share)


CLASSES = ("high jump", "skiing (not slalom or crosscountry)", "skiing crosscountry", "l'été")


@pytest.mark.parametrize(
    ("folder", "label"),
    [
        ("high jump", CLASSES[0]),
        ("high_jump", CLASSES[0]),
        ("skiing (not slalom or crosscountry)", CLASSES[1]),
        ("skiing_(not_slalom_or_crosscountry)", CLASSES[1]),
        ("skiing_not_slalom_or_crosscountry", CLASSES[1]),
        ("skiing_crosscountry", CLASSES[2]),
        ("lété", CLASSES[3]),
    ],
)
def test_class_folders_match_the_given_classes_in_any_spelling(folder: str, label: str) -> None:
    (job,) = plan_class_folders([f"{folder}/x.mp4"], split="val", classes=CLASSES)
    assert job.label == label


def test_a_folder_of_no_class_is_an_error_that_names_the_closest() -> None:
    with pytest.raises(ClassListError, match=r"'high jumps' is none.*closest is 'high jump'"):
        plan_class_folders(["high jumps/x.mp4"], split="val", classes=CLASSES)


def test_two_spellings_of_a_class_are_an_error_unless_a_list_says_what_they_mean() -> None:
    files = ["train/high jump/x.mp4", "val/high_jump/y.mp4"]
    with pytest.raises(ClassListError, match=r"'high jump' and 'high_jump'.*differ only"):
        plan_class_folders(files)
    jobs = plan_class_folders(files, classes=CLASSES)
    assert {job.label for job in jobs} == {"high jump"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of videos, with one video and one folder of images beside it."""
    for name in ("videos/a b/x.mp4", "videos/a b/-y_000003_000013.mp4", "videos/.z/h.mp4", "o.mp4"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "videos" / "frames" / "v_1_11").mkdir(parents=True)
    return tmp_path / "videos"


def plan_sources(folder: Path, *paths: str, num_frames: int | None = None) -> list[object]:
    rows = [ListedVideo(path, "a", "val", num_frames) for path in paths]
    output = folder.parent / "out"
    files = find_videos(folder, output, allow_none=True)
    return [job.sources for job in plan_listed_videos(rows, folder, files, output)]


def test_listed_paths_are_relative_to_the_folder_or_absolute_or_outside(folder: Path) -> None:
    paths = ["a b/x.mp4", "./a b/x.mp4", str(folder / "a b" / "x.mp4"), ".z/h.mp4"]
    assert plan_sources(folder, *paths) == [
        *[(Source("a b/x.mp4", is_clip=True),)] * 3,
        (Source(".z/h.mp4", is_clip=True),),
    ]
    outside = str(folder.parent / "o.mp4")
    assert plan_sources(folder, "../o.mp4", outside) == [
        (Source("../o.mp4", is_clip=True),),
        (Source(outside, is_clip=True),),
    ]


def test_listed_files_that_do_not_exist_have_no_source(folder: Path) -> None:
    # A name that no file system can hold, and a folder where a file is asked for.
    paths = ["a b/x.mp4", "a b/absent.mp4", "é" * 300 + ".mp4", "frames/v_1_11"]
    assert [bool(sources) for sources in plan_sources(folder, *paths)] == [True, *[False] * 3]
    with pytest.raises(InputFileError, match=r"none of the 1 listed files.*absent\.mp4.*--videos"):
        plan_sources(folder, "absent.mp4")


def test_a_listed_folder_of_images_keeps_its_number_of_frames(folder: Path) -> None:
    (sources,) = plan_sources(folder, "frames/v_1_11", num_frames=300)
    assert sources == (Source("frames/v_1_11", is_clip=True, num_frames=300),)


def test_a_listed_file_named_as_a_clip_keeps_its_id_and_times(folder: Path) -> None:
    rows = [ListedVideo(path, "a", "val") for path in ("a b/-y_000003_000013.mp4", "a b/x.mp4")]
    jobs = plan_listed_videos(rows, folder, [row.path for row in rows], folder.parent / "out")
    assert [(job.video_id, job.start_seconds, job.end_seconds) for job in jobs] == [
        ("-y", 3, 13),
        ("x", 0, None),
    ]


def test_one_clip_from_two_paths_is_an_error(folder: Path) -> None:
    rows = [ListedVideo(f"{name}/v_000000_000010.mp4", "a", "val") for name in "ab"]
    jobs = plan_listed_videos(rows, folder, [row.path for row in rows], folder.parent / "out")
    with pytest.raises(InputFileError, match="same clip v_000000_000010"):
        finish_plan(jobs)


def test_a_list_does_not_name_what_it_would_overwrite(folder: Path) -> None:
    prepared = folder.parent / "out" / "videos" / "val" / "a" / "x.mp4"
    prepared.parent.mkdir(parents=True)
    prepared.touch()
    with pytest.raises(OutputError, match="would be overwritten"):
        plan_sources(folder, "../out/videos/val/a/x.mp4")
