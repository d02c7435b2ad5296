"""Reading a written video back, before it gets its name.

All packets are counted. Decoding them all would cost more than it tells: of the groups of frames
that start with a keyframe, the first, the middle and the last are decoded.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import av
import av.error
from av.video.stream import VideoStream

from gnvideo.errors import SaveFailedError

if TYPE_CHECKING:
    # Not subscriptable when it runs.
    _Packet = av.Packet[VideoStream]


@dataclass(frozen=True, slots=True)
class WrittenVideo:
    """What a written file says of itself.

    Attributes:
        fps: Average frames per second.
        width: Pixels, as displayed; `height` likewise.
        height: See `width`.
        duration: Seconds.
        keyframe_interval: Largest number of frames from one keyframe to the next, or to the end.
        bytes: Size of the file.
    """

    fps: float
    width: int
    height: int
    duration: float
    keyframe_interval: int
    bytes: int


def verify_video(file: BinaryIO, path: Path, num_frames: int) -> WrittenVideo:
    """Returns what the MP4 in `file` holds, which is to be `num_frames` frames that decode.

    Args:
        file: Open for reading.
        path: Its name, for messages.
        num_frames: At least 1.

    Raises:
        SaveFailedError: the file does not hold what was written.
    """
    size = file.seek(0, 2)
    file.seek(0)
    try:
        with av.open(file, "r", format="mp4") as container:
            stream = container.streams.video[0]
            stream.codec_context.thread_count = 1
            # Otherwise a damaged frame is patched up from its neighbours.
            stream.codec_context.options = {"err_detect": "explode"}
            interval = _check_groups(stream, container.demux(stream), path, num_frames)
            return WrittenVideo(
                fps=float(stream.average_rate or 0),
                width=stream.width,
                height=stream.height,
                duration=float((stream.duration or 0) * (stream.time_base or 0)),
                keyframe_interval=interval,
                bytes=size,
            )
    except (av.error.FFmpegError, IndexError) as error:
        raise SaveFailedError(f"{path} did not read back after writing: {error}") from error


def _check_groups(
    stream: VideoStream, packets: Iterable[_Packet], path: Path, num_frames: int
) -> int:
    """Returns the largest number of frames of a group."""
    count = interval = 0
    group: list[_Packet] = []
    is_decoded = False
    for group in _split_at_keyframes(packets):
        start, count = count, count + len(group)
        interval = max(interval, len(group))
        is_decoded = start == 0 or start <= num_frames // 2 < count
        if is_decoded:
            _decode_group(stream, group, path)
    if count != num_frames:
        raise SaveFailedError(f"{path}: wrote {num_frames} frames and read {count} back")
    if not is_decoded:
        _decode_group(stream, group, path)
    return interval


def _split_at_keyframes(packets: Iterable[_Packet]) -> Iterator[list[_Packet]]:
    group: list[_Packet] = []
    for packet in packets:
        if packet.is_keyframe and group:
            yield group
            group = []
        if packet.size:
            group.append(packet)
    yield group


def _decode_group(stream: VideoStream, packets: Sequence[_Packet], path: Path) -> None:
    context = stream.codec_context
    context.flush_buffers()
    frames = [frame for packet in [*packets, None] for frame in context.decode(packet)]
    sizes = {(frame.width, frame.height) for frame in frames}
    if len(frames) != len(packets) or sizes != {(stream.width, stream.height)}:
        raise SaveFailedError(
            f"{path}: {len(frames)} of the {len(packets)} frames that follow a keyframe decode"
        )
