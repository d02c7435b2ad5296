from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from torch import nn

from gnvideo.errors import NormalizerError
from gnvideo.layers import GroupNorm3d
from gnvideo.layers.groups import _find_divisor


def call(norm: Any, *arguments: Any) -> nn.Module:
    """Calls as untyped code does."""
    return norm(*arguments)


@pytest.mark.parametrize(
    "make",
    [
        lambda norm: norm(16),
        lambda norm: norm(num_features=16, eps=1e-3, momentum=0.1),
        lambda norm: norm(16, affine=False, track_running_stats=True),
        lambda norm: norm(16, device="cpu", dtype=torch.float64),
    ],
)
def test_calls_written_for_batch_norm_build_a_group_norm(make):
    group, batch = make(GroupNorm3d), make(nn.BatchNorm3d)

    assert group.eps == batch.eps
    x = torch.randn(2, 16, 2, 3, 3, dtype=torch.float64 if batch.affine else torch.float32)
    dtype = batch.weight.dtype if batch.affine else torch.float32
    assert group(x.to(dtype)).shape == batch(x.to(dtype)).shape
    shapes = {name: p.shape for name, p in batch.named_parameters()}
    assert {name: p.shape for name, p in group.named_parameters()} == shapes


def test_training_and_evaluation_give_the_same():
    norm = GroupNorm3d(8, 4)
    x = torch.randn(2, 8, 2, 3, 3)
    assert torch.equal(norm.train()(x), norm.eval()(x))


def test_equals_torch_group_norm():
    norm, expected = GroupNorm3d(64), nn.GroupNorm(32, 64)
    with torch.no_grad():
        for ours, theirs in zip(norm.parameters(), expected.parameters(), strict=True):
            theirs.copy_(ours.uniform_(-1, 1))
    x = torch.randn(2, 64, 2, 3, 5)
    torch.testing.assert_close(norm(x), expected(x))


@pytest.mark.parametrize("implementation", ["native", "reference"])
def test_half_precision_input_keeps_dtype_beside_float32_parameters_under_autocast(implementation):
    norm = GroupNorm3d(8, 4, implementation=implementation)
    x = torch.randn(2, 8, 2, 3, 3).bfloat16().contiguous(memory_format=torch.channels_last_3d)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = norm(x)
    assert y.dtype == torch.bfloat16
    assert y.is_contiguous(memory_format=torch.channels_last_3d)


@pytest.mark.parametrize(
    ("num_channels", "wanted", "num_groups"),
    [(64, 32, 32), (48, 32, 24), (7, 32, 7), (7, 3, 1), (100, 32, 25), (1, 1, 1)],
)
def test_groups_are_the_largest_divisor_up_to_the_wanted_number(num_channels, wanted, num_groups):
    assert GroupNorm3d(num_channels, wanted).num_groups == num_groups


def test_another_number_of_groups_is_logged_once_and_shown(caplog):
    _find_divisor.cache_clear()
    with caplog.at_level(logging.INFO, logger="gnvideo"):
        norms = [GroupNorm3d(48), GroupNorm3d(48), GroupNorm3d(64)]

    assert [record.message for record in caplog.records] == [
        "32 groups do not divide 48 channels; using 24"
    ]
    assert "48, num_groups=24" in repr(norms[0])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GroupNorm3d(), "give the number of channels by one of these names"),
        (lambda: GroupNorm3d(8, num_features=8), "num_channels=8 and num_features=8"),
        (lambda: GroupNorm3d(0), "num_channels is 0; it must be a positive integer"),
        (lambda: call(GroupNorm3d, 8, 1e-5), "num_groups is 1e-05; it must be a positive integer"),
        (lambda: GroupNorm3d(8)(torch.zeros(2, 8, 3, 3)), r"it takes \(N, 8, T, H, W\)"),
        (lambda: GroupNorm3d(8)(torch.zeros(2, 4, 1, 3, 3)), r"shape \(2, 4, 1, 3, 3\)"),
    ],
)
def test_wrong_use_is_named(make, message):
    with pytest.raises(NormalizerError, match=message):
        make()
