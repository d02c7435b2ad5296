"""Fused normalizations by torch and by definition, against float64 autograd of the plain formula.

Axes: N clips, C channels, G groups, T frames, H height, W width.
"""

from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from clip_case import LAYOUTS, Case
from norm_cases import (
    CASES,
    DTYPES,
    EVERY_NATIVE_WAY,
    IMPLEMENTATIONS,
    OPERATORS,
    OUTPUT_TOLERANCE,
    check,
    make_apply,
    make_inputs,
)
from norm_inputs import (
    ENDING_IDS,
    ENDINGS,
    EPS,
    Inputs,
    compute_plainly,
    relative_error,
    run,
)

from gnvideo.errors import NormalizerError
from gnvideo.ops.batch_norm import batch_norm_act


@LAYOUTS
@DTYPES
@pytest.mark.parametrize(
    ("operator", "case"),
    # The long ones are there for the ways of group normalization. In them torch's kernel for batch
    # normalization adds more elements one after the other than 8 units bear.
    [*(("group", case) for case in CASES), *(("batch", case) for case in CASES[:4])],
    ids=str,
)
@IMPLEMENTATIONS
def test_values_and_gradients_equal_the_formula_in_float64(
    implementation, operator, case, dtype, layout
):
    check(implementation, operator, case, make_inputs(case, dtype, layout), None)


@LAYOUTS
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize(("activation", "has_residual"), ENDINGS, ids=ENDING_IDS)
@pytest.mark.parametrize(
    ("operator", "case"),
    [("batch", CASES[0]), *(("group", case) for case in EVERY_NATIVE_WAY)],
    ids=str,
)
@IMPLEMENTATIONS
def test_every_ending_equals_the_formula_in_float64(
    implementation, operator, case, activation, has_residual, dtype, layout
):
    inputs = make_inputs(case, dtype, layout, has_residual=has_residual)
    check(implementation, operator, case, inputs, activation)


@LAYOUTS
@pytest.mark.parametrize("ratio", [1e3, 1e4])
@pytest.mark.parametrize(
    ("operator", "case"),
    # torch's batch normalization adds more elements one after the other than these digits bear.
    [("batch", CASES[0]), *(("group", case) for case in EVERY_NATIVE_WAY)],
    ids=str,
)
@IMPLEMENTATIONS
def test_large_mean_costs_only_the_digits_that_float32_lacks(
    implementation, operator, case, ratio, layout
):
    # The mean is itself rounded by `ratio` * 2^-24 deviations, and dweight sees that as an offset
    # of every term. An implementation by E[x^2] - E[x]^2 would lose everything here.
    inputs = make_inputs(case, layout=layout, mean=ratio, std=1.0)
    exact = run(compute_plainly, operator, inputs.map(torch.Tensor.double), case.G, None)

    results = run(make_apply(implementation), operator, inputs, case.G, None)

    for name, actual in results.items():
        assert relative_error(actual, exact[name]) <= 8 * ratio * 2.0**-24, name


@LAYOUTS
@pytest.mark.parametrize("case", CASES, ids=str)
@OPERATORS
@IMPLEMENTATIONS
def test_second_run_is_the_first_to_the_last_bit(implementation, operator, case, layout):
    inputs = make_inputs(case, layout=layout, has_residual=True)
    first = run(make_apply(implementation), operator, inputs, case.G, "relu")
    second = run(make_apply(implementation), operator, inputs, case.G, "relu")
    for name, actual in second.items():
        assert torch.equal(actual, first[name]), name


@LAYOUTS
@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("case", EVERY_NATIVE_WAY, ids=str)
@IMPLEMENTATIONS
def test_what_is_not_finite_spoils_its_group_of_its_clip_alone(implementation, case, value, layout):
    inputs = make_inputs(case, layout=layout)
    expected = run(make_apply(implementation), "group", inputs, case.G, None)
    x = inputs.x.clone()
    x[1, 2, 1, 3, 2] = value

    results = run(make_apply(implementation), "group", replace(inputs, x=x), case.G, None)

    channels_of_group = case.C // case.G
    first = 2 // channels_of_group * channels_of_group
    spoiled = torch.zeros_like(x, dtype=torch.bool)
    spoiled[1, first : first + channels_of_group] = True
    for name in ("y", "dx"):
        assert results[name][spoiled].isnan().any(), name
        # Another of torch's ways may be taken for the whole batch, so the last bits may differ.
        torch.testing.assert_close(
            results[name][~spoiled], expected[name][~spoiled], rtol=1e-5, atol=1e-5
        )


@LAYOUTS
@OPERATORS
@IMPLEMENTATIONS
def test_second_derivatives_equal_finite_differences(implementation, operator, layout):
    case = Case(N=2, C=4, G=2, T=2, H=1, W=2)
    inputs = make_inputs(case, torch.float64, layout, has_residual=True)
    apply = make_apply(implementation)

    def compute(x, weight, bias, residual):
        return apply(operator, Inputs(x, weight, bias, residual, x), case.G, "silu")

    leaves = [leaf.requires_grad_() for leaf in inputs.list_leaves()]
    assert torch.autograd.gradcheck(compute, leaves)
    assert torch.autograd.gradgradcheck(compute, leaves)


