"""Decoding with PyAV, whose wheel carries FFmpeg.

Decoding starts at the last keyframe before each wanted frame and ends with the last of them; a
frame that nobody wants and that no other frame refers to is not decoded at all, which changes no
bit of the others.

Axes: T frames, H height, W width, C colour channels (RGB).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Literal, TypeVar

import av
import numpy as np
import numpy.typing as npt
from av.container import InputContainer
from av.video.stream import VideoStream

from gnvideo.data.decoding import (
    DecodedFrames,
    VideoMetadata,
    Yuv420Frames,
    arrange,
    find_distinct,
)
from gnvideo.data.frame_output import FrameOutput, RgbOutput, Yuv420Output, count_quarter_turns
from gnvideo.data.frame_table import (
    PREPARE_HINT,
    FrameTable,
    open_video,
    read_frame_table,
    read_header,
    scan_by_decoding,
    scan_packets,
)
from gnvideo.errors import VideoError

# The most frames that an H.264 decoder holds back to bring them into order, by the standard.
_MAX_REORDER_DEPTH = 16

Output = TypeVar("Output", bound=FrameOutput)


class PyavDecoder:
    """Reads videos with PyAV; the default decoder, and the reference for the others.

    Args:
        num_threads: Of FFmpeg's decoder.
    """

    name = "pyav"

    def __init__(self, num_threads: int = 1) -> None:
        self._num_threads = num_threads

    def read_metadata(self, path: Path) -> VideoMetadata:
        """Returns the metadata of the video at `path`; see `VideoDecoder`."""
        with open_video(path) as (container, stream):
            frame = next(container.decode(stream), None)
            if frame is None:
                raise VideoError(f"{path}: no frame can be decoded; {PREPARE_HINT}")
            quarter_turns = count_quarter_turns(path, frame)
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
            num_missing_frames=table.num_missing,
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
        output, times = self._decode(path, wanted, RgbOutput)
        return arrange(output.frames_THWC, times, rows)

    def decode_yuv420(
        self, path: Path, indices: Sequence[int] | npt.NDArray[np.integer]
    ) -> Yuv420Frames:
        """Returns the frames at `indices` without their conversion to RGB.

        Raises:
            VideoError: as `decode_frames`, or the video is not 8-bit 4:2:0 in BT.601, BT.709 or
                BT.2020, or it has an odd side and a rotation.
            ValueError: as `decode_frames`.
        """
        wanted, rows = find_distinct(indices)
        output, times = self._decode(path, wanted, Yuv420Output)
        if rows is not None:
            output.planes_THW, times = [plane[rows] for plane in output.planes_THW], times[rows]
        y_THW, u_THW, v_THW = output.planes_THW
        return Yuv420Frames(y_THW, u_THW, v_THW, output.matrix, output.is_full_range, times)

    def _decode(
        self, path: Path, wanted: npt.NDArray[np.int64], make_output: Callable[[Path, int], Output]
    ) -> tuple[Output, npt.NDArray[np.float64]]:
        """Returns the output with the distinct, ascending frames `wanted`, and their times."""
        with open_video(path, num_threads=self._num_threads, probe=False) as (container, stream):
            table = read_header(container, stream)
            if table is not None and wanted[0] >= 0 and wanted[-1] < len(table.times):
                output = make_output(path, len(wanted))
                if not _decode_from_keyframes(
                    container, stream, table, wanted, output, from_header=True
                ):
                    return output, table.select(path, wanted)
            table = scan_packets(container, stream)
            if table is not None:
                times = table.select(path, wanted)
                output = make_output(path, len(wanted))
                missing = _decode_from_keyframes(container, stream, table, wanted, output)
                _check_complete(path, wanted, missing)
                return output, times
        times = scan_by_decoding(path).select(path, wanted)
        output = make_output(path, len(wanted))
        with open_video(path, num_threads=self._num_threads) as (container, stream):
            _check_complete(path, wanted, _decode_from_start(container, stream, wanted, output))
        return output, times


def _decode_from_keyframes(
    container: InputContainer,
    stream: VideoStream,
    table: FrameTable,
    wanted: npt.NDArray[np.int64],
    output: FrameOutput,
    *,
    from_header: bool = False,
) -> set[int]:
    """Puts the frames `wanted` into `output` and returns the rows of those that did not come out.

    Gives up at the first packet that shows a table `from_header` not to hold.
    """
    context = stream.codec_context
    times: list[int] = table.times[wanted].tolist()
    row_of_time = {time: row for row, time in enumerate(times)}
    starts = np.searchsorted(table.keyframe_times, times, side="right").clip(min=1) - 1
    for start in np.unique(starts).tolist():
        awaited = {times[row] for row in np.flatnonzero(starts == start).tolist()}
        keyframe_time = int(table.keyframe_times[start])
        container.seek(int(table.keyframe_seek_times[start]), stream=stream)
        if context.name == "h264":
            # Where the file does not say how far frames are reordered, the decoder drops some
            # until it has found out. Here their order does not matter.
            context.reorder_depth = max(context.reorder_depth, _MAX_REORDER_DEPTH)
        arrived = False
        skipped: Literal["DEFAULT", "NONREF"] | None = None
        for packet in container.demux(stream):
            time = packet.pts
            arrived = arrived or time == keyframe_time
            if not arrived:
                continue
            if from_header and time != packet.dts:
                return set(row_of_time.values())
            unneeded = "DEFAULT" if time in row_of_time else "NONREF"
            if unneeded != skipped:
                context.skip_frame = skipped = unneeded
            _put(packet.decode(), row_of_time, output)
            awaited.discard(time)
            if not awaited:
                # The frames that the decoder holds back come without another packet.
                _put(context.decode(None), row_of_time, output)
                break
    return set(row_of_time.values())


def _put(frames: list[av.VideoFrame], row_of_time: dict[int, int], output: FrameOutput) -> None:
    for frame in frames:
        if frame.pts in row_of_time:
            output.put(row_of_time.pop(frame.pts), frame)


def _decode_from_start(
    container: InputContainer,
    stream: VideoStream,
    wanted: npt.NDArray[np.int64],
    output: FrameOutput,
) -> set[int]:
    """As `_decode_from_keyframes`, counting every frame that the decoder gives."""
    row_of_index = {index: row for row, index in enumerate(wanted.tolist())}
    for index, frame in enumerate(container.decode(stream)):
        if index in row_of_index:
            output.put(row_of_index.pop(index), frame)
        if not row_of_index:
            break
    return set(row_of_index.values())


def _check_complete(path: Path, wanted: npt.NDArray[np.int64], missing: set[int]) -> None:
    if missing:
        raise VideoError(f"{path}: frame {wanted[min(missing)]} cannot be decoded; {PREPARE_HINT}")
