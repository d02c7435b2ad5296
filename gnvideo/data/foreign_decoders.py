"""What decoders other than PyAV are trusted with: the files of which they give the same frames."""

from __future__ import annotations

from pathlib import Path

from gnvideo.data.frame_table import FrameTable, open_video, read_frame_table
from gnvideo.errors import VideoError

# The pixel formats whose conversion to RGB is the same, bit by bit, in their FFmpeg and in PyAV's;
# with 10 bits, for example, decord's differs by up to 79 of 255.
_FULL_CHROMA_FORMATS = frozenset({"yuv444p", "yuvj444p"})
_PIXEL_FORMATS = _FULL_CHROMA_FORMATS | {"yuv420p", "yuvj420p", "yuv422p", "yuvj422p", "gray"}

# FFmpeg's AVFieldOrder: unknown and progressive. PyAV's FFmpeg converts the chroma of interlaced
# frames field by field, others as if both fields were one picture.
_FIELD_ORDERS = frozenset({0, 1})

# Elsewhere, in AVI for example, decord's seek ends at another frame and it does not notice.
_CONTAINERS = frozenset({"mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm"})


def read_checked_table(path: Path, decoder_name: str) -> FrameTable:
    """Returns the frame table of a video that the decoder called `decoder_name` may read.

    Raises:
        VideoError: the video cannot be read, or not by this decoder: it is not in MP4 or Matroska,
            not of 8 bits, interlaced, or has an odd side and less chroma than brightness.
    """
    with open_video(path) as (container, stream):
        container_name, context = container.format.name, stream.codec_context
        pixel_format, field_order = context.pix_fmt, int(context.field_order)
        has_odd_side = bool(context.width % 2 or context.height % 2)
    if container_name not in _CONTAINERS:
        raise VideoError(describe_refusal(path, decoder_name, f"the container {container_name}"))
    if pixel_format not in _PIXEL_FORMATS:
        raise VideoError(describe_refusal(path, decoder_name, f"the pixel format {pixel_format}"))
    if has_odd_side and pixel_format not in _FULL_CHROMA_FORMATS:
        raise VideoError(describe_refusal(path, decoder_name, "an odd width or height"))
    if field_order not in _FIELD_ORDERS:
        raise VideoError(describe_refusal(path, decoder_name, "interlaced frames"))
    return read_frame_table(path)


def describe_refusal(path: Path, decoder_name: str, cause: str) -> str:
    """Returns the message of the error that a video is not read by the decoder `decoder_name`."""
    return (
        f"{path}: the decoder '{decoder_name}' cannot read this video ({cause}); use the decoder"
        " 'pyav', or prepare the video with data_tools/preprocess_kinetics.py"
    )
