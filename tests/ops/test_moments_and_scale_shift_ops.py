"""Moments, and scale and shift: values by definition, gradients by finite differences.

Axes: N clips, C channels, G groups, T frames, H height, W width.
"""

from __future__ import annotations

import pytest
import torch

from gnvideo.ops.moments import compute_moments, pool_moments
from gnvideo.ops.scale_shift import gate_scale_and_shift, scale_and_shift

LAYOUTS = pytest.mark.parametrize(
    "layout", [torch.contiguous_format, torch.channels_last_3d], ids=["NCTHW", "NTHWC"]
)


def make(*shape: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


@LAYOUTS
def test_gradients_equal_finite_differences(layout):
    x = make(2, 4, 2, 1, 3).contiguous(memory_format=layout).requires_grad_()
    scale, shift, slope = (t.requires_grad_() for t in (make(2, 4), make(1, 4), make(4)))

    assert torch.autograd.gradcheck(compute_moments, [x])
    assert torch.autograd.gradcheck(scale_and_shift, [x, scale, shift])
    assert torch.autograd.gradcheck(gate_scale_and_shift, [x, slope, scale, shift])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_moments_are_mean_and_biased_variance(dtype):
    x = make(2, 3, 2, 5, 3, dtype=dtype) + 1

    same, mean, var = compute_moments(x)

    assert torch.equal(same, x)
    assert mean.dtype == var.dtype == torch.promote_types(dtype, torch.float32)
    exact_var, exact_mean = torch.var_mean(x.double(), (2, 3, 4), correction=0)
    torch.testing.assert_close(mean.double(), exact_mean, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(var.double(), exact_var, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("num_groups", [1, 2, 6])
def test_pooled_moments_are_those_of_all_elements_of_the_group(num_groups):
    # Half of the channels have a mean far above all deviations.
    x = make(2, 6, 2, 5, 3) + torch.tensor([0.0, 1e4]).repeat(3).reshape(6, 1, 1, 1)
    _, mean_NC, var_NC = compute_moments(x)

    mean_NG, var_NG = pool_moments(mean_NC, var_NC, num_groups)

    exact = torch.var_mean(x.unflatten(1, (num_groups, -1)), (2, 3, 4, 5), correction=0)
    torch.testing.assert_close((var_NG, mean_NG), exact, rtol=1e-12, atol=1e-12)


def test_one_scale_for_all_clips_is_that_scale_for_each():
    x, scale, shift = make(3, 4, 2, 2, 3), make(1, 4), make(1, 4)
    expected = scale_and_shift(x, scale.expand(3, 4), shift.expand(3, 4))
    assert torch.equal(scale_and_shift(x, scale, shift), expected)
    torch.testing.assert_close(
        expected, x * scale[0, :, None, None, None] + shift[0, :, None, None, None]
    )


@LAYOUTS
@pytest.mark.parametrize("num_clips", [1, 2])
def test_layout_and_dtype_are_kept_also_by_the_gradient(num_clips, layout):
    x = make(num_clips, 4, 2, 3, 5, dtype=torch.bfloat16).contiguous(memory_format=layout)
    scale, shift, slope = (make(1, 4, dtype=torch.float32) for _ in range(3))
    for compute in (
        lambda x: scale_and_shift(x, scale, shift),
        lambda x: gate_scale_and_shift(x, slope[0], scale, shift),
        lambda x: compute_moments(x)[0] * 2,
    ):
        leaf = x.clone().requires_grad_()
        y = compute(leaf)
        (dx,) = torch.autograd.grad(y, leaf, torch.ones_like(y))
        for tensor in (y, dx):
            assert tensor.dtype == torch.bfloat16
            assert tensor.is_contiguous(memory_format=layout)
