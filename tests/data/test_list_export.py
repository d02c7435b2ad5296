from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest

from gnvideo.data.annotations import Annotation, ListedVideo
from gnvideo.data.annotations_reading import AnnotationTable, read_annotation_files
from gnvideo.data.class_list import read_class_file, write_classes
from gnvideo.data.list_export import FORMATS, SEPARATORS, export_lists
from gnvideo.data.manifest import ManifestRow, make_failed_row, write_manifest
from gnvideo.data.preparation_plan import make_relative_path
from gnvideo.errors import ListExportError, ManifestError

# In an order of its own, as given with --classes.
CLASSES = ("yoga", "high jump", "shaking hands, twice", 'l\'été ("indien")')


def make_row(video_id: str, label: str | None, split: str, start: int = 3) -> ManifestRow:
    clip_id = f"{video_id}_{start:06d}_{start + 10:06d}"
    path = make_relative_path(split, label, clip_id)
    return ManifestRow(clip_id, path, label, split, 250, 25, 64, 48, 10, 12, 999, "x", "ok", None)


ROWS = [
    *(make_row(f"-_{i}", label, "train") for i, label in enumerate(CLASSES)),
    make_row("v", "yoga", "val"),
    make_row("t", None, "test"),
]
FAILED = [
    make_failed_row("m_000000_000010", "yoga", "val", "missing", "no file of this name"),
    make_failed_row("e_000000_000010", "yoga", "train", "excluded", "listed in leaks.csv"),
]


def prepare(root: Path, rows: list[ManifestRow]) -> Path:
    write_manifest(root, rows)
    write_classes(root, CLASSES)
    return root


def read_back(folder: Path) -> AnnotationTable:
    lists = sorted(path for path in folder.iterdir() if path.name != "label_map.txt")
    return read_annotation_files(lists, classes=read_class_file(folder / "label_map.txt"))


@pytest.mark.parametrize("format_name", ["kinetics-csv", "deepmind-json", "3d-resnets"])
def test_annotations_are_read_back_as_they_were(tmp_path: Path, format_name: str) -> None:
    root, output = prepare(tmp_path / "data", ROWS + FAILED), tmp_path / "lists"
    export = export_lists(root, format_name, output)
    assert export.num_written == {"train": 4, "val": 1, "test": 1}
    assert export.num_left_out == 2
    assert sorted(export.files) == sorted(path.name for path in output.iterdir())
    table = read_back(output)
    assert set(table.clips) == {
        Annotation(row.id.rsplit("_", 2)[0], row.label, 3, 13, row.split) for row in ROWS
    }
    assert (len(table.clips), table.videos) == (6, [])
    assert read_class_file(output / "label_map.txt") == CLASSES


@pytest.mark.parametrize("separator", ["tab", "colons"])
@pytest.mark.parametrize("format_name", ["pyslowfast", "mmaction2"])
def test_lists_are_read_back_as_they_were(tmp_path: Path, format_name: str, separator: str) -> None:
    rows = [row for row in ROWS if row.label is not None or format_name == "pyslowfast"]
    root, output = prepare(tmp_path / "data", rows), tmp_path / "lists"
    export_lists(root, format_name, output, separator=SEPARATORS[separator])
    table = read_back(output)
    assert set(table.videos) == {ListedVideo(row.path or "", row.label, row.split) for row in rows}
    assert (len(table.videos), table.clips) == (len(rows), [])


def test_a_list_has_the_lines_that_its_reader_expects(tmp_path: Path) -> None:
    root = prepare(tmp_path / "data", [make_row("-a", "yoga", "val"), make_row("b", None, "test")])
    export_lists(root, "pyslowfast", tmp_path / "slowfast")
    line = "videos/val/yoga/-a_000003_000013.mp4 0\n"
    assert (tmp_path / "slowfast" / "val.csv").read_text() == line
    assert (tmp_path / "slowfast" / "test.csv").read_text() == (
        "videos/test/unlabelled/b_000003_000013.mp4\n"
    )
    export_lists(root, "mmaction2", tmp_path / "mmaction2", split="val")
    assert (tmp_path / "mmaction2" / "val_list_videos.txt").read_text() == line
    assert not (tmp_path / "mmaction2" / "test_list_videos.txt").exists()


def test_a_json_entry_has_the_fields_that_its_readers_expect(tmp_path: Path) -> None:
    root = prepare(tmp_path / "data", [make_row("-a", "high jump", "val")])
    export_lists(root, "deepmind-json", tmp_path)
    assert json.loads((tmp_path / "validate.json").read_text()) == {
        "-a": {
            "annotations": {"label": "high jump", "segment": [3.0, 13.0]},
            "duration": 10.0,
            "subset": "validate",
            "url": "https://www.youtube.com/watch?v=-a",
        }
    }
    export_lists(root, "3d-resnets", tmp_path)
    assert json.loads((tmp_path / "annotations.json").read_text()) == {
        "labels": list(CLASSES),
        "database": {
            "-a_000003_000013": {
                "subset": "validation",
                "annotations": {"label": "high jump", "segment": [1, 251]},
            }
        },
    }


@pytest.mark.parametrize(
    ("format_name", "rows", "message"),
    [
        (
            "pyslowfast",
            [make_row("a", "high jump", "val")],
            r"contains ' '.*tab or comma or colons",
        ),
        ("mmaction2", [make_row("a", "high jump", "val")], r"mmaction2's reader.*--separator"),
        ("mmaction2", [make_row("a", None, "test")], r"without a label.*--split"),
        (
            "deepmind-json",
            [make_row("a", "yoga", "val"), make_row("a", "yoga", "val", 20)],
            r"two clips of the video a.*kinetics-csv",
        ),
        (
            "3d-resnets",
            [make_row("a", "yoga", "val"), make_row("a", "yoga", "train")],
            r"in two splits.*--split",
        ),
    ],
)
def test_what_a_format_cannot_hold_is_refused_before_anything_is_written(
    tmp_path: Path, format_name: str, rows: list[ManifestRow], message: str
) -> None:
    root = prepare(tmp_path / "data", rows)
    with pytest.raises(ListExportError, match=message) as error:
        export_lists(root, format_name, tmp_path / "lists")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "lists").exists()


def test_a_folder_without_readable_videos_is_an_error(tmp_path: Path) -> None:
    root = prepare(tmp_path, FAILED)
    for split in (None, "test"):
        with pytest.raises(ManifestError, match="no readable video"):
            export_lists(root, "pyslowfast", tmp_path / "lists", split=split)


@pytest.mark.parametrize("format_name", FORMATS)
def test_the_tool_exports_a_prepared_folder_that_can_be_prepared_from(
    prepared_kinetics: Path,
    tmp_path: Path,
    format_name: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    tool = importlib.import_module("export_lists")
    words = ["--data", prepared_kinetics, "--format", format_name, "--output", tmp_path]
    words += ["--split", "val", "--separator", "tab"]
    assert tool.main([str(word) for word in words]) == 0
    assert "wrote 12 of val" in capsys.readouterr().out
    table = read_back(tmp_path)
    assert len(table.clips) + len(table.videos) == 12
    assert all((prepared_kinetics / video.path).is_file() for video in table.videos)
    words[1] = tmp_path / "absent"
    assert tool.main([str(word) for word in words]) == 2
    assert "no manifest" in capsys.readouterr().err
