from __future__ import annotations

import os
import pickle
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gnvideo.data.index_packing import write_video_indexes
from gnvideo.data.manifest import ManifestRow, make_failed_row, write_manifest
from gnvideo.data.video_index import VideoIndex, load_video_index
from gnvideo.errors import ClassListError, ManifestError

TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0/"), min_size=1, max_size=8)


def make_row(
    name: str, split: str = "train", label: str | None = "a", path: str | None = None, **more: Any
) -> ManifestRow:
    numbers: dict[str, Any] = {"frames": 300, "fps": 25.0, "width": 340, "height": 256}
    return ManifestRow(
        id=name,
        path=path or f"videos/{split}/{label or 'unlabelled'}/{name}.mp4",
        label=label,
        split=split,
        **numbers | more,
        duration=12.0,
        keyframe_interval=12,
        bytes=1,
        content_hash="0",
        status="ok",
        reason=None,
    )


def list_entries(index: VideoIndex) -> list[tuple[str, Path, int, int]]:
    return [
        (index.video_id(i), index.path(i), index.label(i), index.num_frames(i))
        for i in range(len(index))
    ]


def test_index_holds_the_readable_videos_of_its_split_in_order(tmp_path: Path) -> None:
    rows = [
        make_row("v-é", "val", "b", frames=7),
        make_row("-id", "val", "a", frames=3, path="elsewhere/name.webm"),
        make_row("x", "val", None),
        make_row("t", "train", "a"),
        make_failed_row("lost", "a", "val", "unreadable", "is empty"),
    ]
    write_manifest(tmp_path, rows)
    index = load_video_index(tmp_path, "val", ("b", "unused", "a"))
    assert list_entries(index) == [
        ("-id", tmp_path / "elsewhere/name.webm", 2, 3),
        ("v-é", tmp_path / "videos/val/b/v-é.mp4", 0, 7),
        ("x", tmp_path / "videos/val/unlabelled/x.mp4", -1, 300),
    ]
    assert index.count_unlabelled() == 1
    for i in (-1, 3):
        for read in (index.video_id, index.path, index.label, index.num_frames):
            with pytest.raises(IndexError):
                read(i)


