from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gnvideo.data.manifest import ManifestRow
from gnvideo.data.preparation_log import LOG_NAME, open_preparation_log, open_prepared_clips
from gnvideo.data.preparation_plan import ClipJob, Source
from gnvideo.errors import OutputError

SETTINGS: dict[str, Any] = {"short_side_pixels": 256, "encoding": {"crf": 23}}


def make_job(name: str) -> ClipJob:
    return ClipJob(name, "a class", "train", 0, 10, (Source(f"{name}.mkv", is_clip=False),))


def make_row(name: str) -> ManifestRow:
    return ManifestRow(
        id=f"{name}_000000_000010",
        path=f"videos/train/a class/{name}_000000_000010.mp4",
        label="a class",
        split="train",
        frames=300,
        fps=30.0,
        width=340,
        height=256,
        duration=10.0,
        keyframe_interval=12,
        bytes=7,
        content_hash="0123456789abcdef",
        status="ok",
        reason=None,
    )


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    folder = tmp_path / "downloads"
    folder.mkdir()
    for name in "abc":
        (folder / f"{name}.mkv").write_bytes(b"source")
    return folder


@pytest.fixture
def root(tmp_path: Path, videos: Path) -> Path:
    """A data root with the clips a, b and c."""
    folder = tmp_path / "prepared"
    with open_preparation_log(folder, videos, SETTINGS) as (prepared, log):
        for name in "abc":
            assert prepared.find(make_job(name)) is None
            path = folder / (make_row(name).path or "")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"content")
            log.append(make_job(name), f"{name}.mkv", make_row(name))
    return folder


def list_prepared(root: Path, videos: Path, settings: dict[str, Any] = SETTINGS) -> str:
    with open_prepared_clips(root, videos, settings) as prepared:
        rows = {name: prepared.find(make_job(name)) for name in "abc"}
    assert all(row in (None, make_row(name)) for name, row in rows.items())
    return "".join(name for name, row in rows.items() if row)


def remove_file(root: Path, videos: Path) -> None:
    (root / (make_row("b").path or "")).unlink()


def shorten_file(root: Path, videos: Path) -> None:
    # As a power cut can leave what the disk had not got.
    (root / (make_row("b").path or "")).write_bytes(b"")


def change_source(root: Path, videos: Path) -> None:
    (videos / "b.mkv").write_bytes(b"another source")


def touch_source(root: Path, videos: Path) -> None:
    os.utime(videos / "b.mkv", ns=(1, 1))


def remove_source(root: Path, videos: Path) -> None:
    (videos / "b.mkv").unlink()


@pytest.mark.parametrize(
    "change", [remove_file, shorten_file, change_source, touch_source, remove_source]
)
def test_a_clip_of_which_anything_changed_is_not_prepared(
    root: Path, videos: Path, change: Callable[[Path, Path], None]
) -> None:
    assert list_prepared(root, videos) == "abc"
    change(root, videos)
    assert list_prepared(root, videos) == "ac"


def test_other_settings_or_sources_prepare_anew(root: Path, videos: Path) -> None:
    assert list_prepared(root, videos, {**SETTINGS, "encoding": {"crf": 18}}) == ""
    with open_prepared_clips(root, videos, SETTINGS) as prepared:
        other = replace(make_job("a"), sources=(Source("b.mkv", is_clip=False),))
        assert prepared.find(other) is None


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda line: line[: len(line) // 2], id="cut off"),
        pytest.param(lambda line: line[:-1], id="cut off before its end"),
        pytest.param(lambda line: bytes(len(line)), id="zeros"),
        pytest.param(lambda line: b"\xff\xfe" + line, id="no text"),
        pytest.param(lambda line: b'["key"]\n', id="another kind"),
        pytest.param(lambda line: b"{}\n", id="no key"),
        pytest.param(lambda line: line.replace(b'"frames"', b'"pictures"'), id="another version"),
        pytest.param(lambda line: line.replace(b'"source"', b'"origin"'), id="another field"),
    ],
)
def test_a_damaged_entry_costs_only_its_own_clip(
    root: Path, videos: Path, damage: Callable[[bytes], bytes]
) -> None:
    log = root / LOG_NAME
    first, second, third = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(first + third + damage(second))
    assert list_prepared(root, videos) == "ac"
    # What is written next stands on a line of its own.
    with open_preparation_log(root, videos, SETTINGS) as (_, writer):
        writer.append(make_job("b"), "b.mkv", make_row("b"))
    assert list_prepared(root, videos) == "abc"


def test_replaced_entries_leave_the_log_with_the_next_run(root: Path, videos: Path) -> None:
    with open_preparation_log(root, videos, SETTINGS) as (_, log):
        for _ in range(3):
            log.append(make_job("b"), "b.mkv", make_row("b"))
    assert (root / LOG_NAME).read_bytes().count(b"\n") == 6
    with open_preparation_log(root, videos, SETTINGS):
        keys = [json.loads(line)["key"] for line in (root / LOG_NAME).read_text().splitlines()]
    assert len(keys) == len(set(keys)) == 3
    assert list_prepared(root, videos) == "abc"


def test_half_written_files_are_gone_when_a_run_ends(root: Path, videos: Path) -> None:
    left = [root / ".classes.txt.12.partial", root / "videos" / "train" / ".x.mp4.0a.partial"]
    kept = [root / "videos" / "train" / ".hidden.mp4", root / "videos" / "x.partial"]
    for path in (*left, *kept):
        path.touch()

    def end_badly() -> None:
        with open_preparation_log(root, videos, SETTINGS):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        end_badly()
    assert not any(path.exists() for path in left)
    assert all(path.exists() for path in kept)


def test_two_runs_do_not_write_one_folder(root: Path, videos: Path) -> None:
    with (
        open_preparation_log(root, videos, SETTINGS),
        pytest.raises(OutputError, match="another run"),
        open_preparation_log(root, videos, SETTINGS),
    ):
        pass


def test_looking_makes_no_folder(tmp_path: Path, videos: Path) -> None:
    assert list_prepared(tmp_path / "absent", videos) == ""
    assert not (tmp_path / "absent").exists()
