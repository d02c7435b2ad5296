"""Decoding and transforming training clips in bare processes: what a loader can reach at best.

Nothing is collated or handed over. Each process does its share of the clips that a loader gave,
from the same files, at the same frames, with the same crops.

Axes: C colour channels, T frames, H height, W width.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from types import TracebackType
from typing import Self

import torch

from gnvideo.data.clip_sampling import sample_train_clip
from gnvideo.data.clip_stream import make_sample_generator
from gnvideo.data.dataset import ClipTransform, FrameSource, PixelFormat, make_frame_source
from gnvideo.errors import GnvideoError, WorkFailedError


@dataclass(frozen=True, slots=True)
class ClipJob:
    """A training clip of which nothing is drawn yet.

    Attributes:
        path: The video file.
        num_video_frames: Frames of the video.
        video_id: The video's id.
        epoch: In which the clip stands.
    """

    path: Path
    num_video_frames: int
    video_id: str
    epoch: int


@dataclass(frozen=True, slots=True)
class ClipRecipe:
    """What all training clips of a run share.

    Attributes:
        decoder_name: See `make_decoder`.
        pixel_format: Of the frames that `transform` gets.
        transform: From decoded frames to a clip.
        max_short_side_pixels: To which the transform scales frames at most.
        num_frames: T.
        stride: Frames of the video from one frame of a clip to the next.
        seed: Of the run.
    """

    decoder_name: str
    pixel_format: PixelFormat
    transform: ClipTransform
    max_short_side_pixels: int
    num_frames: int
    stride: int
    seed: int


def make_clip(job: ClipJob, recipe: ClipRecipe, decoder: FrameSource) -> torch.Tensor:
    """Returns the clip (C, T, H, W) as the training stream has it.

    Raises:
        VideoError: the video cannot be decoded.
    """
    generator = make_sample_generator(recipe.seed, job.epoch, job.video_id)
    indices = sample_train_clip(job.num_video_frames, recipe.num_frames, recipe.stride, generator)
    decoded = decoder.decode_frames(job.path, indices)
    return recipe.transform(decoded.frames_THWC, generator)


class BareWorkers:
    """Processes that wait for clips to make; use it in a `with` statement.

    Args:
        num_processes: How many.
        recipe: Of the clips.
    """

    def __init__(self, num_processes: int, recipe: ClipRecipe) -> None:
        # Spawned: a fork would hold this process's threads' locks.
        context = multiprocessing.get_context("spawn")
        self._connections: list[Connection] = []
        self._processes: list[SpawnProcess] = []
        for _ in range(num_processes):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs, recipe), daemon=True)
            process.start()
            theirs.close()
            self._connections.append(ours)
            self._processes.append(process)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for connection in self._connections:
            # A worker ends when its connection does.
            connection.close()
        for process in self._processes:
            process.join()

    def measure_clips_per_second(self, jobs: Sequence[ClipJob]) -> float:
        """Returns the sum of the processes' rates, each over its share of `jobs`.

        Raises:
            VideoError: a video cannot be decoded.
            WorkFailedError: a process died.
        """
        shares = [jobs[start :: len(self._connections)] for start in range(len(self._connections))]
        try:
            for connection, share in zip(self._connections, shares, strict=True):
                connection.send(share)
            answers: list[float | GnvideoError] = [
                connection.recv() for connection in self._connections
            ]
        # The other end of a connection is gone.
        except (EOFError, ConnectionError):
            raise WorkFailedError(
                "a decoding process of the benchmark died; look for a lack of memory"
            ) from None
        rates: list[float] = []
        for answer, share in zip(answers, shares, strict=True):
            if isinstance(answer, GnvideoError):
                raise answer
            rates.append(len(share) / answer)
        return sum(rates)


def _serve(connection: Connection, recipe: ClipRecipe) -> None:
    """Answers each list of jobs by the wall time in seconds that it took."""
    torch.set_num_threads(1)
    decoder = make_frame_source(recipe.decoder_name, recipe.pixel_format)
    while True:
        try:
            jobs: Sequence[ClipJob] = connection.recv()
        except EOFError:
            return
        start = time.perf_counter()
        try:
            for job in jobs:
                make_clip(job, recipe, decoder)
        except GnvideoError as error:
            connection.send(error)
        else:
            connection.send(time.perf_counter() - start)
