from __future__ import annotations

import os
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gnvideo.data.annotations import Annotation
from gnvideo.data.preparation_plan import (
    Source,
    encode_name,
    find_videos,
    make_relative_path,
    plan_annotated_clips,
    plan_class_folders,
)
from gnvideo.errors import InputFileError

CLIP = Annotation("-bc_efghijk", "high jump", 3, 13, "val")


@given(st.text(st.characters(codec="utf-8"), min_size=1))
def test_encoded_names_are_safe_and_reversible(name: str) -> None:
    encoded = encode_name(name)
    assert unquote(encoded) == name
    assert not set(encoded) & {"/", "\\", "\0", "\n"}
    assert not encoded.startswith(".")


def test_ordinary_class_names_stay_as_they_are() -> None:
    name = "passing American football (not in game), l'été"
    assert encode_name(name) == name


@given(st.text(st.characters(codec="utf-8"), min_size=1), st.none() | st.text(min_size=1))
def test_no_name_leaves_its_folder_or_is_too_long(clip_id: str, label: str | None) -> None:
    path = PurePosixPath(make_relative_path("val", label, clip_id * 40))
    assert path.parts[:2] == ("videos", "val")
    assert len(path.parts) == 4
    assert ".." not in path.parts
    assert len(path.name.encode()) <= 210


@pytest.mark.parametrize("name", ["../../x", "..", "/etc/passwd", "a/../../b", "..\\x"])
def test_ids_that_look_like_paths_stay_inside(tmp_path: Path, name: str) -> None:
    path = (tmp_path / make_relative_path("train", name, name)).resolve()
    assert path.is_relative_to(tmp_path / "videos" / "train")


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def test_videos_are_found_at_any_depth_except_in_the_output_and_hidden(tmp_path: Path) -> None:
    touch(tmp_path, "b.MP4", "a/é 'x'.webm", "a/b/c.mkv", "out/videos/train/d.mp4", "note.txt")
    touch(tmp_path, ".cache/e.mp4", "a/._f.mp4")
    assert find_videos(tmp_path, tmp_path / "out") == ["a/b/c.mkv", "a/é 'x'.webm", "b.MP4"]


def test_links_in_a_circle_end(tmp_path: Path) -> None:
    touch(tmp_path, "a/b.mp4")
    os.symlink(tmp_path, tmp_path / "a" / "loop")
    assert find_videos(tmp_path, tmp_path / "out") == ["a/b.mp4"]


def test_a_folder_without_videos_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputFileError, match="no video below"):
        find_videos(tmp_path, tmp_path / "out")
    with pytest.raises(InputFileError, match="no folder of videos"):
        find_videos(tmp_path / "absent", tmp_path / "out")


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
    (job,) = plan_annotated_clips([CLIP], ["other.mp4", file])
    assert job.sources == (Source(file, is_clip),)


def test_clips_come_before_videos_and_files_of_the_split_before_others() -> None:
    name = "-bc_efghijk_000003_000013.mp4"
    files = ["-bc_efghijk.mp4", f"replacement/{name}", f"validate/{name}"]
    (job,) = plan_annotated_clips([CLIP], files)
    assert [source.path for source in job.sources] == [files[2], files[1], files[0]]


def test_a_clip_without_file_has_no_source_but_a_plan_without_any_is_an_error() -> None:
    other = Annotation("other", "a", 0, 10, "val")
    jobs = plan_annotated_clips([CLIP, other], ["other.mp4"])
    assert [len(job.sources) for job in jobs] == [0, 1]
    with pytest.raises(
        InputFileError, match=r"none of the 1 videos.*-bc_efghijk_000003_000013\.mp4"
    ):
        plan_annotated_clips([CLIP], ["unrelated.mp4"])


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
        (["a/v_000000_000010.mp4", "b/v_000000_000010.mp4"], 0.2, "same clip"),
    ],
)
def test_folders_that_leave_the_class_or_split_open_are_an_error(
    files: list[str], val_share: float | None, message: str
) -> None:
    with pytest.raises(InputFileError, match=message):
        plan_class_folders(files, val_share=val_share)
