"""Triton's kernels as operators: what torch may do with them, and what they refuse.

Axes: N clips, C channels, G groups, T frames, H height, W width.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from clip_case import CHANNELS_LAST, Case
from norm_inputs import DEVICE, ENDING_IDS, ENDINGS, EPS, apply_triton, make_inputs, run
from torch.nn import functional

from gnvideo.errors import NormalizerError
from gnvideo.ops import recomputation
from gnvideo.ops.batch_norm import batch_norm_act
from gnvideo.ops.group_norm import group_norm_act
from gnvideo.ops.triton_norm import find_obstacle
from gnvideo.ops.triton_norm.obstacles import find_device_obstacle

CASE = Case(N=2, C=6, G=3, T=2, H=3, W=2)
OPERATORS = pytest.mark.parametrize("operator", ["group", "batch"])
ALL_ENDINGS = pytest.mark.parametrize(("activation", "has_residual"), ENDINGS, ids=ENDING_IDS)


def list_arguments(operator, activation, has_residual):
    inputs = make_inputs(CASE, has_residual=has_residual)
    inputs = inputs.map(lambda tensor: tensor.requires_grad_())
    tensors = (inputs.x, inputs.weight, inputs.bias, inputs.residual)
    if operator == "group":
        return (*tensors, CASE.G, EPS, activation)
    running = (torch.zeros(CASE.C, device=DEVICE), torch.ones(CASE.C, device=DEVICE), 0.1)
    return (tensors[0], *running, *tensors[1:], EPS, activation)


# torch's own check looks at the gradient of tensors that have none.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
@ALL_ENDINGS
@OPERATORS
def test_operators_keep_what_they_promise_to_torch(operator, activation, has_residual):
    function = getattr(torch.ops.gnvideo, f"{operator}_norm_act")
    torch.library.opcheck(function, list_arguments(operator, activation, has_residual))


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
def test_operators_of_given_statistics_keep_what_they_promise_to_torch():
    inputs = make_inputs(CASE)
    mean, var = torch.zeros(CASE.C, device=DEVICE), torch.ones(CASE.C, device=DEVICE)
    rest = (inputs.weight, inputs.bias, None, EPS, "relu")
    torch.library.opcheck(
        torch.ops.gnvideo.normalize_act, (inputs.x.clone().requires_grad_(), mean, var, *rest)
    )
    torch.library.opcheck(
        torch.ops.gnvideo.normalize_act_backward,
        (inputs.dy, inputs.x, mean, var, *rest, False, [True, True, False, False]),
    )


@ALL_ENDINGS
@OPERATORS
def test_compiled_without_a_graph_break_it_gives_the_same(operator, activation, has_residual):
    inputs = make_inputs(CASE, has_residual=has_residual)
    # Each ending is compiled anew, and torch takes many of these for a mistake.
    torch.compiler.reset()
    compiled = torch.compile(apply_triton, fullgraph=True, backend="aot_eager")

    expected = run(apply_triton, operator, inputs, CASE.G, activation)

    for name, actual in run(compiled, operator, inputs, CASE.G, activation).items():
        assert torch.equal(actual, expected[name]), name


@ALL_ENDINGS
@OPERATORS
def test_gradients_can_be_differentiated(operator, activation, has_residual):
    inputs = make_inputs(CASE, has_residual=has_residual)

    def differentiate_twice(implementation, dtype):
        leaves = inputs.map(lambda tensor: tensor.detach().to(dtype).requires_grad_())
        given = (leaves.weight, leaves.bias)
        rest = (EPS, leaves.residual, activation, implementation)
        if operator == "group":
            y = group_norm_act(leaves.x, CASE.G, *given, *rest)
        else:
            y = batch_norm_act(leaves.x, None, None, *given, True, 0.0, *rest)
        first = torch.autograd.grad(y, leaves.list_leaves(), leaves.dy, create_graph=True)
        total = sum((gradient.square().sum() for gradient in first), torch.zeros(()))
        return torch.autograd.grad(total, [*leaves.list_leaves(), leaves.dy], allow_unused=True)

    exact = differentiate_twice("reference", torch.float64)

    for actual, expected in zip(differentiate_twice("triton", torch.float32), exact, strict=True):
        # Without an activation and a residual alike, some do not depend on some others.
        if actual is None or expected is None:  # pyright: ignore[reportUnnecessaryComparison]
            assert actual is expected
        else:
            torch.testing.assert_close(actual.double(), expected, rtol=1e-4, atol=1e-4)


@OPERATORS
def test_autocast_changes_nothing(operator):
    inputs = make_inputs(CASE, torch.float32)
    expected = run(apply_triton, operator, inputs, CASE.G, "relu")

    with torch.autocast(DEVICE, dtype=torch.bfloat16):
        results = run(apply_triton, operator, inputs, CASE.G, "relu")

    for name, actual in results.items():
        assert torch.equal(actual, expected[name]), name


class Offers(recomputation.Recorder):
    def __init__(self) -> None:
        super().__init__()
        self.taken: list[tuple[Any, Any, Any]] = []

    def take_offer(self, output, function, inputs) -> None:
        self.taken.append((output, function, inputs))


@ALL_ENDINGS
@OPERATORS
def test_an_activated_output_without_a_residual_can_be_made_again(
    operator, activation, has_residual
):
    inputs = make_inputs(CASE, torch.bfloat16, has_residual=has_residual)
    x = inputs.x.requires_grad_()
    offers = Offers()

    with recomputation.recording(offers):
        y = apply_triton(operator, replace(inputs, x=x), CASE.G, activation)

    if activation is None or has_residual:
        assert not offers.taken
        return
    ((output, function, given),) = offers.taken
    assert output is y
    node: Any = y.grad_fn
    kept = {id(tensor) for tensor in node.saved_tensors}
    assert all(id(value) in kept for value in given if isinstance(value, torch.Tensor))
    with torch.no_grad():
        assert torch.equal(function(*given), y)


@pytest.mark.parametrize("momentum", [0.1, 1.0])
def test_running_statistics_move_as_torchs(momentum):
    inputs = make_inputs(CASE)
    ours = [torch.full((CASE.C,), 0.5, device=DEVICE), torch.full((CASE.C,), 2.0, device=DEVICE)]
    torchs = [statistics.clone() for statistics in ours]
    given = (inputs.weight, inputs.bias, True, momentum, EPS)

    batch_norm_act(inputs.x, ours[0], ours[1], *given, implementation="triton")
    functional.batch_norm(inputs.x, torchs[0], torchs[1], *given)

    for actual, expected in zip(ours, torchs, strict=True):
        torch.testing.assert_close(actual, expected)


def test_running_statistics_stay_where_a_forward_pass_is_run_again():
    inputs = make_inputs(CASE)
    mean, var = torch.zeros(CASE.C, device=DEVICE), torch.ones(CASE.C, device=DEVICE)

    with recomputation.running_again():
        batch_norm_act(inputs.x, mean, var, training=True, implementation="triton")

    assert not mean.any()
    assert torch.equal(var, torch.ones_like(var))


def test_autograd_is_told_that_running_statistics_move():
    inputs = make_inputs(CASE)
    mean, var = torch.zeros(CASE.C, device=DEVICE), torch.ones(CASE.C, device=DEVICE)
    x = inputs.x.clone().requires_grad_()
    y = batch_norm_act(x, mean, var, training=False, implementation="triton")

    batch_norm_act(inputs.x, mean, var, training=True, implementation="triton")

    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.backward(inputs.dy)


@ALL_ENDINGS
def test_evaluation_equals_the_reference_in_float64(activation, has_residual):
    inputs = make_inputs(CASE, has_residual=has_residual)
    generator = torch.Generator().manual_seed(5)
    mean = torch.randn(CASE.C, generator=generator).to(DEVICE)
    var = (torch.rand(CASE.C, generator=generator) + 0.5).to(DEVICE)

    def evaluate(implementation, dtype):
        leaves = inputs.map(lambda tensor: tensor.detach().to(dtype).requires_grad_())
        given = (leaves.x, mean.to(dtype), var.to(dtype), leaves.weight, leaves.bias)
        y = batch_norm_act(*given, False, 0.0, EPS, leaves.residual, activation, implementation)
        return (y, *torch.autograd.grad(y, leaves.list_leaves(), leaves.dy))

    for actual, exact in zip(
        evaluate("triton", torch.float32), evaluate("reference", torch.float64), strict=True
    ):
        torch.testing.assert_close(actual.double(), exact, rtol=1e-5, atol=1e-5)


def test_frozen_parameters_in_evaluation_get_no_gradient_and_the_residual_gets_its():
    inputs = make_inputs(CASE, has_residual=True)
    assert inputs.residual is not None
    mean, var = torch.zeros(CASE.C, device=DEVICE), torch.ones(CASE.C, device=DEVICE)
    x, residual = inputs.x.clone().requires_grad_(), inputs.residual.clone().requires_grad_()

    def evaluate(implementation):
        given = (x, mean, var, inputs.weight, inputs.bias, False, 0.0, EPS, residual, "relu")
        y = batch_norm_act(*given, implementation)
        return torch.autograd.grad(y, (x, residual), inputs.dy)

    for actual, expected in zip(evaluate("triton"), evaluate("reference"), strict=True):
        torch.testing.assert_close(actual, expected)


def test_a_single_value_for_each_channel_is_an_error_in_training():
    x = torch.zeros(1, 4, 1, 1, 1, device=DEVICE)
    with pytest.raises(ValueError, match="more than one value per channel"):
        batch_norm_act(x, None, None, training=True, implementation="triton")


X = torch.zeros(2, 4, 3, 2, 2)


@pytest.mark.parametrize(
    ("x", "weight", "residual", "reason"),
    [
        (X.double(), None, None, "the input is torch.float64"),
        (X[:, ::2], None, None, "neither contiguous nor channels_last"),
        (X[:, :, ::2], None, None, "neither contiguous nor channels_last"),
        (X.transpose(3, 4), None, None, "neither contiguous nor channels_last"),
        (X, torch.ones(4, dtype=torch.float16), None, "weight is torch.float16 beside"),
        (X, torch.ones(4, device="meta"), None, "weight is on meta and the input on cpu"),
        (X, torch.ones(8)[::2], None, r"weight has strides \(2,\), and the kernels take \(1,\)"),
        (X, None, X.to("meta"), "the residual is on meta and the input on cpu"),
        (X.to("meta"), None, None, "the device is meta"),
        (X, None, X.contiguous(memory_format=CHANNELS_LAST), "not the input's contiguous layout"),
    ],
)
def test_what_cannot_run_is_refused_by_name_with_the_reason(x, weight, residual, reason):
    with pytest.raises(NormalizerError, match=f"cannot run: .*{reason}.*; choose auto or native"):
        group_norm_act(x, 2, weight, residual=residual, implementation="triton")


def test_running_statistics_that_kernels_would_misread_are_refused():
    adjacent, strided = torch.ones(4, device=DEVICE), torch.ones(4, 2, device=DEVICE)[:, 0]
    x = X.to(DEVICE)
    for name, given in (
        ("running_mean", (strided, adjacent)),
        ("running_var", (adjacent, strided)),
    ):
        with pytest.raises(NormalizerError, match=rf"cannot run: {name} has strides \(2,\)"):
            batch_norm_act(x, *given, implementation="triton")


@pytest.mark.parametrize("implementation", ["auto", "reference", "triton"])
def test_running_statistics_of_other_channels_are_named(implementation):
    three = torch.ones(3, device=DEVICE)
    with pytest.raises(NormalizerError, match=r"running_mean has shape \(3,\); 4 channels need"):
        batch_norm_act(X.to(DEVICE), three, three, implementation=implementation)


def test_without_a_c_compiler_it_says_so(monkeypatch):
    monkeypatch.setattr("gnvideo.ops.triton_norm.obstacles._device_obstacles", {})
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr("shutil.which", lambda name: None)
    monkeypatch.delenv("CC", raising=False)
    assert "needs a C compiler" in str(find_device_obstacle(torch.device("cuda")))


@pytest.mark.skipif(DEVICE == "cuda", reason="there, nothing is interpreted")
def test_without_a_gpu_the_interpreter_has_to_be_asked_for(monkeypatch):
    monkeypatch.setattr("gnvideo.ops.triton_norm.obstacles._device_obstacles", {})
    monkeypatch.delenv("TRITON_INTERPRET")
    assert "TRITON_INTERPRET=1" in str(find_obstacle(X, None, None, None))


def test_without_triton_it_says_so(monkeypatch):
    monkeypatch.setattr("gnvideo.ops.triton_norm.obstacles._device_obstacles", {})
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert find_obstacle(X, None, None, None) == "the package triton is not installed"
