"""Writing videos: H.264 in MP4, laid out for random access and verified before they get their name.

Prepared files have no B-frames and a keyframe every few frames, so that reading any frame costs few
decoded frames. Their content hash is over the decoded planes and the same on every machine. This
module imports no torch: preparation starts many processes of it.

Axes: H height, W width, C colour channels (RGB).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO

import av
import av.error
import numpy as np
import numpy.typing as npt
from av.container import OutputContainer
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

from gnvideo.atomic_file import open_atomic
from gnvideo.errors import SaveFailedError

COLOR_RANGE_MPEG = 1
_COLORSPACE_RGB = 0
_COLORSPACE_UNSPECIFIED = 2


@dataclass(frozen=True, slots=True)
class EncodingSettings:
    """How a prepared video is encoded.

    Attributes:
        crf: libx264's constant rate factor, 0 (lossless) to 51; 23 is libx264's default.
        keyframe_interval_frames: Largest number of frames from one keyframe to the next.
        preset: libx264's trade of encoding time for size.
        tune: libx264's tuning; "fastdecode" leaves out the filters that cost decoding time, ""
            is none.
        num_b_frames: Largest number of B-frames in a row.
    """

    crf: int = 23
    keyframe_interval_frames: int = 12
    preset: str = "veryfast"
    tune: str = "fastdecode"
    num_b_frames: int = 0


DEFAULT_SETTINGS = EncodingSettings()


@dataclass(frozen=True, slots=True)
class EncodedVideo:
    """What a written file was found to hold when it was decoded again.

    Attributes:
        frames: Number of frames.
        fps: Average frames per second.
        width: Pixels, as displayed; `height` likewise.
        height: See `width`.
        duration: Seconds.
        keyframe_interval: Largest number of frames from one keyframe to the next, or to the end.
        bytes: Size of the file.
        content_hash: Hash of the decoded frames.
    """

    frames: int
    fps: float
    width: int
    height: int
    duration: float
    keyframe_interval: int
    bytes: int
    content_hash: str


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
        written = _encode(file, frames, settings, rotation_degrees)
        file.flush()
        video = _inspect(file, path)
        if video.frames != written:
            raise SaveFailedError(f"{path}: wrote {written} frames and read {video.frames} back")
        return video


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
        frame = reformatter.reformat(frame, format="yuv420p", interpolation="BICUBIC", threads=1)
        frame.pts, frame.duration, frame.time_base = number, 1, 1 / fps
        yield frame


def _encode(
    file: BinaryIO,
    frames: Iterator[av.VideoFrame],
    settings: EncodingSettings,
    rotation_degrees: int,
) -> int:
    """Encodes `frames` into `file` and returns their number.

    The first frame gives size, colours, time base and nominal rate.
    """
    first = next(frames, None)
    if first is None:
        raise ValueError("a video needs at least one frame")
    options = {
        "crf": str(settings.crf),
        "preset": settings.preset,
        "bf": str(settings.num_b_frames),
        "g": str(settings.keyframe_interval_frames),
        # Its AVX-512 code reads past what was written where a row has few macroblocks, so that the
        # same frames give other bits now and then; and its floats differ between processors.
        "mbtree": "0",
    }
    if settings.tune:
        options["tune"] = settings.tune
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
        origin, last, count = first.pts, -1, 0
        frame: av.VideoFrame | None = first
        while frame is not None and sink.error is None:
            assert frame.pts is not None
            last = frame.pts = max(frame.pts - origin, last + 1)
            frame.pict_type = 0
            _mux(container, stream.encode(frame), first.duration)
            count += 1
            frame = next(frames, None)
        _mux(container, stream.encode(None), first.duration)
    if sink.error is not None:
        raise sink.error
    return count


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


def _inspect(file: BinaryIO, path: Path) -> EncodedVideo:
    """Decodes a written file from its beginning and returns what it holds."""
    size = file.seek(0, 2)
    file.seek(0)
    digest = hashlib.blake2b(digest_size=16)
    count = interval = last_key = 0
    try:
        with av.open(file, "r", format="mp4") as container:
            stream = container.streams.video[0]
            stream.codec_context.thread_count = 1
            width, height = stream.width, stream.height
            digest.update(f"{width}x{height}".encode())
            for frame in container.decode(stream):
                if frame.key_frame:
                    interval, last_key = max(interval, count - last_key), count
                digest.update(np.ascontiguousarray(frame.to_ndarray()).data)
                count += 1
            fps = float(stream.average_rate or 0)
            duration = float((stream.duration or 0) * (stream.time_base or 0))
    except (av.error.FFmpegError, IndexError) as error:
        raise SaveFailedError(f"{path} did not read back after writing: {error}") from error
    interval = max(interval, count - last_key)
    return EncodedVideo(count, fps, width, height, duration, interval, size, digest.hexdigest())
