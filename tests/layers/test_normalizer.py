from __future__ import annotations

import dataclasses
import pickle

import pytest
import torch
from torch import nn

from gnvideo.config import NormalizerConfig
from gnvideo.errors import NormalizerError
from gnvideo.layers import (
    NORMALIZERS,
    GroupNorm3d,
    NormalizerSettings,
    describe_normalizers,
    has_running_statistics,
    is_normalizer,
    make_normalizer,
    normalizer_factory,
)


@pytest.mark.parametrize("name", NORMALIZERS)
def test_every_normalizer_keeps_the_shape_and_starts_with_scale_one(name):
    norm = make_normalizer(name, 12, num_groups=4)
    x = torch.randn(2, 12, 2, 3, 3)
    assert norm(x).shape == x.shape
    weight = norm.get_parameter("weight")
    assert torch.equal(weight, torch.ones_like(weight))
    assert is_normalizer(norm)


@pytest.mark.parametrize("name", NORMALIZERS)
def test_batch_statistics_are_used_where_the_spec_says_so(name):
    torch.manual_seed(0)
    norm = make_normalizer(name, 12, num_groups=4)
    x = torch.randn(3, 12, 2, 3, 3)
    others_changed = torch.cat([x[:1], 2 * x[1:] + 1])
    depends_on_batch = not torch.allclose(norm(x)[:1], norm(others_changed)[:1], atol=1e-5)
    assert depends_on_batch == NORMALIZERS[name].uses_batch_statistics
    assert NORMALIZERS[name].has_running_statistics == has_running_statistics(norm)


@pytest.mark.parametrize(
    "module",
    [
        nn.BatchNorm1d(4),
        nn.BatchNorm3d(4, track_running_stats=False),
        nn.SyncBatchNorm(4),
        nn.LazyBatchNorm3d(),
        nn.InstanceNorm3d(4),
        nn.GroupNorm(2, 4),
        nn.LayerNorm(4),
        nn.RMSNorm(4),
        GroupNorm3d(4, 2),
    ],
    ids=lambda module: type(module).__name__,
)
def test_all_norms_are_normalizers(module):
    assert is_normalizer(module)


@pytest.mark.parametrize(
    "module", [nn.Conv3d(1, 1, 1), nn.Linear(1, 1), nn.ReLU(), nn.Sequential()]
)
def test_other_modules_are_not_normalizers(module):
    assert not is_normalizer(module)


def test_settings_reach_the_module():
    batch = make_normalizer("batch", 8, eps=1e-3, momentum=0.3)
    assert isinstance(batch, nn.BatchNorm3d)
    assert (batch.eps, batch.momentum) == (1e-3, 0.3)
    group = normalizer_factory("group", num_groups=2, eps=1e-4)(8)
    assert isinstance(group, GroupNorm3d)
    assert (group.num_groups, group.eps) == (2, 1e-4)


def test_factory_survives_pickling():
    factory = pickle.loads(pickle.dumps(normalizer_factory("group", num_groups=2)))
    assert factory(8).num_groups == 2


@pytest.mark.parametrize(
    "build", [lambda: make_normalizer("grup", 8), lambda: normalizer_factory("grup")]
)
def test_unknown_name_lists_the_known_ones(build):
    with pytest.raises(NormalizerError, match=r"'grup'; choose one of batch, .*group, "):
        build()


def test_description_counts_by_kind_and_groups():
    model = nn.Sequential(
        GroupNorm3d(64), nn.Sequential(GroupNorm3d(64), GroupNorm3d(8)), nn.BatchNorm3d(4)
    )
    assert describe_normalizers(model) == (
        "2 GroupNorm3d (32 groups), 1 GroupNorm3d (8 groups), 1 BatchNorm3d"
    )
    assert describe_normalizers(nn.ReLU()) == "none"


@pytest.mark.parametrize("name", NORMALIZERS)
def test_activation_is_applied_to_the_normalized_values(name):
    if NORMALIZERS[name].replaces_activation:
        return
    x = torch.randn(2, 12, 2, 3, 3)
    plain = make_normalizer(name, 12, num_groups=4)(x)
    activated = make_normalizer(name, 12, "relu", num_groups=4)(x)
    assert plain.min() < 0
    assert torch.equal(activated, plain.clamp(min=0))


def test_configured_settings_are_those_of_the_normalizers():
    configured = NormalizerConfig().model_dump(exclude={"name"})
    assert configured == dataclasses.asdict(NormalizerSettings())


CHANGED = NormalizerSettings(
    implementation="reference",
    num_groups=3,
    channels_per_group=2,
    per_frame=True,
    eps=0.5,
    momentum=0.7,
    sub_batch_clips=5,
    history_batches=9,
    renorm_max_scale=7,
    renorm_max_shift=8,
    renorm_hold_steps=9,
    renorm_scale_steps=10,
    renorm_shift_steps=11,
)


@pytest.mark.parametrize("name", NORMALIZERS)
def test_a_normalizer_differs_by_the_settings_that_it_takes_and_no_others(name):
    defaults = NormalizerSettings(num_groups=4)

    def list_attributes(settings: NormalizerSettings) -> dict[str, object]:
        norm = NORMALIZERS[name].build(12, settings, None)
        return {key: value for key, value in vars(norm).items() if not key.startswith("_")}

    changing = [
        setting
        for setting, value in dataclasses.asdict(CHANGED).items()
        if list_attributes(dataclasses.replace(defaults, **{setting: value}))
        != list_attributes(defaults)
    ]
    assert sorted(changing) == sorted(NORMALIZERS[name].settings)
