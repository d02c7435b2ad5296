"""Packs the manifest's readable videos into one file a split, `index_<split>.bin`.

A file has a magic, the length of the header, the header (JSON), and the arrays of `PackedIndex`,
each starting at a multiple of `ALIGNMENT_BYTES`. It takes about 50 bytes a video, since the folders
and what a file name has in common with the id are stored once. The header names the manifest by the
hash of its content, not by its time or size: copied folders keep their index, and no manifest is
taken for another.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute

from gnvideo.atomic_file import open_atomic
from gnvideo.data.manifest import MANIFEST_NAME, PREPARE_HINT, SPLITS, read_manifest_table
from gnvideo.data.video_index import (
    ALIGNMENT_BYTES,
    HEADER_LENGTH_BYTES,
    INDEX_MAGIC,
    USUAL_SUFFIX,
    PackedIndex,
    open_packed_index,
)
from gnvideo.errors import ManifestError, OutputError

# pyarrow makes its functions while it is imported, where no type checker sees them.
pc: Any = pyarrow.compute

_COLUMNS = ["id", "path", "label", "split", "frames", "status"]


def write_video_indexes(root: Path) -> None:
    """Writes the index file of each split of the manifest in `root`.

    Raises:
        ManifestError: the manifest is missing, damaged or of another version.
        OutputError: the folder cannot be written.
        SaveFailedError: writing failed half-way.
    """
    table = read_manifest_table(root, _COLUMNS)
    digest = _hash_manifest(root)
    for split in table["split"].unique().to_pylist():
        _write_index(root / _make_name(split), table, split, digest)


def find_index_file(root: Path, split: str) -> tuple[Path, PackedIndex]:
    """Returns the index file of `split` for the manifest in `root`, and what it holds.

    One that is missing or of another manifest is written first: see `load_video_index`.

    Raises:
        ManifestError: the manifest is missing, damaged or of another version, or lacks the split.
        OutputError: no index file can be written.
    """
    digest = _hash_manifest(root)
    file = root / _make_name(split)
    # By the digest, so that all runs and ranks that need it find it.
    temporary_file = _get_temporary_folder() / f"{digest}_{_make_name(split)}"
    for candidate in (file, temporary_file):
        packed = open_packed_index(candidate)
        if packed is not None and packed.manifest_digest == digest:
            return candidate, packed
    table = read_manifest_table(root, _COLUMNS)
    if _hash_manifest(root) != digest:
        raise ManifestError(
            f"{root / MANIFEST_NAME} was written anew while it was read; wait until the folder is"
            " prepared, and start again"
        )
    try:
        _write_index(file, table, split, digest)
    except OutputError:
        file = temporary_file
        _write_index(file, table, split, digest)
        print(f"{root} cannot be written, so the index of its videos is {file}", file=sys.stderr)
    packed = open_packed_index(file)
    assert packed is not None
    return file, packed


def _make_name(split: str) -> str:
    return f"index_{split}.bin"


def _hash_manifest(root: Path) -> str:
    path = root / MANIFEST_NAME
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
    except FileNotFoundError:
        raise ManifestError(f"no manifest {path}; {PREPARE_HINT}") from None
    except OSError as error:
        raise ManifestError(f"cannot read {path} ({error}); {PREPARE_HINT}") from None


def _get_temporary_folder() -> Path:
    """Returns the user's own folder for indexes of data that cannot be written."""
    folder = Path(tempfile.gettempdir()) / f"gnvideo_{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise OutputError(
            f"the folder for temporary files {folder} belongs to another user; set the environment"
            " variable TMPDIR to a folder of your own"
        )
    return folder


def _write_index(file: Path, table: pa.Table, split: str, manifest_digest: str) -> None:
    splits = table["split"]
    of_split = table.filter(pc.equal(splits, split))
    if not len(of_split):
        allowed = ", ".join(sorted(splits.unique().to_pylist(), key=SPLITS.index)) or "none"
        raise ManifestError(
            f"the manifest of {file.parent} has no videos of split {split!r}; it has: {allowed}"
        )
    readable = of_split.filter(pc.equal(of_split["status"], "ok"))
    ids, paths = (readable[name].cast(pa.large_string()) for name in ("id", "path"))
    names = pc.replace_substring_regex(paths, pattern="(?s)^.*/", replacement="")
    suffix, nothing = (pa.scalar(text, pa.large_string()) for text in (USUAL_SUFFIX, ""))
    usual = pc.equal(names, pc.binary_join_element_wise(ids, suffix, nothing))
    names = pc.if_else(usual, nothing, names)
    texts = pc.binary_join_element_wise(ids, names, nothing).combine_chunks()
    folders, folder_codes = _encode(
        pc.replace_substring_regex(paths, pattern="[^/]*$", replacement="")
    )
    labels, label_codes = _encode(readable["label"])
    text_lengths = _to_numpy(pc.binary_length(texts), "<i8")
    text_offsets = np.concatenate([np.zeros(1, "<i8"), np.cumsum(text_lengths)])
    header = {
        "manifest_digest": manifest_digest,
        "num_videos": len(readable),
        "num_text_bytes": int(text_offsets[-1]),
        "labels": labels,
        "folders": folders,
    }
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % ALIGNMENT_BYTES)
    parts = [
        INDEX_MAGIC + len(encoded).to_bytes(HEADER_LENGTH_BYTES, "little") + encoded,
        text_offsets.tobytes(),
        _to_numpy(pc.binary_length(ids), "<i4").tobytes(),
        folder_codes.tobytes(),
        label_codes.tobytes(),
        _to_numpy(readable["frames"], "<i4").tobytes(),
        "".join(texts.to_pylist()).encode(),
    ]
    with open_atomic(file) as output:
        for part in parts:
            output.write(part + bytes(-len(part) % ALIGNMENT_BYTES))


def _encode(texts: Any) -> tuple[list[str], np.ndarray[Any, np.dtype[np.int32]]]:
    """Returns the distinct texts, and for each text its place among them or -1 for none."""
    encoded = texts.combine_chunks().dictionary_encode()
    return encoded.dictionary.to_pylist(), _to_numpy(encoded.indices.fill_null(-1), "<i4")


def _to_numpy(numbers: Any, dtype: str) -> np.ndarray[Any, Any]:
    return numbers.to_numpy(zero_copy_only=False).astype(dtype)