@settings(deadline=None, max_examples=50)
@given(
    values=st.dictionaries(
        TEXTS,
        st.tuples(st.lists(TEXTS, min_size=1, max_size=3), TEXTS, st.integers(1, 2**31 - 1)),
        max_size=6,
    )
)
def test_every_id_path_label_and_count_comes_back_as_it_was(
    values: dict[str, tuple[list[str], str, int]],
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        rows = [
            make_row(name, label=label, path="/".join(parts), frames=frames)
            for name, (parts, label, frames) in values.items()
        ]
        classes = sorted({row.label or "" for row in rows})
        write_manifest(root, [*rows, make_failed_row("lost", None, "train", "missing", "no file")])
        assert list_entries(load_video_index(root, "train", classes)) == [
            (name, root / "/".join(parts), classes.index(label), frames)
            for name, (parts, label, frames) in sorted(values.items())
        ]


def test_a_worker_gets_a_path_however_many_videos_there_are(tmp_path: Path) -> None:
    write_manifest(tmp_path, [make_row(f"abcdefghijk_{i:06d}_000010") for i in range(2000)])
    index = load_video_index(tmp_path, "train", ("a",))
    pickled = pickle.dumps(index)
    assert len(pickled) < 1000
    assert list_entries(pickle.loads(pickled)) == list_entries(index)
    assert (tmp_path / "index_train.bin").stat().st_size < 2000 * 52 + 1000


def test_no_array_of_the_index_is_a_copy_in_memory(tmp_path: Path) -> None:
    # 100,000 videos, 5 MB: their pages are backed by the file, so that processes share them.
    write_manifest(tmp_path, [make_row(f"{i:011d}_000000_000010") for i in range(100_000)])
    load_video_index(tmp_path, "train", ("a",))
    script = f"""
import pickle, re, sys
index = pickle.loads({pickle.dumps(load_video_index(tmp_path, "train", ("a",)))!r})
def read_private_kib():
    return int(re.search(r"Private_Dirty: *(\\d+)", open("/proc/self/smaps_rollup").read())[1])
before = read_private_kib()
assert sum(index.num_frames(i) for i in range(len(index))) == 300 * 100_000
assert index.video_id(99_999) == "00000099999_000000_000010"
print(read_private_kib() - before)
"""
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert int(result.stdout) < 600


def test_workers_import_no_pyarrow(tmp_path: Path) -> None:
    script = "import sys, gnvideo.data.loader; assert 'pyarrow' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True)


def test_an_index_of_another_manifest_is_made_anew(tmp_path: Path) -> None:
    write_manifest(tmp_path, [make_row("old1"), make_row("old2")])
    write_video_indexes(tmp_path)
    file, manifest = tmp_path / "index_train.bin", tmp_path / "manifest.parquet"
    before = file.stat()
    old = load_video_index(tmp_path, "train", ("a",))
    # A manifest that is merely touched, as a copy is, keeps its index.
    os.utime(manifest, ns=(1, 1))
    assert len(load_video_index(tmp_path, "train", ("a",))) == 2
    assert file.stat().st_ino == before.st_ino
    times = manifest.stat()
    write_manifest(tmp_path, [make_row("new1"), make_row("new2"), make_row("new3")])
    # One of other content, though with the old times, does not.
    os.utime(manifest, ns=(times.st_atime_ns, times.st_mtime_ns))
    index = load_video_index(tmp_path, "train", ("a",))
    assert [index.video_id(i) for i in range(len(index))] == ["new1", "new2", "new3"]
    # Who holds the old one keeps reading it; a worker that would open the new one is an error.
    assert old.video_id(1) == "old2"
    with pytest.raises(ManifestError, match="written anew while it was in use"):
        pickle.loads(pickle.dumps(old))


@pytest.mark.parametrize("kept_share", [0, 0.01, 0.3, 0.999])
def test_a_file_that_was_cut_short_is_made_anew(kept_share: float, tmp_path: Path) -> None:
    write_manifest(tmp_path, [make_row(f"v{i}") for i in range(100)])
    write_video_indexes(tmp_path)
    file = tmp_path / "index_train.bin"
    content = file.read_bytes()
    file.write_bytes(content[: int(kept_share * len(content))])
    assert load_video_index(tmp_path, "train", ("a",)).video_id(99) == "v99"
    assert file.read_bytes() == content


def test_a_folder_that_cannot_be_written_gets_its_index_elsewhere_and_says_so_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root, temporary = tmp_path / "root", tmp_path / "temporary"
    temporary.mkdir()
    write_manifest(root, [make_row("v1")])
    # Refuses the file also to root, whom permissions do not stop.
    (root / "index_train.bin").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    index = load_video_index(root, "train", ("a",))
    assert index.video_id(0) == "v1"
    assert index.path(0) == root / "videos/train/a/v1.mp4"
    assert index.file.is_relative_to(temporary)
    assert index.file.parent.stat().st_mode & 0o077 == 0
    message = capsys.readouterr().err
    assert str(root) in message
    assert str(index.file) in message
    assert load_video_index(root, "train", ("a",)).file == index.file
    assert not capsys.readouterr().err


def test_a_label_outside_the_class_list_is_an_error_that_names_the_video(tmp_path: Path) -> None:
    write_manifest(tmp_path, [make_row("v0", label="skiing"), make_row("v1", label="diving")])
    with pytest.raises(ClassListError, match=r"v1.*'diving'.*1 classes"):
        load_video_index(tmp_path, "train", ("skiing",))


def test_a_split_without_rows_is_an_error_that_names_those_there_are(tmp_path: Path) -> None:
    write_manifest(tmp_path, [make_row("v1", "val")])
    with pytest.raises(ManifestError, match=r"'train'.*val"):
        load_video_index(tmp_path, "train", ("a",))


def test_a_folder_without_manifest_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="no manifest"):
        load_video_index(tmp_path, "train", ("a",))
