"""What holds for all models: fairness between normalizers, positions, errors."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from torch import nn

from gnvideo.errors import ModelError
from gnvideo.layers import NORMALIZERS, is_normalizer, normalizer_factory
from gnvideo.models import (
    MODELS,
    initialize,
    list_settings,
    make_i3d,
    make_model,
    make_r2plus1d,
    make_resnet3d,
)

# Residual blocks, non-local ones included; 16 of all others.
NUM_BLOCKS = {
    "i3d_r101": 33,
    "i3d_r50_8x8": 16 + 5,
    "i3d_r101_8x8": 33 + 5,
    "inception_i3d": 0,
    "resnet3d_10": 4,
    "resnet3d_18": 8,
    "resnet3d_101": 33,
    "r2plus1d_18": 8,
    "pytorchvideo_slowfast_r50": 32,
    "pytorchvideo_x3d_xs": 26,
}

SMALL: dict[str, dict[str, Any]] = {
    "i3d_r50": {"width": 8, "train_crop_pixels": 64, "num_frames": 8},
    "i3d_r101": {"width": 4, "train_crop_pixels": 64, "num_frames": 8},
    "i3d_r50_mmaction2": {"width": 4, "train_crop_pixels": 64, "num_frames": 8},
    "i3d_r50_8x8": {"width": 8, "non_local": True, "train_crop_pixels": 64, "num_frames": 4},
    "i3d_r101_8x8": {"width": 4, "non_local": True, "train_crop_pixels": 64, "num_frames": 4},
    "inception_i3d": {"width": 8, "train_crop_pixels": 64, "num_frames": 16},
    "resnet3d_10": {"width": 8, "train_crop_pixels": 32, "num_frames": 8},
    "resnet3d_18": {"width": 8, "train_crop_pixels": 32, "num_frames": 8, "stem_pool": True},
    "resnet3d_34": {"width": 4, "train_crop_pixels": 32, "num_frames": 8},
    "resnet3d_50": {"width": 4, "temporal_strides": (1, 1, 2, 1)},
    "resnet3d_101": {"width": 4, "train_crop_pixels": 32, "num_frames": 8},
    "r2plus1d_18": {"width": 8, "train_crop_pixels": 32, "num_frames": 8},
    "r2plus1d_34": {"width": 4, "train_crop_pixels": 32, "temporal_strides": (1, 1, 2, 1)},
    # One network of pytorchvideo for each kind of head and input: their width is fixed.
    "pytorchvideo_c2d_r50": {"train_crop_pixels": 64, "num_frames": 4},
    "pytorchvideo_slowfast_r50": {"train_crop_pixels": 64, "num_frames": 8},
    "pytorchvideo_x3d_xs": {"train_crop_pixels": 64},
}

# What a normalizer's parameters are beside BatchNorm's, by the last part of their names.
ADDED_PARAMETERS = {
    "batch_channel": {"batch_weight", "batch_bias"},
    "filter_response": {"tau"},
    "evonorm_s0": {"v"},
    "switchable": {"mean_logits", "var_logits"},
}

# Their last scale and offset are of a group of channels each.
SCALED_BY_GROUP = {"batch_channel"}

# Every normalizer in one network, and GroupNorm in all networks.
NETWORKS_AND_NORMALIZERS = [
    *((name, "group") for name in SMALL),
    *(("resnet3d_10", normalizer) for normalizer in NORMALIZERS if normalizer != "group"),
]


def make_small(name: str, normalizer: str = "group", seed: int = 0) -> Any:
    model = make_model(name, 5, normalizer_factory(normalizer), **SMALL[name])
    initialize(model, seed)
    return model


def clips_for(name: str, num_clips: int = 2) -> torch.Tensor:
    settings = list_settings(name) | SMALL[name]
    frames, pixels = settings["num_frames"], settings["train_crop_pixels"]
    generator = torch.Generator().manual_seed(1)
    return torch.randn(num_clips, 3, frames, pixels, pixels, generator=generator)


@pytest.mark.parametrize(("name", "normalizer"), NETWORKS_AND_NORMALIZERS)
def test_normalizers_start_from_the_same_network(name, normalizer):
    expected = dict(make_small(name, "batch").named_parameters())
    model = make_small(name, normalizer)
    parameters = dict(model.named_parameters())
    scales = {id(p) for m in model.modules() if is_normalizer(m) for p in m.parameters()}

    added = parameters.keys() - expected.keys()
    assert {key.split(".")[-1] for key in added} == ADDED_PARAMETERS.get(normalizer, set())
    for parameter_name, parameter in expected.items():
        ours = parameters[parameter_name]
        if normalizer not in SCALED_BY_GROUP or id(ours) not in scales:
            assert torch.equal(ours, parameter), parameter_name


@pytest.mark.parametrize("name", SMALL)
def test_parameters_are_those_of_batch_norm_and_what_the_normalizer_adds(name):
    with torch.device("meta"):
        shapes = {
            normalizer: {
                key: parameter.shape
                for key, parameter in make_model(
                    name, 5, normalizer_factory(normalizer), **SMALL[name]
                ).named_parameters()
            }
            for normalizer in NORMALIZERS
        }
    for normalizer, shape_of in shapes.items():
        added = shape_of.keys() - shapes["batch"].keys()
        assert {key.split(".")[-1] for key in added} == ADDED_PARAMETERS.get(normalizer, set())
        for key, shape in shapes["batch"].items():
            # Only a normalizer's parameters have one axis; the head's bias is of the classes.
            by_group = normalizer in SCALED_BY_GROUP and len(shape) == 1 and shape != (5,)
            assert len(shape_of[key]) == 1 if by_group else shape_of[key] == shape, key


@pytest.mark.parametrize(
    ("name", "normalizer"),
    [*NETWORKS_AND_NORMALIZERS, *((name, "batch") for name in SMALL if name != "resnet3d_10")],
)
def test_only_the_last_scale_of_each_residual_block_is_zero(name, normalizer):
    model = make_small(name, normalizer)
    final = model.final_normalizers()

    assert len({id(norm) for norm in final}) == NUM_BLOCKS.get(name, 16)
    for module in model.modules():
        if is_normalizer(module):
            value = 0.0 if any(module is norm for norm in final) else 1.0
            assert torch.equal(module.weight, torch.full_like(module.weight, value))
            assert torch.equal(module.bias, torch.zeros_like(module.bias))


@pytest.mark.parametrize("normalizer", NORMALIZERS)
def test_final_scale_is_one_for_every_normalizer_if_asked(normalizer):
    model = make_small("resnet3d_10", normalizer)
    initialize(model, 0, zero_final_gamma=False)
    assert all(norm.weight.eq(1).all() for norm in model.final_normalizers())


def test_seed_decides_the_weights():
    first, again, other = (make_small("resnet3d_10", seed=seed) for seed in (3, 3, 4))
    for module, same, different in zip(
        first.modules(), again.modules(), other.modules(), strict=True
    ):
        if isinstance(module, nn.Conv3d | nn.Linear):
            assert torch.equal(module.weight, same.weight)
            assert not torch.equal(module.weight, different.weight)


def test_equal_layers_have_different_weights():
    model = make_small("resnet3d_18")
    assert not torch.equal(model.layer1[0].conv1[0].weight, model.layer1[1].conv1[0].weight)


def test_convolutions_have_the_deviation_of_he_and_the_last_layer_one_hundredth():
    model: Any = make_model("resnet3d_10", 400, normalizer_factory("group"), width=16)
    initialize(model, 0)
    conv = model.layer4[0].conv2[0]
    # 442368 draws: the sample deviation is within 1 % by far.
    assert conv.weight.std().item() == pytest.approx((2 / (128 * 27)) ** 0.5, rel=0.01)
    assert model.fc.weight.std().item() == pytest.approx(0.01, rel=0.03)
    assert model.fc.bias.eq(0).all()


@pytest.mark.parametrize("name", SMALL)
def test_training_clip_has_one_position_with_the_logits_of_forward(name):
    model = make_small(name).eval()
    clips = clips_for(name)
    with torch.no_grad():
        logits = model(clips)
        position_logits = model.compute_position_logits(clips)
        whole_logits = model.compute_whole_logits(clips)

    assert logits.shape == (2, 5)
    assert position_logits.shape == whole_logits.shape == (2, 5, 1)
    torch.testing.assert_close(position_logits[..., 0], logits)
    torch.testing.assert_close(whole_logits[..., 0], logits)


@pytest.mark.parametrize(
    "name",
    [
        *("i3d_r50", "i3d_r50_8x8", "resnet3d_10", "pytorchvideo_c2d_r50"),
        *("pytorchvideo_slowfast_r50", "pytorchvideo_x3d_xs"),
    ],
)
def test_positions_are_the_windows_of_the_training_size_on_the_feature_map(name):
    model = make_small(name).eval()
    clip = clips_for(name, 1)
    wide = torch.cat([clip, clip.flip(4)], dim=4)
    with torch.no_grad():
        feature_map = model.compute_feature_map(wide)
        position_logits = model.compute_position_logits(wide)
        whole_logits = model.compute_whole_logits(wide)
        T, H, W = model.position_pool

        def classify_mean(window: torch.Tensor) -> torch.Tensor:
            return model.classify(window.mean((2, 3, 4), keepdim=True))[..., 0, 0, 0]

        expected = [
            classify_mean(feature_map[:, :, t : t + T, h : h + H, w : w + W])
            for t in range(feature_map.shape[2] - T + 1)
            for h in range(feature_map.shape[3] - H + 1)
            for w in range(feature_map.shape[4] - W + 1)
        ]
        expected_whole = classify_mean(feature_map)

    assert len(expected) > 1
    torch.testing.assert_close(position_logits, torch.stack(expected, dim=2))
    torch.testing.assert_close(whole_logits[..., 0], expected_whole)


@pytest.mark.parametrize("name", SMALL)
def test_predicted_map_size_is_that_of_the_feature_map(name):
    with torch.device("meta"):
        model: Any = make_model(name, 5, normalizer_factory("group"), **SMALL[name])
        clips = torch.empty(1, 3, 16, 113, 150)
        feature_map = model.compute_feature_map(clips)
    if name.startswith("pytorchvideo"):
        # There the head's pooling is counted too.
        feature_map = nn.functional.avg_pool3d(feature_map, model.position_pool, stride=1)
    assert feature_map.shape[2:] == model.compute_map_size((16, 113, 150))


def test_positions_are_classified_without_dropout():
    model = make_small("resnet3d_10").train()
    model.dropout.p = 0.9
    clips = clips_for("resnet3d_10")
    assert torch.equal(model.compute_position_logits(clips), model.compute_position_logits(clips))
    assert not torch.equal(model(clips), model(clips))


def test_map_smaller_than_in_training_is_averaged_whole():
    model = make_small("resnet3d_10").eval()
    clips = clips_for("resnet3d_10")[..., :16, :16]
    torch.testing.assert_close(model.compute_position_logits(clips)[..., 0], model(clips))


@pytest.mark.parametrize(("name", "normalizer"), NETWORKS_AND_NORMALIZERS)
def test_every_parameter_gets_a_gradient(name, normalizer):
    model = make_small(name, normalizer)
    for norm in model.final_normalizers():
        nn.init.ones_(norm.weight)
    model(clips_for(name)).square().sum().backward()
    for parameter_name, parameter in model.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.isfinite().all(), parameter_name


def test_channels_last_clips_in_bfloat16_give_about_the_same_logits():
    model = make_small("resnet3d_10").eval()
    clips = clips_for("resnet3d_10")
    with torch.no_grad():
        expected = model(clips)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = model.to(memory_format=torch.channels_last_3d)(
                clips.contiguous(memory_format=torch.channels_last_3d)
            )
    assert logits.dtype == torch.bfloat16
    # 2^-8 for each of about ten layers, of logits of about 0.1.
    torch.testing.assert_close(logits.float(), expected, rtol=0, atol=0.01)


@pytest.mark.parametrize("normalizer", ["batch", "group"])
@pytest.mark.parametrize("name", ["i3d_r50", "pytorchvideo_i3d_r50"])
def test_too_small_clip_names_the_smallest(name, normalizer):
    with torch.device("meta"):
        model = make_model(name, 5, normalizer_factory(normalizer))
        least = {"i3d_r50": "7 frames of 5 x 5", "pytorchvideo_i3d_r50": "8 frames of 193 x 193"}
        for compute in (model, model.compute_position_logits):
            with pytest.raises(ModelError, match=f"2 frames of 64 x 64.*at least {least[name]}"):
                compute(torch.empty(1, 3, 2, 64, 64))


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("resnet50", {}, "unknown model 'resnet50'; choose one of i3d_r50, i3d_r101, i3d_r50_8x8"),
        ("i3d_r50", {"stem_pool": True}, "no setting 'stem_pool'; its settings are width"),
        ("i3d_r50", {"num_frames": 4}, "4 frames of 224 x 224 pixels is too small"),
        ("resnet3d_18", {"non_local": True}, "no setting 'non_local'"),
        ("inception_i3d", {"width": 12}, "width is 12; inception_i3d takes multiples of 8"),
        ("r2plus1d_18", {"temporal_strides": (1, 2, 2, 0)}, r"is \(1, 2, 2, 0\); give four"),
        ("i3d_r50", {"width": 0}, "width is 0; it must be a positive integer"),
        ("resnet3d_18", {"dropout_rate": 1.0}, r"dropout_rate is 1.0; it must be in \[0, 1\)"),
        ("resnet3d_18", {"temporal_strides": (1, 2)}, r"is \(1, 2\); give four positive integers"),
        ("pytorchvideo_slow_r50", {"train_crop_pixels": 0}, "train_crop_pixels is 0"),
    ],
)
def test_wrong_setting_is_named(name, settings, message):
    with pytest.raises(ModelError, match=message):
        make_model(name, 5, normalizer_factory("group"), **settings)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (functools.partial(make_i3d, 18, "dense"), "depth is 18; an i3d has depth 50 or 101"),
        (functools.partial(make_r2plus1d, 50), "depth is 50; an r2plus1d has depth 18 or 34"),
        (functools.partial(make_resnet3d, 20), "depth is 20; a resnet3d has depth 10, 18, 34, 50"),
    ],
)
def test_unknown_depth_names_the_known_ones(make, message):
    with pytest.raises(ModelError, match=message):
        make(5, normalizer_factory("group"))


def test_wrong_number_of_classes_is_named():
    with pytest.raises(ModelError, match="num_classes is 0"):
        make_model("resnet3d_10", 0, normalizer_factory("group"))


@pytest.mark.parametrize("name", MODELS)
def test_settings_are_listed_with_defaults(name):
    settings = list_settings(name)
    assert {"dropout_rate", "train_crop_pixels", "num_frames"} <= settings.keys()
