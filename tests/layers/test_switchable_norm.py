from __future__ import annotations

import pytest
import torch
from torch import nn

from gnvideo.layers import SwitchableNorm3d, compute_precise_statistics


def make_clips(num_clips: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    scales = torch.linspace(0.5, 3, num_clips).reshape(-1, 1, 1, 1, 1)
    return torch.randn(num_clips, 6, 2, 5, 3, generator=generator) * scales + scales


def choose(norm: SwitchableNorm3d, kind: int) -> SwitchableNorm3d:
    """Gives all the weight to one kind: 0 is instance, 1 layer, 2 batch."""
    with torch.no_grad():
        for logits in (norm.mean_logits, norm.var_logits):
            logits.fill_(-100)
            logits[kind] = 100
    return norm


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (0, nn.InstanceNorm3d(6)),
        (1, nn.GroupNorm(1, 6)),
        (2, nn.BatchNorm3d(6)),
    ],
    ids=["instance", "layer", "batch"],
)
def test_one_kind_alone_is_torchs_normalizer_of_that_kind(kind, expected):
    norm = choose(SwitchableNorm3d(6), kind)
    for seed in range(3):
        x = make_clips(4, seed)
        torch.testing.assert_close(norm(x), expected(x), rtol=1e-5, atol=1e-5)
    # Only the batch's part has running statistics; the others still look at the clip.
    x = make_clips(4, 5)
    torch.testing.assert_close(norm.eval()(x), expected.eval()(x), rtol=1e-5, atol=1e-5)


def test_weights_start_equal():
    norm = SwitchableNorm3d(6)
    assert torch.equal(norm.mean_logits.softmax(0), torch.full((3,), 1 / 3))
    assert torch.equal(norm.var_logits.softmax(0), torch.full((3,), 1 / 3))


def test_running_statistics_are_those_of_batch_norm():
    norm, batch = SwitchableNorm3d(6, momentum=0.3), nn.BatchNorm3d(6, momentum=0.3)
    for seed in range(4):
        x = make_clips(3, seed)
        norm(x.bfloat16() if seed == 3 else x)
        batch(x.bfloat16().float() if seed == 3 else x)
    for actual, expected in zip(norm.buffers(), batch.buffers(), strict=True):
        torch.testing.assert_close(actual, expected)


def test_single_clip_has_batch_statistics_equal_to_instance_statistics():
    x = make_clips(1)
    instance, batch = choose(SwitchableNorm3d(6), 0), choose(SwitchableNorm3d(6), 2)
    torch.testing.assert_close(instance(x), batch(x))


def test_single_value_leaves_finite_running_statistics():
    norm = SwitchableNorm3d(2)
    norm(torch.ones(1, 2, 1, 1, 1))
    assert norm.running_var is not None
    torch.testing.assert_close(norm.running_var, torch.full((2,), 0.9))


def test_precise_statistics_are_those_of_the_clips_and_leave_the_count():
    norm = SwitchableNorm3d(6)
    batches = [make_clips(2, seed) for seed in range(3)]

    assert compute_precise_statistics(norm, batches, 10) == 3

    var, mean = torch.var_mean(torch.cat(batches).double(), (0, 2, 3, 4), correction=0)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    torch.testing.assert_close(norm.running_mean.double(), mean, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(norm.running_var.double(), var, rtol=1e-5, atol=1e-5)
    assert norm.num_batches_tracked == 0


def test_all_weights_learn():
    norm = SwitchableNorm3d(6, activation="relu")
    norm(make_clips(3)).square().sum().backward()
    for name, parameter in norm.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name
