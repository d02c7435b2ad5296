"""Writes a prepared folder's videos as the annotations and lists that other tools read.

Only readable videos are written. Paths are relative to the prepared folder, which every tool takes
as a prefix. What a format cannot hold is refused before anything is written.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gnvideo.atomic_file import write_text_atomic
from gnvideo.data.annotations import Annotation, parse_clip_id
from gnvideo.data.class_list import read_classes
from gnvideo.data.manifest import SPLITS, ManifestRow, read_manifest
from gnvideo.errors import ListExportError, ManifestError

LABEL_MAP_NAME = "label_map.txt"
SEPARATORS = {"space": " ", "tab": "\t", "comma": ",", "colons": "::"}

# Other spellings of the splits.
_DEEPMIND_SPLIT = {"train": "train", "val": "validate", "test": "test"}
_RESNETS_SPLIT = {"train": "training", "val": "validation", "test": "testing"}

_Rows = Mapping[str, Sequence[ManifestRow]]


@dataclass(frozen=True, slots=True)
class ListExport:
    """What was written.

    Attributes:
        files: Names in the output folder.
        num_written: Videos, by split.
        num_left_out: Videos of these splits that are not readable.
    """

    files: list[str]
    num_written: dict[str, int]
    num_left_out: int


def export_lists(
    root: Path, format_name: str, output: Path, *, split: str | None = None, separator: str = " "
) -> ListExport:
    """Writes the readable videos of the prepared folder `root`, and a label map, into `output`.

    Args:
        root: A prepared folder.
        format_name: One of `FORMATS`.
        output: The folder of the lists; made if missing.
        split: Only this one.
        separator: Between path and label, in the formats that have paths.

    Raises:
        ManifestError: the folder is not prepared, or has no readable video of the split.
        ListExportError: the format cannot hold the videos.
        OutputError: the folder cannot be written.
        SaveFailedError: writing failed half-way.
    """
    rows = [row for row in read_manifest(root) if split in (None, row.split)]
    readable = [row for row in rows if row.status == "ok"]
    if not readable:
        wanted = f" of split {split!r}" if split else ""
        raise ManifestError(f"{root} holds no readable video{wanted}; prepare it, or name another")
    classes = read_classes(root)
    rows_of_split = {
        name: members
        for name in SPLITS
        if (members := [row for row in readable if row.split == name])
    }
    files = FORMATS[format_name](rows_of_split, classes, separator)
    files[LABEL_MAP_NAME] = "".join(f"{name}\n" for name in classes)
    for name, text in files.items():
        write_text_atomic(output / name, text)
    num_written = {name: len(members) for name, members in rows_of_split.items()}
    return ListExport(list(files), num_written, len(rows) - len(readable))


def _make_pyslowfast(rows: _Rows, classes: Sequence[str], separator: str) -> dict[str, str]:
    """`<path> <index>` in train.csv, val.csv and test.csv; without a label, the path alone."""
    return {
        f"{split}.csv": _make_lines(members, classes, separator, "PySlowFast")
        for split, members in rows.items()
    }


def _make_mmaction2(rows: _Rows, classes: Sequence[str], separator: str) -> dict[str, str]:
    """`<path> <index>` in <split>_list_videos.txt; every video has a label."""
    for split, members in rows.items():
        if any(row.label is None for row in members):
            raise ListExportError(
                f"the split {split!r} holds videos without a label, which mmaction2's reader does"
                " not take; write the other splits, each with --split"
            )
    return {
        f"{split}_list_videos.txt": _make_lines(members, classes, separator, "mmaction2")
        for split, members in rows.items()
    }


def _make_lines(
    rows: Sequence[ManifestRow], classes: Sequence[str], separator: str, tool: str
) -> str:
    index_of_class = {name: str(index) for index, name in enumerate(classes)}
    lines: list[str] = []
    for row in rows:
        path = row.path or ""
        if separator in path:
            fitting = [name for name, text in SEPARATORS.items() if text not in path]
            raise ListExportError(
                f"the path {path!r} contains {separator!r}, at which {tool}'s reader would cut it;"
                f" write with another --separator ({' or '.join(fitting)}), and tell {tool}:"
                " DATA.PATH_LABEL_SEPARATOR in PySlowFast, delimiter in mmaction2"
            )
        lines.append(
            f"{path}\n" if row.label is None else f"{path}{separator}{index_of_class[row.label]}\n"
        )
    return "".join(lines)


def _make_resnets_json(rows: _Rows, classes: Sequence[str], separator: str) -> dict[str, str]:
    """One file for all splits, by clip id; its segments are [1, frames + 1]."""
    database: dict[str, Any] = {}
    for split, members in rows.items():
        for row in members:
            if row.id in database:
                raise ListExportError(
                    f"the clip {row.id} is in two splits, and 3D-ResNets' file has one entry a"
                    " clip; write one file a split with --split"
                )
            annotations = {"segment": [1, row.frames + 1]}
            label = {} if row.label is None else {"label": row.label}
            database[row.id] = {"subset": _RESNETS_SPLIT[split], "annotations": label | annotations}
    return {"annotations.json": _dump({"labels": list(classes), "database": database})}


def _make_kinetics_csv(rows: _Rows, classes: Sequence[str], separator: str) -> dict[str, str]:
    """Kinetics-700's columns in train.csv, val.csv and test.csv; without labels, test's columns."""
    files: dict[str, str] = {}
    for split, members in rows.items():
        clips = [_make_annotation(row) for row in members]
        has_labels = any(clip.label is not None for clip in clips)
        text = io.StringIO(newline="")
        writer = csv.writer(text, lineterminator="\n")
        columns = ["youtube_id", "time_start", "time_end", "split"]
        writer.writerow((["label"] if has_labels else []) + columns)
        for clip in clips:
            values = [clip.youtube_id, clip.start_seconds, clip.end_seconds, split]
            writer.writerow(([clip.label or ""] if has_labels else []) + values)
        files[f"{split}.csv"] = text.getvalue()
    return files


def _make_deepmind_json(rows: _Rows, classes: Sequence[str], separator: str) -> dict[str, str]:
    """DeepMind's entries in train.json, validate.json and test.json, by video id."""
    files: dict[str, str] = {}
    for split, members in rows.items():
        entries: dict[str, Any] = {}
        for clip in map(_make_annotation, members):
            if clip.youtube_id in entries:
                raise ListExportError(
                    f"the split {split!r} holds two clips of the video {clip.youtube_id}, and"
                    " DeepMind's file has one entry a video; write kinetics-csv"
                )
            annotations: dict[str, Any] = {} if clip.label is None else {"label": clip.label}
            annotations["segment"] = [float(clip.start_seconds), float(clip.end_seconds)]
            entries[clip.youtube_id] = {
                "annotations": annotations,
                "duration": float(clip.end_seconds - clip.start_seconds),
                "subset": _DEEPMIND_SPLIT[split],
                "url": f"https://www.youtube.com/watch?v={clip.youtube_id}",
            }
        files[f"{_DEEPMIND_SPLIT[split]}.json"] = _dump(entries)
    return files


def _make_annotation(row: ManifestRow) -> Annotation:
    clip = parse_clip_id(row.id)
    if clip is None:
        raise ListExportError(
            f"the id {row.id!r} is not <id>_<start>_<end>; prepare the folder again with this"
            " version"
        )
    video_id, start, end = clip
    return Annotation(video_id, row.label, start, end, row.split)


def _dump(data: Any) -> str:
    return json.dumps(data, ensure_ascii=False) + "\n"


FORMATS: Mapping[str, Callable[[_Rows, Sequence[str], str], dict[str, str]]] = {
    "pyslowfast": _make_pyslowfast,
    "mmaction2": _make_mmaction2,
    "3d-resnets": _make_resnets_json,
    "kinetics-csv": _make_kinetics_csv,
    "deepmind-json": _make_deepmind_json,
}
"""By name, what makes the content of each file; it raises ListExportError for what cannot be."""
