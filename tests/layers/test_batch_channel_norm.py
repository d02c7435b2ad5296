from __future__ import annotations

import torch
from torch import nn

from gnvideo.layers import BatchChannelNorm3d, compute_precise_statistics


def make_clips(seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, 6, 2, 5, 3, generator=generator) * 2 + 1


def test_one_channel_a_group_hides_the_batch_part():
    norm = BatchChannelNorm3d(6, 6)
    for seed in range(3):
        x = make_clips(seed)
        torch.testing.assert_close(norm(x), nn.InstanceNorm3d(6)(x), rtol=1e-4, atol=1e-4)


def test_known_statistics_give_group_norm_of_batch_norm():
    batch = nn.BatchNorm3d(6).eval()
    nn.init.normal_(batch.weight)
    nn.init.normal_(batch.bias)
    norm = BatchChannelNorm3d(6, 3).eval()
    with torch.no_grad():
        norm.batch_weight.copy_(batch.weight)
        norm.batch_bias.copy_(batch.bias)
    x = make_clips(0)
    torch.testing.assert_close(norm(x), nn.GroupNorm(3, 6)(batch(x)), rtol=1e-5, atol=1e-5)


def test_moving_averages_reach_the_statistics_of_a_steady_input():
    norm = BatchChannelNorm3d(6, 3, momentum=0.5)
    x = make_clips(0)
    for _ in range(40):
        norm(x)
    var, mean = torch.var_mean(x, (0, 2, 3, 4), correction=0)
    torch.testing.assert_close(norm.running_mean, mean)
    torch.testing.assert_close(norm.running_var, var)


def test_training_and_evaluation_agree_after_the_batch_is_counted():
    norm = BatchChannelNorm3d(6, 3)
    x = make_clips(0)
    assert torch.equal(norm.train()(x), norm.eval()(x))


def test_there_is_nothing_to_recompute():
    assert compute_precise_statistics(BatchChannelNorm3d(6, 3), iter([make_clips(0)]), 1) == 0
