"""Videos that are folders of numbered images ("raw frames"), as older toolkits make them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import av.error

from gnvideo.data.video_file import get_video_stream, open_video_file
from gnvideo.errors import VideoError

# FFmpeg's readers of one image; that of many takes some names for patterns.
_CONTAINER_OF_SUFFIX = {
    ".jpg": "jpeg_pipe",
    ".jpeg": "jpeg_pipe",
    ".png": "png_pipe",
    ".bmp": "bmp_pipe",
    ".webp": "webp_pipe",
}
# The same toolkits put images of the optical flow beside the pictures.
_PICTURE_PREFIX = "img_"
_NUMBERED_NAME = re.compile(r"(?P<prefix>.*?)(?P<number>\d+)")


def read_images(folder: Path, num_frames: int, fps: Fraction) -> Iterator[av.VideoFrame]:
    """Yields the first `num_frames` images of `folder`, ordered by their numbers, as frames.

    Where names start with `img_`, images of other names are left out.

    Raises:
        VideoError: there are fewer images, images of several kinds, or one does not decode.
    """
    images = _list_images(folder)
    if len(images) < num_frames:
        raise VideoError(f"{folder} holds {len(images)} of {num_frames} images")
    for index, image in enumerate(images[:num_frames]):
        frame = _read_image(image)
        frame.pts, frame.duration, frame.time_base = index, 1, 1 / fps
        yield frame


def _list_images(folder: Path) -> list[Path]:
    numbered: dict[Path, tuple[str, int]] = {}
    try:
        for path in folder.iterdir():
            match = _NUMBERED_NAME.fullmatch(path.stem)
            if match and path.suffix.lower() in _CONTAINER_OF_SUFFIX:
                numbered[path] = (match["prefix"], int(match["number"]))
    except OSError as error:
        raise VideoError(f"cannot read {folder}: {error.strerror}") from error
    prefixes = {prefix for prefix, _ in numbered.values()}
    if _PICTURE_PREFIX in prefixes:
        prefixes = {_PICTURE_PREFIX}
    if len(prefixes) > 1:
        some = ", ".join(sorted(prefixes)[:3])
        raise VideoError(f"{folder} holds images of several kinds: {some}")
    chosen = [path for path in numbered if numbered[path][0] in prefixes]
    return sorted(chosen, key=lambda path: (numbered[path], path.name))


def _read_image(path: Path) -> av.VideoFrame:
    try:
        container = _CONTAINER_OF_SUFFIX[path.suffix.lower()]
        with open_video_file(path, container) as file:
            frame = next(file.decode(get_video_stream(file)), None)
    except (OSError, ValueError, av.error.FFmpegError) as error:
        raise VideoError(f"cannot read {path}: {error}") from error
    if frame is None:
        raise VideoError(f"cannot read {path}: it holds no picture")
    return frame
