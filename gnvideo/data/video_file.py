"""Opening videos that nobody vouches for: only local files, only known containers, only sane sizes.

What FFmpeg opens can name other files and addresses (playlists, scripts, descriptions of streams,
patterns of pictures) and can ask for frames of any size. Preparation and reading open files here.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import av
import av.error
from av.container import InputContainer
from av.stream import Discard
from av.video.stream import VideoStream

# Of a frame. The largest that cameras write (8K) have half as many.
MAX_PIXELS = 8192 * 8192

# FFmpeg's names of containers that hold their video themselves. Not among them: hls, dash, concat,
# sdp, image2 and whatever else only refers to it.
_CONTAINERS = "mov,matroska,avi,mpegts,mpeg,mpegvideo,m4v,h264,hevc,flv,asf,ogg,rm,mxf,nut,gif"

# FFmpeg's names of containers, as an opened one tells them.
MP4, MATROSKA, AVI = "mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "avi"

# Opens a container whose header describes its stream without decoding a frame of it, which takes
# as long as decoding ten.
_HEADER_ONLY_OPTIONS = {"probesize": "32", "analyzeduration": "1", "skip_frame": "all"}

# PyAV 18 gives up on a title that is not UTF-8 unless told otherwise; 19 has no such argument.
_TEXT_ARGUMENTS: dict[str, Any] = (
    {"metadata_errors": "replace"} if int(av.__version__.split(".")[0]) < 19 else {}
)


def open_video_file(
    path: Path, container: str | None = None, *, probe: bool = True
) -> InputContainer:
    """Returns the local file at `path`, opened to be read; close it.

    Args:
        path: Any name; it is never taken for an address or a pattern.
        container: FFmpeg's name of what the file is; None: one that its content tells.
        probe: Whether packets are decoded to find out what the header does not say, such as the
            pixel format. Where the header says too little, they are decoded in any case.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not a regular file, or of another kind than a video.
        FFmpegError: it is broken.
    """
    # A pipe would be waited for.
    if not stat.S_ISREG(path.stat().st_mode):
        raise ValueError("not a regular file")
    options = {
        "protocol_whitelist": "file",
        "format_whitelist": container or _CONTAINERS,
        # For the sizes that the container declares, and frames that are decoded on opening.
        "max_pixels": str(MAX_PIXELS),
    }
    # The prefix keeps a name with a colon from being taken for a protocol.
    url = f"file:{os.fspath(path.absolute())}"
    try:
        if not probe:
            opened = av.open(
                url, format=container, options=options | _HEADER_ONLY_OPTIONS, **_TEXT_ARGUMENTS
            )
            if _is_described(opened):
                return opened
            opened.close()
        return av.open(url, format=container, options=options, **_TEXT_ARGUMENTS)
    except av.error.ArgumentError:
        raise ValueError("not a video file of a known kind") from None


def get_video_stream(container: InputContainer, num_threads: int = 1) -> VideoStream:
    """Returns the main video stream of `container`.

    Its decoder refuses frames of more than `MAX_PIXELS` before it allocates them.

    Args:
        container: See `open_video_file`.
        num_threads: That decode it.

    Raises:
        ValueError: there is no video that FFmpeg can decode, or the size of its frames is unknown
            or over `MAX_PIXELS`.
    """
    stream = container.streams.best("video")
    for other in container.streams:
        if other is not stream:
            # Sound is not read from the file.
            other.discard = Discard.all
    if not isinstance(stream, VideoStream) or not stream.codec_context:
        raise ValueError("no video stream that can be decoded")
    context = stream.codec_context
    # FFmpeg takes back a size that is over the limit and leaves 0.
    if not 0 < context.width * context.height <= MAX_PIXELS:
        raise ValueError(
            f"the size of its frames is unknown, or over the limit of {MAX_PIXELS:,} pixels"
        )
    context.options = {"max_pixels": str(MAX_PIXELS)}
    context.thread_count = num_threads
    # Most frames are one slice, so that threads need several frames at once.
    context.thread_type = "FRAME" if num_threads > 1 else "NONE"
    return stream


def _is_described(container: InputContainer) -> bool:
    """Returns whether the header alone says what `get_video_stream` and the decoder need."""
    streams = container.streams.video
    # Which of several streams is the main one depends on what their packets are like.
    return (
        container.format.name in (MP4, MATROSKA)
        and len(streams) == 1
        and bool(streams[0].codec_context)
        and streams[0].codec_context.width > 0
    )
