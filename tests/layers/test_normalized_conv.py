"""Convolutions by normalized weights, against the formulas and against others' code."""

from __future__ import annotations

import math

import pytest
import timm.layers
import torch
from torch import nn
from torch.nn import functional

from gnvideo.errors import NormalizerError
from gnvideo.layers import StandardizedConv3d, WeightNormConv3d, normalizer_factory

KINDS = [StandardizedConv3d, WeightNormConv3d]


def make_conv(kind, in_channels=6, out_channels=8, kernel=(3, 1, 3), groups=1, **settings):
    conv = kind(in_channels, out_channels, kernel, groups=groups, bias=False, **settings)
    with torch.no_grad():
        generator = torch.Generator().manual_seed(3)
        conv.weight.copy_(0.1 * torch.randn(conv.weight.shape, generator=generator) + 0.02)
    return conv


def compute_exact_weight(kind, weight: torch.Tensor) -> torch.Tensor:
    rows = []
    for row in weight:
        if kind is StandardizedConv3d:
            deviations = row - row.sum() / row.numel()
            rows.append(deviations / ((deviations**2).sum() / row.numel() + 1e-10) ** 0.5)
        else:
            rows.append(row * (2 / (row**2).sum()) ** 0.5)
    return torch.stack(rows)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_values_and_gradients_equal_the_formula_in_float64(kind, groups):
    conv = make_conv(kind, groups=groups, stride=(1, 2, 1), padding=(1, 0, 1))
    x = torch.randn(2, 6, 3, 5, 4, requires_grad=True)
    exact_x, exact_weight = (t.detach().double().requires_grad_() for t in (x, conv.weight))
    exact_y = functional.conv3d(
        exact_x,
        compute_exact_weight(kind, exact_weight),
        stride=(1, 2, 1),
        padding=(1, 0, 1),
        groups=groups,
    )
    dy = torch.randn(exact_y.shape)
    exact = (exact_y, *torch.autograd.grad(exact_y, (exact_x, exact_weight), dy.double()))

    y = conv(x)

    for actual, value in zip(
        (y, *torch.autograd.grad(y, (x, conv.weight), dy)), exact, strict=True
    ):
        # float32 sums of up to 54 products for y, 2 * 3 * 2 * 4 for the weight, and a few more
        # roundings: 32 units of the largest value.
        error = (actual.double() - value).abs().max() / value.abs().max()
        assert error <= 32 * 2.0**-24


@pytest.mark.parametrize("kind", KINDS)
def test_half_precision_weight_is_the_formula_rounded_once(kind):
    conv = make_conv(kind)
    expected = compute_exact_weight(kind, conv.weight.detach().bfloat16().double())
    weight = conv.bfloat16().compute_weight()
    assert weight.dtype == torch.bfloat16
    # Computed in float32, rounded once.
    assert ((weight.double() - expected).abs() / expected.abs().max()).max() <= 1.01 * 2.0**-8


@pytest.mark.parametrize("kind", KINDS)
def test_autocast_standardizes_in_float32_and_gives_bfloat16(kind):
    conv = make_conv(kind)
    x = torch.randn(2, 6, 3, 5, 4).contiguous(memory_format=torch.channels_last_3d)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(conv.compute_weight(), make_conv(kind).compute_weight())
        y = conv(x)
    assert y.dtype == torch.bfloat16
    assert y.is_contiguous(memory_format=torch.channels_last_3d)


@pytest.mark.parametrize("factor", [1e-3, 1e3])
@pytest.mark.parametrize("kind", KINDS)
def test_scale_of_the_weight_does_not_matter(kind, factor):
    conv, scaled = make_conv(kind), make_conv(kind)
    with torch.no_grad():
        scaled.weight.mul_(factor)
    # At a deviation of 1e-4, 1e-10 is one part in 100 of the variance.
    rtol = 1e-2 if kind is StandardizedConv3d and factor < 1 else 1e-5
    torch.testing.assert_close(scaled.compute_weight(), conv.compute_weight(), rtol=rtol, atol=1e-5)


def test_standardized_equals_timms_with_the_same_constant():
    conv = make_conv(StandardizedConv3d, kernel=(1, 3, 3), padding=(0, 1, 1))
    expected = timm.layers.StdConv2d(6, 8, 3, padding=1, eps=1e-10)
    with torch.no_grad():
        expected.weight.copy_(conv.weight[:, :, 0])
    x = torch.randn(2, 6, 5, 7)
    torch.testing.assert_close(conv(x[:, :, None])[:, :, 0], expected(x), rtol=1e-5, atol=1e-5)


def test_weight_norm_equals_torchs_with_a_norm_of_root_2():
    factory = normalizer_factory("weight_norm")
    conv = factory.make_conv(4, 8, (3, 1, 1), padding=(1, 0, 0))
    expected = nn.utils.parametrizations.weight_norm(nn.Conv3d(4, 8, (3, 1, 1), padding=(1, 0, 0)))
    norm = factory(8)
    with torch.no_grad():
        norm.get_parameter("weight").copy_(torch.linspace(-1, 2, 8))
        norm.get_parameter("bias").copy_(torch.linspace(1, 3, 8))
        g = math.sqrt(2) * norm.get_parameter("weight")
        expected.get_parameter("parametrizations.weight.original0").copy_(g.reshape(8, 1, 1, 1, 1))
        expected.get_parameter("parametrizations.weight.original1").copy_(conv.weight)
        expected.get_parameter("bias").copy_(norm.get_parameter("bias"))
    x = torch.randn(2, 4, 3, 5, 4)
    torch.testing.assert_close(norm(conv(x)), expected(x), rtol=1e-5, atol=1e-5)


def test_weight_norm_keeps_the_mean_square_through_a_relu():
    generator = torch.Generator().manual_seed(0)
    conv = make_conv(WeightNormConv3d, 256, 256, (1, 1, 1))
    with torch.no_grad():
        conv.weight.normal_(generator=generator)
    x = torch.randn(4, 256, 2, 8, 8, generator=generator)
    ratio = conv(x.relu()).square().mean() / x.square().mean()
    # 256 rows of random weights: the mean square is off by about 1 / sqrt(256).
    assert abs(ratio - 1) < 0.15


@pytest.mark.parametrize("kind", KINDS)
def test_constant_weights_and_zero_weights_give_finite_values_and_gradients(kind):
    for value in (0.0, 1.0):
        conv = make_conv(kind)
        with torch.no_grad():
            conv.weight.fill_(value)
        conv(torch.randn(1, 6, 3, 1, 3)).sum().backward()
        assert conv.weight.grad is not None
        assert conv.compute_weight().isfinite().all()
        assert conv.weight.grad.isfinite().all()


@pytest.mark.parametrize("name", ["group_ws", "weight_norm"])
def test_state_has_the_keys_and_shapes_of_a_plain_convolution(name):
    plain = normalizer_factory("group").make_conv(4, 8, (3, 1, 1), groups=2)
    conv = normalizer_factory(name).make_conv(4, 8, (3, 1, 1), groups=2)
    conv.load_state_dict(plain.state_dict())
    assert torch.equal(conv.weight, plain.weight)


def test_a_single_weight_cannot_be_standardized():
    with pytest.raises(NormalizerError, match=r"\(8, 1, 1, 1, 1\): one weight an output channel"):
        StandardizedConv3d(8, 8, 1, groups=8)
