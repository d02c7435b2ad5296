from __future__ import annotations

import dataclasses
import json
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gnvideo.data.coverage import read_coverage, write_coverage
from gnvideo.data.manifest import ManifestRow, make_failed_row, read_manifest, write_manifest
from gnvideo.errors import ManifestError


def make_row(
    name: str, split: str = "train", label: str | None = "a", **changes: object
) -> ManifestRow:
    row = ManifestRow(
        id=name,
        path=f"videos/{split}/{label or 'unlabelled'}/{name}.mp4",
        label=label,
        split=split,
        frames=300,
        fps=30000 / 1001,
        width=340,
        height=256,
        duration=10.01,
        keyframe_interval=12,
        bytes=2**33,
        content_hash=f"hash of {name}",
        status="ok",
        reason=None,
    )
    return dataclasses.replace(row, **changes)


TEXT = st.text(st.characters(codec="utf-8"), min_size=1, max_size=8)


# No deadline: every example waits for the disk.
@settings(max_examples=25, deadline=None)
@given(
    names=st.lists(TEXT, unique=True, max_size=5),
    label=st.none() | TEXT,
    fps=st.floats(0, 240),
    frames=st.integers(0, 2**31 - 1),
)
def test_rows_survive_writing_and_reading(
    names: list[str], label: str | None, fps: float, frames: int
) -> None:
    rows = [make_row(name, label=label, fps=fps, frames=frames) for name in sorted(names)]
    rows.append(make_failed_row("gone", label, "test", "missing", "no file of this name"))
    with tempfile.TemporaryDirectory() as folder:
        write_manifest(Path(folder), rows)
        assert read_manifest(Path(folder)) == rows


def test_rows_are_sorted_by_split_then_id(tmp_path: Path) -> None:
    rows = [
        make_row("b", "test"),
        make_row("b", "train"),
        make_row("c", "val"),
        make_row("a", "val"),
    ]
    write_manifest(tmp_path, rows)
    assert [(row.split, row.id) for row in read_manifest(tmp_path)] == [
        ("train", "b"),
        ("val", "a"),
        ("val", "c"),
        ("test", "b"),
    ]


def test_an_empty_manifest_can_be_read(tmp_path: Path) -> None:
    write_manifest(tmp_path, [])
    assert read_manifest(tmp_path) == []


def test_a_missing_damaged_or_foreign_manifest_is_one_line_that_names_it(tmp_path: Path) -> None:
    path = tmp_path / "manifest.parquet"
    with pytest.raises(ManifestError, match=r"no manifest .*manifest\.parquet"):
        read_manifest(tmp_path)
    path.write_bytes(b"PAR1 cut off")
    with pytest.raises(ManifestError, match="damaged"):
        read_manifest(tmp_path)
    pq.write_table(pa.table({"id": ["a"]}), path)
    with pytest.raises(ManifestError, match="version None") as error:
        read_manifest(tmp_path)
    assert "\n" not in str(error.value)


def test_writing_replaces_the_manifest_and_leaves_nothing_else(tmp_path: Path) -> None:
    write_manifest(tmp_path, [make_row("a")])
    write_manifest(tmp_path, [make_row("b")])
    assert [row.id for row in read_manifest(tmp_path)] == ["b"]
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.parquet"]


def test_coverage_counts_every_status(tmp_path: Path) -> None:
    rows = [
        make_row("a"),
        make_row("b"),
        make_failed_row("c", "a", "train", "missing", "no file"),
        make_failed_row("d", "a", "val", "unreadable", "is empty"),
        make_failed_row("e", "a", "train", "excluded", "listed in leaks.csv"),
    ]
    written = write_coverage(tmp_path, rows)
    assert read_coverage(tmp_path) == written
    train = dict(written["splits"]["train"])
    assert len(train.pop("fingerprint")) == 12
    assert train == {"asked": 3, "present": 2, "missing": 1, "unreadable": 0, "excluded": 1}
    assert written["splits"]["val"]["present"] == 0
    assert "test" not in written["splits"]


def test_fingerprint_depends_on_content_and_label_but_not_on_order_or_failures(
    tmp_path: Path,
) -> None:
    def fingerprint(*rows: ManifestRow) -> str:
        return write_coverage(tmp_path, rows)["splits"]["train"]["fingerprint"]

    one, two = make_row("a"), make_row("b")
    reference = fingerprint(one, two)
    missing = make_failed_row("c", "a", "train", "missing", "no file")
    assert fingerprint(two, one, missing) == reference
    assert fingerprint(one, dataclasses.replace(two, content_hash="x")) != reference
    assert fingerprint(one, dataclasses.replace(two, label="x")) != reference
    assert fingerprint(one) != reference


def test_damaged_coverage_is_a_manifest_error(tmp_path: Path) -> None:
    for text in ("{", "[]"):
        (tmp_path / "coverage.json").write_text(text)
        with pytest.raises(ManifestError, match=r"coverage\.json is damaged"):
            read_coverage(tmp_path)


def test_coverage_is_plain_json(tmp_path: Path) -> None:
    write_coverage(tmp_path, [make_row("a")])
    assert set(json.loads((tmp_path / "coverage.json").read_text())) == {
        "splits",
        "fingerprint",
        "tool_version",
    }
