"""The files that describe a prepared folder: manifest.parquet, classes.txt and coverage.json.

The manifest holds one row a video, also for those that failed; `VideoIndex` is what the loaders
read of it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

import gnvideo
from gnvideo.atomic_file import open_atomic, write_text_atomic
from gnvideo.errors import ClassListError, ManifestError

SPLITS = ("train", "val", "test")
MANIFEST_NAME = "manifest.parquet"
CLASSES_NAME = "classes.txt"
COVERAGE_NAME = "coverage.json"

_VERSION_KEY = b"gnvideo_manifest_version"
_VERSION = b"1"
_PREPARE_HINT = "write the folder with data_tools/preprocess_kinetics.py"

Status = Literal["ok", "missing", "unreadable"]

# Column order on disk; the same names, in the same order, as the fields of ManifestRow.
_SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("path", pa.string()),
        pa.field("label", pa.string()),
        pa.field("split", pa.string(), nullable=False),
        pa.field("frames", pa.int32(), nullable=False),
        pa.field("fps", pa.float64(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("duration", pa.float64(), nullable=False),
        pa.field("keyframe_interval", pa.int32(), nullable=False),
        pa.field("bytes", pa.int64(), nullable=False),
        pa.field("content_hash", pa.string()),
        pa.field("status", pa.string(), nullable=False),
        pa.field("reason", pa.string()),
    ],
    metadata={_VERSION_KEY: _VERSION},
)


@dataclass(frozen=True, slots=True)
class ManifestRow:
    """One video of a prepared folder, or one that was asked for and is not in it.

    Attributes:
        id: `<youtube id>_<start:06d>_<end:06d>`; unique within its split.
        path: Of the prepared file, relative to the data root, with `/`; None unless status is "ok".
        label: Class name; None where the annotation has none (test splits).
        split: "train", "val" or "test".
        frames: Number of frames that decode. All numbers are 0 unless status is "ok".
        fps: Average frames per second.
        width: Pixels, as displayed; `height` likewise.
        height: See `width`.
        duration: Seconds.
        keyframe_interval: Largest number of frames from one keyframe to the next, or to the end.
        bytes: Size of the prepared file.
        content_hash: Hash of the decoded frames; None unless status is "ok".
        status: "ok", "missing" (no source file) or "unreadable" (a source that does not decode).
        reason: Why status is not "ok"; None otherwise.
    """

    id: str
    path: str | None
    label: str | None
    split: str
    frames: int
    fps: float
    width: int
    height: int
    duration: float
    keyframe_interval: int
    bytes: int
    content_hash: str | None
    status: Status
    reason: str | None


def make_failed_row(
    video_id: str, label: str | None, split: str, status: Status, reason: str
) -> ManifestRow:
    """Returns the row of a video that was asked for and could not be prepared."""
    return ManifestRow(video_id, None, label, split, 0, 0.0, 0, 0, 0.0, 0, 0, None, status, reason)


def write_manifest(root: Path, rows: Iterable[ManifestRow]) -> None:
    """Writes `rows`, sorted by split (train, val, test) and id, to the manifest in `root`.

    Raises:
        OutputError: the folder cannot be written.
        SaveFailedError: writing failed half-way; the previous manifest is untouched.
    """
    ordered = sorted(rows, key=lambda row: (SPLITS.index(row.split), row.id))
    columns = zip(*map(astuple, ordered), strict=True) if ordered else ((),) * len(_SCHEMA)
    arrays = [
        pa.array(column, type=field.type) for column, field in zip(columns, _SCHEMA, strict=True)
    ]
    table = pa.Table.from_arrays(arrays, schema=_SCHEMA)
    with open_atomic(root / MANIFEST_NAME) as file:
        pq.write_table(table, file, compression="zstd")


def read_manifest(root: Path) -> list[ManifestRow]:
    """Returns the rows of the manifest in `root`, sorted by split (train, val, test) and id.

    Raises:
        ManifestError: the manifest is missing, damaged or of another version.
    """
    columns = _read_table(root).to_pydict()
    return [
        ManifestRow(*values)
        for values in zip(*(columns[field.name] for field in fields(ManifestRow)), strict=True)
    ]


def write_classes(root: Path, labels: Iterable[str]) -> None:
    """Writes the distinct `labels`, sorted by code point, one a line.

    The line number, from 0, is the class index.

    Raises:
        OutputError: the folder cannot be written.
        SaveFailedError: writing failed half-way; the previous list is untouched.
    """
    write_text_atomic(root / CLASSES_NAME, "".join(f"{label}\n" for label in sorted(set(labels))))


def read_classes(root: Path) -> tuple[str, ...]:
    """Returns the class names of the prepared folder `root`; the position is the class index.

    Raises:
        ManifestError: the list is missing or unreadable.
        ClassListError: a name is empty or stands there twice.
    """
    path = root / CLASSES_NAME
    names = tuple(_read_text(path).removesuffix("\n").split("\n"))
    if names == ("",):
        return ()
    seen: set[str] = set()
    for line, name in enumerate(names, start=1):
        if not name.strip() or name in seen:
            raise ClassListError(
                f"{path}, line {line}: {name!r} is empty or stands there twice; one class a line"
            )
        seen.add(name)
    return names


def write_coverage(root: Path, rows: Sequence[ManifestRow]) -> dict[str, Any]:
    """Writes and returns how much of each split was asked for and is there, with fingerprints.

    The fingerprint of a split is a hash over its "ok" rows' (id, label, content hash), sorted; that
    of the folder is a hash over its splits' names and fingerprints. Two folders with equal
    fingerprints hold the same frames.

    Raises:
        OutputError: the folder cannot be written.
        SaveFailedError: writing failed half-way; the previous file is untouched.
    """
    splits: dict[str, dict[str, Any]] = {}
    for split in SPLITS:
        members = [row for row in rows if row.split == split]
        if not members:
            continue
        present = [row for row in members if row.status == "ok"]
        splits[split] = {
            "asked": len(members),
            "present": len(present),
            "missing": sum(row.status == "missing" for row in members),
            "unreadable": sum(row.status == "unreadable" for row in members),
            "fingerprint": _compute_fingerprint(
                sorted([row.id, row.label or "", row.content_hash or ""] for row in present)
            ),
        }
    coverage = {
        "splits": splits,
        "fingerprint": _compute_fingerprint(
            [[name, entry["fingerprint"]] for name, entry in splits.items()]
        ),
        "tool_version": gnvideo.__version__,
    }
    write_text_atomic(root / COVERAGE_NAME, json.dumps(coverage, indent=2) + "\n")
    return coverage


def read_coverage(root: Path) -> dict[str, Any]:
    """Returns coverage.json of the prepared folder `root`, as `write_coverage` made it.

    Raises:
        ManifestError: the file is missing or damaged.
    """
    path = root / COVERAGE_NAME
    try:
        coverage = json.loads(_read_text(path))
    except json.JSONDecodeError as error:
        raise ManifestError(f"{path} is damaged ({error}); {_PREPARE_HINT}") from None
    if not isinstance(coverage, dict) or "splits" not in coverage:
        raise ManifestError(f"{path} is damaged (no 'splits'); {_PREPARE_HINT}")
    return cast(dict[str, Any], coverage)


@dataclass(frozen=True, eq=False, slots=True)
class VideoIndex:
    """The readable videos of one split, packed into a few arrays.

    No Python object is kept per video: reading an entry touches no other, and the copy that each
    loader process gets is little more than the arrays.

    Attributes:
        root: The prepared folder.
        split: The split's name.
        path_bytes: (B,) uint8, all relative paths in UTF-8, one after the other.
        path_offsets: (N + 1,) int64; path i is `path_bytes[path_offsets[i]:path_offsets[i + 1]]`.
        id_bytes: (B',) uint8, as `path_bytes`.
        id_offsets: (N + 1,) int64.
        class_indices: (N,) int32, class index or -1.
        frame_counts: (N,) int32.
    """

    root: Path
    split: str
    path_bytes: npt.NDArray[np.uint8]
    path_offsets: npt.NDArray[np.int64]
    id_bytes: npt.NDArray[np.uint8]
    id_offsets: npt.NDArray[np.int64]
    class_indices: npt.NDArray[np.int32]
    frame_counts: npt.NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.class_indices)

    def path(self, i: int) -> Path:
        """Returns the absolute path of video `i`."""
        return self.root / _unpack(self.path_bytes, self.path_offsets, i)

    def video_id(self, i: int) -> str:
        """Returns the id of video `i`."""
        return _unpack(self.id_bytes, self.id_offsets, i)

    def label(self, i: int) -> int:
        """Returns the class index of video `i`, or -1 if it has no label."""
        return int(self.class_indices[i])

    def num_frames(self, i: int) -> int:
        """Returns the number of frames of video `i`."""
        return int(self.frame_counts[i])


def load_video_index(root: Path, split: str, classes: Sequence[str]) -> VideoIndex:
    """Returns the videos of `split` in `root` whose status is "ok", sorted by id.

    Args:
        root: A prepared folder.
        split: "train", "val" or "test".
        classes: Class names; the position is the class index.

    Raises:
        ManifestError: the manifest is missing, damaged or of another version, or lacks the split.
        ClassListError: a label of the split is not in `classes`.
    """
    columns = _read_table(root, ["id", "path", "label", "split", "frames", "status"]).to_pydict()
    positions = [i for i, name in enumerate(columns["split"]) if name == split]
    if not positions:
        allowed = ", ".join(sorted(set(columns["split"]), key=SPLITS.index)) or "none"
        raise ManifestError(
            f"{root / MANIFEST_NAME} has no videos of split {split!r}; it has: {allowed}"
        )
    readable = [i for i in positions if columns["status"][i] == "ok"]
    index_of_label: dict[str | None, int] = {name: index for index, name in enumerate(classes)}
    index_of_label[None] = -1
    for i in readable:
        if columns["label"][i] not in index_of_label:
            raise ClassListError(
                f"video {columns['id'][i]} of split {split!r} has the label"
                f" {columns['label'][i]!r}, which is not among the {len(classes)} classes;"
                f" use the class list {root / CLASSES_NAME}"
            )
    path_bytes, path_offsets = _pack([columns["path"][i] for i in readable])
    id_bytes, id_offsets = _pack([columns["id"][i] for i in readable])
    return VideoIndex(
        root=root.absolute(),
        split=split,
        path_bytes=path_bytes,
        path_offsets=path_offsets,
        id_bytes=id_bytes,
        id_offsets=id_offsets,
        class_indices=np.array(
            [index_of_label[columns["label"][i]] for i in readable], dtype=np.int32
        ),
        frame_counts=np.array([columns["frames"][i] for i in readable], dtype=np.int32),
    )


def _read_table(root: Path, columns: list[str] | None = None) -> pa.Table:
    path = root / MANIFEST_NAME
    try:
        with pq.ParquetFile(path) as file:
            version = (file.schema_arrow.metadata or {}).get(_VERSION_KEY)
            if version != _VERSION or not file.schema_arrow.equals(_SCHEMA):
                raise ManifestError(
                    f"{path} has version {version!r} or other columns; this gnvideo reads version"
                    f" {_VERSION!r}: {_PREPARE_HINT} of this version"
                )
            return file.read(columns)
    except FileNotFoundError:
        raise ManifestError(f"no manifest {path}; {_PREPARE_HINT}") from None
    except (OSError, pa.ArrowException) as error:
        raise ManifestError(
            f"{path} is damaged ({' '.join(str(error).split())}); {_PREPARE_HINT}"
        ) from None


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ManifestError(f"no file {path}; {_PREPARE_HINT}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ManifestError(f"cannot read {path} ({error}); {_PREPARE_HINT}") from None


def _compute_fingerprint(entries: Sequence[Sequence[str]]) -> str:
    lines = "".join(json.dumps(list(entry)) + "\n" for entry in entries)
    return hashlib.blake2b(lines.encode(), digest_size=6).hexdigest()


def _pack(texts: Sequence[str]) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    encoded = [text.encode() for text in texts]
    offsets = np.zeros(len(encoded) + 1, dtype=np.int64)
    np.cumsum([len(part) for part in encoded], out=offsets[1:])
    return np.frombuffer(b"".join(encoded), dtype=np.uint8), offsets


def _unpack(blob: npt.NDArray[np.uint8], offsets: npt.NDArray[np.int64], i: int) -> str:
    if not 0 <= i < len(offsets) - 1:
        raise IndexError(f"video {i} of an index of {len(offsets) - 1} videos")
    return blob[offsets[i] : offsets[i + 1]].tobytes().decode()
