"""Fused normalizations by torch and by definition, against float64 autograd of the plain formula.

Axes: N clips, C channels, G groups, T frames, H height, W width.
"""

from __future__ import annotations

import math
import subprocess
import sys
import warnings
from dataclasses import replace
from typing import Any

import pytest
import torch
from clip_case import CHANNELS_LAST, LAYOUTS, Case
from norm_inputs import (
    ENDING_IDS,
    ENDINGS,
    EPS,
    Inputs,
    compute_plainly,
    relative_error,
    run,
)
from norm_inputs import OUTPUT_TOLERANCE as HALF_AND_SINGLE_TOLERANCE
from norm_inputs import make_inputs as make_inputs_with_float32_parameters

from gnvideo.errors import NormalizerError
from gnvideo.ops.batch_norm import batch_norm_act
from gnvideo.ops.group_norm import group_norm_act, on_cpu

IMPLEMENTATIONS = pytest.mark.parametrize("implementation", ["native", "reference"])
OPERATORS = pytest.mark.parametrize("operator", ["group", "batch"])

CASES = [
    Case(N=2, C=12, G=4, T=2, H=5, W=3),
    Case(N=1, C=6, G=3, T=2, H=3, W=5),
    Case(N=3, C=10, G=1, T=1, H=5, W=3),
    Case(N=2, C=7, G=7, T=4, H=3, W=3),
    # Sizes at which the native group normalization turns its input, and one at which it takes rows.
    Case(N=2, C=8, G=4, T=8, H=17, W=16),
    Case(N=1, C=40, G=40, T=8, H=16, W=16),
    Case(N=2, C=66, G=33, T=8, H=17, W=16),
]
EVERY_NATIVE_WAY = [CASES[0], CASES[4], CASES[6]]

# In float64 the exact result is rounded as often as the one that is held against it.
OUTPUT_TOLERANCE = {torch.float64: 2 * 8 * 2.0**-53, **HALF_AND_SINGLE_TOLERANCE}
DTYPES = pytest.mark.parametrize("dtype", list(OUTPUT_TOLERANCE), ids=lambda dtype: str(dtype)[6:])


def make_inputs(case: Case, dtype: torch.dtype = torch.float32, *args, **options) -> Inputs:
    inputs = make_inputs_with_float32_parameters(case, dtype, *args, **options)
    if dtype != torch.float64:
        return inputs
    return replace(inputs, weight=inputs.weight.double(), bias=inputs.bias.double())


def make_apply(implementation: str):
    def apply(operator, inputs: Inputs, num_groups, activation) -> torch.Tensor:
        given = (inputs.weight, inputs.bias)
        rest = (EPS, inputs.residual, activation, implementation)
        if operator == "group":
            return group_norm_act(inputs.x, num_groups, *given, *rest)
        return batch_norm_act(inputs.x, None, None, *given, True, 0.0, *rest)

    return apply


def check(implementation, operator, case: Case, inputs: Inputs, activation) -> None:
    exact = run(compute_plainly, operator, inputs.map(torch.Tensor.double), case.G, activation)

    results = run(make_apply(implementation), operator, inputs, case.G, activation)

    assert results.keys() == exact.keys()
    # dweight and dbias add so many products; the error grows with their number's root.
    unit = 2.0**-53 if inputs.weight.dtype == torch.float64 else 2.0**-24
    parameter_tolerance = 8 * unit * math.sqrt(case.N * case.T * case.H * case.W)
    output_tolerance = OUTPUT_TOLERANCE[inputs.x.dtype]
    for name, actual in results.items():
        is_parameter = name in ("dweight", "dbias")
        tolerance = parameter_tolerance if is_parameter else output_tolerance
        assert relative_error(actual, exact[name]) <= tolerance, name
        source = inputs.weight if is_parameter else inputs.x
        assert actual.dtype == source.dtype, name
        # The reference's gradients are computed over joined clips and left as they come.
        if name not in ("dx", "dresidual") or implementation != "reference":
            assert actual.is_contiguous(memory_format=find_layout(source)), name


