"""When each frame of a video file is shown and where decoding can start, read without decoding.

One pass over the packets tells it for MP4, Matroska and AVI. Where packets and frames need not be
the same, as in MPEG transport streams, the file is decoded once instead.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av.error
import numpy as np
import numpy.typing as npt
from av.container import InputContainer
from av.video.stream import VideoStream

from gnvideo.data.video_file import get_video_stream, open_video_file
from gnvideo.errors import VideoError

PREPARE_HINT = "prepare it again with data_tools/preprocess_kinetics.py, or leave it out"


@dataclass(frozen=True, slots=True, eq=False)
class FrameTable:
    """When each frame of a video is shown, and where decoding can start. Times are in `time_base`.

    Attributes:
        times: (N,) int64, ascending; the position is the frame's index.
        keyframe_times: (K,) int64, ascending; also of keyframes that are not displayed.
        keyframe_seek_times: (K,) int64; a seek to this time ends at the keyframe or before it.
        time_base: Seconds.
        seekable: False where packets do not tell the frames, so that decoding made this table and
            frames must be counted from the start.
        is_reordered: Whether the frames are stored in another order than shown (B-frames).
    """

    times: npt.NDArray[np.int64]
    keyframe_times: npt.NDArray[np.int64]
    keyframe_seek_times: npt.NDArray[np.int64]
    time_base: Fraction
    seekable: bool
    is_reordered: bool

    def select(self, path: Path, wanted: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """Returns the times in seconds of the frames at the ascending indices `wanted`.

        Raises:
            VideoError: an index lies outside the video at `path`.
        """
        num_frames = len(self.times)
        if wanted[0] < 0 or wanted[-1] >= num_frames:
            outside = wanted[0] if wanted[0] < 0 else wanted[-1]
            raise VideoError(
                f"{path}: frame {outside} is asked for, but the video has the frames 0 to"
                f" {num_frames - 1}; {PREPARE_HINT}"
            )
        return self.times[wanted] * np.float64(self.time_base)


@contextmanager
def open_video(path: Path) -> Generator[tuple[InputContainer, VideoStream]]:
    """Opens a local video file for one thread and yields its container and main video stream.

    Raises:
        VideoError: the file cannot be opened, or FFmpeg fails inside the `with` block.
    """
    try:
        with open_video_file(path) as container:
            stream = get_video_stream(container)
            yield container, stream
    except (av.error.FFmpegError, OSError, ValueError) as error:
        cause = " ".join(str(getattr(error, "strerror", None) or error).split())
        raise VideoError(f"{path}: the video cannot be read ({cause}); {PREPARE_HINT}") from error


def read_frame_table(path: Path) -> FrameTable:
    """Returns the times of the displayed frames of the video at `path`, and of its keyframes.

    Raises:
        VideoError: the file cannot be read, is cut short, or no frame of it is displayed.
    """
    with open_video(path) as (container, stream):
        table = scan_packets(path, container, stream)
    return table or scan_by_decoding(path)


def scan_packets(path: Path, container: InputContainer, stream: VideoStream) -> FrameTable | None:
    """Returns the frame table that the packets tell, or None where they do not.

    Reads the container to its end.

    Raises:
        VideoError: the file at `path` is cut short.
    """
    entries = [
        (packet.pts, packet.dts, packet.is_keyframe, packet.is_discard)
        for packet in container.demux(stream)
        if packet.size
    ]
    num_promised = len(stream.index_entries)
    if len(entries) < num_promised:
        raise VideoError(
            f"{path}: the file is cut short, it holds {len(entries)} of {num_promised} frames;"
            f" {PREPARE_HINT}"
        )
    # A format without an index, such as MPEG transport streams, may cut frames into more packets.
    if not num_promised or any(pts is None for pts, _, _, _ in entries):
        return None
    times = np.sort(np.array([pts for pts, _, _, discard in entries if not discard], np.int64))
    keyframes = [(pts, dts if dts is not None else pts) for pts, dts, key, _ in entries if key]
    if not len(times) or not keyframes or np.any(times[1:] == times[:-1]):
        return None
    keyframe_times, keyframe_seek_times = np.array(sorted(keyframes), np.int64).T
    stored_times = np.array([pts for pts, _, _, _ in entries], np.int64)
    return FrameTable(
        times,
        keyframe_times,
        keyframe_seek_times,
        _read_time_base(stream),
        seekable=True,
        is_reordered=bool(np.any(stored_times[1:] < stored_times[:-1])),
    )


def scan_by_decoding(path: Path) -> FrameTable:
    """Returns the frame table of all frames that come out of the decoder, one after the other.

    Raises:
        VideoError: the file cannot be decoded, or its frames have no ascending timestamps.
    """
    with open_video(path) as (container, stream):
        entries = [(frame.pts, frame.key_frame) for frame in container.decode(stream)]
        time_base = _read_time_base(stream)
    times = np.array([pts for pts, _ in entries if pts is not None], np.int64)
    if not len(times) or len(times) < len(entries) or np.any(times[1:] <= times[:-1]):
        raise VideoError(
            f"{path}: no frames, or frames without ascending timestamps, come out of the file;"
            f" {PREPARE_HINT}"
        )
    keyframe_times = times[[key for _, key in entries]]
    return FrameTable(
        times, keyframe_times, keyframe_times, time_base, seekable=False, is_reordered=False
    )


def _read_time_base(stream: VideoStream) -> Fraction:
    time_base = stream.time_base
    # Never unset in a stream that was read from a file.
    assert time_base
    return Fraction(time_base.numerator, time_base.denominator)
