from __future__ import annotations

import ctypes
import pickle
import time
from collections.abc import Iterable
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gnvideo.data.clip_sampling import sample_train_clip
from gnvideo.data.clip_stream import ClipStream, make_sample_generator
from gnvideo.data.dataset import ClipBatch, OpenedVideo, TrainClips
from gnvideo.data.decoding import make_decoder
from gnvideo.data.decoding_pyav import PyavDecoder
from gnvideo.data.loader import TrainLoader, ViewLoader
from gnvideo.data.manifest import ManifestRow, write_manifest
from gnvideo.data.planes import (
    PlanesTestTransform,
    PlanesTrainTransform,
    convert_packed_clips,
)
from gnvideo.data.transforms import TestTransform, TrainTransform
from gnvideo.data.video_index import VideoIndex, load_video_index
from gnvideo.data.view_sampling import IndexedViewSampler, ViewSampler
from gnvideo.data.worker_pool import WorkerSettings
from gnvideo.errors import VideoError, WorkerDiedError

LENGTHS = (9, 5, 14, 8, 11)
TRANSFORM = TrainTransform(crop_pixels=16, short_side_range_pixels=(18, 24))


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory, write_video: Any) -> VideoIndex:
    root = tmp_path_factory.mktemp("data")
    rows: list[ManifestRow] = []
    for number, length in enumerate(LENGTHS):
        name = f"video{number}_000000_000010"
        write_video(root / f"{name}.mp4", num_frames=length, height=24, width=32, b_frames=0)
        rows.append(
            ManifestRow(
                id=name,
                path=f"{name}.mp4",
                label="ab"[number % 2] if number else None,
                split="train",
                frames=length,
                fps=25.0,
                width=32,
                height=24,
                duration=length / 25,
                keyframe_interval=12,
                bytes=1,
                content_hash="0",
                status="ok",
                reason=None,
            )
        )
    write_manifest(root, rows)
    return load_video_index(root, "train", ("a", "b"))


SETTINGS: dict[str, Any] = {
    "num_frames": 4,
    "stride": 2,
    "clips_per_batch": 2,
    "seed": 3,
    "stop_position": 12,
}


def make_train_loader(index: VideoIndex, **changes: Any) -> TrainLoader:
    return TrainLoader(index, "pyav", TRANSFORM, **SETTINGS | changes)


def list_clips(batches: Iterable[ClipBatch]) -> list[tuple[str, int, int, bytes]]:
    """(video id, epoch, label, bytes) of each clip in the order of the batches."""
    return [
        (video_id, epoch, int(label), clip.contiguous().numpy().tobytes())
        for batch in batches
        for video_id, epoch, label, clip in zip(
            batch.video_ids, batch.epochs, batch.labels_N, batch.clips_NCTHW, strict=True
        )
    ]


@pytest.fixture(scope="module")
def clips(index: VideoIndex) -> list[tuple[str, int, int, bytes]]:
    return list_clips(make_train_loader(index))


@pytest.mark.parametrize("num_workers", [1, 2])
def test_workers_give_the_same_clips_and_leave_the_global_generator_alone(
    num_workers: int, index: VideoIndex, clips: list[Any]
) -> None:
    state = torch.get_rng_state()
    assert list_clips(make_train_loader(index, workers=WorkerSettings(num_workers))) == clips
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("clips_per_batch", [1, 3, 4])
def test_clips_per_batch_do_not_change_the_clips(
    clips_per_batch: int, index: VideoIndex, clips: list[Any]
) -> None:
    loader = make_train_loader(index, clips_per_batch=clips_per_batch)
    assert len(loader) == 12 // clips_per_batch
    assert list_clips(loader) == clips


@pytest.mark.parametrize(("world_size", "clips_per_batch"), [(2, 1), (2, 3), (3, 2)])
def test_ranks_share_the_clips_of_each_step(
    world_size: int, clips_per_batch: int, index: VideoIndex, clips: list[Any]
) -> None:
    ranks = [
        make_train_loader(index, rank=r, world_size=world_size, clips_per_batch=clips_per_batch)
        for r in range(world_size)
    ]
    together = [clip for step in zip(*ranks, strict=True) for clip in list_clips(step)]
    assert together == clips


