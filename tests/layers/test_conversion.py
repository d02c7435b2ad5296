"""Conversion of networks from batch norms; own, torchvision's, timm's and pytorchvideo's."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torchvision.models.video import r3d_18

from gnvideo.errors import NormalizerError
from gnvideo.layers import (
    NORMALIZERS,
    BatchNorm3d,
    GroupNorm3d,
    compute_precise_statistics,
    convert_normalizer,
    normalizer_factory,
)
from gnvideo.models import make_model

with warnings.catch_warnings():
    # pytorchvideo calls torch.jit functions that torch has deprecated.
    warnings.simplefilter("ignore")
    from pytorchvideo.models.resnet import create_resnet

TARGETS = [
    name
    for name, spec in NORMALIZERS.items()
    if spec.conv_type is nn.Conv3d and not spec.replaces_activation
]
REFUSED = [name for name in NORMALIZERS if name not in TARGETS]


def make_own() -> nn.Module:
    return nn.Sequential(
        nn.Conv3d(3, 8, 3, bias=False),
        BatchNorm3d(8, eps=1e-3, activation="relu"),
        nn.Sequential(nn.Conv3d(8, 12, 1), nn.BatchNorm3d(12, affine=False), nn.ReLU()),
        nn.AdaptiveAvgPool3d(1),
        nn.Flatten(),
        nn.Linear(12, 5),
    )


def make_slow() -> nn.Module:
    """pytorchvideo's Slow ResNet-50 with an eighth of its channels."""
    settings: Any = {"stem_dim_out": 8, "head_pool_kernel_size": (4, 1, 1)}
    return create_resnet(model_depth=50, model_num_class=5, **settings)


# By name: what makes the network, and its input's shape after N. No feature map may have only one
# position: there all variances are 0, and rounding is divided by sqrt(eps) in every layer.
NETWORKS: dict[str, tuple[Callable[[], Any], tuple[int, ...]]] = {
    "torchvision-r3d_18": (lambda: r3d_18(num_classes=5), (3, 4, 24, 24)),
    "timm-resnet18": (lambda: timm.create_model("resnet18", num_classes=5), (3, 64, 64)),
    "timm-with-activations": (
        lambda: timm.create_model("test_efficientnet", num_classes=5),
        (3, 48, 48),
    ),
    "pytorchvideo-slow_r50": (make_slow, (3, 4, 32, 32)),
}


def draw(shape: tuple[int, ...], num_clips: int = 1, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(num_clips, *shape, generator=generator, dtype=torch.float64)


def make_calibrated(make: Callable[[], Any], batch: torch.Tensor) -> Any:
    """Returns the network in float64 evaluation, its running statistics those of the batch.

    All scales and offsets are drawn, since 1 and 0 would hide a wrong fold.
    """
    torch.manual_seed(1)
    model = make().double()
    for module in model.modules():
        if isinstance(module, _BatchNorm) and module.affine:
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0.0, 0.3)
    compute_precise_statistics(model, [batch], 1)
    return model.eval()


