"""Batches of training clips and views of test videos, made here or in worker processes.

Workers are started by a fork server where the system has one, else spawned; never forked from this
process, whose threads (CUDA, OpenMP, progress bars) may hold locks that the child would wait for
without end. The fork server has imported torch before the first worker starts, so that a worker
starts in milliseconds. As always with such workers, a script needs `if __name__ == "__main__":`.

Axes: N clips, V views, C colour channels, T frames, H height, W width.
"""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import DataLoader, Dataset

from gnvideo.data.dataset import ClipBatch, ClipTransform, TrainClips
from gnvideo.data.decoding import VideoDecoder, make_decoder
from gnvideo.data.video_index import VideoIndex
from gnvideo.errors import GnvideoError

_Request = TypeVar("_Request")
_Item = TypeVar("_Item")


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
    of rank 0, then those of rank 1, and so on. See `gnvideo.data.dataset` for the stream.

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
        num_workers: Worker processes; 0 decodes in the calling thread.
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
        num_workers: int = 0,
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
        self._clips = TrainClips(
            index, decoder_name, transform, num_frames=num_frames, stride=stride, seed=seed
        )
        self._batch_starts = range(
            start_position + rank * clips_per_batch, stop_position, clips_per_step
        )
        self._clips_per_batch = clips_per_batch
        self._num_workers = num_workers

    def __len__(self) -> int:
        return len(self._batch_starts)

    def __iter__(self) -> Iterator[ClipBatch]:
        """Yields the batches in order.

        Raises:
            VideoError: a video cannot be decoded.
            DecoderUnavailableError: the decoder does not import here.
        """
        requests = (range(start, start + self._clips_per_batch) for start in self._batch_starts)
        return _iterate(self._clips.make_batch, requests, self._num_workers)


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
        num_workers: Worker processes; 0 decodes in the calling thread.

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
        num_workers: int = 0,
    ) -> None:
        _check_ranks(rank, world_size)
        self._views = _TestViews(index, decoder_name, transform, protocol_sampler)
        self._positions = range(rank, len(index), world_size)
        self._num_workers = num_workers

    def __len__(self) -> int:
        return len(self._positions)

    def __iter__(self) -> Iterator[VideoViews]:
        """Yields the views of one video after the other.

        Raises:
            VideoError: a video cannot be decoded.
            DecoderUnavailableError: the decoder does not import here.
        """
        return _iterate(self._views.make_views, self._positions, self._num_workers)


class _TestViews:
    """Makes the views of one video."""

    def __init__(
        self,
        index: VideoIndex,
        decoder_name: str,
        transform: Callable[[npt.NDArray[np.uint8]], torch.Tensor],
        protocol_sampler: Callable[[int], npt.NDArray[np.int64]],
    ) -> None:
        self._index = index
        self._decoder_name = decoder_name
        self._transform = transform
        self._protocol_sampler = protocol_sampler
        self._decoder: VideoDecoder | None = None

    def make_views(self, position: int) -> VideoViews:
        if self._decoder is None:
            self._decoder = make_decoder(self._decoder_name)
        indices_VT = self._protocol_sampler(position)
        path = self._index.path(position)
        return VideoViews(
            views_VCTHW=read_views(self._decoder, path, self._transform, indices_VT),
            label=self._index.label(position),
            video_id=self._index.video_id(position),
            position=position,
        )


def read_views(
    decoder: VideoDecoder,
    path: Path,
    transform: Callable[[npt.NDArray[np.uint8]], torch.Tensor],
    indices: npt.NDArray[np.int64],
) -> torch.Tensor:
    """Returns the views of a video at frame `indices`, (V, T) or (T,), as uint8 (V, C, T, H, W).

    The layout is channels_last_3d.

    Raises:
        VideoError: the video cannot be decoded.
    """
    indices_VT = np.atleast_2d(indices)
    decoded = decoder.decode_frames(path, indices_VT.ravel())
    frames_CFHW = transform(decoded.frames_THWC)
    views_VTHWC = frames_CFHW.permute(1, 2, 3, 0).unflatten(0, indices_VT.shape).contiguous()
    return views_VTHWC.permute(0, 4, 1, 2, 3)


class _CaughtErrors(Dataset[_Item | GnvideoError], Generic[_Request, _Item]):
    """Answers requests; a user's error becomes a value, because torch would wrap its traceback."""

    def __init__(self, make_item: Callable[[_Request], _Item]) -> None:
        self._make_item = make_item

    def __getitem__(self, request: _Request) -> _Item | GnvideoError:
        try:
            return self._make_item(request)
        except GnvideoError as error:
            return error


def _iterate(
    make_item: Callable[[_Request], _Item], requests: Iterable[_Request], num_workers: int
) -> Iterator[_Item]:
    """Yields `make_item(request)` for each of `requests`, in order."""
    if not num_workers:
        yield from map(make_item, requests)
        return
    loader = DataLoader(
        _CaughtErrors(make_item),
        batch_size=None,
        sampler=requests,
        num_workers=num_workers,
        collate_fn=_keep,
        worker_init_fn=_ignore_sigterm,
        multiprocessing_context=_make_worker_context(),
        # Without it, torch seeds the workers from the global generator, and dropout would differ.
        generator=torch.Generator(),
    )
    for item in loader:
        if isinstance(item, GnvideoError):
            raise item
        yield item


def _keep(item: _Item) -> _Item:
    return item


def _ignore_sigterm(worker: int) -> None:
    """A cluster signals all processes of a run; the workers must last until the run has saved."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _make_worker_context() -> BaseContext:
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context


def _check_ranks(rank: int, world_size: int) -> None:
    if not 0 <= rank < world_size:
        raise ValueError(f"rank is {rank}; it must be from 0 to world_size - 1, {world_size - 1}")