@pytest.mark.parametrize("implementation", ["native", "auto"])
@OPERATORS
def test_compiles_without_a_break(operator, implementation):
    inputs = make_inputs(CASES[4], has_residual=True)
    apply = make_apply(implementation)
    expected = run(apply, operator, inputs, CASES[4].G, "relu")

    compiled = torch.compile(apply, fullgraph=True, backend="aot_eager")
    results = run(compiled, operator, inputs, CASES[4].G, "relu")

    for name, actual in results.items():
        assert relative_error(actual, expected[name].double()) <= 1e-5, name


@pytest.mark.parametrize("shape", [(0, 4, 2, 3, 3), (2, 4, 0, 3, 3)], ids=str)
@OPERATORS
@IMPLEMENTATIONS
def test_empty_input_is_an_error(implementation, operator, shape):
    x, weight = torch.zeros(shape), torch.ones(4)
    with pytest.raises(
        NormalizerError, match=rf"{operator}_norm_act has nothing .* \({shape[0]}, 4"
    ):
        make_apply(implementation)(operator, Inputs(x, weight, weight, None, x), 2, "relu")


@DTYPES
@IMPLEMENTATIONS
def test_running_statistics_move_as_torchs(implementation, dtype):
    inputs = make_inputs(CASES[0], dtype)
    layer = torch.nn.BatchNorm3d(CASES[0].C, momentum=0.3).double()
    running_mean = torch.zeros(CASES[0].C, dtype=inputs.weight.dtype)
    running_var = torch.ones(CASES[0].C, dtype=inputs.weight.dtype)
    for x in (inputs.x, inputs.dy + 2):
        layer(x.double())
        batch_norm_act(
            x, running_mean, running_var, training=True, momentum=0.3, implementation=implementation
        )

    torch.testing.assert_close(running_mean.double(), layer.running_mean, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(running_var.double(), layer.running_var, rtol=1e-6, atol=1e-6)


@LAYOUTS
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize(("activation", "has_residual"), ENDINGS, ids=ENDING_IDS)
@IMPLEMENTATIONS
def test_evaluation_scales_by_the_running_statistics_and_leaves_them(
    implementation, activation, has_residual, dtype, layout
):
    inputs = make_inputs(CASES[0], dtype, layout, has_residual=has_residual)
    mean = inputs.bias * 0.5 + 0.1
    var = inputs.weight.square() + 0.5
    kept = mean.clone(), var.clone()

    def evaluate(operator, given: Inputs, num_groups, activation) -> torch.Tensor:
        return batch_norm_act(
            given.x,
            mean,
            var,
            given.weight,
            given.bias,
            False,
            0.1,
            EPS,
            given.residual,
            activation,
            implementation,
        )

    def define(operator, given: Inputs, num_groups, activation) -> torch.Tensor:
        shape = (-1, 1, 1, 1)
        deviation = (var.double() + EPS).sqrt().reshape(shape)
        z = (given.x - mean.double().reshape(shape)) / deviation
        z = z * given.weight.reshape(shape) + given.bias.reshape(shape)
        z = z if given.residual is None else z + given.residual
        return {None: lambda z: z, "relu": torch.relu, "silu": torch.nn.functional.silu}[
            activation
        ](z)

    exact = run(define, "batch", inputs.map(torch.Tensor.double), 1, activation)
    results = run(evaluate, "batch", inputs, 1, activation)

    for name in ("y", "dx"):
        assert relative_error(results[name], exact[name]) <= OUTPUT_TOLERANCE[dtype], name
        assert results[name].is_contiguous(memory_format=layout)
    assert torch.equal(mean, kept[0])
    assert torch.equal(var, kept[1])


@IMPLEMENTATIONS
def test_single_value_for_each_channel_is_an_error_in_training(implementation):
    x = torch.zeros(1, 4, 1, 1, 1)
    with pytest.raises(ValueError, match=r"more than one value .* got an input of shape \(1, 4"):
        batch_norm_act(x, None, None, training=True, implementation=implementation)
    batch_norm_act(x, torch.zeros(4), torch.ones(4), implementation=implementation)


@pytest.mark.parametrize(
    "residual", [torch.zeros(2, 6, 1, 1, 2), torch.zeros(2, 6, 1, 1, 1, dtype=torch.int64)]
)
@OPERATORS
@IMPLEMENTATIONS
def test_residual_that_does_not_fit_is_named(implementation, operator, residual):
    x, weight = torch.zeros(2, 6, 1, 1, 1), torch.ones(6)
    inputs = Inputs(x, weight, weight, residual, x)
    with pytest.raises(NormalizerError, match=f"{operator}_norm_act residual is {residual.dtype}"):
        make_apply(implementation)(operator, inputs, 2, "relu")


@OPERATORS
def test_triton_by_name_on_a_cpu_without_its_interpreter_is_an_error(operator):
    code = (
        f"import torch; from gnvideo.ops.{operator}_norm import {operator}_norm_act as act;"
        f"args = (2,) if '{operator}' == 'group' else (None, None, None, None, True);"
        f"act(torch.zeros(2, 4, 1, 1, 2), *args, implementation='triton')"
    )
    environment = {"PATH": "", "PYTHONPATH": ":".join(sys.path)}
    result = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert f"NormalizerError: the triton implementation of {operator}_norm_act cannot run" in (
        result.stderr
    )
