"""Videos of val and test that training sees too: the same file, or the same scene encoded again.

Exact duplicates have the same pictures. Near ones are found by their perceptual hashes, at any
offset in time: frames whose hashes agree in one of four bands of 16 bits propose a pair of videos
and an offset, and all hashes of the two at that offset decide. Pairs of frames are compared many
at a time; their number grows with the product of the splits, divided by 16,384.

Axes: M hashes of all videos of a split.
"""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass, fields
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from gnvideo.atomic_file import write_text_atomic
from gnvideo.data.manifest import SPLITS, ManifestRow
from gnvideo.data.perceptual_hash import HASHES_PER_SECOND, NO_PICTURE, parse_hashes

DUPLICATES_NAME = "duplicates.csv"

_NUM_BANDS = 4
_BAND_BITS = 16
# Of 64. Frames up to here propose a pair: any within 3 do, and most within 6.
_MAX_PROPOSED_DISTANCE = 6
# A pair is a duplicate up to this median of its frames' distances. Other scenes are about 32 apart;
# the same scene is 2 apart, and about 10 where things move and hashes were taken at other times.
_MAX_DISTANCE = 14
# Where a video hardly moves it shows one picture, and two still pictures may be alike by chance.
_MAX_STILL_DISTANCE = 6
_MIN_CHANGES = 4
# Frames that two videos must have in common, and the share of the shorter one's frames.
_MIN_FRAMES = 3
_MIN_SHARE = 0.5
# A picture in more training videos than this, such as a title card, says nothing of a video.
_MAX_VIDEOS_OF_PICTURE = 50
# Pairs of frames that are compared at a time.
_PAIRS_AT_A_TIME = 1 << 22

_Array = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Duplicate:
    """A video of "val" or "test" that is in "train" too.

    Attributes:
        id: Of the video of `split`; `split` is "val" or "test".
        split: See `id`.
        other_id: Of the video of `other_split`, which is "train".
        other_split: See `other_id`.
        kind: "exact": the same pictures; "near": the same scene.
        distance: Median over the common frames of how many of 64 bits differ; 0 for "exact".
        seconds_offset: What the first video shows at t, the other shows at t + this.
    """

    id: str
    split: str
    other_id: str
    other_split: str
    kind: Literal["exact", "near"]
    distance: float
    seconds_offset: float


def find_duplicates(rows: Sequence[ManifestRow]) -> list[Duplicate]:
    """Returns the videos of "val" and "test" that are in "train" too, sorted by split and id.

    A pair of videos is listed once: as exact, or at the offset where they are the most alike.
    """
    readable = [row for row in rows if row.status == "ok"]
    trained = [row for row in readable if row.split == "train"]
    tested = [row for row in readable if row.split != "train"]
    exact = list(_find_exact(tested, trained))
    near = _find_near(tested, trained, {(one.split, one.id, one.other_id) for one in exact})
    return sorted([*exact, *near], key=lambda one: (SPLITS.index(one.split), one.id, one.other_id))