def compute_logits(model: nn.Module, batch: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model(batch)


@pytest.mark.parametrize("name", TARGETS)
def test_clip_with_the_running_statistics_keeps_its_logits(name):
    # One clip's own statistics are the running ones in every layer.
    clip = draw((3, 4, 6, 5))
    model = make_calibrated(make_own, clip)
    expected = compute_logits(model, clip)

    convert_normalizer(model, name, num_groups=4)

    torch.testing.assert_close(compute_logits(model, clip), expected)


@pytest.mark.parametrize("network", NETWORKS)
def test_any_networks_clip_with_the_running_statistics_keeps_its_logits(network):
    make, shape = NETWORKS[network]
    clip = draw(shape)
    model = make_calibrated(make, clip)
    expected = compute_logits(model, clip)
    assert any(isinstance(module, _BatchNorm) for module in model.modules())

    convert_normalizer(model, "group")

    assert not any(isinstance(module, _BatchNorm) for module in model.modules())
    torch.testing.assert_close(compute_logits(model, clip), expected)


@pytest.mark.parametrize("network", NETWORKS)
def test_other_clips_keep_their_logits_better_than_with_a_copied_affine(network):
    make, shape = NETWORKS[network]
    # The clips differ in contrast, as those of a data set do, so that none has the running
    # statistics. With four groups, a group's channels differ enough for the fold to matter.
    clips = draw(shape, 5) * torch.linspace(0.8, 1.2, 5).reshape(-1, *(1 for _ in shape))
    model = make_calibrated(make, clips)
    expected = compute_logits(model, clips)
    folded, copied = copy.deepcopy(model), copy.deepcopy(model)
    convert_normalizer(folded, "group", num_groups=4)
    convert_normalizer(copied, "group", num_groups=4)
    for path, batch_norm in model.named_modules():
        if isinstance(batch_norm, _BatchNorm):
            copied.get_submodule(path).load_state_dict(dict(batch_norm.named_parameters()))

    errors = [(compute_logits(m, clips) - expected).norm() for m in (folded, copied)]

    # Measured ratios: 0.4 to 0.7.
    assert errors[0] < 0.8 * errors[1]


@pytest.mark.parametrize(
    "name", [n for n in TARGETS if n in ("batch", "sync_batch", "frozen_batch", "sub_batch")]
)
def test_normalizers_that_evaluate_alike_keep_every_clips_logits(name):
    model = make_calibrated(make_own, draw((3, 4, 6, 5), 4))
    clips = draw((3, 4, 6, 5), 3, seed=9)
    expected = compute_logits(model, clips)
    convert_normalizer(model, name, eps=1e-2)
    torch.testing.assert_close(compute_logits(model, clips), expected)


@pytest.mark.parametrize(
    "name", ["resnet3d_10", "inception_i3d", "i3d_r50_8x8", "pytorchvideo_x3d_xs"]
)
def test_converted_network_is_the_one_built_with_the_normalizer(name):
    with torch.device("meta"):
        built = make_model(name, 5, normalizer_factory("group"))
        converted = make_model(name, 5, normalizer_factory("batch"))
    convert_normalizer(converted, "group")
    assert repr(converted) == repr(built)
    assert {key: value.shape for key, value in converted.state_dict().items()} == {
        key: value.shape for key, value in built.state_dict().items()
    }
    assert len(converted.final_normalizers()) == len(built.final_normalizers())


def test_timms_network_has_the_keys_that_timm_gives_its_own():
    converted = timm.create_model("test_efficientnet")
    convert_normalizer(converted, "group")
    built = timm.create_model("test_efficientnet_gn")
    assert converted.state_dict().keys() == built.state_dict().keys()


def test_zero_gamma_finds_the_last_normalizers_of_a_converted_pytorchvideo_network():
    with torch.device("meta"):
        model = make_model("pytorchvideo_slow_r50", 5, normalizer_factory("batch"))
    convert_normalizer(model, "group")
    final = model.final_normalizers()
    assert len(final) == 16
    assert all(isinstance(norm, GroupNorm3d) for norm in final)
    assert all(parameter.is_meta for parameter in model.parameters())


def test_mode_dtype_gradients_and_layers_around_are_kept():
    model: Any = make_own().half()
    model[1].eval()
    model[1].weight.requires_grad_(False)
    others = [model[0], *model[3:]]

    convert_normalizer(model, "group", num_groups=4)

    assert isinstance(model[1], GroupNorm3d)
    assert isinstance(model[2][1], GroupNorm3d)
    assert (model[1].training, model[2][1].training) == (False, True)
    assert (model[1].activation, model[2][1].activation) == ("relu", None)
    assert (model[1].eps, model[2][1].eps) == (1e-3, 1e-5)
    assert model[1].weight.dtype == torch.float16
    assert (model[1].weight.requires_grad, model[1].bias.requires_grad) == (False, True)
    assert all(ours is theirs for ours, theirs in zip([model[0], *model[3:]], others, strict=True))


def test_running_statistics_and_momentum_are_taken_over():
    model: Any = make_calibrated(make_own, draw((3, 4, 6, 5), 2))
    model[1].momentum = 0.3
    model[1].num_batches_tracked.fill_(7)
    before = copy.deepcopy(model)
    convert_normalizer(model, "batch")
    assert model[1] is not before[1]
    assert model[1].momentum == 0.3
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        assert torch.equal(getattr(model[1], name), getattr(before[1], name))


def test_shared_batch_norm_stays_shared():
    shared = nn.BatchNorm3d(4)
    model: Any = nn.Sequential(
        nn.Conv3d(4, 4, 1), shared, nn.Conv3d(4, 4, 1), shared, nn.Sequential(shared)
    )
    report = convert_normalizer(model, "group", num_groups=2)
    assert isinstance(model[1], GroupNorm3d)
    assert model[1] is model[3] is model[4][0]
    assert report.converted == {("BatchNorm3d", "GroupNorm3d (2 groups)"): 1}


def test_synchronized_batch_norms_are_for_clips_where_convolutions_are():
    clips = nn.Sequential(nn.Conv3d(3, 8, 1), nn.SyncBatchNorm(8))
    images = nn.Sequential(nn.Conv2d(3, 8, 1), nn.SyncBatchNorm(8))
    for model, kind in ((clips, GroupNorm3d), (images, nn.GroupNorm)):
        convert_normalizer(model, "group", num_groups=4)
        assert type(model[1]) is kind


class ScaledBatchNorm(nn.BatchNorm3d):
    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(input)


class UnknownNorm(nn.Module):
    pass


def test_report_says_what_changed_and_what_did_not_and_why():
    model = nn.Sequential(
        nn.Conv3d(3, 8, 1),
        nn.BatchNorm3d(8),
        nn.BatchNorm3d(6),
        nn.BatchNorm3d(16),
        nn.BatchNorm3d(16),
        nn.LayerNorm(8),
        UnknownNorm(),
        ScaledBatchNorm(8),
        nn.LazyBatchNorm3d(),
        nn.BatchNorm3d(8, track_running_stats=False),
        nn.BatchNorm1d(8),
    )
    assert str(convert_normalizer(model, "group", num_groups=8)).splitlines() == [
        "4 BatchNorm3d -> 3 GroupNorm3d (8 groups), 1 GroupNorm3d (6 groups)",
        "1 LayerNorm left alone, which has no running statistics: 5",
        "1 UnknownNorm left alone, which has no running statistics: 6",
        "1 ScaledBatchNorm left alone, which has a forward of its own: 7",
        "1 LazyBatchNorm3d left alone, which does not know its channels before its first input: 8",
        "1 BatchNorm3d left alone, which has no running statistics: 9",
        "1 BatchNorm1d left alone, which normalizes vectors: 10",
    ]
    assert [type(module) for module in model[5:]] == [
        nn.LayerNorm,
        UnknownNorm,
        ScaledBatchNorm,
        nn.LazyBatchNorm3d,
        nn.BatchNorm3d,
        nn.BatchNorm1d,
    ]


@pytest.mark.parametrize("name", REFUSED)
def test_normalizer_that_needs_another_network_is_refused(name):
    model: Any = make_own()
    with pytest.raises(NormalizerError, match=f"build the network with {name}"):
        convert_normalizer(model, name)
    assert isinstance(model[1], BatchNorm3d)


@pytest.mark.parametrize(
    ("model", "name", "message"),
    [
        (nn.Sequential(nn.ReLU()), "group", "Sequential has no batch norm that can be replaced"),
        (
            nn.Sequential(nn.GroupNorm(2, 4)),
            "group",
            r"replaced by group; 1 GroupNorm \(2 groups\) left alone, which has no running stat",
        ),
        (nn.BatchNorm3d(4), "group", "the model is itself a BatchNorm3d"),
        (nn.Sequential(nn.BatchNorm3d(4)), "grup", "unknown normalizer 'grup'"),
        (
            nn.Sequential(nn.BatchNorm2d(4)),
            "batch",
            r"for images \(BatchNorm2d\) cannot be converted to batch; choose one of group, layer",
        ),
        (nn.Sequential(nn.BatchNorm3d(4)), "group", "num_groups is 0"),
    ],
)
def test_wrong_use_is_named_and_changes_nothing(model, name, message):
    before = repr(model)
    with pytest.raises(NormalizerError, match=message):
        convert_normalizer(model, name, **({"num_groups": 0} if "num_groups is" in message else {}))
    assert repr(model) == before
