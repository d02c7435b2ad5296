"""From decoded frames to the arrays that decoders return: as RGB, or as the planes that are stored.

Axes: T frames, H height, W width, C colour channels (RGB).
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Protocol

import av
import numpy as np
import numpy.typing as npt
from av.video.plane import VideoPlane
from av.video.reformatter import VideoReformatter

from gnvideo.data.decoding import YuvMatrix
from gnvideo.data.frame_table import PREPARE_HINT
from gnvideo.errors import VideoError

# FFmpeg's AVColorSpace; 2 is unspecified, which swscale takes for BT.601.
_MATRICES: dict[int, YuvMatrix] = {
    1: "bt709",
    2: "bt601",
    5: "bt601",
    6: "bt601",
    9: "bt2020",
}
# FFmpeg's AVColorRange.
_FULL_RANGE = 2


class FrameOutput(Protocol):
    """Takes the wanted frames of a video, in any order."""

    def put(self, row: int, frame: av.VideoFrame) -> None:
        """Keeps `frame` as the frame of `row`.

        Raises:
            VideoError: it is damaged, or not like the frames before it.
        """
        ...


class RgbOutput:
    """Frames as RGB, turned upright.

    Attributes:
        frames_THWC: (T, H, W, 3) uint8; made when the first frame tells the size.
    """

    frames_THWC: npt.NDArray[np.uint8]

    def __init__(self, path: Path, num_frames: int) -> None:
        self._path = path
        self._num_frames = num_frames
        # One for all frames: in PyAV 18 each frame would otherwise keep a converter of its own.
        self._reformatter = VideoReformatter()
        self._shape: tuple[int, ...] = ()

    def put(self, row: int, frame: av.VideoFrame) -> None:
        """Keeps `frame` as the frame of `row`; see `FrameOutput`."""
        _check_frame(self._path, frame)
        rgb = self._reformatter.reformat(frame, format="rgb24", threads=1)
        stored_HWC = _view_lines(rgb.planes[0], 3 * rgb.width).reshape(rgb.height, rgb.width, 3)
        shown_HWC = _turn(stored_HWC, count_quarter_turns(self._path, frame))
        if not self._shape:
            self._shape = shown_HWC.shape
            self.frames_THWC = np.empty((self._num_frames, *self._shape), np.uint8)
        elif shown_HWC.shape != self._shape:
            raise VideoError(_describe_change(self._path, "size"))
        self.frames_THWC[row] = shown_HWC


class Yuv420Output:
    """Frames as they are stored, turned upright.

    Attributes:
        planes_THW: Y, U and V, (T, H, W) and twice (T, ceil(H/2), ceil(W/2)) uint8; made when the
            first frame tells the size.
        matrix: See `Yuv420Frames`; `is_full_range` likewise.
        is_full_range: See `matrix`.
    """

    planes_THW: list[npt.NDArray[np.uint8]]
    matrix: YuvMatrix
    is_full_range: bool

    def __init__(self, path: Path, num_frames: int) -> None:
        self._path = path
        self._num_frames = num_frames
        self._kind: tuple[object, ...] = ()

    def put(self, row: int, frame: av.VideoFrame) -> None:
        """Keeps `frame` as the frame of `row`; see `FrameOutput`.

        Raises:
            VideoError: also where frames are not 8-bit 4:2:0, the matrix is none of `YuvMatrix`, or
                a video with an odd side is to be turned, which would part chroma from its pixels.
        """
        _check_frame(self._path, frame)
        name = frame.format.name
        if name not in ("yuv420p", "yuvj420p"):
            raise VideoError(_refuse_yuv(self._path, f"its pixel format is {name}"))
        if frame.colorspace not in _MATRICES:
            raise VideoError(_refuse_yuv(self._path, f"its colour space is {frame.colorspace}"))
        quarter_turns = count_quarter_turns(self._path, frame)
        if quarter_turns and (frame.width % 2 or frame.height % 2):
            raise VideoError(_refuse_yuv(self._path, "it is turned and has an odd side"))
        shown_HW = [_turn(_view_lines(plane, plane.width), quarter_turns) for plane in frame.planes]
        full_range = name == "yuvj420p" or frame.color_range == _FULL_RANGE
        kind = (shown_HW[0].shape, frame.colorspace, full_range)
        if not self._kind:
            self._kind = kind
            self.matrix, self.is_full_range = _MATRICES[frame.colorspace], full_range
            self.planes_THW = [
                np.empty((self._num_frames, *plane.shape), np.uint8) for plane in shown_HW
            ]
        elif kind != self._kind:
            raise VideoError(_describe_change(self._path, "size or colour space"))
        for plane_THW, plane_HW in zip(self.planes_THW, shown_HW, strict=True):
            plane_THW[row] = plane_HW


def count_quarter_turns(path: Path, frame: av.VideoFrame) -> int:
    """Returns by how many quarter turns counter-clockwise a frame is displayed, 0 to 3.

    Raises:
        VideoError: by another angle.
    """
    if frame.rotation % 90:
        raise VideoError(
            f"{path}: the rotation tag says {frame.rotation} degrees, which is not a multiple of"
            f" 90; {PREPARE_HINT}"
        )
    return frame.rotation // 90 % 4


def _check_frame(path: Path, frame: av.VideoFrame) -> None:
    # FFmpeg has filled in what it could not read.
    if frame.is_corrupt:
        raise VideoError(f"{path}: a wanted frame is damaged; {PREPARE_HINT}")


def _view_lines(plane: VideoPlane, num_bytes: int) -> npt.NDArray[np.uint8]:
    """Returns (lines, num_bytes): the plane without the padding at the end of its lines."""
    lines = np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)
    return lines[: plane.height, :num_bytes]


def _turn(image: npt.NDArray[np.uint8], quarter_turns: int) -> npt.NDArray[np.uint8]:
    return np.rot90(image, quarter_turns) if quarter_turns else image


def _describe_change(path: Path, what: Literal["size", "size or colour space"]) -> str:
    return f"{path}: the frames' {what} changes within the video; {PREPARE_HINT}"


def _refuse_yuv(path: Path, cause: str) -> str:
    return (
        f"{path}: only 8-bit 4:2:0 video in BT.601, BT.709 or BT.2020 is read as YUV, and {cause};"
        " read it as RGB, or prepare it with data_tools/preprocess_kinetics.py"
    )
