from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from gnvideo.data.transforms import (
    TestTransform,
    TrainTransform,
    compute_resized_size,
    normalize_clips,
)


@pytest.fixture(name="frames_THWC")
def make_frames() -> Any:
    return np.random.default_rng(0).integers(0, 256, (3, 40, 56, 3), dtype=np.uint8)


def test_train_clip_without_resizing_is_a_crop_of_the_frames_bit_by_bit(frames_THWC: Any) -> None:
    transform = TrainTransform(crop_pixels=24, short_side_range_pixels=(40, 40), flip_probability=0)
    draws = np.random.default_rng(5)
    draws.integers(40, 41)
    top, left = draws.integers(0, 40 - 24 + 1), draws.integers(0, 56 - 24 + 1)
    clip = transform(frames_THWC, np.random.default_rng(5))
    expected = frames_THWC[:, top : top + 24, left : left + 24]
    np.testing.assert_array_equal(clip.permute(1, 2, 3, 0).numpy(), expected)
    assert np.shares_memory(clip.numpy(), frames_THWC)


def test_train_clip_is_mirrored_left_to_right_only(frames_THWC: Any) -> None:
    plain, mirrored = (
        TrainTransform(24, (40, 40), flip_probability=p)(frames_THWC, np.random.default_rng(1))
        for p in (0.0, 1.0)
    )
    assert torch.equal(mirrored, plain.flip(-1))
    assert not torch.equal(mirrored, plain)


def test_train_clips_reach_every_size_place_and_both_directions() -> None:
    # Each pixel carries its own place.
    rows, columns = np.mgrid[:8, :10]
    frames = np.stack([rows, columns, rows], axis=-1).astype(np.uint8)[None]
    generator = np.random.default_rng(0)
    transform = TrainTransform(6, (8, 8))
    seen = {
        (int(clip[0, 0, 0, 0]), int(clip[1, 0, 0].min()), bool(clip[1, 0, 0, 0] > clip[1, 0, 0, 1]))
        for clip in (transform(frames, generator) for _ in range(600))
    }
    assert seen == {(t, left, f) for t in range(3) for left in range(5) for f in (False, True)}


def test_all_frames_of_a_clip_are_treated_alike() -> None:
    frames = np.random.default_rng(3).integers(0, 256, (1, 30, 40, 3), dtype=np.uint8)
    clip = TrainTransform(16, (20, 28))(frames.repeat(4, axis=0), np.random.default_rng(7))
    assert clip.shape == (3, 4, 16, 16)
    assert torch.equal(clip, clip[:, :1].expand_as(clip))


def test_transform_draws_from_its_generator_only_and_always_the_same_number(
    frames_THWC: Any,
) -> None:
    state = torch.get_rng_state()
    ends: list[float] = []
    for probability in (0.0, 1.0):
        generator = np.random.default_rng(11)
        TrainTransform(24, (32, 40), probability)(frames_THWC, generator)
        ends.append(generator.random())
    assert ends[0] == ends[1]
    assert torch.equal(torch.get_rng_state(), state)


def test_resizing_is_antialiased_bilinear_within_one_level(frames_THWC: Any) -> None:
    clip = TestTransform(short_side_pixels=20, crop="full")(frames_THWC)
    assert clip.shape == (3, 3, 20, 28)
    assert clip.dtype == torch.uint8
    frames_TCHW = torch.from_numpy(frames_THWC).permute(0, 3, 1, 2)
    expected = functional.interpolate(
        frames_TCHW.double(), size=(20, 28), mode="bilinear", antialias=True
    )
    # uint8 weights are rounded to a few bits fewer than float's.
    assert (clip.permute(1, 0, 2, 3).double() - expected).abs().max() <= 1


def test_full_frame_of_the_right_size_is_not_copied(frames_THWC: Any) -> None:
    clip = TestTransform(short_side_pixels=40, crop="full")(frames_THWC)
    assert np.shares_memory(clip.numpy(), frames_THWC)
    np.testing.assert_array_equal(clip.permute(1, 2, 3, 0).numpy(), frames_THWC)


def test_center_crop_takes_the_middle(frames_THWC: Any) -> None:
    clip = TestTransform(short_side_pixels=40, crop="center", crop_pixels=24)(frames_THWC)
    np.testing.assert_array_equal(clip.permute(1, 2, 3, 0).numpy(), frames_THWC[:, 8:32, 16:40])


@pytest.mark.parametrize(
    ("size", "expected"),
    [((256, 340), (224, 297)), ((340, 256), (297, 224)), ((7, 7), (224, 224)), ((1, 9), (5, 45))],
)
def test_short_side_is_exact_and_long_side_is_rounded_down(
    size: tuple[int, int], expected: tuple[int, int]
) -> None:
    assert (
        compute_resized_size(*size, expected[0] if size[0] <= size[1] else expected[1]) == expected
    )


@pytest.mark.parametrize(
    "make",
    [
        lambda: TrainTransform(24, (20, 30)),
        lambda: TrainTransform(24, (40, 30)),
        lambda: TrainTransform(0, (20, 30)),
        lambda: TrainTransform(24, (24, 30), 1.5),
        lambda: TestTransform(20, "center", 24),
        lambda: TestTransform(20, "center"),
        lambda: TestTransform(20, "full", 10),
        lambda: TestTransform(0, "full"),
        lambda: TestTransform(20, "corner"),  # pyright: ignore[reportArgumentType]
    ],
)
def test_settings_that_do_not_fit_each_other_are_refused(make: Any) -> None:
    with pytest.raises(ValueError, match=r"must|choose|needs|leave"):
        make()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_normalized_clips_keep_layout_and_follow_the_formula(dtype: torch.dtype) -> None:
    clips = torch.randint(0, 256, (2, 3, 4, 6, 6), dtype=torch.uint8)
    clips = clips.contiguous(memory_format=torch.channels_last_3d)
    mean, std = (0.45, 0.4, 0.5), (0.225, 0.2, 0.25)
    result = normalize_clips(clips, mean, std, dtype)
    shape = (1, 3, 1, 1, 1)
    expected = (clips.double() / 255 - torch.tensor(mean).view(shape)) / torch.tensor(std).view(
        shape
    )
    assert result.dtype == dtype
    assert result.is_contiguous(memory_format=torch.channels_last_3d)
    # Half a unit in the last place of the largest value, about 3, and of the float32 steps before.
    tolerance = 2e-6 if dtype == torch.float32 else 2**-7
    assert (result.double() - expected).abs().max() <= tolerance
