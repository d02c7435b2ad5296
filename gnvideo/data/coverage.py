"""coverage.json: how much of what was asked for a prepared folder holds, with fingerprints."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import gnvideo
from gnvideo.atomic_file import write_text_atomic
from gnvideo.data.manifest import PREPARE_HINT, SPLITS, ManifestRow, read_prepared_text
from gnvideo.errors import ManifestError

COVERAGE_NAME = "coverage.json"


def write_coverage(root: Path, rows: Sequence[ManifestRow]) -> dict[str, Any]:
    """Writes and returns how much of each split was asked for and is there, with fingerprints.

    Excluded videos are counted apart: they are not among those asked for.

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
            "asked": sum(row.status != "excluded" for row in members),
            "present": len(present),
            "missing": sum(row.status == "missing" for row in members),
            "unreadable": sum(row.status == "unreadable" for row in members),
            "excluded": sum(row.status == "excluded" for row in members),
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


def _compute_fingerprint(entries: Sequence[Sequence[str]]) -> str:
    lines = "".join(json.dumps(list(entry)) + "\n" for entry in entries)
    return hashlib.blake2b(lines.encode(), digest_size=6).hexdigest()
