from __future__ import annotations

import csv
import importlib
import re
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch.nn import functional

from gnvideo.build import (
    build_initialized_model,
    build_optimizer,
    build_prepare,
    build_schedule,
)
from gnvideo.comparison import make_runs
from gnvideo.config import ComparisonConfig, RunConfig, load_config
from gnvideo.data.class_list import read_classes
from gnvideo.data.coverage import read_coverage
from gnvideo.data.decoding import VideoMetadata
from gnvideo.data.decoding_pyav import PyavDecoder
from gnvideo.data.drifting_textures import CLASS_NAMES, DRIFT_DEGREES, draw_video
from gnvideo.data.manifest import read_manifest

QUICKSTART = Path(__file__).parents[2] / "configs" / "comparisons" / "quickstart.yaml"
NUM_BROKEN = 6
SPLITS = {"train": 18, "val": 12, "test": 6}
OPPOSITES = [
    (name, other)
    for name, degrees in DRIFT_DEGREES.items()
    for other, other_degrees in DRIFT_DEGREES.items()
    if other_degrees - degrees == 180
]

# Axes: N clips, T frames, H height, W width, P pixels, C colour channels, F features.
Clips = npt.NDArray[np.uint8]
Reorder = Callable[[Clips, np.random.Generator], Clips]


