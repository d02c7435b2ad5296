"""Kinetics annotations as JSON files: DeepMind's own, and those of 3D-ResNets.

    {"<id>": {"annotations": {"label": ..., "segment": [31.0, 41.0]}, "subset": "validate", ...}}

    {"labels": [...], "database": {"<id>_<start>_<end>":
        {"subset": "validation", "annotations": {"label": ..., "segment": [1, 301]}}}}

The first's segment is in seconds of the video, the second's in frames of the clip, whose seconds
are in its name. The second's labels stand in the order of their first appearance; that order is
not used here, as classes match by name.

Source: kenshohara/3D-ResNets-PyTorch, util_scripts/kinetics_json.py (second form).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from gnvideo.data.annotations import (
    Annotation,
    check_label,
    clean_value,
    make_annotation,
    parse_clip_id,
    parse_split,
)
from gnvideo.errors import AnnotationError


def read_json(path: Path, text: str) -> Iterator[tuple[int, Annotation]]:
    """Yields (number of the entry, annotation) of the JSON file `path` with the content `text`.

    Raises:
        AnnotationError: the file is of neither form, or a value is wrong.
    """
    try:
        data = json.loads(text, object_pairs_hook=_make_object)
    except (ValueError, RecursionError) as error:
        raise AnnotationError(f"{path} is not a JSON file of annotations: {error}") from None
    is_3d_resnets = isinstance(data.get("database"), dict)
    entries = cast("dict[str, Any]", data["database"] if is_3d_resnets else data)
    for number, (key, entry) in enumerate(entries.items(), start=1):
        try:
            yield number, _read_entry(key, entry, is_3d_resnets)
        except AnnotationError as error:
            raise AnnotationError(f"{path}, entry {key!r}: {error}") from None


def _make_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Returns the object, without what no reader needs and a file of 650,000 entries repeats."""
    made = dict(pairs)
    if len(made) != len(pairs):
        twice, _ = Counter(key for key, _ in pairs).most_common(1)[0]
        raise AnnotationError(f"the key {twice!r} stands twice in one object; keep one of them")
    if "subset" in made:
        made.pop("url", None)
        made.pop("duration", None)
    return made


def _read_entry(key: str, entry: Any, is_3d_resnets: bool) -> Annotation:
    annotations = _get_object(entry).get("annotations")
    if isinstance(annotations, list):
        raise AnnotationError(
            "'annotations' is a list, as in ActivityNet's files of several segments a video;"
            " a clip has one label: write a Kinetics CSV file with one row a segment"
        )
    annotations = _get_object(annotations)
    split = parse_split(str(entry.get("subset")))
    if split is None:
        raise AnnotationError(
            f"the subset is {entry.get('subset')!r}; write train, val (or validate) or test"
        )
    label = annotations.get("label")
    if label is not None:
        label = check_label(clean_value(str(label))) or None
    if is_3d_resnets:
        clip = parse_clip_id(key)
        if clip is None:
            raise AnnotationError("the name is not <id>_<start>_<end> with times in seconds")
        video_id, start, end = clip
    else:
        segment = annotations.get("segment")
        if not (isinstance(segment, list) and len(cast("list[Any]", segment)) == 2):
            raise AnnotationError(f"the segment is {segment!r}; it must be [start, end] in seconds")
        video_id, (start, end) = key, cast("list[Any]", segment)
        if not (isinstance(start, int | float) and isinstance(end, int | float)):
            raise AnnotationError(f"the segment is {segment!r}; it must be [start, end] in seconds")
    return make_annotation(video_id, label, start, end, split)


def _get_object(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise AnnotationError(
            f"{value!r} stands where an object with 'annotations' and 'subset' is expected"
        )
    return cast("dict[str, Any]", value)
