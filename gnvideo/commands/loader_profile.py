"""Where the time of a loader's worker goes, clip by clip, in CPU time of one thread.

Stages that lie inside of a decoder's call cannot be timed there. Opening is the cost of a call for
the first frame alone, and conversion to RGB that of the same frames through PyAV's converter; what
is left of a call for the clip is decoding.

Axes: N clips, C colour channels, T frames, H height, W width.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from rich.progress import track

from gnvideo.commands.bare_workers import ClipJob, ClipRecipe
from gnvideo.data.clip_sampling import sample_train_clip
from gnvideo.data.clip_stream import make_sample_generator
from gnvideo.data.dataset import FrameSource, make_frame_source
from gnvideo.data.decoding import make_decoder
from gnvideo.data.transcoding import transcode_video

STAGES = ("open", "decode", "convert", "transform", "collate")

_PROFILED_CLIPS = 24
_COPIED_VIDEOS = 3
_CLIPS_PER_COPY = 4


@dataclass(frozen=True, slots=True)
class WorkerProfile:
    """What a worker spends on a clip, and what it would spend on a copy made to be read at random.

    Attributes:
        stage_seconds: For a clip, by each of `STAGES`.
        keyframe_interval_frames: Median of the profiled videos.
        short_side_pixels: Median of the profiled videos.
        resized_short_side_pixels: To which the transform scales it at most.
        original_decode_seconds: A decoder's whole call for a clip, on the videos that were copied.
        copy_decode_seconds: The same on their copies, by the default profile of the preparation.
        num_copies: How many videos were copied.
    """

    stage_seconds: Mapping[str, float]
    keyframe_interval_frames: float
    short_side_pixels: float
    resized_short_side_pixels: int
    original_decode_seconds: float
    copy_decode_seconds: float
    num_copies: int

    def compute_share(self, stage: str) -> float:
        """Returns the stage's share of the worker's time, 0 to 1."""
        return self.stage_seconds[stage] / sum(self.stage_seconds.values())


def profile_worker(jobs: Sequence[ClipJob], recipe: ClipRecipe) -> WorkerProfile:
    """Returns what the first clips of `jobs`, at least one, cost by stage.

    Raises:
        VideoError: a video cannot be decoded.
    """
    profiled = jobs[:_PROFILED_CLIPS]
    decoder = make_frame_source(recipe.decoder_name, recipe.pixel_format)
    seconds: dict[str, float] = dict.fromkeys(STAGES, 0.0)
    for job in track(profiled, "profiling", transient=True):
        for stage, spent in _profile_clip(job, recipe, decoder).items():
            seconds[stage] += spent / len(profiled)
    reader = make_decoder(recipe.decoder_name)
    metadata = {job.path: reader.read_metadata(job.path) for job in profiled}
    copied = list(metadata)[:_COPIED_VIDEOS]
    original, copy = _compare_with_copies(
        [next(job for job in profiled if job.path == path) for path in copied], recipe, decoder
    )
    return WorkerProfile(
        stage_seconds=seconds,
        keyframe_interval_frames=float(
            np.median([known.keyframe_interval_frames for known in metadata.values()])
        ),
        short_side_pixels=float(
            np.median([min(known.width, known.height) for known in metadata.values()])
        ),
        resized_short_side_pixels=recipe.max_short_side_pixels,
        original_decode_seconds=original,
        copy_decode_seconds=copy,
        num_copies=len(copied),
    )


def _profile_clip(job: ClipJob, recipe: ClipRecipe, decoder: FrameSource) -> dict[str, float]:
    generator = make_sample_generator(recipe.seed, job.epoch, job.video_id)
    indices = sample_train_clip(job.num_video_frames, recipe.num_frames, recipe.stride, generator)
    decoder.decode_frames(job.path, [0])
    start = time.process_time()
    decoder.decode_frames(job.path, [0])
    opened = time.process_time()
    frames_THWC = decoder.decode_frames(job.path, indices).frames_THWC
    decoded = time.process_time()
    clip_CTHW = recipe.transform(frames_THWC, generator)
    transformed = time.process_time()
    batch_NTHWC = clip_CTHW.new_empty((1, *clip_CTHW.permute(1, 2, 3, 0).shape))
    batch_NTHWC[0] = clip_CTHW.permute(1, 2, 3, 0)
    collated = time.process_time()
    num_distinct = len(np.unique(indices))
    per_frame = _time_conversion(*frames_THWC.shape[1:3]) if recipe.pixel_format == "rgb" else 0.0
    open_seconds = max(0.0, opened - start - per_frame)
    convert_seconds = per_frame * num_distinct
    return {
        "open": open_seconds,
        "decode": max(0.0, decoded - opened - open_seconds - convert_seconds),
        "convert": convert_seconds,
        "transform": transformed - decoded,
        "collate": collated - transformed,
    }


def _time_conversion(height: int, width: int, repeats: int = 8) -> float:
    """Returns the CPU seconds of making RGB of one stored frame of this size."""
    image = np.zeros((height, width, 3), np.uint8)
    # Chroma planes of odd sizes are left to the converter: only the cost counts here.
    frame = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format="yuv420p")
    reformatter = VideoReformatter()
    reformatter.reformat(frame, format="rgb24", threads=1)
    start = time.process_time()
    for _ in range(repeats):
        reformatter.reformat(frame, format="rgb24", threads=1)
    return (time.process_time() - start) / repeats


def _compare_with_copies(
    jobs: Sequence[ClipJob], recipe: ClipRecipe, decoder: FrameSource
) -> tuple[float, float]:
    """Returns the mean CPU seconds of a random clip of the jobs' videos, and of their copies."""
    seconds: tuple[list[float], list[float]] = ([], [])
    with tempfile.TemporaryDirectory() as folder:
        for number, job in enumerate(track(jobs, "re-encoding a few copies", transient=True)):
            copy = Path(folder) / f"{number}.mp4"
            side = recipe.max_short_side_pixels
            encoded = transcode_video(job.path, copy, short_side_pixels=side + side % 2)
            num_frames = min(encoded.frames, job.num_video_frames)
            generator = np.random.default_rng(number)
            for _ in range(_CLIPS_PER_COPY):
                indices = sample_train_clip(num_frames, recipe.num_frames, recipe.stride, generator)
                for path, spent in zip((job.path, copy), seconds, strict=True):
                    start = time.process_time()
                    decoder.decode_frames(path, indices)
                    spent.append(time.process_time() - start)
    return float(np.mean(seconds[0])), float(np.mean(seconds[1]))
