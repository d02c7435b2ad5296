"""manifest.parquet of a prepared folder: one row a video, also for those that failed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq

from gnvideo.atomic_file import open_atomic
from gnvideo.errors import ManifestError

SPLITS = ("train", "val", "test")
MANIFEST_NAME = "manifest.parquet"

_VERSION_KEY = b"gnvideo_manifest_version"
_VERSION = b"1"
PREPARE_HINT = "write the folder with data_tools/preprocess_kinetics.py"

Status = Literal["ok", "missing", "unreadable", "excluded"]

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
        status: "ok", "missing" (no source file), "unreadable" (a source that does not decode) or
            "excluded" (left out on purpose).
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
    """Returns the row of a video that was in the annotations and is not prepared."""
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
    columns = read_manifest_table(root).to_pydict()
    return [
        ManifestRow(*values)
        for values in zip(*(columns[field.name] for field in fields(ManifestRow)), strict=True)
    ]


def read_manifest_table(root: Path, columns: list[str] | None = None) -> pa.Table:
    """Returns the manifest in `root` as a table; all columns, or those named.

    Raises:
        ManifestError: the manifest is missing, damaged or of another version.
    """
    path = root / MANIFEST_NAME
    try:
        with pq.ParquetFile(path) as file:
            version = (file.schema_arrow.metadata or {}).get(_VERSION_KEY)
            if version != _VERSION or not file.schema_arrow.equals(_SCHEMA):
                raise ManifestError(
                    f"{path} has version {version!r} or other columns; this gnvideo reads version"
                    f" {_VERSION!r}: {PREPARE_HINT} of this version"
                )
            return file.read(columns)
    except FileNotFoundError:
        raise ManifestError(f"no manifest {path}; {PREPARE_HINT}") from None
    except (OSError, pa.ArrowException) as error:
        raise ManifestError(
            f"{path} is damaged ({' '.join(str(error).split())}); {PREPARE_HINT}"
        ) from None


def read_prepared_text(path: Path) -> str:
    """Returns the text of a file of a prepared folder.

    Raises:
        ManifestError: the file is missing or unreadable.
    """
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ManifestError(f"no file {path}; {PREPARE_HINT}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ManifestError(f"cannot read {path} ({error}); {PREPARE_HINT}") from None
