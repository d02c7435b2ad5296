"""Random clips of the user's own video files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from gnvideo.data.clip_sampling import sample_train_clip
from gnvideo.data.decoding import VideoDecoder, VideoMetadata
from gnvideo.errors import InputFileError, VideoError

VIDEO_SUFFIXES = (".mp4", ".mkv", ".webm", ".avi", ".mov", ".m4v", ".mpg", ".ts")


class BenchClip(NamedTuple):
    """One clip to decode.

    Attributes:
        path: The video file.
        metadata: Of the video.
        indices: (T,) frame indices.
    """

    path: Path
    metadata: VideoMetadata
    indices: npt.NDArray[np.int64]


def find_videos(paths: Sequence[Path]) -> list[Path]:
    """Returns the files among `paths` and the videos below the folders among them, each once.

    Raises:
        InputFileError: a path does not exist, or there is no video at all.
    """
    found: dict[Path, None] = {}
    for path in paths:
        if path.is_file():
            found[path] = None
        elif path.is_dir():
            files = (file for file in path.rglob("*") if file.suffix.lower() in VIDEO_SUFFIXES)
            found |= dict.fromkeys(sorted(files))
        else:
            raise InputFileError(f"there is no file or folder {path}; name videos or their folder")
    if not found:
        raise InputFileError(
            f"no video below {', '.join(map(str, paths))}; a video ends in one of"
            f" {' '.join(VIDEO_SUFFIXES)}"
        )
    return list(found)


def draw_clips(
    videos: Sequence[Path],
    decoder: VideoDecoder,
    *,
    num_clips: int,
    num_frames: int,
    stride: int,
    seed: int = 0,
) -> tuple[list[BenchClip], list[str]]:
    """Returns random clips, spread over the videos, and a line for each video that is unreadable.

    Raises:
        InputFileError: no video is readable.
    """
    generator = np.random.default_rng(seed)
    clips: list[BenchClip] = []
    complaints: dict[Path, str] = {}
    metadata: dict[Path, VideoMetadata] = {}
    for path in _shuffle_endlessly(videos, generator):
        if len(clips) == num_clips or len(complaints) == len(videos):
            break
        if path in complaints:
            continue
        try:
            if path not in metadata:
                metadata[path] = decoder.read_metadata(path)
        except VideoError as error:
            complaints[path] = str(error)
            continue
        length = metadata[path].num_frames
        indices = sample_train_clip(length, num_frames, stride, generator)
        clips.append(BenchClip(path, metadata[path], indices))
    if not clips:
        raise InputFileError(f"no video can be read; the first error: {complaints[videos[0]]}")
    return clips, list(complaints.values())


def _shuffle_endlessly(videos: Sequence[Path], generator: np.random.Generator) -> Iterator[Path]:
    while True:
        for place in generator.permutation(len(videos)):
            yield videos[place]
