"""Batches of training clips and views of test videos, made here or in worker processes.

Axes: N clips, V views, C colour channels, T frames, H height, W width.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from gnvideo.data.clip_stream import ClipStream
from gnvideo.data.dataset import (
    ClipBatch,
    ClipTransform,
    FrameSource,
    OpenedVideo,
    PixelFormat,
    TrainClips,
    make_frame_source,
)
from gnvideo.data.shared_slots import SharedSlots
from gnvideo.data.video_index import VideoIndex
from gnvideo.data.worker_pool import WorkerSettings, iterate_items

_IN_THIS_THREAD = WorkerSettings()


@dataclass(frozen=True, slots=True, eq=False)
class VideoViews:
    """The test views of one video.

    Attributes:
        views_VCTHW: uint8, in channels_last_3d layout.
        label: Class index, -1 for a video without a label.
        video_id: The video's id.
        position: The video's place in the index.
    """

    views_VCTHW: torch.Tensor
    label: int
    video_id: str
    position: int


class TrainLoader:
    """Iterates over the batches of one rank, from one position of the training stream to another.

    Step b of a run takes the positions [start + b * clips_per_batch * world_size, ...): first those
    of rank 0, then those of rank 1, and so on. See `gnvideo.data.clip_stream` for the stream.

    Workers write each clip where its batch lies in memory that all processes share. Batches that
    are in use, made ahead or waiting for a clip of theirs take memory, no others.

    Args:
        index: The videos; at least one.
        decoder_name: See `make_decoder`.
        transform: From decoded frames to clips of equal size.
        num_frames: Frames of a clip.
        stride: Frames of the video from one frame of a clip to the next.
        clips_per_batch: N, of one rank.
        seed: Of the run.
        rank: Of this process, from 0.
        world_size: Number of ranks.
        clips_per_open: Clips that are made of a video when it is opened, if this rank needs them.
        pixel_format: Of the frames that `transform` gets.
        workers: Which processes make the clips.
        start_position: First position: the clips that all ranks together have consumed before.
        stop_position: End of the run: the clips that all ranks together consume in it.

    Raises:
        ValueError: no video, a number out of range, or a range that is no whole number of steps.
    """

    def __init__(
        self,
        index: VideoIndex,
        decoder_name: str,
        transform: ClipTransform,
        *,
        num_frames: int,
        stride: int,
        clips_per_batch: int,
        seed: int,
        stop_position: int,
        start_position: int = 0,
        rank: int = 0,
        world_size: int = 1,
        clips_per_open: int = 1,
        pixel_format: PixelFormat = "rgb",
        workers: WorkerSettings = _IN_THIS_THREAD,
    ) -> None:
        _check_ranks(rank, world_size)
        clips_per_step = clips_per_batch * world_size
        num_clips = stop_position - start_position
        if clips_per_batch < 1 or start_position < 0 or num_clips < 0 or num_clips % clips_per_step:
            raise ValueError(
                f"positions {start_position} to {stop_position} are no whole number of steps of"
                f" {clips_per_batch} clips on {world_size} ranks; choose stop_position ="
                " start_position + steps * clips_per_batch * world_size"
            )
        self._stream = ClipStream(len(index), seed, clips_per_open)
        self._make_clips = lambda: TrainClips(
            index,
            decoder_name,
            transform,
            num_frames=num_frames,
            stride=stride,
            clips_per_batch=clips_per_batch,
            seed=seed,
            pixel_format=pixel_format,
        )
        self._index = index
        self._positions = range(start_position, stop_position)
        self._rank = rank
        self._world_size = world_size
        self._clips_per_batch = clips_per_batch
        self._workers = workers

    def __len__(self) -> int:
        return len(self._positions) // (self._clips_per_batch * self._world_size)

    def __iter__(self) -> Iterator[ClipBatch]:
        """Yields the batches in order.

        Raises:
            VideoError: a video cannot be decoded, or a worker was stuck on it.
            DecoderUnavailableError: the decoder does not import here.
            WorkerDiedError: a worker died.
        """
        clips = self._make_clips()
        planned: deque[_PlannedBatch] = deque()
        made = iterate_items(
            clips.make_clips, self._plan(clips.slots, planned), self._workers, self._index.path
        )
        for _ in made:
            yield self._finish(planned.popleft(), clips)

    def _plan(
        self, slots: SharedSlots, planned: deque[_PlannedBatch]
    ) -> Iterator[list[OpenedVideo]]:
        """Yields the videos to open for each batch, after those before it, and notes the batch.

        With several clips an opened video, a batch's other clips were made with those of earlier
        batches. As these are done first, a batch is complete when its own request is.
        """
        # Rows of later batches that are made already, or are being made.
        slot_of_batch: dict[int, int] = {}
        made: set[int] = set()
        for batch in range(len(self)):
            opened: list[OpenedVideo] = []
            samples: list[tuple[int, int]] = []
            for position in self._list_positions(batch):
                video, epoch = self._stream.locate(position)
                samples.append((video, epoch))
                if position in made:
                    made.remove(position)
                    continue
                clips: list[tuple[int, int, int]] = []
                repeats = [p for p in self._stream.find_repeats(position) if self._is_own(p)]
                made.update(repeats)
                for own in (position, *repeats):
                    owner, row = self._place(own)
                    if owner not in slot_of_batch:
                        slot_of_batch[owner] = slots.take()
                    clips.append((self._stream.locate(own)[1], slot_of_batch[owner], row))
                opened.append(OpenedVideo(video, clips))
            planned.append(_PlannedBatch(slot_of_batch.pop(batch), samples))
            yield opened

    def _finish(self, planned: _PlannedBatch, clips: TrainClips) -> ClipBatch:
        # Stored as (N, T, H, W, C), which is channels_last_3d. The tensor keeps the slot in use.
        batch_NTHWC = torch.from_numpy(clips.slots.lend(planned.slot).reshape(clips.batch_shape))
        return ClipBatch(
            clips_NCTHW=batch_NTHWC.permute(0, 4, 1, 2, 3),
            labels_N=torch.tensor([self._index.label(video) for video, _ in planned.samples]),
            video_ids=[self._index.video_id(video) for video, _ in planned.samples],
            epochs=[epoch for _, epoch in planned.samples],
        )

    def _list_positions(self, batch: int) -> range:
        first = self._positions[0] + self._clips_per_batch * (batch * self._world_size + self._rank)
        return range(first, first + self._clips_per_batch)

    def _is_own(self, position: int) -> bool:
        batch = (position - self._positions[0]) // self._clips_per_batch
        return position in self._positions and batch % self._world_size == self._rank

    def _place(self, position: int) -> tuple[int, int]:
        """Returns this rank's batch that `position` belongs to, and its row there."""
        batch, row = divmod(position - self._positions[0], self._clips_per_batch)
        return batch // self._world_size, row


