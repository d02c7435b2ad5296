"""Group normalization on a CPU by torch: which way it goes, and that every way is exact.

Axes: N clips, C channels, G groups, T frames, H height, W width.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import replace
from typing import Any

import pytest
import torch
from clip_case import CHANNELS_LAST, LAYOUTS, Case
from norm_cases import (
    CASES,
    DTYPES,
    EVERY_NATIVE_WAY,
    IMPLEMENTATIONS,
    OUTPUT_TOLERANCE,
    find_tolerance,
    make_apply,
    make_inputs,
)
from norm_inputs import EPS, compute_plainly, relative_error, run

from gnvideo.ops.group_norm import group_norm_act, on_cpu


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


def test_what_is_not_finite_does_not_hide_a_large_mean_beside():
    inputs = make_inputs(CASES[0], layout=CHANNELS_LAST, mean=1000, std=1.0)
    inputs.x[1:] -= 1000
    inputs.x[0, 0, 0, 0, 0] = math.nan
    exact = compute_plainly("group", inputs.map(torch.Tensor.double), CASES[0].G, None)

    y = make_apply("native")("group", inputs, CASES[0].G, None)

    beside = slice(CASES[0].C // CASES[0].G, None)
    assert relative_error(y[0, beside], exact[0, beside]) <= 8 * 1000 * 2.0**-24


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
    exact = run(compute_plainly, "group", inputs.map(torch.Tensor.double), case.G, None)
    leaves: dict[str, Any] = {
        name: getattr(inputs, name).clone().requires_grad_() for name in ("x", "residual", *given)
    }

    y = group_norm_act(**leaves, num_groups=case.G, eps=EPS, implementation=implementation)

    gradients = torch.autograd.grad(y, list(leaves.values()), inputs.dy)
    for leaf, gradient in zip(leaves, gradients, strict=True):
        name = f"d{leaf}"
        assert relative_error(gradient, exact[name]) <= find_tolerance(name, case, inputs), name


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
