"""When each frame of a video file is shown and where decoding can start, read without decoding.

An MP4's header says where decoding can start, and the packets from there on when frames are shown.
Else one pass over all packets tells both for MP4, Matroska and AVI. Where packets and frames need
not be the same, as in MPEG transport streams, the file is decoded once instead.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.error
import numpy as np
import numpy.typing as npt
from av.container import InputContainer
from av.video.stream import VideoStream

from gnvideo.data.video_file import AVI, MATROSKA, MP4, get_video_stream, open_video_file
from gnvideo.errors import VideoError

PREPARE_HINT = "prepare it again with data_tools/preprocess_kinetics.py, or leave it out"

# Codecs of which every packet holds one frame that is shown. In VP8, for example, some are hidden.
_ONE_FRAME_CODECS = frozenset({"h264", "hevc", "vp9", "av1", "mpeg4", "mpeg2video", "mjpeg"})


@dataclass(frozen=True, slots=True, eq=False)
class FrameTable:
    """When each frame of a video is shown, and where decoding can start. Times are in `time_base`.

    Attributes:
        times: (N,) int64, ascending; the position is the frame's index.
        keyframe_times: (K,) int64, ascending; also of keyframes that are not displayed.
        keyframe_seek_times: (K,) int64; a seek to this time ends at the keyframe or before it.
        time_base: Seconds.
        is_reordered: Whether the frames are stored in another order than shown (B-frames).
        num_missing: Frames at the end that the header promises and the file does not hold.
    """

    times: npt.NDArray[np.int64]
    keyframe_times: npt.NDArray[np.int64]
    keyframe_seek_times: npt.NDArray[np.int64]
    time_base: Fraction
    is_reordered: bool
    num_missing: int = 0

    def select(self, path: Path, wanted: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """Returns the times in seconds of the frames at the ascending indices `wanted`.

        Raises:
            VideoError: an index lies outside the video at `path`.
        """
        num_frames = len(self.times)
        if wanted[0] < 0 or wanted[-1] >= num_frames:
            outside = wanted[0] if wanted[0] < 0 else wanted[-1]
            cut = f" (it is cut short, {self.num_missing} are missing)" if self.num_missing else ""
            raise VideoError(
                f"{path}: frame {outside} is asked for, but the video has the frames 0 to"
                f" {num_frames - 1}{cut}; {PREPARE_HINT}"
            )
        return self.times[wanted] * np.float64(self.time_base)


@dataclass(frozen=True, slots=True, eq=False)
class StreamHeader:
    """When each stored frame is decoded, and where decoding can start.

    Attributes:
        decoding_times: (N,) int64, ascending, in `time_base`; the position is that in the file.
        keyframes: (K,) int64, ascending, the positions of keyframes; the first is 0. No frame that
            is stored before a keyframe is shown after it, so a keyframe that is shown before all
            that follow it has its position as its index.
        time_base: Seconds.
    """

    decoding_times: npt.NDArray[np.int64]
    keyframes: npt.NDArray[np.int64]
    time_base: Fraction


@contextmanager
def open_video(
    path: Path, *, num_threads: int = 1, probe: bool = True
) -> Generator[tuple[InputContainer, VideoStream]]:
    """Opens a local video file and yields its container and main video stream.

    Args:
        path: The file.
        num_threads: Of the decoder.
        probe: See `open_video_file`.

    Raises:
        VideoError: the file cannot be opened, or FFmpeg fails inside the `with` block.
    """
    try:
        with open_video_file(path, probe=probe) as container:
            yield container, get_video_stream(container, num_threads)
    except (av.error.FFmpegError, OSError, ValueError) as error:
        cause = " ".join(str(getattr(error, "strerror", None) or error).split())
        raise VideoError(f"{path}: the video cannot be read ({cause}); {PREPARE_HINT}") from error


@contextmanager
def demux(
    container: InputContainer, stream: VideoStream
) -> Generator[Iterator[av.Packet[VideoStream]]]:
    """Yields the packets of `stream` from where the container stands, then an empty one.

    Decoding the empty one gives the frames that the decoder still holds back.
    """
    packets: Any = container.demux(stream)
    try:
        yield packets
    finally:
        # Unless it is told, PyAV 18 keeps 200 bytes of packets that were not read to their end.
        packets.close()


def read_frame_table(path: Path) -> FrameTable:
    """Returns the times of the displayed frames of the video at `path`, and of its keyframes.

    Raises:
        VideoError: the file cannot be read, or no frame of it is displayed.
    """
    with open_video(path) as (container, stream):
        table = scan_packets(container, stream)
    return table or scan_by_decoding(path)


def read_header(container: InputContainer, stream: VideoStream) -> StreamHeader | None:
    """Returns what an MP4's header tells of its frames, or None where it tells less."""
    if (
        container.format.name != MP4
        or stream.codec_context.codec.canonical_name not in _ONE_FRAME_CODECS
    ):
        return None
    entries = list(stream.index_entries)
    decoding_times = np.array([entry.timestamp for entry in entries], np.int64)
    keyframes = np.flatnonzero([entry.is_keyframe for entry in entries])
    if (
        not len(keyframes)
        or keyframes[0]
        or np.any(decoding_times[1:] <= decoding_times[:-1])
        or any(entry.is_discard for entry in entries)
    ):
        return None
    return StreamHeader(decoding_times, keyframes, _read_time_base(stream))


