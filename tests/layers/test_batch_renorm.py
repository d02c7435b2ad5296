from __future__ import annotations

import pytest
import torch
from torch import nn

from gnvideo.layers import BatchRenorm3d, compute_precise_statistics


def make_clips(seed: int, *, std: float = 1.0, mean: float = 0.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(3, 4, 2, 5, 3, generator=generator) * std + mean


def make_scheduled(step: int) -> BatchRenorm3d:
    norm = BatchRenorm3d(
        4, max_scale=3.0, max_shift=5.0, hold_steps=10, scale_steps=40, shift_steps=25
    )
    assert norm.num_batches_tracked is not None
    norm.num_batches_tracked.fill_(step)
    return norm


@pytest.mark.parametrize(
    ("step", "max_scale", "max_shift"),
    [(0, 1, 0), (10, 1, 0), (13, 1.2, 1), (25, 2, 5), (30, 7 / 3, 5), (40, 3, 5), (1000, 3, 5)],
)
def test_bounds_open_linearly_between_hold_and_end(step, max_scale, max_shift):
    wide, narrow = make_clips(0, std=100.0), make_clips(0, std=0.01)
    hat = nn.BatchNorm3d(4)(wide)
    # The running deviation is 1, so r is at its bounds; the means are clipped to +-d.
    running_sigma = (1 + 1e-5) ** 0.5
    shift = (wide.mean((0, 2, 3, 4)) / running_sigma).clamp(-max_shift, max_shift)[
        :, None, None, None
    ]
    torch.testing.assert_close(make_scheduled(step)(wide), hat * max_scale + shift)
    scale = make_scheduled(step)(narrow).std() / nn.BatchNorm3d(4)(narrow).std()
    torch.testing.assert_close(scale, torch.tensor(1 / max_scale), rtol=1e-5, atol=0.0)
    far = make_scheduled(step)(make_clips(0, mean=-100.0)).mean((0, 2, 3, 4))
    torch.testing.assert_close(far, torch.full((4,), -float(max_shift)), rtol=1e-5, atol=1e-5)


def test_held_bounds_are_batch_norm():
    norm, batch = BatchRenorm3d(4, hold_steps=2), nn.BatchNorm3d(4)
    for seed in range(3):
        x = make_clips(seed, std=2.0, mean=1.0)
        torch.testing.assert_close(norm(x), batch(x))


def test_open_bounds_give_the_output_of_evaluation_before_the_batch():
    norm = BatchRenorm3d(
        4, max_scale=1e6, max_shift=1e6, hold_steps=0, scale_steps=0, shift_steps=0
    )
    norm(make_clips(0, std=2.0, mean=3.0))
    x = make_clips(1, std=0.5, mean=1.0)
    expected = norm.eval()(x)
    torch.testing.assert_close(norm.train()(x), expected, rtol=1e-5, atol=1e-5)


def test_constant_channel_keeps_a_variance_of_0_or_more():
    norm = BatchRenorm3d(4, momentum=1.0)
    for _ in range(3):
        norm(torch.ones(2, 4, 1, 3, 3))
    assert norm.running_var is not None
    assert norm.running_var.ge(0).all()


def test_precise_statistics_are_those_of_the_clips_seen_through_the_corrections():
    first, second = (
        BatchRenorm3d(4, max_scale=2.0, max_shift=1.0, hold_steps=0, scale_steps=1, shift_steps=1)
        for _ in range(2)
    )
    model = nn.Sequential(first, second)
    for seed in range(2):
        model(make_clips(seed, std=3.0, mean=1.0))
    batches = [make_clips(seed, std=0.7 + seed, mean=float(seed)) for seed in range(3)]
    assert first.running_mean is not None
    assert first.running_var is not None
    assert second.running_mean is not None
    assert second.running_var is not None
    # What the first hands on: r and d towards the statistics that are still those of training.
    sigma = (first.running_var + 1e-5).sqrt()[:, None, None, None]
    inner: list[torch.Tensor] = []
    for x in batches:
        var, mean = torch.var_mean(x, (0, 2, 3, 4), correction=0, keepdim=True)
        batch_sigma = (var + 1e-5).sqrt()
        r = (batch_sigma / sigma).clamp(0.5, 2)
        d = ((mean - first.running_mean[:, None, None, None]) / sigma).clamp(-1, 1)
        inner.append((x - mean) / batch_sigma * r + d)

    compute_precise_statistics(model, batches, 3)

    for norm, clips in ((first, batches), (second, inner)):
        var, mean = torch.var_mean(torch.cat(clips), (0, 2, 3, 4), correction=0)
        torch.testing.assert_close(norm.running_mean, mean, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(norm.running_var, var, rtol=1e-5, atol=1e-5)
        assert norm.num_batches_tracked == 2
