from __future__ import annotations

import torch
from torch import nn

from gnvideo.layers import FrozenBatchNorm3d, compute_precise_statistics


def test_statistics_never_change_and_the_affine_learns():
    norm = FrozenBatchNorm3d(4)
    norm.running_mean.fill_(2)
    norm.running_var.fill_(3)
    x = torch.randn(3, 4, 2, 3, 3)
    expected = nn.BatchNorm3d(4)
    expected.load_state_dict(norm.state_dict())
    for _ in range(2):
        norm.train()(x).square().sum().backward()
    assert compute_precise_statistics(norm, [x], 1) == 0
    torch.testing.assert_close(norm(x), expected.eval()(x))
    assert torch.equal(norm.running_mean, torch.full((4,), 2.0))
    assert torch.equal(norm.running_var, torch.full((4,), 3.0))
    assert norm.num_batches_tracked == 0
    for parameter in norm.parameters():
        assert parameter.grad is not None
        assert parameter.grad.ne(0).all()


def test_start_is_the_identity_up_to_eps():
    x = torch.randn(3, 4, 2, 3, 3)
    torch.testing.assert_close(FrozenBatchNorm3d(4, eps=0.0)(x), x)
