"""coverage.json: how much of what was asked for a prepared folder holds, with fingerprints."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import gnvideo
from gnvideo.atomic_file import write_text_atomic
from gnvideo.data.manifest import PREPARE_HINT, SPLITS, ManifestRow, read_prepared_text
from gnvideo.errors import ManifestError

COVERAGE_NAME = "coverage.json"


def write_coverage(root: Path, rows: Sequence[ManifestRow]) -> dict[str, Any]:
    """Writes and returns how much of each split was asked for and is there, with fingerprints.

    The fingerprint of a split is a hash over its "ok" rows' (id, label, content hash), sorted; that
    of the folder is a hash over its splits' names and fingerprints. So it names the copy: it is the
    same on two machines that prepared the same videos in the same way, wherever they lie and in
    whatever order; another video, label, split, size or encoding gives another.

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
        coverage = json.loads(read_prepared_text(path))
    except json.JSONDecodeError as error:
        raise ManifestError(f"{path} is damaged ({error}); {PREPARE_HINT}") from None
    if not isinstance(coverage, dict) or "splits" not in coverage:
        raise ManifestError(f"{path} is damaged (no 'splits'); {PREPARE_HINT}")
    return cast(dict[str, Any], coverage)


def format_coverage(split: str, entry: Mapping[str, Any]) -> str:
    """Returns on which videos an accuracy stands, `entry` being that of `split` in coverage.json.

    For example "val 19,796 of 19,906 (99.4 %), fingerprint ab12cd34ef56". The share is rounded
    down: 100.0 % says that nothing is missing.
    """
    present, asked = entry["present"], entry["asked"]
    share = 1000 * present // max(asked, 1) / 10
    return f"{split} {present:,} of {asked:,} ({share:.1f} %), fingerprint {entry['fingerprint']}"


def _compute_fingerprint(entries: Sequence[Sequence[str]]) -> str:
    lines = "".join(json.dumps(list(entry)) + "\n" for entry in entries)
    return hashlib.blake2b(lines.encode(), digest_size=6).hexdigest()
