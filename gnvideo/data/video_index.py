"""The readable videos of one split, as loaders read them: a packed file, mapped into memory.

All processes of a machine that read one file share one copy of it, in the system's page cache.
`gnvideo.data.index_packing` says what is in the file.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gnvideo.errors import ClassListError, ManifestError

INDEX_MAGIC = b"gnvideo index 1\n"
# Of the length of the header in bytes, which follows the magic and stands before the header.
HEADER_LENGTH_BYTES = 8
ALIGNMENT_BYTES = 8
# A file name that is not stored is the video's id with this ending.
USUAL_SUFFIX = ".mp4"


@dataclass(frozen=True, slots=True)
class PackedIndex:
    """An index file in memory; pages that nobody reads are never loaded.

    Attributes:
        manifest_digest: Of the manifest that the file was made from.
        num_videos: N.
        labels: Class names; a video's label is a place in it, or -1.
        folders: Of the videos, relative to the root, each with its final slash.
        text_bytes: (B,) uint8; for each video its id, then its file name unless that is the id
            with `USUAL_SUFFIX`; in UTF-8, without anything in between.
        text_offsets: (N + 1,) int64, where each video's text starts.
        id_lengths: (N,) int32, bytes of the id.
        folder_codes: (N,) int32, places in `folders`.
        label_codes: (N,) int32, places in `labels`, or -1.
        frame_counts: (N,) int32.
    """

    manifest_digest: str
    num_videos: int
    labels: tuple[str, ...]
    folders: tuple[str, ...]
    text_bytes: npt.NDArray[np.uint8]
    text_offsets: npt.NDArray[np.int64]
    id_lengths: npt.NDArray[np.int32]
    folder_codes: npt.NDArray[np.int32]
    label_codes: npt.NDArray[np.int32]
    frame_counts: npt.NDArray[np.int32]

    def read_id(self, i: int) -> str:
        """Returns the id of video `i`."""
        start = self.text_offsets[i]
        return self.text_bytes[start : start + self.id_lengths[i]].tobytes().decode()


class VideoIndex:
    """The readable videos of one split, sorted by id.

    It holds no Python object per video, and its pickle holds the file's path, not its content: what
    a worker process gets does not grow with the number of videos.
    """

    def __init__(
        self, file: Path, root: Path, split: str, packed: PackedIndex, class_indices: Sequence[int]
    ) -> None:
        """Use `load_video_index`.

        Args:
            file: Where `packed` lies.
            root: The prepared folder, absolute.
            split: The split's name.
            packed: The mapped file.
            class_indices: For each of its labels, and last for a video without one.
        """
        self.file = file
        self.root = root
        self.split = split
        self._packed = packed
        self._class_indices = tuple(class_indices)

    def __len__(self) -> int:
        return self._packed.num_videos

    def __reduce__(self) -> tuple[Any, ...]:
        digest = self._packed.manifest_digest
        return _reopen, (self.file, self.root, self.split, digest, self._class_indices)

    def path(self, i: int) -> Path:
        """Returns the absolute path of video `i`."""
        self._check(i)
        packed = self._packed
        start = packed.text_offsets[i] + packed.id_lengths[i]
        name = packed.text_bytes[start : packed.text_offsets[i + 1]].tobytes().decode()
        name = name or packed.read_id(i) + USUAL_SUFFIX
        return self.root / (packed.folders[packed.folder_codes[i]] + name)

    def video_id(self, i: int) -> str:
        """Returns the id of video `i`."""
        self._check(i)
        return self._packed.read_id(i)

    def label(self, i: int) -> int:
        """Returns the class index of video `i`, or -1 if it has no label."""
        self._check(i)
        return self._class_indices[self._packed.label_codes[i]]

    def num_frames(self, i: int) -> int:
        """Returns the number of frames of video `i`."""
        self._check(i)
        return int(self._packed.frame_counts[i])

    def count_unlabelled(self) -> int:
        """Returns the number of videos without a label."""
        return int((self._packed.label_codes < 0).sum())

    def _check(self, i: int) -> None:
        if not 0 <= i < len(self):
            raise IndexError(f"video {i} of an index of {len(self)} videos")


def load_video_index(root: Path, split: str, classes: Sequence[str]) -> VideoIndex:
    """Returns the videos of `split` in `root` whose status is "ok", sorted by id.

    No video is opened. An index file that is missing, or was not made from this manifest, is
    written first: in `root`, or, if that cannot be written, in a folder for temporary files, which
    is said on standard error.

    Args:
        root: A prepared folder.
        split: "train", "val" or "test".
        classes: Class names; the position is the class index.

    Raises:
        ManifestError: the manifest is missing, damaged or of another version, or lacks the split.
        ClassListError: a label of the split is not in `classes`.
        OutputError: no index file can be written.
    """
    # With pyarrow, which worker processes need not import.
    from gnvideo.data.index_packing import find_index_file

    file, packed = find_index_file(root, split)
    index_of_label = {name: index for index, name in enumerate(classes)}
    for code, label in enumerate(packed.labels):
        if label not in index_of_label:
            video_id = packed.read_id(int(np.argmax(packed.label_codes == code)))
            raise ClassListError(
                f"video {video_id} of split {split!r} has the label {label!r}, which is not among"
                f" the {len(classes)} classes; use the class list {root / 'classes.txt'}"
            )
    class_indices = [*(index_of_label[label] for label in packed.labels), -1]
    return VideoIndex(file.absolute(), root.absolute(), split, packed, class_indices)


def open_packed_index(file: Path) -> PackedIndex | None:
    """Returns the mapped index file, or None if there is none or it is not complete."""
    try:
        content = np.asarray(np.memmap(file, np.uint8, "r"))
    except (OSError, ValueError):
        # numpy's answer to an empty file is a ValueError.
        return None
    start = len(INDEX_MAGIC) + HEADER_LENGTH_BYTES
    if content[: len(INDEX_MAGIC)].tobytes() != INDEX_MAGIC or len(content) < start:
        return None
    header_bytes = int(content[len(INDEX_MAGIC) : start].view("<i8")[0])
    try:
        header = json.loads(content[start : start + header_bytes].tobytes())
    except ValueError:
        return None
    num_videos: int = header["num_videos"]
    counts = {
        "text_offsets": ("<i8", num_videos + 1),
        "id_lengths": ("<i4", num_videos),
        "folder_codes": ("<i4", num_videos),
        "label_codes": ("<i4", num_videos),
        "frame_counts": ("<i4", num_videos),
        "text_bytes": ("u1", header["num_text_bytes"]),
    }
    arrays: dict[str, Any] = {}
    offset = start + header_bytes
    for name, (dtype, count) in counts.items():
        stop = offset + count * np.dtype(dtype).itemsize
        arrays[name] = content[offset:stop].view(dtype) if stop <= len(content) else None
        offset = stop + -stop % ALIGNMENT_BYTES
    if offset != len(content):
        return None
    return PackedIndex(
        manifest_digest=header["manifest_digest"],
        num_videos=num_videos,
        labels=tuple(header["labels"]),
        folders=tuple(header["folders"]),
        **arrays,
    )


def _reopen(
    file: Path, root: Path, split: str, manifest_digest: str, class_indices: Sequence[int]
) -> VideoIndex:
    packed = open_packed_index(file)
    if packed is None or packed.manifest_digest != manifest_digest:
        raise ManifestError(
            f"{file} was written anew while it was in use; prepare a folder only while nothing"
            " reads it, and start again"
        )
    return VideoIndex(file, root, split, packed, class_indices)
