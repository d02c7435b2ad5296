from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from torch.nn import functional

from gnvideo.layers import normalizer_factory
from gnvideo.models import initialize, make_model
from gnvideo.models.inception_i3d import split_same_padding

# Output channels of the 1x1x1 and 3x3x3 convolutions: b0, b1a, b1b, b2a, b2b, b3b.
MODULES = {
    "Mixed_3b": (64, 96, 128, 16, 32, 32),
    "Mixed_3c": (128, 128, 192, 32, 96, 64),
    "Mixed_4b": (192, 96, 208, 16, 48, 64),
    "Mixed_4c": (160, 112, 224, 24, 64, 64),
    "Mixed_4d": (128, 128, 256, 24, 64, 64),
    "Mixed_4e": (112, 144, 288, 32, 64, 64),
    "Mixed_4f": (256, 160, 320, 32, 128, 128),
    "Mixed_5b": (256, 160, 320, 32, 128, 128),
    "Mixed_5c": (384, 192, 384, 48, 128, 128),
}


def make_small(num_frames: int = 16, crop: int = 64, normalizer: str = "batch") -> Any:
    model = make_model(
        "inception_i3d",
        5,
        normalizer_factory(normalizer),
        width=8,
        num_frames=num_frames,
        train_crop_pixels=crop,
    )
    initialize(model, 0)
    return model


