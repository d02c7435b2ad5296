"""Normalizers of a clip by itself, and the switchable one, against their formulas in float64.

Axes: N clips, C channels, G groups, T frames, H height, W width.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import timm.layers
import torch
from clip_case import CHANNELS_LAST, LAYOUTS, Case, spread
from torch import nn

from gnvideo.errors import NormalizerError
from gnvideo.layers import make_normalizer

EPS = 1e-5


CASES = [
    Case(N=2, C=64, G=32, T=3, H=7, W=5),
    Case(N=1, C=6, G=3, T=2, H=3, W=5),
    Case(N=3, C=10, G=1, T=1, H=5, W=3),
    Case(N=2, C=7, G=7, T=4, H=3, W=3),
]

Parameters = dict[str, torch.Tensor]


def by_groups(x: torch.Tensor, groups: int, compute: Callable[[torch.Tensor], torch.Tensor]):
    """`compute` on every group of channels of every clip by itself."""
    return torch.stack(
        [torch.cat([compute(part) for part in clip.chunk(groups)], dim=0) for clip in x]
    )


def standardize(part: torch.Tensor) -> torch.Tensor:
    deviations = part - part.mean()
    return deviations / torch.sqrt((deviations * deviations).mean() + EPS)


def divide_by_rms(part: torch.Tensor) -> torch.Tensor:
    return part / torch.sqrt((part * part).mean() + EPS)


def divide_by_deviation(part: torch.Tensor) -> torch.Tensor:
    return torch.ones_like(part) / torch.sqrt(((part - part.mean()) ** 2).mean() + EPS)


def affine(x: torch.Tensor, p: Parameters) -> torch.Tensor:
    return x * spread(p["weight"]) + spread(p["bias"])


def evonorm(x: torch.Tensor, groups: int, p: Parameters) -> torch.Tensor:
    if "v" not in p:
        return affine(x, p)
    gated = x * torch.sigmoid(spread(p["v"]) * x)
    return affine(gated * by_groups(x, groups, divide_by_deviation), p)


def switchable(x: torch.Tensor, groups: int, p: Parameters) -> torch.Tensor:
    axes = ((2, 3, 4), (1, 2, 3, 4), (0, 2, 3, 4))
    mean_weights = torch.exp(p["mean_logits"]) / torch.exp(p["mean_logits"]).sum(0)
    var_weights = torch.exp(p["var_logits"]) / torch.exp(p["var_logits"]).sum(0)
    mean, var = torch.zeros_like(x), torch.zeros_like(x)
    for mean_weight, var_weight, a in zip(mean_weights, var_weights, axes, strict=True):
        mean = mean + mean_weight * x.mean(a, keepdim=True)
        var = var + var_weight * ((x - x.mean(a, keepdim=True)) ** 2).mean(a, keepdim=True)
    return affine((x - mean) / torch.sqrt(var + EPS), p)


# (x, G, parameters) -> y before the activation.
REFERENCES: dict[str, Callable[[torch.Tensor, int, Parameters], torch.Tensor]] = {
    "group": lambda x, groups, p: affine(by_groups(x, groups, standardize), p),
    "layer": lambda x, groups, p: affine(by_groups(x, 1, standardize), p),
    "instance": lambda x, groups, p: affine(by_groups(x, x.shape[1], standardize), p),
    "group_ws": lambda x, groups, p: affine(by_groups(x, groups, standardize), p),
    "filter_response": lambda x, groups, p: affine(by_groups(x, x.shape[1], divide_by_rms), p),
    "evonorm_s0": evonorm,
    "switchable": switchable,
    "rms_group": lambda x, groups, p: affine(by_groups(x, groups, divide_by_rms), p),
    "weight_norm": lambda x, groups, p: affine(x, p),
}
PER_FRAME = ("group", "layer", "instance", "group_ws", "rms_group")
SETTINGS = [(name, False) for name in REFERENCES] + [(name, True) for name in PER_FRAME]

# Largest error allowed, relative to the largest value of the exact result, in units of half a unit
# in the last place (2^-24 and 2^-8 of a value).
UNIT = {torch.float32: 2.0**-24, torch.bfloat16: 2.0**-8}
# A handful of float32 operations on each element; bfloat16 is computed in float32 as well, so that
# the last rounding is all there is, and 1 % for what precedes it.
OUTPUT_UNITS = {torch.float32: 8, torch.bfloat16: 1.01}
# The gradient of x is a sum whose first part, dy * scale, is rounded to x's dtype on its own.
GRADIENT_UNITS = {torch.float32: 8, torch.bfloat16: 2.02}


def parameter_tolerance(case: Case) -> float:
    """Parameters' gradients add products of all positions, in float32 beside any dtype."""
    return 8 * 2.0**-24 * math.sqrt(math.prod(case.shape) / case.C)


