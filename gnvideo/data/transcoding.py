"""Any source video to a prepared one: cut, upright, scaled, re-encoded, frame by frame.

This module imports no torch: preparation starts many processes of it.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import av
import av.error
import numpy as np
from av.codec.context import Flags
from av.container import InputContainer
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

from gnvideo.data.encoding import (
    COLOR_RANGE_MPEG,
    EXACT_BICUBIC,
    EncodedVideo,
    write_video,
)
from gnvideo.data.encoding_profiles import DEFAULT_SETTINGS, EncodingSettings
from gnvideo.data.image_folder import read_images
from gnvideo.data.video_file import get_video_stream, open_video_file
from gnvideo.errors import VideoError

# A source of which less than this share decodes, by duration, is unreadable.
MIN_DECODED_SHARE = Fraction(9, 10)

# The longest side that libx264 encodes.
_MAX_SIDE_PIXELS = 16384


def transcode_video(
    source: Path,
    path: Path,
    *,
    start_seconds: float | None = None,
    end_seconds: float | None = None,
    short_side_pixels: int = 256,
    settings: EncodingSettings = DEFAULT_SETTINGS,
) -> EncodedVideo:
    """Writes the frames of `source` in [start, end) to `path` as H.264 in MP4, upright and scaled.

    The short side becomes `short_side_pixels`, never more than it was; both sides become even and
    pixels square. Every frame is kept, with its timestamp less that of the first. Sound is dropped.
    Frames pass through one by one: memory does not grow with the video. All become of the first
    one's size.

    Broken packets are skipped. The source counts as unreadable when its decodable part, up to
    `end_seconds`, is shorter than 90 % of what the container promises, or when more than 10 % of
    its packets are broken.

    Args:
        source: Any video that FFmpeg reads.
        path: Ends in `.mp4`; its folder is made if missing.
        start_seconds: From the start of the video stream; None: from its first frame.
        end_seconds: Likewise; None: to its last frame.
        short_side_pixels: Even.
        settings: How to encode.

    Raises:
        VideoError: `source` cannot be decoded, or ends early; nothing stands at `path`.
        OutputError: the folder of `path` cannot be written.
        SaveFailedError: writing failed half-way, for example because the disk is full.
    """
    frames = _read_frames(source, start_seconds, end_seconds)
    return _write_scaled(source, path, frames, short_side_pixels, settings)


def transcode_images(
    source: Path,
    path: Path,
    *,
    num_frames: int,
    fps: Fraction,
    short_side_pixels: int = 256,
    settings: EncodingSettings = DEFAULT_SETTINGS,
) -> EncodedVideo:
    """Writes the first `num_frames` images of the folder `source`, as `transcode_video` does.

    Args:
        source: A folder of images with numbered names, such as `img_00001.jpg`.
        path: As in `transcode_video`; `short_side_pixels` and `settings` likewise.
        num_frames: At least 1.
        fps: Images per second.
        short_side_pixels: See `path`.
        settings: See `path`.

    Raises:
        VideoError: there are fewer images, or one does not decode; nothing stands at `path`.
        OutputError: the folder of `path` cannot be written.
        SaveFailedError: writing failed half-way, for example because the disk is full.
    """
    frames = ((frame, Fraction(1)) for frame in read_images(source, num_frames, fps))
    return _write_scaled(source, path, frames, short_side_pixels, settings)


def read_duration_seconds(source: Path) -> float:
    """Returns the duration of the video stream in `source`, or of its container; 0 if neither says.

    Raises:
        VideoError: `source` cannot be opened or holds no video.
    """
    with _open_source(source) as (container, stream):
        return float(_promised_seconds(container, stream) or 0)


def compute_output_size(width: int, height: int, short_side_pixels: int) -> tuple[int, int]:
    """Returns even (width, height) with the short side at `short_side_pixels`, or as it was."""
    short = min(width, height)
    target = min(short, short_side_pixels) // 2 * 2
    scale = Fraction(max(target, 2), short)
    return max(2, round(width * scale / 2) * 2), max(2, round(height * scale / 2) * 2)


def _write_scaled(
    source: Path,
    path: Path,
    frames: Iterator[tuple[av.VideoFrame, Fraction]],
    short_side_pixels: int,
    settings: EncodingSettings,
) -> EncodedVideo:
    try:
        return write_video(path, _scale_upright(source, frames, short_side_pixels), settings)
    except av.error.FFmpegError as error:
        raise VideoError(f"cannot re-encode {source}: {error.strerror}") from error


def _scale_upright(
    source: Path, frames: Iterator[tuple[av.VideoFrame, Fraction]], short_side_pixels: int
) -> Iterator[av.VideoFrame]:
    size: tuple[int, int] | None = None
    # One for all frames: making one, with its threads, costs more than scaling a small frame.
    reformatter = VideoReformatter()
    for frame, pixel_aspect in frames:
        quarter_turns = round(frame.rotation / 90) % 4
        if size is None:
            display_width = max(1, round(frame.width * pixel_aspect))
            size = compute_output_size(display_width, frame.height, short_side_pixels)
            if max(size) > _MAX_SIDE_PIXELS:
                raise VideoError(
                    f"{source} would be {size[0]} x {size[1]} pixels; at most {_MAX_SIDE_PIXELS} a"
                    " side can be encoded"
                )
        scaled = reformatter.reformat(
            frame,
            width=size[0],
            height=size[1],
            format="yuv420p",
            interpolation=EXACT_BICUBIC,
            dst_color_range=COLOR_RANGE_MPEG,
            threads=1,
        )
        if quarter_turns:
            scaled = _rotate(scaled, quarter_turns)
        scaled.pts, scaled.duration, scaled.time_base = frame.pts, frame.duration, frame.time_base
        yield scaled


def _rotate(frame: av.VideoFrame, quarter_turns: int) -> av.VideoFrame:
    # (H * 3 / 2, W): the luma plane, then the two chroma planes of a quarter of its size.
    planes = frame.to_ndarray()
    height, width = frame.height, frame.width
    luma = np.rot90(planes[:height], quarter_turns)
    chroma = planes[height:].reshape(2, height // 2, width // 2)
    turned = np.concatenate(
        [luma.ravel(), *(np.rot90(plane, quarter_turns).ravel() for plane in chroma)]
    ).reshape(luma.shape[0] * 3 // 2, luma.shape[1])
    rotated = av.VideoFrame.from_ndarray(turned.astype(np.uint8, copy=False), format="yuv420p")
    rotated.colorspace, rotated.color_range = frame.colorspace, frame.color_range
    rotated.color_primaries, rotated.color_trc = frame.color_primaries, frame.color_trc
    return rotated


def _read_frames(
    source: Path, start_seconds: float | None, end_seconds: float | None
) -> Iterator[tuple[av.VideoFrame, Fraction]]:
    """Yields the frames of `source` with timestamps in [start, end) and their pixels' aspect ratio.

    Raises VideoError at the end if too few frames came.
    """
    packets = broken = decoded = 0
    first = last = Fraction(0)
    with _open_source(source) as (container, stream):
        time_base = stream.time_base or Fraction(1, 90000)
        origin = (stream.start_time or 0) * time_base
        total = _promised_seconds(container, stream)
        start = Fraction(start_seconds or 0)
        end = total if end_seconds is None else Fraction(end_seconds)
        promised = None if total is None or end is None else min(end, total) - start
        if promised is not None and promised <= 0:
            raise VideoError(
                f"{source} is {float(total or 0):.1f} s long;"
                f" the clip starts at {float(start):.1f} s"
            )
        frame_seconds = 1 / (stream.average_rate or stream.guessed_rate or Fraction(25))
        frame_ticks = max(1, round(frame_seconds / time_base))
        pixel_aspect = stream.sample_aspect_ratio or Fraction(1)
        # A second early: some containers index the times of decoding, which come earlier.
        if start > 1:
            _seek(container, stream, origin + start - 1)
        finished = False
        for packet in _demux(container, stream):
            packets += 1
            try:
                frames = stream.decode(packet)
            except av.error.FFmpegError:
                broken += 1
                continue
            for frame in frames:
                if frame.pts is None:
                    frame.pts = round((last + frame_seconds + origin) / time_base)
                seconds = frame.pts * time_base - origin
                if start_seconds is not None and seconds < start:
                    continue
                if end_seconds is not None and seconds >= Fraction(end_seconds):
                    finished = True
                    break
                first = seconds if decoded == 0 else first
                last = seconds
                decoded += 1
                frame.duration, frame.time_base = frame_ticks, time_base
                yield frame, pixel_aspect
            if finished:
                break
    if decoded == 0:
        raise VideoError(f"no frame of {source} could be decoded")
    if decoded > 1:
        frame_seconds = (last - first) / (decoded - 1)
    covered = last + frame_seconds - start
    if promised is not None and covered < MIN_DECODED_SHARE * promised:
        about = round(decoded * promised / covered) if covered > 0 else "unknown"
        raise VideoError(f"{source} ends early: decoded {decoded} of about {about} frames")
    if broken > (1 - MIN_DECODED_SHARE) * packets:
        raise VideoError(f"{source} is damaged: {broken} of {packets} packets could not be decoded")


@contextmanager
def _open_source(source: Path) -> Generator[tuple[InputContainer, VideoStream]]:
    try:
        if source.stat().st_size == 0:
            raise VideoError(f"{source} is empty")
        container = open_video_file(source)
    except (OSError, ValueError, av.error.FFmpegError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise VideoError(f"cannot open {source}: {reason}") from error
    with container:
        try:
            stream = get_video_stream(container)
        except ValueError as error:
            raise VideoError(f"{source} holds {error}") from error
        # Old codecs leave the last bits of a picture to the decoder; this gives the same anywhere.
        stream.codec_context.flags |= Flags.bitexact
        yield container, stream


def _promised_seconds(container: InputContainer, stream: VideoStream) -> Fraction | None:
    if stream.duration and stream.time_base:
        return stream.duration * stream.time_base
    if container.duration:
        return Fraction(container.duration, av.time_base)
    return None


def _seek(container: InputContainer, stream: VideoStream, seconds: Fraction) -> None:
    try:
        container.seek(int(seconds / (stream.time_base or 1)), stream=stream)
    except av.error.FFmpegError:
        # Not seekable (no index): reading starts at the beginning, which is slower and as right.
        return


def _demux(container: InputContainer, stream: VideoStream) -> Iterator[av.Packet[VideoStream]]:
    try:
        yield from container.demux(stream)
    except av.error.FFmpegError:
        # The rest of the file is unreadable; the caller compares what came with what was promised.
        return