def write_duplicates(root: Path, duplicates: Iterable[Duplicate]) -> None:
    """Writes duplicates.csv into the prepared folder `root`, one line a pair.

    Raises:
        OutputError: the folder cannot be written.
        SaveFailedError: writing failed half-way; the previous file is untouched.
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([field.name for field in fields(Duplicate)])
    writer.writerows(astuple(one) for one in duplicates)
    write_text_atomic(root / DUPLICATES_NAME, text.getvalue())


def _find_exact(
    tested: Sequence[ManifestRow], trained: Sequence[ManifestRow]
) -> Iterator[Duplicate]:
    trained_of_hash: defaultdict[str | None, list[ManifestRow]] = defaultdict(list)
    for row in trained:
        trained_of_hash[row.content_hash].append(row)
    for row in tested:
        for other in trained_of_hash.get(row.content_hash, ()):
            yield Duplicate(row.id, row.split, other.id, other.split, "exact", 0, 0)


def _find_near(
    tested: Sequence[ManifestRow],
    trained: Sequence[ManifestRow],
    known: set[tuple[str, str, str]],
) -> Iterator[Duplicate]:
    ours, theirs = _Hashes(tested), _Hashes(trained)
    best: dict[tuple[int, int], tuple[float, int]] = {}
    for video, other, offset in _propose(ours, theirs):
        distance = _compare(ours.of_video(video), theirs.of_video(other), offset)
        if distance is not None:
            pair = (video, other)
            best[pair] = min(best.get(pair, (distance, offset)), (distance, offset))
    for (video, other), (distance, offset) in best.items():
        row, match = tested[video], trained[other]
        if (row.split, row.id, match.id) not in known:
            seconds = offset / HASHES_PER_SECOND
            yield Duplicate(row.id, row.split, match.id, match.split, "near", distance, seconds)


class _Hashes:
    """The hashes of many videos, one after the other."""

    def __init__(self, rows: Sequence[ManifestRow]) -> None:
        parts = [parse_hashes(row.perceptual_hashes or "") for row in rows]
        lengths = np.array([len(part) for part in parts], np.int64)
        self.starts = np.append(0, np.cumsum(lengths))
        self.values = np.concatenate([*parts, np.empty(0, np.uint64)])  # (M,)
        self.videos = np.repeat(np.arange(len(rows)), lengths)  # (M,)
        self.positions = np.arange(len(self.values)) - self.starts[self.videos]  # (M,)

    def of_video(self, video: int) -> npt.NDArray[np.uint64]:
        return self.values[self.starts[video] : self.starts[video + 1]]

    def find_telling(self) -> _Array:
        """Returns the places of hashes that are of a picture, and not of one that many share."""
        values, inverse = np.unique(self.values, return_inverse=True)
        pairs = np.unique(np.stack([inverse, self.videos]), axis=1)
        num_videos = np.bincount(pairs[0], minlength=len(values))
        telling = (values != NO_PICTURE) & (num_videos <= _MAX_VIDEOS_OF_PICTURE)
        return np.flatnonzero(telling[inverse])


def _propose(ours: _Hashes, theirs: _Hashes) -> Iterator[tuple[int, int, int]]:
    """Yields (our video, their video, offset) wherever a frame of both is nearly alike, once."""
    our_places = np.flatnonzero(ours.values != NO_PICTURE)
    their_places = theirs.find_telling()
    found = [np.empty((3, 0), np.int64)]
    for band in range(_NUM_BANDS):
        their_keys = _cut_band(theirs.values[their_places], band)
        order = np.argsort(their_keys, kind="stable")
        ends = np.cumsum(np.bincount(their_keys, minlength=1 << _BAND_BITS))
        our_keys = _cut_band(ours.values[our_places], band)
        stops, sizes = ends[our_keys], np.diff(ends, prepend=0)[our_keys]
        for part in _split_by_sum(sizes, _PAIRS_AT_A_TIME):
            count = sizes[part]
            # For each of our frames, the numbers of all of theirs in the same bucket.
            within = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
            one = np.repeat(our_places[part], count)
            other = their_places[order[np.repeat(stops[part] - count, count) + within]]
            near = (
                np.bitwise_count(ours.values[one] ^ theirs.values[other]) <= _MAX_PROPOSED_DISTANCE
            )
            one, other = one[near], other[near]
            offsets = theirs.positions[other] - ours.positions[one]
            proposals = np.stack([ours.videos[one], theirs.videos[other], offsets])
            found.append(np.unique(proposals, axis=1))
    for video, other, offset in np.unique(np.concatenate(found, axis=1), axis=1).T.tolist():
        yield video, other, offset


def _cut_band(values: npt.NDArray[np.uint64], band: int) -> npt.NDArray[np.uint16]:
    return (values >> np.uint64(band * _BAND_BITS)).astype(np.uint16)


def _split_by_sum(sizes: _Array, limit: int) -> Iterator[slice]:
    """Yields slices of `sizes` that sum to about `limit` at most, or hold one."""
    groups = np.cumsum(sizes) // limit
    edges = [0, *(np.flatnonzero(np.diff(groups)) + 1).tolist(), len(sizes)]
    for start, stop in pairwise(edges):
        yield slice(start, stop)


def _compare(
    ours: npt.NDArray[np.uint64], theirs: npt.NDArray[np.uint64], offset: int
) -> float | None:
    """Returns the median distance of two videos' frames at an offset, or None if it is too far."""
    start, stop = max(0, -offset), min(len(ours), len(theirs) - offset)
    one, other = ours[start:stop], theirs[start + offset : stop + offset]
    telling = (one != NO_PICTURE) & (other != NO_PICTURE)
    one, other = one[telling], other[telling]
    shorter = min(np.count_nonzero(ours != NO_PICTURE), np.count_nonzero(theirs != NO_PICTURE))
    if len(one) < min(_MIN_FRAMES, shorter) or len(one) < _MIN_SHARE * shorter:
        return None
    distance = float(np.median(np.bitwise_count(one ^ other)))
    changes = np.count_nonzero(np.bitwise_count(one[1:] ^ one[:-1]) > _MAX_STILL_DISTANCE)
    allowed = _MAX_DISTANCE if changes >= _MIN_CHANGES else _MAX_STILL_DISTANCE
    return distance if distance <= allowed else None
