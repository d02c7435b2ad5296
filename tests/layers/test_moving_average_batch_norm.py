from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from gnvideo.errors import NormalizerError
from gnvideo.layers import CenteredConv3d, MovingAverageBatchNorm3d


def make_clips(seed: int, std: float = 1.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(3, 4, 2, 5, 3, generator=generator, dtype=torch.float64) * std + 0.5


def test_first_gradient_is_that_of_division_by_the_root_mean_square():
    x = make_clips(0).requires_grad_()
    weight = torch.linspace(0.5, 2, 4, dtype=torch.float64).reshape(4, 1, 1, 1)
    upstream = make_clips(1)
    y = x / (x.square().mean((0, 2, 3, 4), keepdim=True) + 1e-5).sqrt() * weight
    expected = torch.autograd.grad(y, x, upstream)[0]

    norm = MovingAverageBatchNorm3d(4).double()
    with torch.no_grad():
        norm.weight.copy_(weight.flatten())
    torch.testing.assert_close(torch.autograd.grad(norm(x), x, upstream)[0], expected)


def test_equal_batches_have_the_gradient_of_one():
    norm = MovingAverageBatchNorm3d(4, history_batches=3).double()
    x, upstream = make_clips(0).requires_grad_(), make_clips(1)
    gradients = [torch.autograd.grad(norm(x), x, upstream)[0] for _ in range(6)]
    for gradient in gradients[1:]:
        torch.testing.assert_close(gradient, gradients[0])


def test_correction_waits_for_a_full_history_and_is_clipped_at_5():
    norm = MovingAverageBatchNorm3d(4, history_batches=2, momentum=1e-9).double()
    small, large = make_clips(0, 0.01) - 0.5, make_clips(0, 100.0) - 0.5
    for x in (small, large):
        square = norm(x).square().mean((0, 2, 3, 4))
        assert square.max() < 2.001
    # The running value still is the first batch's; without the bound r were in the thousands.
    square = norm(large).square().mean((0, 2, 3, 4))
    torch.testing.assert_close(square, torch.full_like(square, 25.0), rtol=1e-4, atol=0.0)


def test_forward_without_backward_leaves_the_history_of_gradients():
    norm = MovingAverageBatchNorm3d(4, history_batches=2).double()
    x = make_clips(0).requires_grad_()
    norm(x).sum().backward()
    before = norm.gradient_history.clone()
    with torch.no_grad():
        norm(make_clips(1))
    assert torch.equal(norm.gradient_history, before)
    assert (norm.num_batches_tracked, norm.num_gradients_tracked) == (2, 1)


def test_convolution_is_by_weights_of_mean_0():
    conv = CenteredConv3d(4, 6, (3, 1, 3), groups=2, bias=False)
    x = torch.randn(2, 4, 5, 4, 5)
    centered = torch.stack([kernel - kernel.mean() for kernel in conv.weight])
    torch.testing.assert_close(conv(x), functional.conv3d(x, centered, groups=2))


def test_convolution_of_one_weight_a_channel_is_refused():
    with pytest.raises(NormalizerError, match=r"kernel of shape \(4, 1, 1, 1, 1\): one weight"):
        CenteredConv3d(4, 4, 1, groups=4)