def test_a_resumed_run_meets_the_remaining_clips(index: VideoIndex, clips: list[Any]) -> None:
    assert list_clips(make_train_loader(index, start_position=8)) == clips[8:]
    assert list_clips(make_train_loader(index, start_position=12)) == []


def test_each_epoch_has_each_video_once_in_an_order_of_its_own(
    index: VideoIndex, clips: list[Any]
) -> None:
    ids = [video_id for video_id, _, _, _ in clips]
    assert [epoch for _, epoch, _, _ in clips] == [0] * 5 + [1] * 5 + [2] * 2
    assert sorted(ids[:5]) == sorted(ids[5:10]) == [index.video_id(i) for i in range(5)]


def test_a_video_gives_another_clip_in_another_epoch_and_at_another_seed(
    index: VideoIndex, clips: list[Any]
) -> None:
    def find(clips: list[Any], epoch: int) -> dict[str, bytes]:
        return {video_id: data for video_id, e, _, data in clips if e == epoch}

    other = list_clips(make_train_loader(index, seed=4))
    assert all(find(clips, 0)[name] != data for name, data in find(clips, 1).items())
    assert all(find(clips, 0)[name] != data for name, data in find(other, 0).items())


def test_clip_and_label_are_those_of_the_video(index: VideoIndex, clips: list[Any]) -> None:
    video_id, epoch, label, data = clips[6]
    video = [index.video_id(i) for i in range(len(index))].index(video_id)
    generator = make_sample_generator(3, epoch, video_id)
    indices = sample_train_clip(index.num_frames(video), 4, 2, generator)
    frames = make_decoder("pyav").decode_frames(index.path(video), indices).frames_THWC
    assert TRANSFORM(frames, generator).contiguous().numpy().tobytes() == data
    assert label == index.label(video)


@pytest.fixture(scope="module")
def repeated_clips(index: VideoIndex) -> list[tuple[str, int, int, bytes]]:
    """60 clips of the stream with 3 clips an opened video, made one by one."""
    return list_clips(
        make_train_loader(index, clips_per_open=3, clips_per_batch=1, stop_position=60)
    )


@pytest.mark.parametrize(
    ("world_size", "clips_per_batch", "num_workers"), [(1, 4, 0), (1, 4, 2), (2, 2, 1), (4, 3, 0)]
)
def test_clips_of_one_opened_video_do_not_depend_on_batches_ranks_and_workers(
    world_size: int,
    clips_per_batch: int,
    num_workers: int,
    index: VideoIndex,
    repeated_clips: list[Any],
) -> None:
    ranks = [
        make_train_loader(
            index,
            clips_per_open=3,
            rank=rank,
            world_size=world_size,
            clips_per_batch=clips_per_batch,
            stop_position=60,
            workers=WorkerSettings(num_workers),
        )
        for rank in range(world_size)
    ]
    together = [clip for step in zip(*ranks, strict=True) for clip in list_clips(step)]
    assert together == repeated_clips


@pytest.mark.parametrize("start", [4, 16, 36, 56])
def test_a_run_resumed_between_the_clips_of_a_video_meets_the_remaining_ones(
    start: int, index: VideoIndex, repeated_clips: list[Any]
) -> None:
    loader = make_train_loader(
        index, clips_per_open=3, clips_per_batch=4, start_position=start, stop_position=60
    )
    assert list_clips(loader) == repeated_clips[start:]


def test_a_clip_is_the_same_whichever_other_clips_are_made_with_it(
    clips: list[Any], repeated_clips: list[Any]
) -> None:
    # (seed, epoch, video id) decide it, whatever its place in the stream.
    by_name = {(video_id, epoch): data for video_id, epoch, _, data in repeated_clips}
    for video_id, epoch, _, data in clips:
        assert by_name[video_id, epoch] == data