@dataclass(frozen=True, slots=True)
class _PlannedBatch:
    """A batch that is being made: its memory, and the video and epoch of each clip."""

    slot: int
    samples: list[tuple[int, int]]


class ViewLoader:
    """Iterates over the test views of the videos of one rank, each video once.

    Rank r takes the videos r, r + world_size, r + 2 * world_size, ...

    Args:
        index: The videos.
        decoder_name: See `make_decoder`.
        transform: From decoded frames (T, H, W, C) to a clip (C, T, H', W'), as `TestTransform`.
        protocol_sampler: From a video's place in the index to the frame indices of its views,
            (V, T), or (T,) for one view. Worker processes need one that pickles, such as
            `IndexedViewSampler`.
        rank: Of this process, from 0.
        world_size: Number of ranks.
        pixel_format: Of the frames that `transform` gets.
        workers: Which processes make the views.

    Raises:
        ValueError: the rank is out of range.
    """

    def __init__(
        self,
        index: VideoIndex,
        decoder_name: str,
        transform: Callable[[npt.NDArray[np.uint8]], torch.Tensor],
        protocol_sampler: Callable[[int], npt.NDArray[np.int64]],
        *,
        rank: int = 0,
        world_size: int = 1,
        pixel_format: PixelFormat = "rgb",
        workers: WorkerSettings = _IN_THIS_THREAD,
    ) -> None:
        _check_ranks(rank, world_size)
        self._index = index
        self._views = _TestViews(index, decoder_name, pixel_format, transform, protocol_sampler)
        self._positions = range(rank, len(index), world_size)
        self._workers = workers

    def __len__(self) -> int:
        return len(self._positions)

    def __iter__(self) -> Iterator[VideoViews]:
        """Yields the views of one video after the other.

        Raises:
            VideoError: a video cannot be decoded, or a worker was stuck on it.
            DecoderUnavailableError: the decoder does not import here.
            WorkerDiedError: a worker died.
        """
        made = iterate_items(
            self._views.make_views, self._positions, self._workers, self._index.path
        )
        for position, (memory, shape) in zip(self._positions, made, strict=True):
            views_VTHWC = torch.from_numpy(memory.open(0).reshape(shape))
            yield VideoViews(
                views_VCTHW=views_VTHWC.permute(0, 4, 1, 2, 3),
                label=self._index.label(position),
                video_id=self._index.video_id(position),
                position=position,
            )