def make_inputs(case: Case, dtype: torch.dtype, *, mean: float = 0.3, std: float = 1.7):
    generator = torch.Generator().manual_seed(7)
    x = torch.randn(case.shape, generator=generator, dtype=torch.float64) * std + mean
    dy = torch.randn(case.shape, generator=generator, dtype=torch.float64)
    return x.to(dtype), dy.to(dtype)


def make_module(name: str, case: Case, activation=None, *, per_frame: bool = False) -> nn.Module:
    """A normalizer with random parameters that bfloat16 holds exactly."""
    norm = make_normalizer(
        name, case.C, activation, num_groups=case.G, per_frame=per_frame, eps=EPS
    )
    generator = torch.Generator().manual_seed(8)
    with torch.no_grad():
        for parameter in norm.parameters():
            values = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(values.bfloat16())
    return norm


def compute_reference(
    name: str, case: Case, x: torch.Tensor, parameters: Parameters, activation, per_frame: bool
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """y before its threshold, and the threshold, where there is one."""
    if per_frame:
        frames = [REFERENCES[name](f[:, :, None], case.G, parameters) for f in x.unbind(2)]
        y = torch.cat(frames, 2)
    else:
        y = REFERENCES[name](x, case.G, parameters)
    if activation is None or name == "evonorm_s0":
        return y, None
    if name == "filter_response":
        return y, spread(parameters["tau"]).expand_as(y)
    return y, torch.zeros_like(y)


def relative_error(
    actual: torch.Tensor, exact: torch.Tensor, terms: torch.Tensor | None = None
) -> float:
    """The largest error, relative to the largest value of `exact` or of the terms that made it."""
    scale = (exact if terms is None else terms).abs().max().clamp(min=1e-3)
    return ((actual.double() - exact).abs().max() / scale).item()


def make_exact(name: str, parameter: torch.Tensor, case: Case) -> torch.Tensor:
    """A parameter in float64; a logit for each channel of each clip, so that its terms are seen."""
    exact = parameter.detach().double()
    if name.endswith("logits"):
        exact = exact.reshape(3, 1, 1, 1, 1, 1).repeat(1, case.N, case.C, 1, 1, 1)
    return exact.requires_grad_()


def compare(
    name: str, case: Case, dtype: torch.dtype, layout, activation, per_frame: bool, mean: float
) -> dict[str, float]:
    """Relative errors of y and of every gradient."""
    norm = make_module(name, case, activation, per_frame=per_frame)
    x, dy = make_inputs(case, dtype, mean=mean)
    parameters = {n: make_exact(n, p, case) for n, p in norm.named_parameters()}
    exact_x = x.double().requires_grad_()
    exact_y, threshold = compute_reference(name, case, exact_x, parameters, activation, per_frame)
    if threshold is not None:
        # No gradient where rounding decides on which side of the threshold a value lies.
        dy[(exact_y - threshold).abs() < 4 * mean * UNIT[dtype] * exact_y.abs().max()] = 0
        exact_y = torch.maximum(exact_y, threshold)
    exact = torch.autograd.grad(exact_y, (exact_x, *parameters.values()), dy.double())

    x = x.contiguous(memory_format=layout).requires_grad_()
    y = norm(x)
    actual = torch.autograd.grad(y, (x, *norm.parameters()), dy.contiguous(memory_format=layout))

    assert y.dtype == actual[0].dtype == dtype
    assert y.shape == x.shape
    assert y.is_contiguous(memory_format=layout)
    # The gradient of frames that were copied one by one stays in their layout.
    assert per_frame or actual[0].is_contiguous(memory_format=layout)
    errors = {"y": relative_error(y.detach(), exact_y.detach())}
    for n, a, e in zip(("x", *parameters), actual, exact, strict=True):
        if n.endswith("logits"):
            terms = e.flatten(1)
            errors[n] = relative_error(a, terms.sum(1), terms.abs().sum(1))
        else:
            errors[n] = relative_error(a, e)
    return errors


@LAYOUTS
@pytest.mark.parametrize("dtype", list(UNIT), ids=lambda dtype: str(dtype)[6:])
@pytest.mark.parametrize("activation", [None, "relu"])
@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize(("name", "per_frame"), SETTINGS)
def test_values_and_gradients_equal_the_formula_in_float64(
    name, per_frame, case, activation, dtype, layout
):
    errors = compare(name, case, dtype, layout, activation, per_frame, mean=1.0)

    assert errors.pop("y") <= OUTPUT_UNITS[dtype] * UNIT[dtype]
    assert errors.pop("x") <= GRADIENT_UNITS[dtype] * UNIT[dtype]
    for parameter, error in errors.items():
        assert error <= parameter_tolerance(case), parameter


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize(("name", "per_frame"), SETTINGS)
def test_large_mean_costs_only_the_digits_that_float32_lacks(name, per_frame, case):
    # A mean of 600 deviations is itself rounded by 600 * 2^-24 deviations. A variance by
    # E[x^2] - E[x]^2 would be lost altogether.
    errors = compare(name, case, torch.float32, CHANNELS_LAST, "relu", per_frame, mean=1000.0)

    for result, error in errors.items():
        assert error <= 8 * 600 * UNIT[torch.float32], result


def test_layer_is_torch_group_norm_of_one_group_and_instance_torch_instance_norm():
    case = CASES[0]
    x, _ = make_inputs(case, torch.float32)
    for name, expected in (
        ("layer", nn.GroupNorm(1, case.C)),
        ("instance", nn.InstanceNorm3d(case.C, affine=True)),
    ):
        norm = make_module(name, case)
        expected.load_state_dict(norm.state_dict())
        torch.testing.assert_close(norm(x), expected(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "activation", "expected"),
    [
        ("filter_response", "relu", timm.layers.FilterResponseNormTlu2d(12, eps=EPS)),
        ("filter_response", None, timm.layers.FilterResponseNormTlu2d(12, False, eps=EPS)),
        ("evonorm_s0", "relu", timm.layers.EvoNorm2dS0(12, groups=4, eps=EPS)),
        ("evonorm_s0", None, timm.layers.EvoNorm2dS0(12, groups=4, apply_act=False, eps=EPS)),
    ],
)
def test_one_frame_gives_what_timm_gives_for_an_image_with_the_same_state(
    name, activation, expected
):
    case = Case(N=2, C=12, G=4, T=1, H=5, W=7)
    norm = make_module(name, case, activation)
    expected.load_state_dict(norm.state_dict())
    x, _ = make_inputs(case, torch.float32)

    torch.testing.assert_close(norm(x)[:, :, 0], expected(x[:, :, 0]), rtol=1e-5, atol=1e-5)


def test_rms_group_is_torch_group_norm_where_the_mean_is_zero():
    case = CASES[0]
    x, _ = make_inputs(case, torch.float32)
    groups = x.unflatten(1, (case.G, -1))
    x = (groups - groups.mean((2, 3, 4, 5), keepdim=True)).flatten(1, 2)
    rms, group = make_module("rms_group", case), make_module("group", case)

    torch.testing.assert_close(rms(x), group(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", PER_FRAME)
def test_statistics_per_frame_do_not_see_other_frames(name):
    case = CASES[0]
    x, _ = make_inputs(case, torch.float32)
    others_changed = torch.cat([x[:, :, :1], 3 * x[:, :, 1:] + 1], 2)
    per_frame, per_clip = (make_module(name, case, per_frame=p) for p in (True, False))

    assert torch.equal(per_frame(x)[:, :, 0], per_frame(others_changed)[:, :, 0])
    assert not torch.allclose(per_clip(x)[:, :, 0], per_clip(others_changed)[:, :, 0], atol=1e-2)


@pytest.mark.parametrize("name", REFERENCES)
def test_autocast_changes_nothing(name):
    case = CASES[0]
    for dtype in (torch.bfloat16, torch.float32):
        x, dy = make_inputs(case, dtype)
        results: list[list[torch.Tensor]] = []
        for enabled in (False, True):
            norm, leaf = make_module(name, case, "relu"), x.clone().requires_grad_()
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
                y = norm(leaf)
            results.append([y, *torch.autograd.grad(y, (leaf, *norm.parameters()), dy)])
        for plain, cast in zip(*results, strict=True):
            assert cast.dtype == plain.dtype
            assert torch.equal(cast, plain)


@pytest.mark.parametrize("name", REFERENCES)
def test_half_precision_parameters_keep_the_dtype_of_the_input(name):
    case = CASES[1]
    x, dy = make_inputs(case, torch.bfloat16)
    norm = make_module(name, case, "relu").bfloat16()
    y = norm(x.requires_grad_())
    y.backward(dy)
    assert y.dtype == torch.bfloat16
    assert all(p.grad is not None and p.grad.dtype == p.dtype for p in norm.parameters())


@pytest.mark.parametrize("activation", [None, "relu"])
@pytest.mark.parametrize("name", REFERENCES)
def test_input_and_result_are_all_that_is_kept_for_the_backward_pass(name, activation):
    case = Case(N=2, C=8, G=4, T=3, H=16, W=16)
    x, _ = make_inputs(case, torch.bfloat16)
    x = x.contiguous(memory_format=torch.contiguous_format).requires_grad_()
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    norm = make_module(name, case, activation)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        y = norm(x)

    map_bytes = x.untyped_storage().nbytes()
    large = {pointer for pointer, nbytes in kept.items() if nbytes >= map_bytes // 4}
    assert large <= {x.untyped_storage().data_ptr(), y.untyped_storage().data_ptr()}
    assert all(kept[pointer] == map_bytes for pointer in large)


@pytest.mark.parametrize("name", REFERENCES)
def test_state_loads_into_another_module_that_then_gives_the_same(name):
    case = CASES[0]
    norm = make_module(name, case, "relu")
    other = make_normalizer(name, case.C, "relu", num_groups=case.G, eps=EPS)
    x, _ = make_inputs(case, torch.float32)
    # Training moves the running statistics of those that have them.
    norm(x)
    other.load_state_dict(norm.state_dict())
    assert torch.equal(other.eval()(x), norm.eval()(x))


@pytest.mark.parametrize("activation", [None, "relu"])
@pytest.mark.parametrize("name", REFERENCES)
def test_reset_restores_the_start(name, activation):
    norm = make_module(name, CASES[0], activation)
    reset_parameters = norm.reset_parameters
    assert callable(reset_parameters)
    reset_parameters()
    fresh = make_normalizer(name, CASES[0].C, activation).state_dict()
    assert norm.state_dict().keys() == fresh.keys()
    for key, value in norm.state_dict().items():
        assert torch.equal(value, fresh[key]), key


@pytest.mark.parametrize("name", REFERENCES)
def test_input_of_another_shape_is_named(name):
    norm = make_normalizer(name, 8)
    for shape in ((2, 8, 3, 3), (2, 4, 1, 3, 3)):
        with pytest.raises(NormalizerError, match=r"it takes \(N, 8, T, H, W\)"):
            norm(torch.zeros(shape))


def test_filter_response_and_evonorm_start_as_relu_and_sigmoid_gate():
    x, _ = make_inputs(CASES[0], torch.float32)
    filter_response = make_normalizer("filter_response", 64, "relu")
    plain = make_normalizer("filter_response", 64)
    assert torch.equal(filter_response(x), plain(x).clamp(min=0))
    evonorm = make_normalizer("evonorm_s0", 64, "relu", num_groups=1, eps=EPS)
    deviations = x.std((1, 2, 3, 4), correction=0, keepdim=True)
    torch.testing.assert_close(evonorm(x), nn.functional.silu(x) / deviations, rtol=1e-4, atol=1e-5)


def test_threshold_passes_the_gradient_of_what_it_cuts_to_itself():
    norm = make_normalizer("filter_response", 1, "relu")
    x = torch.tensor([-2.0, -1.0, 1.0, 2.0]).reshape(1, 1, 1, 2, 2)
    norm(x).backward(torch.tensor([1.0, 10.0, 100.0, 1000.0]).reshape(x.shape))
    assert norm.get_parameter("tau").grad == 11
    assert norm.get_parameter("bias").grad == 1100
