"""Triton's kernels on a GPU, at the sizes that they are for.

Axes: N clips, C channels, P positions.
"""

from __future__ import annotations

from functools import partial

import pytest
import torch
from clip_case import LAYOUTS, Case
from norm_inputs import (
    OUTPUT_TOLERANCE,
    apply_triton,
    compute_plainly,
    make_inputs,
    relative_error,
    run,
)

from gnvideo.ops.triton_norm import group_norm_act_triton

pytestmark = pytest.mark.cuda

# Of the I3D ResNet-50: the stem with fewer frames, a residual sum, and the last stage.
CASES = [
    Case(N=2, C=64, G=32, T=4, H=112, W=112),
    Case(N=1, C=256, G=32, T=8, H=56, W=56),
    Case(N=3, C=2048, G=32, T=4, H=7, W=7),
]
RESIDUALS = pytest.mark.parametrize("has_residual", [False, True], ids=["plain", "residual"])
OPERATORS = pytest.mark.parametrize("operator", ["group", "batch"])


@LAYOUTS
@RESIDUALS
@pytest.mark.parametrize("case", CASES, ids=str)
@OPERATORS
def test_outputs_equal_the_formula_in_float64(operator, case, has_residual, layout):
    inputs = make_inputs(case, torch.bfloat16, layout, has_residual=has_residual)
    exact = run(compute_plainly, operator, inputs.map(torch.Tensor.double), case.G, "relu")

    results = run(apply_triton, operator, inputs, case.G, "relu")

    for name in ("y", "dx"):
        assert relative_error(results[name], exact[name]) <= OUTPUT_TOLERANCE[torch.bfloat16], name


@LAYOUTS
@RESIDUALS
@pytest.mark.parametrize("case", CASES, ids=str)
@OPERATORS
def test_reading_once_gives_the_same_to_the_last_bit_each_time(
    operator, case, has_residual, layout
):
    inputs = make_inputs(case, torch.bfloat16, layout, has_residual=has_residual)
    expected = run(apply_triton, operator, inputs, case.G, "relu")

    # A program that did not wait for all others would show now and then.
    for _ in range(20):
        results = run(partial(apply_triton, variant="one-read"), operator, inputs, case.G, "relu")
        for name, actual in results.items():
            assert torch.equal(actual, expected[name]), name


@LAYOUTS
def test_a_clip_beyond_2_to_the_31_elements_is_what_it_is_alone(layout):
    x = torch.empty(
        (3, 64, 1, 3345, 3345), dtype=torch.bfloat16, device="cuda", memory_format=layout
    ).normal_()
    assert x.numel() > 2**31

    def normalize(clips: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        leaf = clips.detach().requires_grad_()
        y = group_norm_act_triton(leaf, 32, None, None, 1e-5, None, "relu")
        return y.detach(), torch.autograd.grad(y, leaf, clips)[0]

    for among_others, alone in zip(normalize(x), normalize(x[2:]), strict=True):
        assert torch.equal(among_others[2:], alone)


@OPERATORS
def test_a_captured_graph_computes_the_same(operator):
    inputs = make_inputs(CASES[1], torch.bfloat16, has_residual=True)
    expected = run(apply_triton, operator, inputs, 32, "relu")
    graph = torch.cuda.CUDAGraph()

    with torch.cuda.graph(graph):
        results = run(apply_triton, operator, inputs, 32, "relu")
    graph.replay()

    for name, actual in results.items():
        assert torch.equal(actual, expected[name]), name
