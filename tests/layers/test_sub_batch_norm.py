from __future__ import annotations

import pytest
import torch
from torch import nn

from gnvideo.layers import SubBatchNorm3d, compute_precise_statistics


def make_clips(num_clips: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    scales = torch.linspace(0.5, 3, num_clips).reshape(-1, 1, 1, 1, 1)
    return torch.randn(num_clips, 6, 2, 5, 3, generator=generator) * scales + scales


def test_each_run_of_clips_is_normalized_by_itself():
    x = make_clips(7)
    expected = torch.cat([nn.BatchNorm3d(6)(part) for part in x.split(3)])
    torch.testing.assert_close(SubBatchNorm3d(6, 3)(x), expected)


def test_running_statistics_are_those_of_batch_norm():
    norm, batch = SubBatchNorm3d(6, 2, momentum=0.3), nn.BatchNorm3d(6, momentum=0.3)
    for seed in range(4):
        x = make_clips(5, seed)
        norm(x)
        batch(x)
    torch.testing.assert_close(dict(norm.named_buffers()), dict(batch.named_buffers()))
    x = make_clips(5, 9)
    torch.testing.assert_close(norm.eval()(x), batch.eval()(x))


def test_precise_statistics_come_of_clips_normalized_by_sub_batches():
    model = nn.Sequential(SubBatchNorm3d(6, 2), nn.Conv3d(6, 3, 1), SubBatchNorm3d(3, 2))
    batches = [make_clips(3, seed) for seed in range(3)]
    with torch.no_grad():
        inner = torch.cat([model[1](SubBatchNorm3d(6, 2)(batch)) for batch in batches])

    assert compute_precise_statistics(model, batches, 3) == 3

    var, mean = torch.var_mean(inner, (0, 2, 3, 4), correction=0)
    torch.testing.assert_close(model[2].get_buffer("running_mean"), mean, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(model[2].get_buffer("running_var"), var, rtol=1e-5, atol=1e-5)


def test_single_value_of_a_channel_is_refused():
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        SubBatchNorm3d(2, 2)(torch.ones(3, 2, 1, 1, 1))
