"""The readable videos of one split, as loaders read them: packed, without an object per video."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from gnvideo.data.class_list import CLASSES_NAME
from gnvideo.data.manifest import MANIFEST_NAME, SPLITS, read_manifest_table
from gnvideo.errors import ClassListError, ManifestError


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
    columns = read_manifest_table(
        root, ["id", "path", "label", "split", "frames", "status"]
    ).to_pydict()
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


def _pack(texts: Sequence[str]) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    encoded = [text.encode() for text in texts]
    offsets = np.zeros(len(encoded) + 1, dtype=np.int64)
    np.cumsum([len(part) for part in encoded], out=offsets[1:])
    return np.frombuffer(b"".join(encoded), dtype=np.uint8), offsets


def _unpack(blob: npt.NDArray[np.uint8], offsets: npt.NDArray[np.int64], i: int) -> str:
    if not 0 <= i < len(offsets) - 1:
        raise IndexError(f"video {i} of an index of {len(offsets) - 1} videos")
    return blob[offsets[i] : offsets[i + 1]].tobytes().decode()
