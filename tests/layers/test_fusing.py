from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from tiny_residual import draw_clips, train_a_little
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torchvision.models.video import r2plus1d_18, r3d_18

from gnvideo.layers import (
    NORMALIZERS,
    BatchNorm3d,
    GroupNorm3d,
    fuse_frozen_statistics,
    normalizer_factory,
)
from gnvideo.layers.adjusted_conv import AdjustedConv3d
from gnvideo.models import make_model


def make_own(name: str, normalizer: str = "batch") -> Any:
    settings = {"width": 8, "train_crop_pixels": 32, "num_frames": 8}
    return make_model(name, 5, normalizer_factory(normalizer), **settings)


# By name: what makes the network, its input's shape, and how many batch norms follow a convolution.
NETWORKS: dict[str, tuple[Callable[[], Any], tuple[int, ...], int]] = {
    "i3d_r50": (lambda: make_own("i3d_r50"), (1, 3, 8, 64, 64), 53),
    "resnet3d_10": (lambda: make_own("resnet3d_10"), (2, 3, 8, 32, 32), 12),
    "pytorchvideo_x3d_xs": (
        lambda: make_model("pytorchvideo_x3d_xs", 5, normalizer_factory("batch")),
        (1, 3, 4, 160, 160),
        83,
    ),
    "torchvision-r3d_18": (r3d_18, (1, 3, 4, 32, 32), 20),
    "torchvision-r2plus1d_18": (r2plus1d_18, (1, 3, 4, 32, 32), 37),
    "timm-resnet18": (lambda: timm.create_model("resnet18"), (1, 3, 64, 64), 20),
    "timm-with-activations": (
        lambda: timm.create_model("test_efficientnet"),
        (1, 3, 64, 64),
        13,
    ),
}


def draw(shape: tuple[int, ...], seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def randomize(model: Any) -> Any:
    """Draws what training would change in batch norms, and returns the model in evaluation."""
    torch.manual_seed(1)
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            assert module.running_mean is not None
            assert module.running_var is not None
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0.0, 0.3)
            nn.init.normal_(module.running_mean, 0.0, 0.3)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    return model.eval()