def find_layout(tensor: torch.Tensor) -> torch.memory_format:
    is_last = tensor.ndim == 5 and tensor.is_contiguous(memory_format=CHANNELS_LAST)
    return CHANNELS_LAST if is_last else torch.contiguous_format


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
@pytest.mark.parametrize("ratio", [0.9, 1.5, 1.9, 2.5, 5.0, 30.0])
@pytest.mark.parametrize(
    "case",
    # Few positions and as many as the direct way takes; then long sums, of many groups and of few.
    [
        CASES[0],
        Case(N=2, C=32, G=4, T=1, H=8, W=8),
        CASES[5],
        Case(N=2, C=64, G=32, T=9, H=15, W=17),
        Case(N=1, C=16, G=2, T=16, H=56, W=56),
    ],
    ids=str,
)
def test_means_between_which_the_native_way_changes_cost_few_digits(case, ratio, layout):
    inputs = make_inputs(case, layout=layout, mean=ratio, std=1.0)
    exact = run(compute_plainly, "group", inputs.map(torch.Tensor.double), case.G, None)

    results = run(make_apply("native"), "group", inputs, case.G, None)

    for name in ("y", "dx"):
        assert relative_error(results[name], exact[name]) <= 8 * max(1, ratio) * 2.0**-24, name


@LAYOUTS
@pytest.mark.parametrize(
    "case", [*EVERY_NATIVE_WAY, Case(N=2, C=16, G=2, T=16, H=16, W=16)], ids=str
)
def test_gradients_along_the_mean_and_the_input_cost_few_digits(case, layout):
    # Where all terms have one sign, what sums lose is not hidden by what they cancel.
    inputs = make_inputs(case, layout=layout, mean=0.9, std=1.0)
    inputs = replace(inputs, dy=inputs.dy + inputs.x)
    exact = run(compute_plainly, "group", inputs.map(torch.Tensor.double), case.G, None)

    results = run(make_apply("native"), "group", inputs, case.G, None)

    assert relative_error(results["dx"], exact["dx"]) <= OUTPUT_TOLERANCE[torch.float32]


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


