"""Which clip stands at which position of the training stream, and how it is made.

The stream has the positions 0, 1, 2, ... without end. Each run of N positions is one epoch: all N
videos, in an order drawn from (run seed, epoch). All draws of a sample come from a generator made
of (run seed, epoch, video id). So a clip depends on nothing but the seed and its position: not on
the clips per batch, the workers, the ranks, or where a run was interrupted.

Axes: N clips, C colour channels, T frames, H height, W width.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from gnvideo.data.clip_sampling import sample_train_clip
from gnvideo.data.decoding import VideoDecoder, make_decoder
from gnvideo.data.video_index import VideoIndex


class ClipTransform(Protocol):
    """Makes a training clip of decoded frames; `TrainTransform` is one."""

    def __call__(
        self, frames_THWC: npt.NDArray[np.uint8], generator: np.random.Generator, /
    ) -> torch.Tensor:
        """Returns the clip (C, T, H', W') uint8, drawing from `generator` only."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class ClipBatch:
    """Training clips of one rank for one step.

    Attributes:
        clips_NCTHW: uint8, in channels_last_3d layout.
        labels_N: int64 class indices, -1 for a video without a label.
        video_ids: N ids.
        epochs: N epochs, from 0, in which the clips stand.
    """

    clips_NCTHW: torch.Tensor
    labels_N: torch.Tensor
    video_ids: list[str]
    epochs: list[int]


def make_sample_generator(run_seed: int, epoch: int, video_id: str) -> np.random.Generator:
    """Returns the generator of all random draws of one sample."""
    return _make_generator(f"sample/{run_seed}/{epoch}/{video_id}")


def make_epoch_order(run_seed: int, epoch: int, num_videos: int) -> npt.NDArray[np.int64]:
    """Returns the order of the videos in `epoch`, a permutation of [0, num_videos)."""
    return _make_generator(f"order/{run_seed}/{epoch}").permutation(num_videos)


class TrainClips:
    """Makes the batches of training clips at given positions of the stream.

    Args:
        index: The videos; at least one.
        decoder_name: See `make_decoder`. The decoder is made in the process that uses it.
        transform: From decoded frames to clips of equal size.
        num_frames: Frames of a clip.
        stride: Frames of the video from one frame of a clip to the next.
        seed: Of the run.

    Raises:
        ValueError: the index holds no video.
    """

    def __init__(
        self,
        index: VideoIndex,
        decoder_name: str,
        transform: ClipTransform,
        *,
        num_frames: int,
        stride: int,
        seed: int,
    ) -> None:
        if not len(index):
            raise ValueError("the index holds no video; training needs at least one")
        self._index = index
        self._decoder_name = decoder_name
        self._transform = transform
        self._num_frames = num_frames
        self._stride = stride
        self._seed = seed
        self._decoder: VideoDecoder | None = None
        self._order_epoch = -1
        self._order = np.empty(0, np.int64)

    def make_batch(self, positions: Sequence[int]) -> ClipBatch:
        """Returns the clips at `positions`, at least one.

        Raises:
            VideoError: a video cannot be decoded.
            DecoderUnavailableError: the decoder does not import here.
        """
        batch_NTHWC: torch.Tensor | None = None
        labels: list[int] = []
        video_ids: list[str] = []
        epochs: list[int] = []
        for row, position in enumerate(positions):
            epoch, place = divmod(position, len(self._index))
            video = int(self._get_order(epoch)[place])
            clip_THWC = self._make_clip(video, epoch).permute(1, 2, 3, 0)
            if batch_NTHWC is None:
                batch_NTHWC = clip_THWC.new_empty((len(positions), *clip_THWC.shape))
            batch_NTHWC[row] = clip_THWC
            labels.append(self._index.label(video))
            video_ids.append(self._index.video_id(video))
            epochs.append(epoch)
        if batch_NTHWC is None:
            raise ValueError("positions is empty; a batch has at least one clip")
        # Stored as (N, T, H, W, C), which is channels_last_3d.
        return ClipBatch(
            clips_NCTHW=batch_NTHWC.permute(0, 4, 1, 2, 3),
            labels_N=torch.tensor(labels),
            video_ids=video_ids,
            epochs=epochs,
        )

    def _make_clip(self, video: int, epoch: int) -> torch.Tensor:
        """Returns the clip (C, T, H, W) of `video` in `epoch`."""
        if self._decoder is None:
            self._decoder = make_decoder(self._decoder_name)
        generator = make_sample_generator(self._seed, epoch, self._index.video_id(video))
        indices = sample_train_clip(
            self._index.num_frames(video), self._num_frames, self._stride, generator
        )
        decoded = self._decoder.decode_frames(self._index.path(video), indices)
        return self._transform(decoded.frames_THWC, generator)

    def _get_order(self, epoch: int) -> npt.NDArray[np.int64]:
        if epoch != self._order_epoch:
            self._order = make_epoch_order(self._seed, epoch, len(self._index))
            self._order_epoch = epoch
        return self._order


def _make_generator(key: str) -> np.random.Generator:
    digest = hashlib.blake2b(key.encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little")))
