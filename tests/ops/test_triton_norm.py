"""Triton's kernels against float64 autograd of the plain formula; in its interpreter without a GPU.

Axes: N clips, C channels, G groups, T frames, H height, W width.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

import pytest
import torch
from clip_case import LAYOUTS, Case
from norm_inputs import (
    DEVICE,
    ENDING_IDS,
    ENDINGS,
    EPS,
    OUTPUT_TOLERANCE,
    Inputs,
    apply_triton,
    compute_plainly,
    make_inputs,
    relative_error,
    run,
)

from gnvideo.ops.group_norm import group_norm_act

CASES = [
    Case(N=2, C=64, G=32, T=3, H=7, W=5),
    Case(N=1, C=6, G=3, T=2, H=3, W=5),
    Case(N=3, C=10, G=1, T=1, H=5, W=3),
    Case(N=2, C=7, G=7, T=4, H=3, W=3),
    # Several chunks in a split, the last one ragged.
    Case(N=1, C=64, G=32, T=5, H=17, W=13),
    # Groups of more channels than one program merges at once, and tiles of channels half empty.
    Case(N=2, C=80, G=2, T=2, H=3, W=3),
    Case(N=2, C=12, G=4, T=1, H=1, W=2),
    Case(N=17, C=2, G=1, T=1, H=1, W=2),
]

DTYPES = pytest.mark.parametrize("dtype", list(OUTPUT_TOLERANCE), ids=lambda dtype: str(dtype)[6:])
OPERATORS = pytest.mark.parametrize("operator", ["group", "batch"])


def check(operator, case: Case, inputs: Inputs, activation) -> None:
    exact = run(compute_plainly, operator, inputs.map(torch.Tensor.double), case.G, activation)

    results = run(apply_triton, operator, inputs, case.G, activation)

    assert results.keys() == exact.keys()
    # dweight and dbias add so many products in float32; the error grows with their number's root.
    parameter_tolerance = 8 * 2.0**-24 * math.sqrt(case.N * case.T * case.H * case.W)
    for name, actual in results.items():
        is_parameter = name in ("dweight", "dbias")
        tolerance = parameter_tolerance if is_parameter else OUTPUT_TOLERANCE[inputs.x.dtype]
        assert relative_error(actual, exact[name]) <= tolerance, name
        source = inputs.weight if is_parameter else inputs.x
        assert actual.dtype == source.dtype, name
        assert actual.stride() == source.stride(), name


@LAYOUTS
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("case", CASES, ids=str)
@OPERATORS
def test_values_and_gradients_equal_the_formula_in_float64(operator, case, dtype, layout):
    check(operator, case, make_inputs(case, dtype, layout), "relu")


@LAYOUTS
@DTYPES
@pytest.mark.parametrize(("activation", "has_residual"), ENDINGS, ids=ENDING_IDS)
@OPERATORS
def test_every_ending_equals_the_formula_in_float64(
    operator, activation, has_residual, dtype, layout
):
    case = Case(N=2, C=12, G=3, T=2, H=5, W=3)
    check(operator, case, make_inputs(case, dtype, layout, has_residual=has_residual), activation)


@LAYOUTS
@pytest.mark.parametrize("ratio", [1e3, 1e4])
@OPERATORS
def test_large_mean_costs_only_the_digits_that_float32_lacks(operator, ratio, layout):
    # The mean is itself rounded by `ratio` * 2^-24 deviations, and dweight sees that as an offset
    # of every term. An implementation by E[x^2] - E[x]^2 would lose everything here.
    inputs = make_inputs(CASES[4], layout=layout, mean=ratio, std=1.0)
    exact = run(compute_plainly, operator, inputs.map(torch.Tensor.double), CASES[4].G, None)

    results = run(apply_triton, operator, inputs, CASES[4].G, None)

    for name, actual in results.items():
        assert relative_error(actual, exact[name]) <= 8 * ratio * 2.0**-24, name


@pytest.mark.parametrize("shape", [(2, 6, 5), (2, 6, 3, 5), (2, 6)], ids=str)
def test_any_number_of_axes_of_positions(shape):
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(shape, generator=generator).to(DEVICE)

    y = group_norm_act(x, 3, None, None, EPS, None, "relu", "triton")

    expected = torch.relu(torch.group_norm(x, 3, None, None, EPS))
    torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("parameters", ["weight", "bias", "neither"])
@OPERATORS
def test_missing_weight_is_one_and_missing_bias_is_zero(operator, parameters):
    inputs = make_inputs(CASES[1])
    ones, zeros = torch.ones_like(inputs.weight), torch.zeros_like(inputs.bias)
    weight = inputs.weight if parameters == "weight" else None
    bias = inputs.bias if parameters == "bias" else None
    full = replace(
        inputs,
        weight=ones if weight is None else weight,
        bias=zeros if bias is None else bias,
    )
    expected = run(apply_triton, operator, full, 3, "relu")

    x = inputs.x.clone().requires_grad_()
    y = apply_triton(operator, replace(inputs, x=x, weight=weight, bias=bias), 3, "relu")

    assert torch.equal(y, expected["y"])
    assert torch.equal(torch.autograd.grad(y, x, inputs.dy)[0], expected["dx"])


@OPERATORS
def test_parameters_of_half_precision_get_gradients_of_half_precision(operator):
    inputs = make_inputs(CASES[1], torch.bfloat16)
    half = replace(inputs, weight=inputs.weight.bfloat16(), bias=inputs.bias.bfloat16())
    exact = run(compute_plainly, operator, half.map(torch.Tensor.double), 3, "relu")

    results = run(apply_triton, operator, half, 3, "relu")

    for name, actual in results.items():
        assert actual.dtype == torch.bfloat16, name
        assert relative_error(actual, exact[name]) <= OUTPUT_TOLERANCE[torch.bfloat16], name


@pytest.mark.parametrize("wanted", ["x", "weight", "residual"])
@OPERATORS
def test_one_gradient_alone_is_what_it_is_among_all(operator, wanted):
    inputs = make_inputs(CASES[1], has_residual=True)
    expected = run(apply_triton, operator, inputs, 3, "relu")[f"d{wanted}"]

    leaf = getattr(inputs, wanted).clone().requires_grad_()
    y = apply_triton(operator, replace(inputs, **{wanted: leaf}), 3, "relu")

    assert torch.equal(torch.autograd.grad(y, leaf, inputs.dy)[0], expected)


def test_gradient_of_another_layout_gives_the_same():
    inputs = make_inputs(CASES[1])
    expected = run(apply_triton, "group", inputs, 3, "relu")

    contiguous = replace(inputs, dy=inputs.dy.contiguous())
    for name, actual in run(apply_triton, "group", contiguous, 3, "relu").items():
        assert torch.equal(actual, expected[name]), name


@LAYOUTS
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_a_clip_among_others_is_to_the_last_bit_what_it_is_alone(dtype, layout):
    inputs = make_inputs(CASES[0], dtype, layout, has_residual=True)
    clip = slice(1, 2)
    assert inputs.residual is not None
    alone = replace(inputs, x=inputs.x[clip], residual=inputs.residual[clip], dy=inputs.dy[clip])

    among_others = run(apply_triton, "group", inputs, 32, "relu")

    for name, actual in run(apply_triton, "group", alone, 32, "relu").items():
        if name not in ("dweight", "dbias"):
            assert torch.equal(actual, among_others[name][clip]), name


@OPERATORS
def test_runs_are_the_same_to_the_last_bit_in_memory_that_holds_anything(operator):
    inputs = make_inputs(CASES[0], torch.bfloat16, has_residual=True)
    expected = run(apply_triton, operator, inputs, 32, "relu")

    torch.use_deterministic_algorithms(True)
    try:
        # torch.empty now returns NaN.
        assert torch.empty(1).isnan()
        results = run(apply_triton, operator, inputs, 32, "relu")
    finally:
        torch.use_deterministic_algorithms(False)

    for name, actual in results.items():
        assert torch.equal(actual, expected[name]), name


# numpy, in which the interpreter computes, warns of what the test is about.
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_spoils_its_group_of_its_clip_alone(value):
    inputs = make_inputs(CASES[0])
    expected = run(apply_triton, "group", inputs, 32, "relu")
    x = inputs.x.clone()
    x[1, 5, 2, 3, 4] = value

    results = run(apply_triton, "group", replace(inputs, x=x), 32, "relu")

    for name in ("y", "dx"):
        spoiled = torch.zeros_like(x, dtype=torch.bool)
        spoiled[1, 4:6] = True
        assert results[name][spoiled].isnan().all(), name
        assert torch.equal(results[name][~spoiled], expected[name][~spoiled]), name


@LAYOUTS
@pytest.mark.parametrize(("activation", "has_residual"), ENDINGS, ids=ENDING_IDS)
@OPERATORS
def test_reading_once_gives_the_same_to_the_last_bit(operator, activation, has_residual, layout):
    case = Case(N=2, C=20, G=2, T=1, H=9, W=5)
    inputs = make_inputs(case, torch.bfloat16, layout, has_residual=has_residual)
    expected = run(apply_triton, operator, inputs, case.G, activation)

    results = run(partial(apply_triton, variant="one-read"), operator, inputs, case.G, activation)

    for name, actual in results.items():
        assert torch.equal(actual, expected[name]), name
