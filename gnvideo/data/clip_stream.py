"""Which video stands at which position of the training stream.

The stream has the positions 0, 1, 2, ... without end. With R clips an opened video, each run of
R * N positions is one cycle of R epochs: all N videos, in an order drawn from (run seed, cycle),
R times each. A video is drawn from at its place k of the order, and again D, 2 * D, ... places
later, so that its clips stand in different batches and yet near enough to be made together:

    position q of a cycle:  k, r = divmod(q, R);  video order[(k - r * D) mod N], its clip r

With R = 1, the default, the cycle is an epoch and its order is the stream. Nothing here depends on
the clips per batch, the workers, the ranks, or where a run was interrupted.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

# D. Clips of a video are 64 * R + 1 positions apart. It is even, so that with the usual numbers of
# clips and ranks all clips of a video are needed on one rank; larger, it would hold more clips in
# memory: about 32 * R * (R - 1) over all ranks.
REPEAT_DISTANCE = 64


class ClipStream:
    """Gives the video and the epoch of every position.

    Args:
        num_videos: N, at least 1.
        seed: Of the run.
        clips_per_open: R, at least 1.

    Raises:
        ValueError: a count is below 1.
    """

    def __init__(self, num_videos: int, seed: int, clips_per_open: int = 1) -> None:
        if num_videos < 1 or clips_per_open < 1:
            raise ValueError(
                f"{num_videos} videos and {clips_per_open} clips an opened video; both must be at"
                " least 1"
            )
        self._num_videos = num_videos
        self._seed = seed
        self._clips_per_open = clips_per_open
        # With fewer videos, the clips of one still come to lie apart.
        self._distance = min(REPEAT_DISTANCE, num_videos // clips_per_open)
        self._order_cycle = -1
        self._order = np.empty(0, np.int32)

    def locate(self, position: int) -> tuple[int, int]:
        """Returns the video at `position`, and its epoch: the number of its clips before."""
        cycle, place, clip = self._split(position)
        return int(self._get_order(cycle)[place]), cycle * self._clips_per_open + clip

    def find_repeats(self, position: int) -> Iterator[int]:
        """Yields the later positions whose clips are to be made with that at `position`.

        They are of the same video and lie in the next R - 1 distances.
        """
        cycle, place, own_clip = self._split(position)
        repeats = self._clips_per_open
        furthest = position + (repeats - 1) * (self._distance * repeats + 1)
        for clip in range(repeats):
            turn = (place + clip * self._distance) % self._num_videos
            other = (cycle * self._num_videos + turn) * repeats + clip
            if clip != own_clip and position < other <= furthest:
                yield other

    def _split(self, position: int) -> tuple[int, int, int]:
        """Returns the cycle of `position`, its video's place in the order, and its clip r."""
        turn, clip = divmod(position, self._clips_per_open)
        cycle, turn = divmod(turn, self._num_videos)
        return cycle, (turn - clip * self._distance) % self._num_videos, clip

    def _get_order(self, cycle: int) -> npt.NDArray[np.int32]:
        if cycle != self._order_cycle:
            self._order = make_order(self._seed, cycle, self._num_videos)
            self._order_cycle = cycle
        return self._order


def make_order(run_seed: int, cycle: int, num_videos: int) -> npt.NDArray[np.int32]:
    """Returns the order of the videos in `cycle`, a permutation of [0, num_videos)."""
    videos = np.arange(num_videos, dtype=np.int32)
    return make_generator(f"order/{run_seed}/{cycle}").permutation(videos)


def make_sample_generator(run_seed: int, epoch: int, video_id: str) -> np.random.Generator:
    """Returns the generator of all random draws of one sample."""
    return make_generator(f"sample/{run_seed}/{epoch}/{video_id}")


def make_generator(key: str) -> np.random.Generator:
    """Returns the generator that belongs to `key`."""
    digest = hashlib.blake2b(key.encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little")))