def scan_packets(container: InputContainer, stream: VideoStream) -> FrameTable | None:
    """Returns the frame table that the packets tell, or None where they do not.

    Reads the container, of which nothing was read so far, to its end.
    """
    context = stream.codec_context
    if (
        container.format.name not in (MP4, MATROSKA, AVI)
        or context.codec.canonical_name not in _ONE_FRAME_CODECS
        # AVI holds the order of decoding only.
        or (container.format.name == AVI and context.has_b_frames)
    ):
        return None
    with demux(container, stream) as packets:
        entries = [
            (packet.pts, packet.dts, packet.is_keyframe, packet.is_discard)
            for packet in packets
            # The last packet of a file that is cut short holds part of a frame.
            if packet.size and not packet.is_corrupt
        ]
    index = stream.index_entries
    if any(pts is None for pts, _, _, _ in entries):
        return None
    times = np.sort(np.array([pts for pts, _, _, discard in entries if not discard], np.int64))
    keyframes = [(pts, dts if dts is not None else pts) for pts, dts, key, _ in entries if key]
    num_missing = max(0, len(index) - len(entries))
    if num_missing:
        # A frame that is missing is not shown before it is decoded, so up to there none is.
        whole = times < index[len(entries)].timestamp
        num_missing += int(np.count_nonzero(~whole))
        times = times[whole]
    if not len(times) or not keyframes or np.any(times[1:] == times[:-1]):
        return None
    keyframe_times, keyframe_seek_times = np.array(sorted(keyframes), np.int64).T
    stored_times = np.array([pts for pts, _, _, _ in entries], np.int64)
    return FrameTable(
        times,
        keyframe_times,
        keyframe_seek_times,
        _read_time_base(stream),
        is_reordered=bool(np.any(stored_times[1:] < stored_times[:-1])),
        num_missing=num_missing,
    )


def scan_by_decoding(path: Path) -> FrameTable:
    """Returns the frame table of all frames that come out of the decoder, one after the other.

    Raises:
        VideoError: the file cannot be decoded, or its frames have no ascending timestamps.
    """
    with open_video(path) as (container, stream), demux(container, stream) as packets:
        entries = [
            (frame.pts, frame.key_frame, frame.is_corrupt)
            for packet in packets
            for frame in packet.decode()
        ]
        time_base = _read_time_base(stream)
        is_avi = container.format.name == AVI
    num_decoded = len(entries)
    # A file that is cut short ends in a frame of which a part is filled in.
    while entries and entries[-1][2]:
        entries.pop()
    times = np.array([pts for pts, _, _ in entries if pts is not None], np.int64)
    if is_avi and (len(times) < len(entries) or np.any(times[1:] <= times[:-1])):
        # AVI has no timestamps: its unit of time is a frame.
        times = np.arange(len(entries), dtype=np.int64)
    if not len(times) or len(times) < len(entries) or np.any(times[1:] <= times[:-1]):
        raise VideoError(
            f"{path}: no frames, or frames without ascending timestamps, come out of the file;"
            f" {PREPARE_HINT}"
        )
    keyframe_times = times[[key for _, key, _ in entries]]
    return FrameTable(
        times,
        keyframe_times,
        keyframe_times,
        time_base,
        is_reordered=False,
        num_missing=num_decoded - len(entries),
    )


def _read_time_base(stream: VideoStream) -> Fraction:
    time_base = stream.time_base
    # Never unset in a stream that was read from a file.
    assert time_base
    return Fraction(time_base.numerator, time_base.denominator)