def test_what_is_not_finite_does_not_hide_a_large_mean_beside():
    inputs = make_inputs(CASES[0], layout=CHANNELS_LAST, mean=1000, std=1.0)
    inputs.x[1:] -= 1000
    inputs.x[0, 0, 0, 0, 0] = math.nan
    exact = compute_plainly("group", inputs.map(torch.Tensor.double), CASES[0].G, None)

    y = make_apply("native")("group", inputs, CASES[0].G, None)

    beside = slice(CASES[0].C // CASES[0].G, None)
    assert relative_error(y[0, beside], exact[0, beside]) <= 8 * 1000 * 2.0**-24


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


@pytest.mark.parametrize("case", EVERY_NATIVE_WAY, ids=str)
def test_second_derivatives_of_every_native_way_are_the_references(case):
    inputs = make_inputs(case, torch.float64)

    def differentiate_twice(implementation: str) -> tuple[torch.Tensor, ...]:
        given = inputs.map(lambda tensor: tensor.detach().clone().requires_grad_())
        y = make_apply(implementation)("group", given, case.G, None)
        leaves = given.list_leaves()
        gradients = torch.autograd.grad(y, leaves, given.dy, create_graph=True)
        total = torch.stack([gradient.square().sum() for gradient in gradients]).sum()
        return torch.autograd.grad(total, [*leaves[:2], given.dy])

    expected = differentiate_twice("reference")
    for actual, value in zip(differentiate_twice("native"), expected, strict=True):
        assert relative_error(actual, value) <= 1e-10


@LAYOUTS
@DTYPES
@pytest.mark.parametrize("given", [(), ("weight",), ("bias",)], ids=["neither", "weight", "bias"])
@pytest.mark.parametrize("case", EVERY_NATIVE_WAY, ids=str)
@IMPLEMENTATIONS
def test_gradients_without_weight_or_bias_are_those_beside_ones_and_zeros(
    implementation, case, given, dtype, layout
):
    inputs = make_inputs(case, dtype, layout, has_residual=True)
    if "weight" not in given:
        inputs = replace(inputs, weight=torch.ones_like(inputs.weight))
    if "bias" not in given:
        inputs = replace(inputs, bias=torch.zeros_like(inputs.bias))
    expected = run(make_apply(implementation), "group", inputs, case.G, "relu")
    leaves: dict[str, Any] = {
        name: getattr(inputs, name).clone().requires_grad_() for name in ("x", "residual", *given)
    }

    y = group_norm_act(
        **leaves, num_groups=case.G, eps=EPS, activation="relu", implementation=implementation
    )

    gradients = torch.autograd.grad(y, list(leaves.values()), inputs.dy)
    for name, gradient in zip(leaves, gradients, strict=True):
        tolerance = 4 * OUTPUT_TOLERANCE[dtype] if name in given else OUTPUT_TOLERANCE[dtype]
        assert relative_error(gradient, expected[f"d{name}"].double()) <= tolerance, name


@pytest.mark.parametrize("case", EVERY_NATIVE_WAY, ids=str)
def test_gradient_of_the_residual_alone_is_that_of_the_activation(case):
    inputs = make_inputs(case, torch.float64, has_residual=True)
    assert inputs.residual is not None
    residual = inputs.residual.requires_grad_()

    y = group_norm_act(inputs.x, case.G, residual=residual, activation="relu")
    (gradient,) = torch.autograd.grad(y, residual, inputs.dy, create_graph=True)

    assert torch.equal(gradient, inputs.dy * (y > 0))


@pytest.mark.parametrize("case", EVERY_NATIVE_WAY, ids=str)
def test_a_traced_function_is_exact_for_other_values_too(case):
    inputs = make_inputs(case, layout=CHANNELS_LAST)
    with warnings.catch_warnings():
        # torch calls tracing deprecated.
        warnings.simplefilter("ignore")
        traced: Any = torch.jit.trace(lambda x: group_norm_act(x, case.G), inputs.x)
    shifted = inputs.x + 500

    expected = group_norm_act(shifted.double(), case.G)
    assert relative_error(traced(shifted), expected) <= 8 * 500 * 2.0**-24


@pytest.mark.parametrize("missing", ["x", "weight", "bias"])
@pytest.mark.parametrize("case", EVERY_NATIVE_WAY, ids=str)
def test_one_gradient_less_leaves_the_others_as_they_are(case, missing):
    inputs = make_inputs(case)
    expected = run(make_apply("native"), "group", inputs, case.G, "relu")
    leaves = {"x": inputs.x, "weight": inputs.weight, "bias": inputs.bias}
    leaves = {name: leaf.clone().requires_grad_(name != missing) for name, leaf in leaves.items()}

    y = make_apply("native")("group", replace(inputs, **leaves), case.G, "relu")

    wanted = {name: leaf for name, leaf in leaves.items() if name != missing}
    gradients = torch.autograd.grad(y, list(wanted.values()), inputs.dy)
    for name, gradient in zip(wanted, gradients, strict=True):
        torch.testing.assert_close(gradient, expected[f"d{name}"])


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


def test_cases_take_every_native_way(monkeypatch):
    taken: set[str] = set()

    def record(way: str):
        function = getattr(on_cpu, way)

        def run_recorded(*arguments):
            taken.add(way)
            return function(*arguments)

        return run_recorded

    for way in ("_turn", "normalize_rows", "differentiate_rows"):
        monkeypatch.setattr(on_cpu, way, record(way))
    found: list[set[str]] = []
    for case in EVERY_NATIVE_WAY:
        taken.clear()
        run(make_apply("native"), "group", make_inputs(case, layout=CHANNELS_LAST), case.G, None)
        found.append(set(taken))

    assert found == [set(), {"_turn"}, {"normalize_rows", "differentiate_rows"}]


@pytest.mark.parametrize("case", EVERY_NATIVE_WAY[1:], ids=str)
def test_a_long_clip_among_others_is_to_the_last_bit_what_it_is_alone(case):
    inputs = make_inputs(case, layout=CHANNELS_LAST)
    others = torch.cat([inputs.x[:1], 50 * inputs.x + 300]).contiguous(memory_format=CHANNELS_LAST)
    alone, among_others = (
        group_norm_act(x, case.G, inputs.weight, inputs.bias) for x in (inputs.x[:1], others)
    )
    assert torch.equal(among_others[:1], alone)
