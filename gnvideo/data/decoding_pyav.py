"""Decoding with PyAV, whose wheel carries FFmpeg.

Decoding starts at the last keyframe before each wanted frame and ends with the last of them; a
frame that nobody wants and that no other frame refers to is not decoded at all, which changes no
bit of the others.

Axes: T frames, H height, W width, C colour channels (RGB).
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from itertools import dropwhile
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
    StreamHeader,
    open_video,
    read_frame_table,
    read_header,
    scan_by_decoding,
    scan_packets,
)
from gnvideo.errors import VideoError

# The most frames that an H.264 decoder holds back to bring them into order, by the standard.
_MAX_REORDER_DEPTH = 16

# Decoders that look at `skip_frame` again at every packet, not only when they start.
_SKIPPING_CODECS = frozenset({"h264", "hevc", "vp9", "mpeg4", "mpeg2video"})

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
            header = read_header(container, stream)
            if header is not None and wanted[0] >= 0 and wanted[-1] < len(header.decoding_times):
                output = make_output(path, len(wanted))
                times = _decode_by_header(container, stream, header, wanted, output)
                if times is not None:
                    return output, times
                container.seek(int(header.decoding_times[0]), stream=stream)
            table = scan_packets(container, stream)
            if table is not None:
                times = table.select(path, wanted)
                output = make_output(path, len(wanted))
                missing = _decode_by_table(container, stream, table, wanted, output)
                _check_complete(path, wanted, missing)
                return output, times
        times = scan_by_decoding(path).select(path, wanted)
        output = make_output(path, len(wanted))
        with open_video(path, num_threads=self._num_threads) as (container, stream):
            _check_complete(path, wanted, _decode_from_start(container, stream, wanted, output))
        return output, times


def _decode_by_header(
    container: InputContainer,
    stream: VideoStream,
    header: StreamHeader,
    wanted: npt.NDArray[np.int64],
    output: FrameOutput,
) -> npt.NDArray[np.float64] | None:
    """Puts the frames `wanted` into `output` and returns their times in seconds.

    Returns None where packets are not as the header says or frames do not come out. The slower ways
    then read the video, or tell what is wrong with it.
    """
    starts = header.keyframes[np.searchsorted(header.keyframes, wanted, side="right") - 1]
    times = np.empty(len(wanted), np.int64)
    for start in np.unique(starts).tolist():
        rows = np.flatnonzero(starts == start)
        ranks = wanted[rows] - start
        packets = _read_packets(container, stream, header, start, int(ranks[-1]))
        if packets is None:
            return None
        shown = np.sort(np.array([packet.pts for packet in packets], np.int64))
        times[rows] = shown[ranks]
        row_of_time = dict(zip(times[rows].tolist(), rows.tolist(), strict=True))
        if _decode_packets(stream, packets, row_of_time, output):
            return None
    return times * np.float64(header.time_base)


def _read_packets(
    container: InputContainer, stream: VideoStream, header: StreamHeader, start: int, last: int
) -> list[av.Packet[VideoStream]] | None:
    """Returns the packets that are stored from the keyframe at position `start` on.

    They are as many as it takes to know the first `last` + 1 frames in the order of display. None
    where they are not as the header says, or where the keyframe is not shown first.
    """
    expected: list[int] = header.decoding_times[start:].tolist()
    packets: list[av.Packet[VideoStream]] = []
    shown: list[int] = []
    container.seek(expected[0], stream=stream)
    for packet in container.demux(stream):
        time, decoding_time = packet.pts, packet.dts
        if time is None or decoding_time is None or packet.is_corrupt:
            break
        if not packets and decoding_time < expected[0]:
            continue
        if (
            len(packets) == len(expected)
            or decoding_time != expected[len(packets)]
            or time < decoding_time
            or time in shown
            or (packets and time < shown[0])
        ):
            return None
        packets.append(packet)
        insort(shown, time)
        # Whatever follows is decoded later, so it is not shown before this.
        if len(shown) > last and shown[last] <= decoding_time:
            return packets
    return packets if len(packets) == len(expected) else None


def _decode_by_table(
    container: InputContainer,
    stream: VideoStream,
    table: FrameTable,
    wanted: npt.NDArray[np.int64],
    output: FrameOutput,
) -> set[int]:
    """Puts the frames `wanted` into `output` and returns the rows of those that are missing."""
    times = table.times[wanted]
    starts = np.searchsorted(table.keyframe_times, times, side="right").clip(min=1) - 1
    missing: set[int] = set()
    for start in np.unique(starts).tolist():
        rows = np.flatnonzero(starts == start)
        row_of_time = dict(zip(times[rows].tolist(), rows.tolist(), strict=True))
        keyframe_time = int(table.keyframe_times[start])
        container.seek(int(table.keyframe_seek_times[start]), stream=stream)
        if stream.codec_context.name == "h264":
            # Where the file does not say how far frames are reordered, the decoder drops some until
            # it has found out.
            stream.codec_context.reorder_depth = _MAX_REORDER_DEPTH
        packets = dropwhile(
            lambda packet, time=keyframe_time: packet.pts != time, container.demux(stream)
        )
        missing |= _decode_packets(stream, packets, row_of_time, output)
    return missing


def _decode_packets(
    stream: VideoStream,
    packets: Iterable[av.Packet[VideoStream]],
    row_of_time: dict[int, int],
    output: FrameOutput,
) -> set[int]:
    """Puts the frames at the times of `row_of_time` into `output` and returns the missing rows.

    Args:
        stream: Where the `packets` come from, after a seek.
        packets: From a keyframe on. No more are taken than are needed.
        row_of_time: Time of each wanted frame -> its row; emptied.
        output: Where the frames go.
    """
    context = stream.codec_context
    can_skip = context.codec.canonical_name in _SKIPPING_CODECS
    awaited = set(row_of_time)
    skipped: Literal["DEFAULT", "NONREF"] | None = None
    for packet in packets:
        unneeded = "NONREF" if can_skip and packet.pts not in awaited else "DEFAULT"
        if unneeded != skipped:
            context.skip_frame = skipped = unneeded
        _put(packet.decode(), row_of_time, output)
        awaited.discard(packet.pts)
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
    """As `_decode_by_table`, counting every frame that the decoder gives."""
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
