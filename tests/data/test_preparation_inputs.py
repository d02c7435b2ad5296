"""Preparations whose input is not one plain annotation file, with real videos."""

from __future__ import annotations

import csv
import importlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from gnvideo.data.class_list import read_classes
from gnvideo.data.coverage import read_coverage
from gnvideo.data.manifest import read_manifest

WriteVideo = Callable[..., Path]
Tool = Callable[..., int]

HEADER = "label,youtube_id,time_start,time_end,split"


@pytest.fixture
def tool(tmp_path: Path) -> Tool:
    """Prepares into `tmp_path / "out"`."""
    main = importlib.import_module("preprocess_kinetics").main

    def run(*arguments: str | Path) -> int:
        options = ["--output", tmp_path / "out", "--workers", "1", *arguments]
        return main([str(option) for option in options])

    return run


@pytest.fixture
def downloads(tmp_path: Path, write_video: WriteVideo) -> Path:
    """Three videos of different lengths, one beside the folder, and a broken one."""
    folder = tmp_path / "downloads"
    (folder / "high jump").mkdir(parents=True)
    (folder / "replacement").mkdir()
    write_video(folder / "high jump" / "-a_000001_000002.mp4", num_frames=25)
    write_video(folder / "replacement" / "broken_000000_000001.mp4", num_frames=26)
    (folder / "broken_000000_000001.mp4").write_bytes(b"junk")
    write_video(tmp_path / "outside, or so.mkv", num_frames=30)
    return folder


def test_lists_with_numbers_exclusions_and_replacements_are_prepared_and_accounted_for(
    tmp_path: Path, tool: Tool, downloads: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "label_map.txt").write_text("yoga\nhigh jump\n")
    (tmp_path / "train.txt").write_text(
        f"path,label\nhigh jump/-a_000001_000002.mp4,1\n{tmp_path / 'outside, or so.mkv'},0\n"
    )
    (tmp_path / "val.csv").write_text(f"{HEADER}\nyoga,broken,0,1,val\nyoga,leak,0,10,val\n")
    (tmp_path / "leaks.json").write_text(
        json.dumps({"leak": {"subset": "test", "annotations": {"segment": [0, 10]}}})
    )
    inputs = ["--annotations", tmp_path / "train.txt", "--annotations", tmp_path / "val.csv"]
    inputs += ["--classes", tmp_path / "label_map.txt", "--exclude", tmp_path / "leaks.json"]
    assert tool(*inputs, "--videos", downloads) == 0

    root = tmp_path / "out"
    rows = {row.id: row for row in read_manifest(root)}
    assert {name: (row.label, row.status, row.frames) for name, row in rows.items()} == {
        "-a_000001_000002": ("high jump", "ok", 25),
        "outside, or so_000000_000002": ("yoga", "ok", 30),
        "broken_000000_000001": ("yoga", "ok", 26),
        "leak_000000_000010": ("yoga", "excluded", 0),
    }
    assert rows["leak_000000_000010"].reason == "listed in leaks.json"
    assert rows["leak_000000_000010"].path is None
    assert read_classes(root) == ("yoga", "high jump")
    val = read_coverage(root)["splits"]["val"]
    assert (val["asked"], val["present"], val["missing"], val["excluded"]) == (1, 1, 0, 1)
    with (root / "differences.csv").open(newline="") as file:
        assert list(csv.DictReader(file)) == []
    printed = capsys.readouterr().out
    assert "1 clips have a replacement" in printed
    assert "1 of 4 clips are excluded" in printed

    # The order of the given list stays without naming it again.
    assert tool("--annotations", tmp_path / "val.csv", "--videos", downloads) == 0
    assert read_classes(root) == ("yoga", "high jump")
    assert {row.status for row in read_manifest(root)} == {"ok", "missing"}


def test_nothing_is_written_outside_of_the_output_whatever_ids_and_labels_say(
    tmp_path: Path, tool: Tool, write_video: WriteVideo
) -> None:
    downloads = tmp_path / "downloads"
    downloads.mkdir()
    source = write_video(tmp_path / "source.mp4", num_frames=5)
    ids = ["-rf", ".hidden", "abC", "aBc", "é" * 90]
    labels = ["../../..", "/", ".", "-x", "l" * 300, "CON:"]
    for video_id in ids:
        (downloads / f"{video_id}_000000_000010.mp4").write_bytes(source.read_bytes())
    train = [f"{video_id}_000000_000010.mp4 {labels[0]}" for video_id in ids]
    (tmp_path / "train.txt").write_text("\n".join(train) + "\n")
    val = [f"{label},../../{number}/x,0,10,val" for number, label in enumerate(labels)]
    val += ["..,abC,0,10,val"]
    (tmp_path / "val.csv").write_text("\n".join([HEADER, *val]) + "\n")
    inputs = ["--annotations", tmp_path / "train.txt", "--annotations", tmp_path / "val.csv"]
    before = set(tmp_path.rglob("*"))
    assert tool(*inputs, "--videos", downloads) == 0
    root = tmp_path / "out"
    assert {path for path in tmp_path.rglob("*") if not path.is_relative_to(root)} == before
    rows = read_manifest(root)
    present = [row for row in rows if row.status == "ok"]
    assert len(present) == len(ids) + 1
    written = {path.relative_to(root).as_posix() for path in root.rglob("*.mp4")}
    assert written == {row.path for row in present}
    assert len({path.casefold() for path in written}) == len(present)
    assert read_classes(root) == tuple(sorted([*labels, ".."]))


def test_class_folders_in_any_spelling_get_the_names_and_the_order_of_the_given_list(
    tmp_path: Path, tool: Tool, write_video: WriteVideo
) -> None:
    for folder in ("skiing_not_slalom_or_crosscountry", "skiing_crosscountry"):
        (tmp_path / "downloads" / "val" / folder).mkdir(parents=True)
        write_video(tmp_path / "downloads" / "val" / folder / f"{folder}.mp4", num_frames=5)
    classes = ("skiing (not slalom or crosscountry)", "skiing crosscountry")
    (tmp_path / "classes.txt").write_text("\n".join(classes))
    inputs = ["--videos", tmp_path / "downloads", "--classes", tmp_path / "classes.txt"]
    assert tool(*inputs) == 0
    assert read_classes(tmp_path / "out") == classes
    labels = {row.id.partition("_0")[0]: row.label for row in read_manifest(tmp_path / "out")}
    assert labels == {
        "skiing_not_slalom_or_crosscountry": classes[0],
        "skiing_crosscountry": classes[1],
    }
