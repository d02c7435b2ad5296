"""Decoding with PyAV, whose wheel carries FFmpeg.

Decoding starts at the last keyframe before each wanted frame; a frame that nobody wants and that no
other frame refers to is not decoded at all, which changes no bit of the others.

Axes: T frames, H height, W width, C colour channels (RGB).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
from av.container import InputContainer
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

from gnvideo.data.decoding import DecodedFrames, VideoMetadata, arrange, find_distinct
from gnvideo.data.frame_table import (
    PREPARE_HINT,
    FrameTable,
    open_video,
    read_frame_table,
    scan_by_decoding,
    scan_packets,
)
from gnvideo.errors import VideoError


class PyavDecoder:
    """Reads videos with PyAV; the default decoder, and the reference for the others."""

    name = "pyav"

    def read_metadata(self, path: Path) -> VideoMetadata:
        """Returns the metadata of the video at `path`; see `VideoDecoder`."""
        with open_video(path) as (container, stream):
            frame = next(container.decode(stream), None)
            if frame is None:
                raise VideoError(f"{path}: no frame can be decoded; {PREPARE_HINT}")
            quarter_turns = _count_quarter_turns(path, frame)
            width, height = frame.width, frame.height
            rate = stream.average_rate or stream.guessed_rate
        if quarter_turns % 2:
            width, height = height, width
        table = read_frame_table(path)
        num_frames = len(table.times)
        span_seconds = int(table.times[-1] - table.times[0]) * table.time_base
        if rate:
            fps = Fraction(rate.numerator, rate.denominator)
        else:
            fps = (num_frames - 1) / span_seconds if span_seconds else Fraction(0)
        starts = np.unique(np.append(0, np.searchsorted(table.times, table.keyframe_times)))
        return VideoMetadata(
            num_frames=num_frames,
            fps=fps,
            width=width,
            height=height,
            duration_seconds=float(span_seconds + (1 / fps if fps else 0)),
            # Quarter turns are counted counter-clockwise, as np.rot90 does.
            rotation_degrees=-90 * quarter_turns % 360,
            keyframe_interval_frames=int(np.diff(starts, append=num_frames).max()),
        )

    def decode_frames(
        self, path: Path, indices: Sequence[int] | npt.NDArray[np.integer]
    ) -> DecodedFrames:
        """Returns the frames at `indices`; see `VideoDecoder`."""
        wanted, rows = find_distinct(indices)
        with open_video(path) as (container, stream):
            table = scan_packets(path, container, stream)
            if table is not None:
                times = table.select(path, wanted)
                frames = _decode_from_keyframes(container, stream, table, wanted)
                return arrange(_convert(path, wanted, frames), times, rows)
        times = scan_by_decoding(path).select(path, wanted)
        with open_video(path) as (container, stream):
            frames = _decode_from_start(container, stream, wanted)
            return arrange(_convert(path, wanted, frames), times, rows)


def _decode_from_keyframes(
    container: InputContainer,
    stream: VideoStream,
    table: FrameTable,
    wanted: npt.NDArray[np.int64],
) -> Iterator[tuple[int, av.VideoFrame]]:
    """Yields (row of `wanted`, frame), decoding from the last keyframe before each wanted frame."""
    times: list[int] = table.times[wanted].tolist()
    all_times = set(times)
    starts = np.searchsorted(table.keyframe_times, times, side="right").clip(min=1) - 1
    for start in np.unique(starts).tolist():
        row_of_time = {times[row]: row for row in np.flatnonzero(starts == start).tolist()}
        keyframe_time = int(table.keyframe_times[start])
        container.seek(int(table.keyframe_seek_times[start]), stream=stream)
        arrived = False
        for packet in container.demux(stream):
            arrived = arrived or packet.pts == keyframe_time
            if not arrived:
                continue
            stream.codec_context.skip_frame = "DEFAULT" if packet.pts in all_times else "NONREF"
            for frame in packet.decode():
                if frame.pts in row_of_time:
                    yield row_of_time.pop(frame.pts), frame
            if not row_of_time:
                break


def _decode_from_start(
    container: InputContainer, stream: VideoStream, wanted: npt.NDArray[np.int64]
) -> Iterator[tuple[int, av.VideoFrame]]:
    """Yields (row of `wanted`, frame), counting every frame that the decoder gives."""
    row_of_index = {index: row for row, index in enumerate(wanted.tolist())}
    for index, frame in enumerate(container.decode(stream)):
        if index in row_of_index:
            yield row_of_index.pop(index), frame
        if not row_of_index:
            break


def _convert(
    path: Path, wanted: npt.NDArray[np.int64], frames: Iterable[tuple[int, av.VideoFrame]]
) -> npt.NDArray[np.uint8]:
    """Returns the `frames`, of which there must be one for each row of `wanted`, as RGB."""
    # One for the whole call: in PyAV 18 each frame would otherwise keep a converter of its own.
    reformatter = VideoReformatter()
    output_THWC: npt.NDArray[np.uint8] | None = None
    missing = dict(enumerate(wanted.tolist()))
    for row, frame in frames:
        rgb = reformatter.reformat(frame, format="rgb24", threads=1)
        plane = rgb.planes[0]
        lines = np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)
        stored_HWC = lines[: rgb.height, : 3 * rgb.width].reshape(rgb.height, rgb.width, 3)
        shown_HWC = np.rot90(stored_HWC, _count_quarter_turns(path, frame))
        if output_THWC is None:
            output_THWC = np.empty((len(wanted), *shown_HWC.shape), np.uint8)
        elif shown_HWC.shape != output_THWC.shape[1:]:
            raise VideoError(
                f"{path}: the frame size changes at frame {wanted[row]}; {PREPARE_HINT}"
            )
        output_THWC[row] = shown_HWC
        del missing[row]
    if output_THWC is None or missing:
        raise VideoError(f"{path}: frame {min(missing.values())} cannot be decoded; {PREPARE_HINT}")
    return output_THWC


def _count_quarter_turns(path: Path, frame: av.VideoFrame) -> int:
    """Returns by how many quarter turns counter-clockwise a frame is displayed, 0 to 3."""
    if frame.rotation % 90:
        raise VideoError(
            f"{path}: the rotation tag says {frame.rotation} degrees, which is not a multiple of"
            f" 90; {PREPARE_HINT}"
        )
    return frame.rotation // 90 % 4
