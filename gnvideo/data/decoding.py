"""What a decoder of videos gives, and the decoders to choose from.

Frames are counted from 0 in presentation order; a frame that a player does not show, such as one
before the start of an edit list, has no index. Frames come as displayed: a rotation tag is applied.

Axes: T frames, H height, W width, C colour channels (RGB).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from gnvideo.errors import DecoderUnavailableError

DECODER_NAMES = ("pyav", "decord", "torchcodec")

YuvMatrix = Literal["bt601", "bt709", "bt2020"]


@dataclass(frozen=True, slots=True)
class VideoMetadata:
    """What is known of a video before its frames are decoded.

    Attributes:
        num_frames: Number of frames that are displayed.
        num_missing_frames: Frames at the end that the header promises and the file does not hold
            because it is cut short; they are not among `num_frames`.
        fps: Average frames per second; 0 for a single frame without a rate.
        width: Pixels, as displayed; `height` likewise.
        height: See `width`.
        duration_seconds: From the start of the first frame to the end of the last.
        rotation_degrees: 0, 90, 180 or 270; by how much the stored frames are turned clockwise to
            give the displayed ones.
        keyframe_interval_frames: Largest number of frames from one keyframe to the next, or to the
            end of the video.
    """

    num_frames: int
    num_missing_frames: int
    fps: Fraction
    width: int
    height: int
    duration_seconds: float
    rotation_degrees: int
    keyframe_interval_frames: int


@dataclass(frozen=True, slots=True, eq=False)
class DecodedFrames:
    """Frames in the order in which they were asked for.

    Attributes:
        frames_THWC: (T, H, W, 3) uint8 RGB, as displayed.
        timestamps_seconds: (T,) float64, the time at which each frame is shown. The first frame of
            a video need not be at 0.
    """

    frames_THWC: npt.NDArray[np.uint8]
    timestamps_seconds: npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Yuv420Frames:
    """Frames as the file stores them, in the order in which they were asked for, turned upright.

    Attributes:
        y_THW: (T, H, W) uint8 luma.
        u_THW: (T, ceil(H/2), ceil(W/2)) uint8 chroma; `v_THW` likewise.
        v_THW: See `u_THW`.
        matrix: By which RGB became YUV; "bt601" also where the file does not say, as in swscale.
        is_full_range: Whether luma and chroma use 0 to 255, not 16 to 235 and 16 to 240.
        timestamps_seconds: As in `DecodedFrames`.
    """

    y_THW: npt.NDArray[np.uint8]
    u_THW: npt.NDArray[np.uint8]
    v_THW: npt.NDArray[np.uint8]
    matrix: YuvMatrix
    is_full_range: bool
    timestamps_seconds: npt.NDArray[np.float64]


class VideoDecoder(Protocol):
    """Reads frames of video files; keeps no file open between calls."""

    @property
    def name(self) -> str:
        """The name by which `make_decoder` knows this decoder."""
        ...

    def read_metadata(self, path: Path) -> VideoMetadata:
        """Returns the metadata of the video at `path`.

        Raises:
            VideoError: the file cannot be opened or its first frame cannot be decoded.
        """
        ...

    def decode_frames(
        self, path: Path, indices: Sequence[int] | npt.NDArray[np.integer]
    ) -> DecodedFrames:
        """Returns the frames at `indices`, in any order, repeats allowed, at least one.

        Raises:
            VideoError: the file cannot be opened, a wanted frame cannot be decoded, or an index
                lies outside the video.
            ValueError: `indices` is empty or not one-dimensional.
        """
        ...


def make_decoder(name: str, *, num_threads: int = 1) -> VideoDecoder:
    """Returns the decoder called `name`, one of `DECODER_NAMES`.

    Args:
        name: Of the decoder.
        num_threads: By which one video is decoded. 1 where several processes decode at once; as
            many as there are cores for a single long video. The frames are the same.

    Raises:
        DecoderUnavailableError: no decoder has this name, or its package does not import here.
    """
    if name == "pyav":
        from gnvideo.data.decoding_pyav import PyavDecoder

        return PyavDecoder(num_threads)
    if name == "decord":
        from gnvideo.data.decoding_decord import DecordDecoder

        return DecordDecoder(num_threads)
    if name == "torchcodec":
        from gnvideo.data.decoding_torchcodec import TorchcodecDecoder

        return TorchcodecDecoder(num_threads)
    raise DecoderUnavailableError(
        f"unknown decoder {name!r}; choose one of: {', '.join(DECODER_NAMES)}"
    )


def find_distinct(
    indices: Sequence[int] | npt.NDArray[np.integer],
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64] | None]:
    """Returns the distinct `indices`, ascending, and the row of each of `indices` among them.

    The rows are None where `indices` are distinct and ascending already.

    Raises:
        ValueError: `indices` is empty, not one-dimensional, or not of integers.
    """
    array = np.asarray(indices)
    if array.ndim != 1 or not array.size or array.dtype.kind not in "iu":
        raise ValueError(
            f"frame indices must be a list of at least one integer, got an array of shape"
            f" {array.shape} and type {array.dtype}"
        )
    array = array.astype(np.int64, copy=False)
    if np.all(array[1:] > array[:-1]):
        return array, None
    wanted, rows = np.unique(array, return_inverse=True)
    return wanted, rows.astype(np.int64, copy=False)


def arrange(
    frames_THWC: npt.NDArray[np.uint8],
    timestamps_seconds: npt.NDArray[np.float64],
    rows: npt.NDArray[np.int64] | None,
) -> DecodedFrames:
    """Returns the distinct frames in the order asked for; `rows` come from `find_distinct`."""
    if rows is not None:
        frames_THWC, timestamps_seconds = frames_THWC[rows], timestamps_seconds[rows]
    return DecodedFrames(frames_THWC, timestamps_seconds)
