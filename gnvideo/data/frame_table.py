"""When each frame of a video file is shown and where decoding can start, read without decoding.

An MP4's header says where decoding can start, and the packets from there on when frames are shown.
Else one pass over all packets tells both for MP4, Matroska and AVI. Where packets and frames need
not be the same, as in MPEG transport streams, the file is decoded once instead.
"""

from __future__ import annotations

import os
from collections.abc import Generator
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

from gnvideo.errors import VideoError

PREPARE_HINT = "prepare it again with data_tools/preprocess_kinetics.py, or leave it out"

# PyAV 18 gives up on a title that is not UTF-8 unless told otherwise; 19 has no such argument.
_TEXT_ARGUMENTS: dict[str, Any] = (
    {"metadata_errors": "replace"} if int(av.__version__.split(".")[0]) < 19 else {}
)


# A frame with more pixels is refused before memory for it is taken: 8K UHD (7680 x 4320) fits, a
# header that claims 65,000 x 65,000 does not.
MAX_FRAME_PIXELS = 2**25

# Containers of one file. Playlists, scripts and image sequences, which name other files, are not
# among them.
_CONTAINERS = (
    *("mov", "matroska", "avi", "mpegts", "mpeg", "flv", "asf", "ogg", "mxf", "nut", "ivf", "gif"),
    "dv",
)

_OPTIONS = {
    "protocol_whitelist": "file",
    "format_whitelist": ",".join(_CONTAINERS),
    "max_pixels": str(MAX_FRAME_PIXELS),
}

# Their headers describe their streams, so that no packet needs to be read and decoded to know them.
_MP4, _MATROSKA, _AVI = "mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "avi"
_HEADER_ONLY_OPTIONS = {"probesize": "32", "analyzeduration": "1", "skip_frame": "all"}

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
        seekable: False where packets do not tell the frames, so that decoding made this table and
            frames must be counted from the start.
        is_reordered: Whether the frames are stored in another order than shown (B-frames).
        num_missing: Frames at the end that the header promises and the file does not hold.
    """

    times: npt.NDArray[np.int64]
    keyframe_times: npt.NDArray[np.int64]
    keyframe_seek_times: npt.NDArray[np.int64]
    time_base: Fraction
    seekable: bool
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
        path: The file. Nothing else is opened, whatever it holds.
        num_threads: Of the decoder.
        probe: Whether packets are decoded to find out what the header does not say, such as the
            pixel format. Containers whose headers say little are probed in any case.

    Raises:
        VideoError: the file cannot be opened, its frames are larger than `MAX_FRAME_PIXELS`, or
            FFmpeg fails inside the `with` block.
    """
    try:
        with _open_container(path, probe) as container:
            stream = container.streams.best("video")
            if not isinstance(stream, VideoStream) or not stream.codec_context:
                raise VideoError(f"{path}: no video stream that can be decoded; {PREPARE_HINT}")
            context = stream.codec_context
            if context.width * context.height > MAX_FRAME_PIXELS:
                raise VideoError(
                    f"{path}: a frame is {context.width}x{context.height} pixels; at most"
                    f" {MAX_FRAME_PIXELS:,} in all are read; leave it out"
                )
            context.options = {"max_pixels": str(MAX_FRAME_PIXELS)}
            context.thread_count = num_threads
            # Slices of a frame are few in most files, so that threads need several frames at once.
            context.thread_type = "FRAME" if num_threads > 1 else "NONE"
            yield container, stream
    except (av.error.FFmpegError, OSError, ValueError) as error:
        cause = " ".join(str(getattr(error, "strerror", None) or error).split())
        raise VideoError(f"{path}: the video cannot be read ({cause}); {PREPARE_HINT}") from error


def _open_container(path: Path, probe: bool) -> InputContainer:
    # The prefix keeps a name with a colon from being taken for a protocol.
    url = f"file:{os.fspath(path)}"
    if not probe:
        container = av.open(url, options=_OPTIONS | _HEADER_ONLY_OPTIONS, **_TEXT_ARGUMENTS)
        # Which of several streams is the main one depends on what their packets are like.
        if container.format.name in (_MP4, _MATROSKA) and len(container.streams.video) == 1:
            return container
        container.close()
    return av.open(url, options=_OPTIONS, **_TEXT_ARGUMENTS)


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
        container.format.name != _MP4
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
        container.format.name not in (_MP4, _MATROSKA, _AVI)
        or context.codec.canonical_name not in _ONE_FRAME_CODECS
        # AVI holds the order of decoding only.
        or (container.format.name == _AVI and context.has_b_frames)
    ):
        return None
    entries = [
        (packet.pts, packet.dts, packet.is_keyframe, packet.is_discard)
        for packet in container.demux(stream)
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
        seekable=True,
        is_reordered=bool(np.any(stored_times[1:] < stored_times[:-1])),
        num_missing=num_missing,
    )


def scan_by_decoding(path: Path) -> FrameTable:
    """Returns the frame table of all frames that come out of the decoder, one after the other.

    Raises:
        VideoError: the file cannot be decoded, or its frames have no ascending timestamps.
    """
    with open_video(path) as (container, stream):
        entries = [
            (frame.pts, frame.key_frame, frame.is_corrupt) for frame in container.decode(stream)
        ]
        time_base = _read_time_base(stream)
        is_avi = container.format.name == _AVI
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
        seekable=False,
        is_reordered=False,
        num_missing=num_decoded - len(entries),
    )


def _read_time_base(stream: VideoStream) -> Fraction:
    time_base = stream.time_base
    # Never unset in a stream that was read from a file.
    assert time_base
    return Fraction(time_base.numerator, time_base.denominator)