def compute_logits(model: nn.Module, batch: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model(batch)


@pytest.mark.parametrize("network", NETWORKS)
def test_all_batch_norms_are_fused_and_the_logits_are_equal(network):
    make, shape, num_batch_norms = NETWORKS[network]
    model = randomize(make())
    keys = list(model.state_dict())

    fused, report = fuse_frozen_statistics(model, draw(shape))

    assert (report.num_fused, report.num_computed, report.left_alone) == (num_batch_norms, 0, {})
    assert not any(isinstance(module, _BatchNorm) for module in fused.modules())
    batch = draw((2, *shape[1:]), seed=5)
    expected = compute_logits(model, batch)
    # What the project promises; float32 rounding of up to 53 layers.
    error = (compute_logits(fused, batch) - expected).abs().max() / expected.abs().max()
    assert error < 1e-5
    assert list(model.state_dict()) == keys


# Those that are a fixed affine map of each channel in evaluation.
FUSED = {
    *("batch", "sync_batch", "frozen_batch", "sub_batch", "batch_renorm"),
    *("moving_average_batch", "weight_norm"),
}


@pytest.mark.parametrize("name", NORMALIZERS)
def test_every_normalizer_is_fused_or_left_alone_and_the_logits_are_equal(name):
    model = train_a_little(name).eval()
    clips = draw_clips(9)
    fused, report = fuse_frozen_statistics(model, clips)
    assert report.num_fused == (2 if name in FUSED else 0)
    assert sum(map(len, report.left_alone.values())) == 2 - report.num_fused
    assert report.num_computed == (0 if NORMALIZERS[name].conv_type is nn.Conv3d else 3)
    torch.testing.assert_close(compute_logits(fused, clips), compute_logits(model, clips))


def test_fused_network_has_the_methods_of_its_class():
    model = randomize(make_own("resnet3d_10"))
    fused: Any
    fused, _ = fuse_frozen_statistics(model, draw((1, 3, 8, 32, 32)))
    wide = draw((1, 3, 8, 48, 64))
    with torch.no_grad():
        expected = model.compute_position_logits(wide)
        torch.testing.assert_close(fused.compute_position_logits(wide), expected)
    assert isinstance(fused.stem[1], nn.ReLU)
    assert isinstance(fused.layer1[0].conv2[1], nn.Identity)


def test_model_in_training_is_fused_as_it_evaluates_and_left_in_training():
    model: Any = randomize(nn.Sequential(nn.Conv3d(3, 4, 1), BatchNorm3d(4, activation="relu")))
    model.train()
    batch = draw((2, 3, 2, 3, 3))
    fused, _ = fuse_frozen_statistics(model, batch)
    assert model.training
    assert not any(module.training for module in fused.modules())
    torch.testing.assert_close(compute_logits(fused, batch), compute_logits(model.eval(), batch))
    assert model[1].num_batches_tracked == 0
    assert not model[0]._forward_hooks
    assert not model[1]._forward_pre_hooks


def test_groups_bias_dilation_padding_and_layout_of_the_convolution_are_kept():
    conv = nn.Conv3d(
        4, 8, 3, (1, 2, 1), padding=2, dilation=(1, 1, 2), groups=2, padding_mode="replicate"
    )
    model = randomize(nn.Sequential(conv, nn.BatchNorm3d(8))).to(
        memory_format=torch.channels_last_3d
    )
    batch = draw((2, 4, 5, 7, 6)).contiguous(memory_format=torch.channels_last_3d)
    fused: Any
    fused, report = fuse_frozen_statistics(model, batch)
    assert report.num_fused == 1
    assert fused[0].weight.is_contiguous(memory_format=torch.channels_last_3d)
    torch.testing.assert_close(compute_logits(fused, batch), compute_logits(model, batch))


class Branches(nn.Module):
    """Batch norms that must not be fused, each for a reason of its own, and one that may be."""

    def __init__(self) -> None:
        super().__init__()
        self.norm_of_input = nn.BatchNorm3d(4)
        self.conv_of_two = nn.Conv3d(4, 4, 1)
        self.first, self.second = nn.BatchNorm3d(4), nn.BatchNorm3d(4)
        self.conv_read = nn.Conv3d(4, 4, 1)
        self.norm_of_read = nn.BatchNorm3d(4)
        self.shared_conv = nn.Conv3d(4, 4, 1)
        self.norm_of_shared = nn.BatchNorm3d(4)
        self.conv = nn.Conv3d(4, 4, 1)
        self.norm = nn.BatchNorm3d(4)
        self.unused = nn.BatchNorm3d(4)
        self.returned_conv = nn.Conv3d(4, 4, 1)
        self.norm_of_returned = nn.BatchNorm3d(4)
        self.group = GroupNorm3d(4, 2)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = self.norm_of_input(x)
        once = self.conv_of_two(x)
        x = self.first(once) + self.second(once)
        read = self.conv_read(x)
        x = self.norm_of_read(read) + read.mean()
        x = self.norm_of_shared(self.shared_conv(self.shared_conv(x)))
        x = self.group(self.norm(self.conv(x)))
        returned = self.returned_conv(x)
        return self.norm_of_returned(returned), returned


def test_batch_norms_whose_input_has_other_uses_are_left_alone_and_named():
    model = randomize(Branches())
    batch = draw((2, 4, 2, 3, 3))

    fused, report = fuse_frozen_statistics(model, batch)

    assert str(report).splitlines() == [
        "1 normalizers fused into the convolution before them",
        "1 BatchNorm3d left alone, which does not follow a convolution: norm_of_input",
        "5 BatchNorm3d left alone, which follows a convolution that others use: first, second, ...",
        "1 BatchNorm3d left alone, which ran 0 times: unused",
        "1 GroupNorm3d (2 groups) left alone, which has no running statistics: group",
    ]
    assert isinstance(fused.norm, nn.Identity)
    torch.testing.assert_close(compute_logits(fused, batch), compute_logits(model, batch))


def test_batch_norm_that_runs_twice_is_left_alone():
    shared = nn.BatchNorm3d(4)
    model = randomize(nn.Sequential(nn.Conv3d(4, 4, 1), shared, nn.Conv3d(4, 4, 1), shared))
    _, report = fuse_frozen_statistics(model, draw((1, 4, 2, 3, 3)))
    assert report.num_fused == 0
    assert report.left_alone == {("BatchNorm3d", "ran 2 times"): ("1",)}


class HalvedConv3d(AdjustedConv3d):
    def compute_weight(self) -> torch.Tensor:
        return self.weight / 2


@pytest.mark.parametrize("norm", [BatchNorm3d(4), GroupNorm3d(4, 2)])
def test_computed_weight_is_computed_once_with_or_without_a_fused_normalizer(norm):
    model = randomize(nn.Sequential(HalvedConv3d(3, 4, 1, bias=False), norm))
    batch = draw((2, 3, 2, 3, 3))
    fused: Any
    fused, report = fuse_frozen_statistics(model, batch)
    assert report.num_computed == 1
    assert report.num_fused == isinstance(norm, BatchNorm3d)
    assert type(fused[0]) is nn.Conv3d
    torch.testing.assert_close(compute_logits(fused, batch), compute_logits(model, batch))


def test_convolution_with_a_forward_of_its_own_keeps_its_batch_norm():
    class ScaledConv(nn.Conv3d):
        def forward(self, input: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(input)

    model = randomize(nn.Sequential(ScaledConv(3, 4, 1), nn.BatchNorm3d(4)))
    _, report = fuse_frozen_statistics(model, draw((1, 3, 2, 3, 3)))
    assert report.left_alone == {("BatchNorm3d", "does not follow a convolution"): ("1",)}