def test_a_video_is_opened_once_for_several_clips(
    index: VideoIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    decode = PyavDecoder.decode_frames

    def count(self: PyavDecoder, path: Path, indices: Any) -> Any:
        calls.append(len(indices))
        return decode(self, path, indices)

    monkeypatch.setattr(PyavDecoder, "decode_frames", count)
    # Four cycles; in each the 5 videos, of which one has its clips at both ends of the cycle.
    list(make_train_loader(index, clips_per_open=3, stop_position=60))
    assert len(calls) <= 4 * (5 + 2)
    assert max(calls) > 4


class HangingTransform(TrainTransform):
    """Stands for a decoder that never comes back."""

    def __call__(self, frames_THWC: Any, generator: Any) -> torch.Tensor:
        time.sleep(1000)
        raise AssertionError


class CrashingTransform(TrainTransform):
    """Stands for a decoder that writes where it must not."""

    def __call__(self, frames_THWC: Any, generator: Any) -> torch.Tensor:
        ctypes.string_at(0)
        raise AssertionError


@pytest.mark.parametrize(
    ("transform", "error", "words"),
    [
        (HangingTransform(16, (18, 24)), VideoError, "was stuck"),
        (CrashingTransform(16, (18, 24)), WorkerDiedError, "SIGSEGV"),
    ],
)
def test_a_video_at_which_a_worker_hangs_or_crashes_is_named(
    transform: TrainTransform, error: type[Exception], words: str, index: VideoIndex
) -> None:
    first, _ = ClipStream(len(index), 3).locate(0)
    loader = TrainLoader(
        index,
        "pyav",
        transform,
        num_frames=4,
        stride=2,
        clips_per_batch=2,
        seed=3,
        stop_position=12,
        workers=WorkerSettings(1, timeout_seconds=1.5),
    )
    with pytest.raises(error, match=words) as caught:
        next(iter(loader))
    assert str(index.path(first)) in str(caught.value)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_planes_come_through_the_loaders_as_the_decoder_gives_them(
    num_workers: int, index: VideoIndex
) -> None:
    workers = WorkerSettings(num_workers)
    transform = TrainTransform(16, (24, 24), flip_probability=0)
    settings: dict[str, Any] = {**SETTINGS, "workers": workers}
    rgb = next(iter(TrainLoader(index, "pyav", transform, **settings)))
    settings["pixel_format"] = "yuv420"
    planes = next(iter(TrainLoader(index, "pyav", PlanesTrainTransform(transform), **settings)))
    assert planes.video_ids == rgb.video_ids
    assert planes.clips_NCTHW.shape == (2, 1, 4, 25, 16)
    assert convert_packed_clips(planes.clips_NCTHW).shape == rgb.clips_NCTHW.shape
    sampler = make_sampler(index, "nonlocal", num_frames=4, stride=3, num_clips=3)
    views = ViewLoader(
        index,
        "pyav",
        PlanesTestTransform(TestTransform(24, "full")),
        sampler,
        pixel_format="yuv420",
        workers=workers,
    )
    for item, reference in zip(views, make_view_loader(index, side=24), strict=True):
        assert item.video_id == reference.video_id
        difference = convert_packed_clips(item.views_VCTHW) - reference.views_VCTHW
        assert difference.abs().max() < 3


@pytest.mark.parametrize("num_workers", [0, 1])
def test_batches_are_uint8_in_channels_last_3d_layout(num_workers: int, index: VideoIndex) -> None:
    batch = next(iter(make_train_loader(index, workers=WorkerSettings(num_workers))))
    assert batch.clips_NCTHW.shape == (2, 3, 4, 16, 16)
    assert batch.clips_NCTHW.dtype == torch.uint8
    assert batch.clips_NCTHW.is_contiguous(memory_format=torch.channels_last_3d)
    assert batch.labels_N.dtype == torch.int64


@pytest.mark.parametrize("name", ["pyav", "decord"])
def test_clip_maker_pickles_also_after_use(name: str, index: VideoIndex) -> None:
    maker = TrainClips(index, name, TRANSFORM, num_frames=4, stride=2, clips_per_batch=2, seed=3)
    slot = maker.slots.take()
    maker.make_clips([OpenedVideo(1, [(0, slot, 0)])], lambda video: None)
    copy = pickle.loads(ForkingPickler.dumps(maker))
    copy.make_clips([OpenedVideo(1, [(0, slot, 1)])], lambda video: None)
    # The copy writes the same memory.
    first, second = maker.slots.open(slot).reshape(maker.batch_shape)
    assert first.any()
    np.testing.assert_array_equal(first, second)


def break_video(index: VideoIndex, tmp_path: Path) -> VideoIndex:
    """A copy of the prepared folder, in which one video is damaged."""
    for source in index.root.iterdir():
        (tmp_path / source.name).write_bytes(source.read_bytes())
    (tmp_path / "video3_000000_000010.mp4").write_bytes(b"damaged")
    return load_video_index(tmp_path, "train", ("a", "b"))


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_video_that_does_not_decode_ends_the_loop_with_one_line_that_names_it(
    num_workers: int, index: VideoIndex, tmp_path: Path
) -> None:
    broken = break_video(index, tmp_path)
    loaders = (
        make_train_loader(broken, workers=WorkerSettings(num_workers)),
        make_view_loader(broken, workers=WorkerSettings(num_workers)),
    )
    for loader in loaders:
        with pytest.raises(VideoError) as caught:
            list(loader)
        assert "\n" not in str(caught.value)
        assert str(tmp_path / "video3_000000_000010.mp4") in str(caught.value)


def test_a_range_that_is_no_whole_number_of_steps_is_refused(index: VideoIndex) -> None:
    with pytest.raises(ValueError, match="no whole number of steps"):
        make_train_loader(index, stop_position=13)
    with pytest.raises(ValueError, match="no whole number of steps"):
        make_train_loader(index, start_position=14)
    with pytest.raises(ValueError, match="rank is 2"):
        make_train_loader(index, rank=2, world_size=2)


def make_sampler(index: VideoIndex, rule: str, **counts: int) -> IndexedViewSampler:
    return IndexedViewSampler(index, ViewSampler(rule, **counts))


def make_view_loader(index: VideoIndex, side: int = 20, **changes: Any) -> ViewLoader:
    sampler = make_sampler(index, "nonlocal", num_frames=4, stride=3, num_clips=3)
    return ViewLoader(index, "pyav", TestTransform(side, "full"), sampler, **changes)


@pytest.mark.parametrize(("world_size", "num_workers"), [(1, 0), (2, 0), (7, 0), (2, 1)])
def test_ranks_together_see_the_views_of_each_video_once(
    world_size: int, num_workers: int, index: VideoIndex
) -> None:
    views = [
        item
        for rank in range(min(world_size, 3) if num_workers == 0 else world_size)
        for item in make_view_loader(
            index, rank=rank, world_size=world_size, workers=WorkerSettings(num_workers)
        )
    ]
    if world_size == 7:
        # More ranks than videos: the last ranks have none.
        assert len(make_view_loader(index, rank=6, world_size=7)) == 0
        assert [item.position for item in views] == [0, 1, 2]
    else:
        assert sorted(item.position for item in views) == list(range(5))
    for item in views:
        assert item.video_id == index.video_id(item.position)
        assert item.label == index.label(item.position)
        assert item.views_VCTHW.is_contiguous(memory_format=torch.channels_last_3d)


def test_views_are_the_frames_of_the_protocol(index: VideoIndex) -> None:
    sampler = make_sampler(index, "nonlocal", num_frames=4, stride=3, num_clips=3)
    loader = ViewLoader(index, "pyav", TestTransform(24, "full"), sampler)
    for item in loader:
        indices = sampler(item.position)
        frames = make_decoder("pyav").decode_frames(index.path(item.position), indices.ravel())
        expected = frames.frames_THWC.reshape(3, 4, 24, 32, 3)
        np.testing.assert_array_equal(item.views_VCTHW.permute(0, 2, 3, 4, 1).numpy(), expected)


def test_one_clip_gives_one_view(index: VideoIndex) -> None:
    sampler = make_sampler(index, "center", num_frames=4, stride=1, num_clips=1)
    item = next(iter(ViewLoader(index, "pyav", TestTransform(20, "center", 16), sampler)))
    assert item.views_VCTHW.shape == (1, 3, 4, 16, 16)
    assert item.label == -1
