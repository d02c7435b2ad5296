"""Loaders of training clips and of test views, from the configuration of the data."""

from __future__ import annotations

from gnvideo.config import DataConfig, RunConfig
from gnvideo.data.loader import TrainLoader, ViewLoader
from gnvideo.data.planes import PlanesTestTransform, PlanesTrainTransform
from gnvideo.data.transforms import TestTransform, TrainTransform
from gnvideo.data.video_index import VideoIndex
from gnvideo.data.view_sampling import IndexedViewSampler, ViewSampler
from gnvideo.data.worker_pool import WorkerSettings
from gnvideo.evaluation import Protocol
from gnvideo.training.distributed import get_rank, get_world_size


def build_train_transform(config: DataConfig) -> TrainTransform | PlanesTrainTransform:
    """Returns the transform from decoded frames, or their planes, to training clips."""
    transform = TrainTransform(
        config.crop_pixels, config.short_side_range_pixels, config.flip_probability
    )
    return transform if config.pixel_format == "rgb" else PlanesTrainTransform(transform)


def build_train_loader(
    config: RunConfig, index: VideoIndex, *, start_position: int, stop_position: int
) -> TrainLoader:
    """Returns this process's share of the clips [start_position, stop_position) of the stream."""
    data = config.data
    return TrainLoader(
        index,
        data.decoder,
        build_train_transform(data),
        num_frames=data.num_frames,
        stride=data.stride,
        clips_per_batch=config.training.clips_per_batch,
        seed=config.seed,
        start_position=start_position,
        stop_position=stop_position,
        rank=get_rank(),
        world_size=get_world_size(),
        clips_per_open=data.clips_per_open,
        pixel_format=data.pixel_format,
        workers=_build_workers(data),
    )


def build_test_transform(config: DataConfig, protocol: Protocol) -> TestTransform:
    """Returns the transform of the protocol's clips; three crops are cut by the evaluator."""
    if protocol.crop == "center":
        return TestTransform(config.test_short_side_pixels, "center", config.crop_pixels)
    return TestTransform(config.test_short_side_pixels, "full")


def build_view_sampler(config: DataConfig, protocol: Protocol) -> ViewSampler:
    """Returns what makes the frame indices of a video's clips of its frames and rate."""
    return ViewSampler(
        protocol.sampling,
        num_frames=config.num_frames,
        stride=config.stride,
        num_clips=protocol.num_clips,
    )


def build_view_loader(config: DataConfig, index: VideoIndex, protocol: Protocol) -> ViewLoader:
    """Returns this process's share of the videos, as clips of the protocol."""
    transform = build_test_transform(config, protocol)
    return ViewLoader(
        index,
        config.decoder,
        transform if config.pixel_format == "rgb" else PlanesTestTransform(transform),
        IndexedViewSampler(index, build_view_sampler(config, protocol)),
        rank=get_rank(),
        world_size=get_world_size(),
        pixel_format=config.pixel_format,
        workers=_build_workers(config),
    )


def _build_workers(config: DataConfig) -> WorkerSettings:
    return WorkerSettings(
        num_workers=config.num_workers,
        prefetch=config.prefetch_batches,
        start_method=config.start_method,
        timeout_seconds=config.decode_timeout_seconds,
    )