def read_rows(folder: Path, split: str) -> list[dict[str, str]]:
    with (folder / "annotations" / f"{split}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def name_clip(row: dict[str, str]) -> str:
    return f"{row['youtube_id']}_{int(row['time_start']):06d}_{int(row['time_end']):06d}.mp4"


@pytest.mark.parametrize("split", SPLITS)
def test_files_have_the_official_layout(sample_kinetics: Path, split: str) -> None:
    # Source: the CSV files of Kinetics-400, and the names that its crawlers give.
    text = (sample_kinetics / "annotations" / f"{split}.csv").read_text()
    header = "youtube_id,time_start,time_end,split"
    assert text.splitlines()[0] == (header if split == "test" else f"label,{header},is_cc")
    names = sorted(path.name for path in (sample_kinetics / "videos" / split).iterdir())
    assert all(re.fullmatch(r"[\w-]{11}_\d{6}_\d{6}\.mp4", name) for name in names)
    rows = read_rows(sample_kinetics, split)
    assert sorted(map(name_clip, rows)) == names
    assert {row["split"] for row in rows} == {split}
    assert len(rows) == SPLITS[split] + (NUM_BROKEN if split != "test" else 0)


def test_classes_are_equally_frequent_and_no_clip_is_in_two_splits(
    sample_kinetics: Path, prepared_kinetics: Path
) -> None:
    assert read_classes(prepared_kinetics) == tuple(sorted(CLASS_NAMES))
    readable = [row for row in read_manifest(prepared_kinetics) if row.status == "ok"]
    for split, num_videos in SPLITS.items():
        labels = [row.label for row in readable if row.split == split]
        expected = [None] if split == "test" else CLASS_NAMES
        assert {label: labels.count(label) for label in labels} == {
            label: num_videos // len(expected) for label in expected
        }
    ids = [row["youtube_id"] for split in SPLITS for row in read_rows(sample_kinetics, split)]
    assert len(set(ids)) == len(ids)
    assert len({row.content_hash for row in readable}) == len(readable) == sum(SPLITS.values())


@pytest.fixture(scope="module")
def metadata(sample_kinetics: Path, prepared_kinetics: Path) -> list[VideoMetadata]:
    """Of every video as it was downloaded, so to say, that can be read."""
    decoder = PyavDecoder()
    return [
        decoder.read_metadata(sample_kinetics / "videos" / row.split / f"{row.id}.mp4")
        for row in read_manifest(prepared_kinetics)
        if row.status == "ok"
    ]


def test_sizes_rates_and_lengths_differ_as_downloads_do(metadata: list[VideoMetadata]) -> None:
    sizes = {(video.width, video.height) for video in metadata}
    assert {width > height for width, height in sizes} == {True, False}
    assert any(width < height for width, height in sizes)
    assert any(width == height for width, height in sizes)
    assert all(48 <= min(size) <= max(size) <= 80 for size in sizes)
    rates = {video.fps for video in metadata}
    assert rates == {Fraction(24), Fraction(25), Fraction(30000, 1001), Fraction(30)}
    assert all(1.5 <= video.duration_seconds <= 2.3 for video in metadata)
    assert len({video.num_frames for video in metadata}) > 8
    # A seek into such a clip starts at its only keyframe.
    assert all(video.keyframe_interval_frames == video.num_frames for video in metadata)


def test_some_videos_are_stored_on_their_side(
    metadata: list[VideoMetadata], prepared_kinetics: Path
) -> None:
    assert 1 <= sum(video.rotation_degrees == 90 for video in metadata) < len(metadata) / 5
    assert {video.rotation_degrees for video in metadata} == {0, 90}
    readable = [row for row in read_manifest(prepared_kinetics) if row.status == "ok"]
    # What is prepared has the displayed orientation.
    for row, video in zip(readable, metadata, strict=True):
        assert np.sign(row.width - row.height) == np.sign(video.width - video.height)


def test_every_kind_of_broken_video_is_set_aside_with_its_reason(prepared_kinetics: Path) -> None:
    with (prepared_kinetics / "quarantine.csv").open(newline="") as file:
        entries = list(csv.DictReader(file))
    for split in ("train", "val"):
        reasons = sorted(
            entry["reason"].replace(f"{split}/{entry['id']}.mp4", "FILE")
            for entry in entries
            if entry["split"] == split
        )
        # How many packets flipped bits ruin depends on the bits.
        assert [re.sub(r"\d+", "N", reason) for reason in reasons] == [
            "FILE holds no video stream",
            "FILE is damaged: N of N packets could not be decoded",
            "FILE is empty",
            *["cannot open FILE: Invalid data found when processing input"] * 3,
        ]
    assert len(entries) == 2 * NUM_BROKEN
    splits = read_coverage(prepared_kinetics)["splits"]
    counts = {
        split: [entry[key] for key in ("asked", "present", "missing", "unreadable")]
        for split, entry in splits.items()
    }
    assert counts == {
        "train": [18 + NUM_BROKEN, 18, 0, NUM_BROKEN],
        "val": [12 + NUM_BROKEN, 12, 0, NUM_BROKEN],
        "test": [6, 6, 0, 0],
    }


def test_a_share_of_broken_videos_holds_all_kinds_in_turn(tmp_path: Path) -> None:
    tool: Any = importlib.import_module("make_sample_kinetics")
    words = ["--train", "4", "--val", "0", "--test", "0", "--broken-share", "0.25"]
    assert tool.main(["--output", str(tmp_path), *words, "--workers", "2"]) == 0
    rows = read_rows(tmp_path, "train")
    assert len(rows) == 24 + 8
    contents = [(tmp_path / "videos" / "train" / name_clip(row)).read_bytes() for row in rows]
    assert contents[24:].count(b"") == 2
    assert b"" not in contents[:24]
    # As many of each class as without.
    assert len({row["label"] for row in rows[:24]}) == len(CLASS_NAMES)


def test_a_seed_gives_the_same_videos_whatever_the_number_of_processes(
    sample_kinetics: Path, tmp_path: Path
) -> None:
    def make(seed: int) -> dict[str, bytes]:
        folder = tmp_path / str(seed)
        words = ["--train", "1", "--val", "0", "--test", "0", "--workers", "1"]
        tool: Any = importlib.import_module("make_sample_kinetics")
        assert tool.main(["--output", str(folder), "--seed", str(seed), *words]) == 0
        names = [name_clip(row) for row in read_rows(folder, "train")[: len(CLASS_NAMES)]]
        return {name: (folder / "videos" / "train" / name).read_bytes() for name in names}

    # The first video of each class, of one or of three.
    again = make(0)
    assert len(again) == len(CLASS_NAMES)
    for name, content in again.items():
        assert (sample_kinetics / "videos" / "train" / name).read_bytes() == content
    other = make(1)
    assert not other.keys() & again.keys()
    assert not set(other.values()) & set(again.values())


def draw_clip(class_name: str, seed: int, *, num_frames: int = 8, fps: float = 25.0) -> Clips:
    generator = np.random.default_rng(seed)
    return draw_video(
        class_name,
        generator,
        num_frames=num_frames,
        height_pixels=40,
        width_pixels=40,
        fps=fps,
    )


def compute_motion(clip_THWC: Clips) -> npt.NDArray[np.float64]:
    """Returns five numbers: the mean motion by x and y, then what does not tell its sign.

    The motion comes out too slow, with the right sign.
    """
    # Central differences: forward ones would share a pixel, and so its noise.
    dt, dy, dx = np.gradient(clip_THWC.mean(axis=3, dtype=np.float32))
    products = [-(dx * dt), -(dy * dt), dx * dx, dx * dy, dt * dt]
    energy = (dx * dx + dy * dy).mean()
    return np.array([product.mean() for product in products]) / energy


def compute_velocity(clip_THWC: Clips) -> npt.NDArray[np.float64]:
    """Returns the mean motion (x, y)."""
    return compute_motion(clip_THWC)[:2]


def compute_orientation(frame_HWC: Clips) -> float:
    """Returns in which direction the picture changes most, in degrees from 0 to 180."""
    dy, dx = np.gradient(frame_HWC.mean(axis=2))
    return np.rad2deg(np.arctan2(2 * (dx * dy).mean(), (dx**2 - dy**2).mean()) / 2) % 180


def compute_direction(degrees: float) -> npt.NDArray[np.float64]:
    return np.array([np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))])