def random_clips(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def pad_by_remainder(
    x: torch.Tensor, kernel: tuple[int, ...], stride: tuple[int, ...], value: float
) -> torch.Tensor:
    """SAME padding in the words of TensorFlow's documentation: by the remainder of the stride."""
    padding: list[int] = []
    for length, k, s in zip(x.shape[:1:-1], kernel[::-1], stride[::-1], strict=True):
        total = max(k - (s if length % s == 0 else length % s), 0)
        padding += [math.floor(total / 2), math.ceil(total / 2)]
    return functional.pad(x, padding, value=value)


class Reference:
    """The published network in evaluation, of a state dict under its names."""

    def __init__(self, state: dict[str, torch.Tensor]) -> None:
        self.state = state

    def unit(self, name: str, x: torch.Tensor, stride: int = 1) -> torch.Tensor:
        weight = self.state[f"{name}.conv3d.weight"]
        strides = (stride,) * 3
        y = functional.conv3d(
            pad_by_remainder(x, weight.shape[2:], strides, 0.0), weight, None, stride
        )
        mean, var, scale, offset = (
            self.state[f"{name}.bn.{key}"][:, None, None, None]
            for key in ("running_mean", "running_var", "weight", "bias")
        )
        return ((y - mean) / (var + 1e-5).sqrt() * scale + offset).clamp(min=0)

    def pool(
        self, x: torch.Tensor, kernel: tuple[int, ...], stride: tuple[int, ...]
    ) -> torch.Tensor:
        padded = pad_by_remainder(x, kernel, stride, -math.inf)
        return functional.max_pool3d(padded, kernel, stride)

    def module(self, name: str, x: torch.Tensor) -> torch.Tensor:
        branches = [
            self.unit(f"{name}.b0", x),
            self.unit(f"{name}.b1b", self.unit(f"{name}.b1a", x)),
            self.unit(f"{name}.b2b", self.unit(f"{name}.b2a", x)),
            self.unit(f"{name}.b3b", self.pool(x, (3, 3, 3), (1, 1, 1))),
        ]
        return torch.cat(branches, dim=1)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        x = self.unit("Conv3d_1a_7x7", x, stride=2)
        x = self.pool(x, (1, 3, 3), (1, 2, 2))
        x = self.unit("Conv3d_2c_3x3", self.unit("Conv3d_2b_1x1", x))
        x = self.pool(x, (1, 3, 3), (1, 2, 2))
        for name in MODULES:
            if name == "Mixed_4b":
                x = self.pool(x, (3, 3, 3), (2, 2, 2))
            if name == "Mixed_5b":
                x = self.pool(x, (2, 2, 2), (2, 2, 2))
            x = self.module(name, x)
        pairs = functional.avg_pool3d(x, (2, *x.shape[3:]), stride=1)
        weight, bias = (self.state[f"logits.conv3d.{key}"] for key in ("weight", "bias"))
        return functional.conv3d(pairs, weight, bias).mean((2, 3, 4))


@pytest.mark.parametrize(
    "shape", [(2, 3, 32, 64, 64), (1, 3, 17, 63, 70), (1, 3, 21, 45, 97)], ids=str
)
def test_logits_are_those_of_the_published_network_on_even_and_odd_sizes(shape):
    model = make_small()
    clips = random_clips(*shape).double()
    model.double().train()
    # Gives the running statistics other values than those at the start.
    model(clips)
    model.eval()
    with torch.no_grad():
        torch.testing.assert_close(model(clips), Reference(model.state_dict())(clips))


def test_names_and_shapes_are_those_of_published_checkpoints():
    with torch.device("meta"):
        model = make_model("inception_i3d", 400, normalizer_factory("batch"))

    convs: dict[str, tuple[int, ...]] = {
        "Conv3d_1a_7x7": (64, 3, 7, 7, 7),
        "Conv3d_2b_1x1": (64, 64, 1, 1, 1),
        "Conv3d_2c_3x3": (192, 64, 3, 3, 3),
    }
    channels = 192
    for name, (b0, b1a, b1b, b2a, b2b, b3b) in MODULES.items():
        convs |= {
            f"{name}.b0": (b0, channels, 1, 1, 1),
            f"{name}.b1a": (b1a, channels, 1, 1, 1),
            f"{name}.b1b": (b1b, b1a, 3, 3, 3),
            f"{name}.b2a": (b2a, channels, 1, 1, 1),
            f"{name}.b2b": (b2b, b2a, 3, 3, 3),
            f"{name}.b3b": (b3b, channels, 1, 1, 1),
        }
        channels = b0 + b1b + b2b + b3b
    expected: dict[str, tuple[int, ...]] = {
        "logits.conv3d.weight": (400, 1024, 1, 1, 1),
        "logits.conv3d.bias": (400,),
    }
    for name, shape in convs.items():
        expected[f"{name}.conv3d.weight"] = shape
        for key in ("weight", "bias", "running_mean", "running_var"):
            expected[f"{name}.bn.{key}"] = shape[:1]
        expected[f"{name}.bn.num_batches_tracked"] = ()
    assert {key: tuple(value.shape) for key, value in model.state_dict().items()} == expected


@pytest.mark.parametrize("kernel", [1, 2, 3, 7])
def test_same_padding_leaves_the_ceiling_and_differs_by_one_at_most(kernel):
    for length, stride in itertools.product(range(1, 20), range(1, kernel + 1)):
        front, back = split_same_padding(length, kernel, stride)
        num_outputs = (length + front + back - kernel) // stride + 1
        assert num_outputs == math.ceil(length / stride)
        assert back - front in (0, 1)
        # No padding is wasted: one less would lose an output, unless there is none.
        assert front + back == 0 or (length + front + back - 1 - kernel) // stride + 1 < num_outputs


@pytest.mark.parametrize("name", ["MaxPool3d_2a_3x3", "MaxPool3d_4a_3x3", "MaxPool3d_5a_2x2"])
def test_pooling_pads_with_nothing_that_could_be_the_maximum(name):
    pool = getattr(make_small(), name)
    for size in itertools.product((1, 2, 5), (1, 4, 7), (2, 3, 6)):
        # All below zero, where a padding of zeros would win.
        x = random_clips(1, 2, *size) - 10
        expected = functional.max_pool3d(
            pad_by_remainder(x, pool.kernel, pool.stride, -math.inf), pool.kernel, pool.stride
        )
        assert torch.equal(pool(x), expected)


def test_logits_are_the_mean_over_pairs_of_frames():
    model = make_small(num_frames=32).eval()
    clips = random_clips(1, 3, 32, 64, 64)
    with torch.no_grad():
        feature_map = model.compute_feature_map(clips)
        frames_TC = feature_map.mean((3, 4))[0].T
        assert len(frames_TC) == 4
        pair_logits = [
            model.get_classifier()((first + second) / 2)
            for first, second in itertools.pairwise(frames_TC)
        ]
        torch.testing.assert_close(model(clips)[0], torch.stack(pair_logits).mean(0))


@pytest.mark.parametrize("num_frames", [8, 16, 24])
def test_positions_are_the_windows_of_the_training_size_with_the_networks_head(num_frames):
    model = make_small(num_frames=num_frames, normalizer="group").eval()
    clips = random_clips(1, 3, num_frames + 16, 64, 128)
    T, W = num_frames // 8, 2
    assert model.position_pool == (T, 2, W)
    with torch.no_grad():
        feature_map = model.compute_feature_map(clips)
        position_logits = model.compute_position_logits(clips)
        classifier = model.get_classifier()
        # The first and the last frame are in one pair, the others in two.
        weights = torch.tensor([1.0] + [2.0] * (T - 2) + [1.0] * min(T - 1, 1))
        expected = [
            classifier(
                torch.einsum(
                    "t,nct->nc",
                    weights / weights.sum(),
                    feature_map[:, :, t : t + T, :, w : w + W].mean((3, 4)),
                )
            )
            for t in range(feature_map.shape[2] - T + 1)
            for w in range(feature_map.shape[4] - W + 1)
        ]
    assert len(expected) == 9
    torch.testing.assert_close(position_logits, torch.stack(expected, dim=2))


def test_one_frame_of_the_map_is_classified_by_itself():
    model = make_small(num_frames=8, normalizer="group").eval()
    clips = random_clips(1, 3, 8, 64, 64)
    with torch.no_grad():
        feature_map = model.compute_feature_map(clips)
        assert feature_map.shape[2] == 1
        expected = model.get_classifier()(feature_map.mean((2, 3, 4)))
        torch.testing.assert_close(model(clips), expected)
        torch.testing.assert_close(model.compute_position_logits(clips)[..., 0], expected)
