"""The end of a residual block: every normalizer, and what may stand in its place."""

from __future__ import annotations

import pytest
import torch
from clip_case import LAYOUTS
from torch import nn

from gnvideo.layers import NORMALIZERS, GroupNorm3d, make_normalizer, normalize_and_add

C = 12


def make_inputs(layout: torch.memory_format) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(3)
    return tuple(
        torch.randn(2, C, 3, 5, 4, generator=generator).contiguous(memory_format=layout)
        for _ in range(3)
    )


def run(normalizer: nn.Module, compute, x, residual, dy) -> list[torch.Tensor]:
    """The output, the gradients of x, residual and parameters, and the buffers afterwards."""
    leaves = [t.clone(memory_format=torch.preserve_format) for t in (x, residual)]
    leaves = [leaf.requires_grad_() for leaf in leaves]
    y = compute(normalizer, *leaves)
    gradients = torch.autograd.grad(
        y, [*leaves, *normalizer.parameters()], dy, allow_unused=True, materialize_grads=True
    )
    return [y, *gradients, *normalizer.buffers()]


@LAYOUTS
@pytest.mark.parametrize("mode", ["training", "evaluation"])
@pytest.mark.parametrize("name", NORMALIZERS)
def test_a_normalizer_with_a_residual_equals_the_three_steps(name, mode, layout):
    x, residual, dy = make_inputs(layout)
    normalizers = [make_normalizer(name, C, num_groups=4) for _ in range(2)]
    for normalizer in normalizers:
        normalizer.train(mode == "training")
        with torch.no_grad():
            for offset, parameter in enumerate(normalizer.parameters()):
                parameter.add_(torch.linspace(-0.5, 0.7, parameter.numel()) + offset / 10)

    fused = run(normalizers[0], normalize_and_add, x, residual, dy)
    steps = run(normalizers[1], lambda norm, x, r: torch.relu(norm(x) + r), x, residual, dy)

    assert fused[0].min() == 0
    for actual, expected in zip(fused, steps, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)
    assert fused[0].is_contiguous(memory_format=layout)


@pytest.mark.parametrize("name", NORMALIZERS)
def test_the_residual_is_left_as_it_is(name):
    x, residual, _ = make_inputs(torch.channels_last_3d)
    kept = residual.clone()

    normalize_and_add(make_normalizer(name, C, num_groups=4), x, residual)

    assert torch.equal(residual, kept)


@LAYOUTS
def test_statistics_of_frames_take_the_residual_frame_by_frame(layout):
    x, residual, dy = make_inputs(layout)
    norm = GroupNorm3d(C, 4, per_frame=True)

    fused = run(norm, normalize_and_add, x, residual, dy)
    steps = run(norm, lambda norm, x, r: torch.relu(norm(x) + r), x, residual, dy)

    for actual, expected in zip(fused, steps, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("replacement", [nn.BatchNorm3d(C), nn.GroupNorm(3, C), nn.Identity()])
def test_other_modules_may_stand_in_a_normalizers_place(replacement):
    x, residual, _ = make_inputs(torch.contiguous_format)
    kept = x.clone()

    y = normalize_and_add(replacement, x, residual)

    assert torch.equal(y, torch.relu(replacement(x) + residual))
    assert torch.equal(x, kept)