def test_every_class_has_its_opposite() -> None:
    assert sorted(name for pair in OPPOSITES for name in pair) == sorted(CLASS_NAMES)


@pytest.mark.parametrize(
    ("name", "opposite"), OPPOSITES, ids=[f"{name} or {other}" for name, other in OPPOSITES]
)
@pytest.mark.parametrize("seed", range(4))
def test_opposite_classes_look_alike_and_move_apart(name: str, opposite: str, seed: int) -> None:
    clip, other = draw_clip(name, seed), draw_clip(opposite, seed)
    difference = compute_orientation(clip[0]) - compute_orientation(other[0])
    assert abs((difference + 90) % 180 - 90) < 10
    direction = compute_direction(DRIFT_DEGREES[name])
    assert compute_velocity(clip) @ direction > 0.05
    assert compute_velocity(other) @ direction < -0.05


@pytest.mark.parametrize("name", CLASS_NAMES)
def test_played_backwards_a_video_belongs_to_the_opposite_class(name: str) -> None:
    direction = compute_direction(DRIFT_DEGREES[name])
    for seed in range(4):
        clip = draw_clip(name, seed)
        forwards, backwards = compute_velocity(clip), compute_velocity(clip[::-1])
        assert forwards @ direction > 0.05
        assert backwards == pytest.approx(-forwards, rel=1e-3)


def compute_features(clip_THWC: Clips) -> npt.NDArray[np.float64]:
    """Returns what a linear classifier is given: motion, and how the picture looks."""
    pixels_PC = clip_THWC.reshape(-1, 3) / np.float32(255)
    looks = [pixels_PC.mean(axis=0), pixels_PC.std(axis=0)]
    return np.concatenate([compute_motion(clip_THWC), *looks, [1.0]])


def keep_order(clip_THWC: Clips, generator: np.random.Generator) -> Clips:
    return clip_THWC


def shuffle_time(clip_THWC: Clips, generator: np.random.Generator) -> Clips:
    return generator.permutation(clip_THWC)


def repeat_a_frame(clip_THWC: Clips, generator: np.random.Generator) -> Clips:
    return clip_THWC[[int(generator.integers(len(clip_THWC)))] * len(clip_THWC)]


