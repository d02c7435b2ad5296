from __future__ import annotations

import os
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gnvideo.data.preparation_plan import (
    ClipJob,
    Source,
    encode_name,
    find_videos,
    finish_plan,
    make_relative_path,
)
from gnvideo.errors import InputFileError


@given(st.text(st.characters(codec="utf-8"), min_size=1))
def test_encoded_names_are_safe_and_reversible(name: str) -> None:
    encoded = encode_name(name)
    assert unquote(encoded) == name
    assert not set(encoded) & set('/\\\0\n<>:"|?*')
    assert not encoded.startswith(".")
    assert not encoded.endswith((".", " "))


def test_ordinary_class_names_stay_as_they_are() -> None:
    name = "passing American football (not in game), l'été"
    assert encode_name(name) == name


@given(st.text(st.characters(codec="utf-8"), min_size=1), st.none() | st.text(min_size=1))
def test_no_name_leaves_its_folder_or_is_too_long(clip_id: str, label: str | None) -> None:
    path = PurePosixPath(make_relative_path("val", label and label * 40, clip_id * 40))
    assert path.parts[:2] == ("videos", "val")
    assert len(path.parts) == 4
    assert ".." not in path.parts
    assert all(len(part.encode()) <= 210 for part in path.parts)


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
    "name", ["/", "..", "a\0b", "-rf", ".hidden", "é" * 150, "C:\\x", "a b. ", "../" * 100]
)
@pytest.mark.parametrize("has_shared_name", [False, True])
def test_any_id_and_label_is_written_inside_of_the_output(
    tmp_path: Path, name: str, has_shared_name: bool
) -> None:
    relative = make_relative_path("val", name, name, has_shared_name=has_shared_name)
    path = tmp_path / "out" / relative
    path.parent.mkdir(parents=True)
    path.write_bytes(b"x")
    assert [each for each in tmp_path.rglob("*") if each.is_file()] == [path]
    assert path.resolve().parents[1] == tmp_path / "out" / "videos" / "val"


def make_job(video_id: str, label: str = "a", split: str = "val") -> ClipJob:
    source = Source(f"{label}/{video_id}.mp4", is_clip=True)
    return ClipJob(video_id, label, split, 0, 10, (source,))


def test_names_that_differ_only_in_capitals_get_paths_that_differ_more() -> None:
    jobs = [make_job("abC"), make_job("aBc"), make_job("other"), make_job("abc", split="train")]
    finished = finish_plan(jobs)
    assert [job.has_shared_name for job in finished] == [True, True, False, False]
    paths = [
        make_relative_path(
            job.split, job.label, job.planned_id, has_shared_name=job.has_shared_name
        )
        for job in finished
    ]
    assert len({path.casefold() for path in paths}) == 4
    assert finish_plan(jobs[1:2] + jobs[:1])[0] == finished[1]


def test_labels_that_differ_only_in_capitals_keep_their_clips_apart() -> None:
    jobs = finish_plan([make_job("x", "Diving"), make_job("X", "diving")])
    assert all(job.has_shared_name for job in jobs)


def test_one_clip_twice_in_a_split_is_an_error() -> None:
    with pytest.raises(InputFileError, match=r"a/x\.mp4 and b/x\.mp4 are the same clip x_000000"):
        finish_plan([make_job("x", "a"), make_job("x", "b")])
