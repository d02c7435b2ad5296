"""How training clips are made of opened videos, into the memory of their batches.

All draws of a sample come from a generator made of (run seed, epoch, video id). So a clip depends
on nothing but the seed and its position in the stream.

Axes: N clips, C colour channels, T frames, H height, W width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt
import torch

from gnvideo.data.clip_sampling import sample_train_clip
from gnvideo.data.clip_stream import make_sample_generator
from gnvideo.data.decoding import DecodedFrames, make_decoder
from gnvideo.data.planes import PlanesDecoder
from gnvideo.data.shared_slots import SharedSlots
from gnvideo.data.video_index import VideoIndex
from gnvideo.errors import DecoderUnavailableError

PixelFormat = Literal["rgb", "yuv420"]


class FrameSource(Protocol):
    """What of a decoder makes clips: a `VideoDecoder`, or a `PlanesDecoder`."""

    def decode_frames(
        self, path: Path, indices: Sequence[int] | npt.NDArray[np.integer], /
    ) -> DecodedFrames:
        """Returns the frames at `indices`; see `VideoDecoder`."""
        ...


def make_frame_source(decoder_name: str, pixel_format: PixelFormat) -> FrameSource:
    """Returns the decoder called `decoder_name`, for frames in RGB or as packed planes.

    Raises:
        DecoderUnavailableError: the decoder does not import here, or does not give planes.
    """
    if pixel_format == "rgb":
        return make_decoder(decoder_name)
    if decoder_name != "pyav":
        raise DecoderUnavailableError(
            f"the decoder {decoder_name!r} gives no yuv420 frames; use pyav, or rgb frames"
        )
    return PlanesDecoder()


class ClipTransform(Protocol):
    """Makes a training clip of decoded frames; `TrainTransform` is one."""

    def __call__(
        self, frames_THWC: npt.NDArray[np.uint8], generator: np.random.Generator, /
    ) -> torch.Tensor:
        """Returns the clip (C, T, H', W') uint8, drawing from `generator` only."""
        ...

    def compute_clip_shape(self, num_frames: int, /) -> tuple[int, int, int, int]:
        """Returns (T, H', W', C), the shape of every clip as it lies in memory."""
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


@dataclass(frozen=True, slots=True)
class OpenedVideo:
    """The clips that are made of one video when it is opened.

    Attributes:
        video: Its number in the index.
        clips: For each clip its epoch, and where it goes: a slot of memory and a row in it.
    """

    video: int
    clips: list[tuple[int, int, int]]


class TrainClips:
    """Makes training clips, each in its row of a batch.

    Args:
        index: The videos.
        decoder_name: See `make_decoder`. The decoder is made in the process that uses it.
        pixel_format: Of the frames that `transform` gets.
        transform: From decoded frames to clips of equal size.
        num_frames: Frames of a clip.
        stride: Frames of the video from one frame of a clip to the next.
        clips_per_batch: Rows of a slot.
        seed: Of the run.

    Attributes:
        slots: Memory of one batch each, (N, T, H, W, C).
        batch_shape: (N, T, H, W, C).
    """

    def __init__(
        self,
        index: VideoIndex,
        decoder_name: str,
        transform: ClipTransform,
        *,
        num_frames: int,
        stride: int,
        clips_per_batch: int,
        seed: int,
        pixel_format: PixelFormat = "rgb",
    ) -> None:
        self._index = index
        self._decoder_name = decoder_name
        self._pixel_format: PixelFormat = pixel_format
        self._transform = transform
        self._num_frames = num_frames
        self._stride = stride
        self._seed = seed
        self._decoder: FrameSource | None = None
        self.batch_shape = (clips_per_batch, *transform.compute_clip_shape(num_frames))
        self.slots = SharedSlots(int(np.prod(self.batch_shape)))

    def make_clips(self, videos: Sequence[OpenedVideo], report: Callable[[int], None]) -> None:
        """Makes all clips of `videos`; `report` gets each video's number before it is opened.

        Raises:
            VideoError: a video cannot be decoded.
            DecoderUnavailableError: the decoder does not import here.
        """
        if self._decoder is None:
            self._decoder = make_frame_source(self._decoder_name, self._pixel_format)
        for opened in videos:
            report(opened.video)
            self._make_clips_of_video(self._decoder, opened)

    def _make_clips_of_video(self, decoder: FrameSource, opened: OpenedVideo) -> None:
        video_id = self._index.video_id(opened.video)
        generators = [
            make_sample_generator(self._seed, epoch, video_id) for epoch, _, _ in opened.clips
        ]
        num_video_frames = self._index.num_frames(opened.video)
        indices_VT = np.stack(
            [
                sample_train_clip(num_video_frames, self._num_frames, self._stride, generator)
                for generator in generators
            ]
        )
        # One call, in which no frame is decoded twice.
        distinct, rows = np.unique(indices_VT, return_inverse=True)
        frames_THWC = decoder.decode_frames(self._index.path(opened.video), distinct).frames_THWC
        for (_, slot, row), generator, frames in zip(
            opened.clips, generators, rows.reshape(indices_VT.shape), strict=True
        ):
            is_all = np.array_equal(frames, np.arange(len(distinct)))
            own_THWC = frames_THWC if is_all else frames_THWC[frames]
            batch_NTHWC = self.slots.open(slot).reshape(self.batch_shape)
            clip_THWC = self._transform(own_THWC, generator).permute(1, 2, 3, 0)
            torch.from_numpy(batch_NTHWC)[row].copy_(clip_THWC)