def test_opposite_classes_are_told_apart_by_the_order_of_the_frames_alone() -> None:
    num_train, num_test = 30, 50
    clips_of_pair = [
        [
            draw_clip(class_name, seed)
            for seed in range(number, 10 * (num_train + num_test), 10)
            for class_name in pair
        ]
        for number, pair in enumerate(OPPOSITES)
    ]
    signs_N = np.tile([1.0, -1.0], num_train + num_test)
    train, test = slice(0, 2 * num_train), slice(2 * num_train, None)

    def measure_accuracy(reorder: Reorder) -> float:
        """Returns the share of test clips that a linear classifier of their pair gets right."""
        generator = np.random.default_rng(0)
        shares: list[float] = []
        for clips in clips_of_pair:
            features_NF = np.stack([compute_features(reorder(clip, generator)) for clip in clips])
            weights_F, *_ = np.linalg.lstsq(features_NF[train], signs_N[train])
            shares.append(float(np.mean(features_NF[test] @ weights_F * signs_N[test] > 0)))
        return sum(shares) / len(shares)

    assert measure_accuracy(keep_order) > 0.9
    assert 0.35 < measure_accuracy(shuffle_time) < 0.65
    assert 0.35 < measure_accuracy(repeat_a_frame) < 0.65


def stack_clips(seeds: range) -> tuple[Clips, npt.NDArray[np.int64]]:
    """Returns clips (N, T, H, W, C) as the quickstart reads them, and their classes."""
    labels = [seed % len(CLASS_NAMES) for seed in seeds]
    # Every second frame of a video of 25 frames a second.
    clips = [
        draw_clip(CLASS_NAMES[label], seed, fps=12.5)
        for label, seed in zip(labels, seeds, strict=True)
    ]
    return np.stack(clips), np.array(labels)


def load_quickstart_run() -> RunConfig:
    runs = make_runs(load_config(ComparisonConfig, QUICKSTART))
    return next(
        run.config
        for run in runs
        if run.config.normalizer.name == "group" and run.config.training.clips_per_batch == 8
    )


def train_and_test(reorder: Reorder) -> float:
    """Returns the test accuracy of the quickstart's network, trained as the quickstart trains."""
    config = load_quickstart_run()
    generator = np.random.default_rng(0)
    (train_clips, train_labels), (test_clips, test_labels) = (
        stack_clips(range(600)),
        stack_clips(range(10_000, 10_240)),
    )
    model = build_initialized_model(config, len(CLASS_NAMES))
    model.to(memory_format=torch.channels_last_3d)
    optimizer = build_optimizer(config, model)
    schedule, settings = build_schedule(config, len(train_clips))
    prepare = build_prepare(config.data)
    crop = config.data.crop_pixels
    room = train_clips.shape[2] - crop

    def make_batch(clips: list[Clips], top: int, left: int) -> torch.Tensor:
        batch_NTHWC = np.stack([reorder(clip, generator) for clip in clips])
        batch_NTHWC = batch_NTHWC[:, :, top : top + crop, left : left + crop]
        return prepare(torch.from_numpy(batch_NTHWC).permute(0, 4, 1, 2, 3))

    order: list[int] = []
    for step in range(settings.total_steps):
        if len(order) < settings.clips_per_batch:
            order += generator.permutation(len(train_clips)).tolist()
        chosen, order = order[: settings.clips_per_batch], order[settings.clips_per_batch :]
        top, left = generator.integers(0, room + 1, 2).tolist()
        logits = model(make_batch([train_clips[i] for i in chosen], top, left))
        loss = functional.cross_entropy(logits, torch.from_numpy(train_labels[chosen]))
        optimizer.clear_gradients()
        loss.backward()
        optimizer.step(schedule(step))

    model.eval()
    with torch.inference_mode():
        logits = model(make_batch(list(test_clips), room // 2, room // 2))
    return float(np.mean(logits.argmax(dim=1).numpy() == test_labels))


@pytest.mark.slow
def test_the_quickstarts_network_needs_the_order_of_the_frames() -> None:
    ordered = train_and_test(keep_order)
    # Without it, at best the three ways in which bands can lie are told apart.
    shuffled = train_and_test(shuffle_time)
    print(f"ordered {ordered:.3f}, shuffled {shuffled:.3f}")
    assert ordered > 0.75
    assert shuffled < 0.6