class _TestViews:
    """Makes the views of one video."""

    def __init__(
        self,
        index: VideoIndex,
        decoder_name: str,
        pixel_format: PixelFormat,
        transform: Callable[[npt.NDArray[np.uint8]], torch.Tensor],
        protocol_sampler: Callable[[int], npt.NDArray[np.int64]],
    ) -> None:
        self._index = index
        self._decoder_name = decoder_name
        self._pixel_format: PixelFormat = pixel_format
        self._transform = transform
        self._protocol_sampler = protocol_sampler
        self._decoder: FrameSource | None = None

    def make_views(
        self, position: int, report: Callable[[int], None]
    ) -> tuple[SharedSlots, tuple[int, ...]]:
        """Returns the views as (V, T, H, W, C) in the only slot of shared memory, and that shape.

        The memory is made here, because every video has a size of its own.
        """
        if self._decoder is None:
            self._decoder = make_frame_source(self._decoder_name, self._pixel_format)
        report(position)
        indices = self._protocol_sampler(position)
        views_VTHWC = _read_frames(
            self._decoder, self._index.path(position), self._transform, indices
        )
        memory = SharedSlots(views_VTHWC.numel())
        shared_VTHWC = memory.open(memory.take()).reshape(views_VTHWC.shape)
        torch.from_numpy(shared_VTHWC).copy_(views_VTHWC)
        return memory, shared_VTHWC.shape


def read_views(
    decoder: FrameSource,
    path: Path,
    transform: Callable[[npt.NDArray[np.uint8]], torch.Tensor],
    indices: npt.NDArray[np.int64],
) -> torch.Tensor:
    """Returns the views of a video at frame `indices`, (V, T) or (T,), as uint8 (V, C, T, H, W).

    The layout is channels_last_3d.

    Raises:
        VideoError: the video cannot be decoded.
    """
    views_VTHWC = _read_frames(decoder, path, transform, indices)
    return views_VTHWC.contiguous().permute(0, 4, 1, 2, 3)


def _read_frames(
    decoder: FrameSource,
    path: Path,
    transform: Callable[[npt.NDArray[np.uint8]], torch.Tensor],
    indices: npt.NDArray[np.int64],
) -> torch.Tensor:
    """Returns the views (V, T, H, W, C), part of decoded frames where nothing resizes them."""
    indices_VT = np.atleast_2d(indices)
    decoded = decoder.decode_frames(path, indices_VT.ravel())
    frames_CFHW = transform(decoded.frames_THWC)
    return frames_CFHW.permute(1, 2, 3, 0).unflatten(0, indices_VT.shape)


def _check_ranks(rank: int, world_size: int) -> None:
    if not 0 <= rank < world_size:
        raise ValueError(f"rank is {rank}; it must be from 0 to world_size - 1, {world_size - 1}")
