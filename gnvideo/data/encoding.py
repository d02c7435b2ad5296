"""Writing videos: H.264 in MP4, laid out for random access and verified before they get their name.

The content hash is that of the pictures as they go into the encoder: it needs no decoding, and is
the same on every machine, whatever its processor makes of them. This module imports no torch:
preparation starts many processes of it.

Axes: H height, W width, C colour channels (RGB).
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO

import av
import numpy as np
import numpy.typing as npt
from av.container import OutputContainer
from av.video.reformatter import Interpolation, VideoReformatter
from av.video.stream import VideoStream

from gnvideo.atomic_file import open_atomic
from gnvideo.data.encoding_profiles import DEFAULT_SETTINGS, EncodingSettings
from gnvideo.data.perceptual_hash import PerceptualHasher
from gnvideo.data.verification import verify_video

COLOR_RANGE_MPEG = 1
_COLORSPACE_RGB = 0
_COLORSPACE_UNSPECIFIED = 2

# Scales and converts to the same bits on every processor.
EXACT_BICUBIC = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.BITEXACT

# libx264's MB-tree reads past what was written where a row has fewer macroblocks than a vector of
# AVX-512 has numbers, and the same frames then give other bits now and then. It saves a tenth.
_MIN_TREE_WIDTH = 256


@dataclass(frozen=True, slots=True)
class EncodedVideo:
    """What a written file holds.

    Attributes:
        frames: Number of frames.
        fps: Average frames per second.
        width: Pixels, as displayed; `height` likewise.
        height: See `width`.
        duration: Seconds.
        keyframe_interval: Largest number of frames from one keyframe to the next, or to the end.
        bytes: Size of the file.
        content_hash: Of the size and all pictures before encoding, and of the encoding settings.
            The same on two machines that hold the same video.
        perceptual_hashes: What the video looks like, as `PerceptualHasher.format` writes it.
    """

    frames: int
    fps: float
    width: int
    height: int
    duration: float
    keyframe_interval: int
    bytes: int
    content_hash: str
    perceptual_hashes: str


def encode_video(
    path: Path,
    frames: Iterable[npt.NDArray[np.uint8]],
    *,
    fps: Fraction,
    settings: EncodingSettings = DEFAULT_SETTINGS,
    rotation_degrees: int = 0,
) -> EncodedVideo:
    """Writes RGB frames to `path` as H.264 (yuv420p) in MP4 and returns what the file holds.

    The file is complete and verified before it stands under its name.

    Args:
        path: Ends in `.mp4`; its folder is made if missing.
        frames: uint8 arrays of one shape (H, W, 3), H and W even; at least one.
        fps: Frames per second, constant.
        settings: How to encode.
        rotation_degrees: Written as a tag: a player turns the picture by so much, clockwise.

    Raises:
        ValueError: a frame has another shape or type, or there is none.
        OutputError: the folder cannot be written.
        SaveFailedError: writing failed half-way, for example because the disk is full.
    """
    return write_video(path, _convert_arrays(frames, fps), settings, rotation_degrees)


def write_video(
    path: Path,
    frames: Iterator[av.VideoFrame],
    settings: EncodingSettings,
    rotation_degrees: int = 0,
) -> EncodedVideo:
    """Writes yuv420p frames of one size to `path`, as `encode_video` does.

    Their timestamps are kept, less the first one, and made to ascend strictly; the duration of the
    first frame tells the nominal rate.
    """
    with open_atomic(path) as file:
        summary = _Summary(settings)
        _encode(file, map(summary.add, frames), settings, rotation_degrees)
        file.flush()
        written = verify_video(file, path, summary.num_frames)
        return EncodedVideo(
            frames=summary.num_frames,
            **asdict(written),
            content_hash=summary.hash_content(),
            perceptual_hashes=summary.format_perceptual_hashes(),
        )


class _Summary:
    """Counts and hashes the frames of a video as they pass by."""

    def __init__(self, settings: EncodingSettings) -> None:
        self.num_frames = 0
        self._digest = hashlib.blake2b(repr(settings).encode(), digest_size=16)
        self._hasher = PerceptualHasher()
        self._first_seconds = 0.0

    def add(self, frame: av.VideoFrame) -> av.VideoFrame:
        """Takes the next frame and returns it."""
        # (H * 3 / 2, W), luma before chroma.
        planes = np.ascontiguousarray(frame.to_ndarray(), np.uint8)
        if self.num_frames == 0:
            self._first_seconds = frame.time or 0.0
            self._digest.update(f"{frame.width}x{frame.height}".encode())
        self.num_frames += 1
        # Finds any change but a forged one, at a tenth of the time of a digest of all bytes.
        self._digest.update(zlib.crc32(planes.data).to_bytes(4))
        seconds = (frame.time or 0.0) - self._first_seconds
        self._hasher.add(planes[: frame.height], seconds)
        return frame

    def hash_content(self) -> str:
        return self._digest.hexdigest()

    def format_perceptual_hashes(self) -> str:
        return self._hasher.format()


def _convert_arrays(
    frames: Iterable[npt.NDArray[np.uint8]], fps: Fraction
) -> Iterator[av.VideoFrame]:
    shape: tuple[int, ...] | None = None
    reformatter = VideoReformatter()
    for number, frame_HWC in enumerate(frames):
        shape = shape or frame_HWC.shape
        if (
            frame_HWC.dtype != np.uint8
            or frame_HWC.shape != shape
            or shape[2:] != (3,)
            or any(side % 2 for side in shape[:2])
        ):
            raise ValueError(
                f"frame {number} is {frame_HWC.dtype} {frame_HWC.shape}; all frames must be uint8"
                " of one shape (H, W, 3) with even H and W"
            )
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame_HWC), format="rgb24")
        frame = reformatter.reformat(
            frame, format="yuv420p", interpolation=EXACT_BICUBIC, threads=1
        )
        frame.pts, frame.duration, frame.time_base = number, 1, 1 / fps
        yield frame


def _encode(
    file: BinaryIO,
    frames: Iterator[av.VideoFrame],
    settings: EncodingSettings,
    rotation_degrees: int,
) -> None:
    """Encodes `frames` into `file`; the first gives size, colours, time base and nominal rate."""
    first = next(frames, None)
    if first is None:
        raise ValueError("a video needs at least one frame")
    options = {
        "crf": str(settings.crf),
        "preset": settings.preset,
        "bf": str(settings.num_b_frames),
        "g": str(settings.keyframe_interval_frames),
        "x264-params": settings.options,
    }
    if first.width < _MIN_TREE_WIDTH:
        options["mbtree"] = "0"
    assert first.time_base is not None
    assert first.pts is not None
    rate = 1 / (first.duration * first.time_base)
    sink = _Sink(file)
    with av.open(sink, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=rate, options=options)
        stream.width, stream.height, stream.pix_fmt = first.width, first.height, "yuv420p"
        # FFmpeg counts a display rotation counter-clockwise.
        stream.set_display_rotation(-rotation_degrees)
        context = stream.codec_context
        # The same bits on every machine, and one process per core is the parallelism.
        context.thread_count = 1
        context.time_base = first.time_base
        context.colorspace = (
            _COLORSPACE_UNSPECIFIED if first.colorspace == _COLORSPACE_RGB else first.colorspace
        )
        context.color_range = COLOR_RANGE_MPEG
        context.color_primaries, context.color_trc = first.color_primaries, first.color_trc
        origin, last = first.pts, -1
        frame: av.VideoFrame | None = first
        while frame is not None and sink.error is None:
            assert frame.pts is not None
            last = frame.pts = max(frame.pts - origin, last + 1)
            frame.pict_type = 0
            _mux(container, stream.encode(frame), first.duration)
            frame = next(frames, None)
        _mux(container, stream.encode(None), first.duration)
    if sink.error is not None:
        raise sink.error


class _Sink:
    """A file for FFmpeg, which cannot raise: it keeps the first error and drops what follows."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        if self.error is None:
            try:
                self._file.write(data)
            except OSError as error:
                self.error = error
        return len(data)

    def seek(self, offset: int, whence: int = 0) -> int:
        if self.error is None:
            try:
                return self._file.seek(offset, whence)
            except OSError as error:
                self.error = error
        return offset

    def tell(self) -> int:
        return self._file.tell()


def _mux(container: OutputContainer, packets: Iterable[av.Packet[VideoStream]], ticks: int) -> None:
    for packet in packets:
        # Counts for the last frame only: any other lasts until the next one's timestamp.
        packet.duration = ticks
        container.mux(packet)
