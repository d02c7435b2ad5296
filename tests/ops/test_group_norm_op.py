"""group_norm_act: all implementations against the reference in float64, that against torch.

Axes: N clips, C channels, G groups, T frames, H height, W width.
"""

from __future__ import annotations

import math

import pytest
import torch
from clip_case import CHANNELS_LAST, Case
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from gnvideo.errors import NormalizerError
from gnvideo.ops.group_norm import group_norm_act

CASES = [
    Case(N=2, C=64, G=32, T=3, H=7, W=5),
    Case(N=1, C=6, G=3, T=2, H=3, W=5),
    Case(N=3, C=10, G=1, T=1, H=5, W=3),
    Case(N=2, C=7, G=7, T=4, H=3, W=3),
    Case(N=1, C=64, G=32, T=5, H=17, W=13),
    Case(N=2, C=12, G=4, T=1, H=1, W=1),
]

IMPLEMENTATIONS = ("native", "reference")

# Largest error allowed, relative to the largest value of the exact result. y and dx are rounded to
# x's dtype (half a unit in the last place) after at most a few float32 roundings; half a unit is
# 2^-53, 2^-24, 2^-8, 2^-11 of the value.
OUTPUT_TOLERANCE = {
    # 8 units: a handful of operations on each element.
    torch.float64: 8 * 2.0**-53,
    torch.float32: 8 * 2.0**-24,
    # Arithmetic in float32, so the last rounding is all there is; 1 % for what precedes it.
    torch.bfloat16: 1.01 * 2.0**-8,
    torch.float16: 1.01 * 2.0**-11,
}


def parameter_tolerance(dtype: torch.dtype, length: int) -> float:
    """dweight and dbias add `length` products: the error grows with the root of their number.

    Beside half precision inputs the parameters are float32, and so are the sums.
    """
    unit = 2.0**-53 if dtype == torch.float64 else 2.0**-24
    return 8 * unit * math.sqrt(length)


def make_inputs(case: Case, dtype: torch.dtype, *, mean: float = 0.3, std: float = 1.7):
    generator = torch.Generator().manual_seed(7)
    x = torch.randn(case.shape, generator=generator, dtype=torch.float64) * std + mean
    dy = torch.randn(case.shape, generator=generator, dtype=torch.float64)
    weight = torch.randn(case.C, generator=generator, dtype=torch.float64)
    bias = torch.randn(case.C, generator=generator, dtype=torch.float64)
    parameter_dtype = torch.float64 if dtype == torch.float64 else torch.float32
    return x.to(dtype), weight.to(parameter_dtype), bias.to(parameter_dtype), dy.to(dtype)


def run(implementation, x, num_groups, weight, bias, dy, eps=1e-5):
    """Returns y, dx, dweight, dbias."""
    x, weight, bias = (t.detach().requires_grad_() for t in (x, weight, bias))
    y = group_norm_act(x, num_groups, weight, bias, eps, implementation=implementation)
    return (y.detach(), *torch.autograd.grad(y, (x, weight, bias), dy))


def relative_error(actual: torch.Tensor, exact: torch.Tensor) -> float:
    scale = exact.abs().max().clamp(min=1e-3)
    return ((actual.double() - exact).abs().max() / scale).item()


@pytest.mark.parametrize("layout", [torch.contiguous_format, CHANNELS_LAST], ids=["NCTHW", "NTHWC"])
@pytest.mark.parametrize("dtype", list(OUTPUT_TOLERANCE), ids=lambda dtype: str(dtype)[6:])
@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("implementation", list(IMPLEMENTATIONS))
def test_values_and_gradients_equal_the_reference_in_float64(implementation, case, dtype, layout):
    x, weight, bias, dy = make_inputs(case, dtype)
    x, dy = x.contiguous(memory_format=layout), dy.contiguous(memory_format=layout)
    exact = run("reference", x.double(), case.G, weight.double(), bias.double(), dy.double())

    y, dx, dweight, dbias = run(implementation, x, case.G, weight, bias, dy)

    length = case.N * case.T * case.H * case.W
    assert relative_error(y, exact[0]) <= OUTPUT_TOLERANCE[dtype]
    assert relative_error(dx, exact[1]) <= OUTPUT_TOLERANCE[dtype]
    assert relative_error(dweight, exact[2]) <= parameter_tolerance(dtype, length)
    assert relative_error(dbias, exact[3]) <= parameter_tolerance(dtype, length)
    for actual, source in ((y, x), (dx, x), (dweight, weight), (dbias, bias)):
        assert actual.dtype == source.dtype
        assert actual.is_contiguous(
            memory_format=layout if actual.ndim == 5 else torch.contiguous_format
        )


@pytest.mark.parametrize("case", CASES, ids=str)
def test_reference_equals_torch(case):
    x, weight, bias, dy = make_inputs(case, torch.float64)
    leaves = [t.clone().requires_grad_() for t in (x, weight, bias)]
    y = torch.group_norm(leaves[0], case.G, leaves[1], leaves[2], 1e-5)
    expected = (y, *torch.autograd.grad(y, leaves, dy))

    for actual, value in zip(run("reference", x, case.G, weight, bias, dy), expected, strict=True):
        torch.testing.assert_close(actual, value, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("layout", [torch.contiguous_format, CHANNELS_LAST], ids=["NCTHW", "NTHWC"])
@pytest.mark.parametrize("implementation", list(IMPLEMENTATIONS))
def test_large_mean_costs_only_the_digits_that_float32_lacks(implementation, layout):
    # A mean of 1000 deviations is itself rounded by 1000 * 2^-24 deviations; dweight sees that as
    # an offset of every term. An implementation by E[x^2] - E[x]^2 would lose everything here.
    ratio = 1000
    case = CASES[0]
    x, weight, bias, dy = make_inputs(case, torch.float32, mean=ratio, std=1.0)
    x, dy = x.contiguous(memory_format=layout), dy.contiguous(memory_format=layout)
    exact = run("reference", x.double(), case.G, weight.double(), bias.double(), dy.double())

    results = run(implementation, x, case.G, weight, bias, dy)

    for name, actual, value in zip(("y", "dx", "dweight", "dbias"), results, exact, strict=True):
        assert relative_error(actual, value) <= 8 * ratio * 2.0**-24, name


@pytest.mark.parametrize("implementation", list(IMPLEMENTATIONS))
def test_strided_view_gives_what_its_copy_gives(implementation):
    x, weight, bias, _ = make_inputs(Case(N=2, C=16, G=4, T=6, H=5, W=3), torch.float32)
    for view in (x[:, ::2], x[:, :, ::2], x.contiguous(memory_format=CHANNELS_LAST)[:, :, ::2]):
        C = view.shape[1]
        y = group_norm_act(view, 4, weight[:C], bias[:C], 1e-5, implementation=implementation)
        copied = group_norm_act(
            view.contiguous(), 4, weight[:C], bias[:C], 1e-5, implementation=implementation
        )
        torch.testing.assert_close(y, copied, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("parameters", ["weight and bias", "weight", "bias", "neither"])
@pytest.mark.parametrize("implementation", list(IMPLEMENTATIONS))
def test_missing_weight_is_one_and_missing_bias_is_zero(implementation, parameters):
    x, weight, bias, _ = make_inputs(CASES[1], torch.float32)
    given_weight = weight if "weight" in parameters else None
    given_bias = bias if "bias" in parameters else None
    full_weight = weight if given_weight is not None else torch.ones_like(weight)
    full_bias = bias if given_bias is not None else torch.zeros_like(bias)

    y = group_norm_act(x, 3, given_weight, given_bias, 1e-5, implementation=implementation)

    torch.testing.assert_close(
        y, group_norm_act(x, 3, full_weight, full_bias, 1e-5, implementation=implementation)
    )


@pytest.mark.parametrize("implementation", list(IMPLEMENTATIONS))
def test_gradients_equal_finite_differences(implementation):
    case = Case(N=2, C=6, G=3, T=2, H=1, W=3)
    x, weight, bias, _ = make_inputs(case, torch.float64)
    for layout in (torch.contiguous_format, CHANNELS_LAST):
        inputs = [
            t.detach().requires_grad_() for t in (x.contiguous(memory_format=layout), weight, bias)
        ]

        def compute(x, weight, bias):
            return group_norm_act(x, case.G, weight, bias, 1e-5, implementation=implementation)

        assert torch.autograd.gradcheck(compute, inputs)
        if implementation == "reference":
            assert torch.autograd.gradgradcheck(compute, inputs)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=["bfloat16", "float32"])
@pytest.mark.parametrize("implementation", list(IMPLEMENTATIONS))
def test_autocast_changes_nothing(implementation, dtype, device):
    x, weight, bias, dy = (t.to(device) for t in make_inputs(CASES[0], dtype))
    plain = run(implementation, x, 32, weight, bias, dy)

    with torch.autocast(device, dtype=torch.bfloat16):
        cast = run(implementation, x, 32, weight, bias, dy)

    assert cast[0].dtype == dtype
    for actual, expected in zip(cast, plain, strict=True):
        assert torch.equal(actual, expected)


@pytest.mark.parametrize("num_clips", [1, 2])
@pytest.mark.parametrize("implementation", list(IMPLEMENTATIONS))
def test_group_of_one_value_gives_the_bias(implementation, num_clips):
    x, weight, bias, _ = make_inputs(Case(N=num_clips, C=4, G=4, T=1, H=1, W=1), torch.float32)

    y = group_norm_act(x, 4, weight, bias, 1e-5, implementation=implementation)

    # x - mean is 0 up to a rounding, which 1 / sqrt(eps) = 316 enlarges.
    torch.testing.assert_close(y.flatten(1), bias.expand(num_clips, 4), rtol=0, atol=3e-4)


@pytest.mark.parametrize(
    ("x", "num_groups", "weight", "message"),
    [
        (torch.zeros(2, 6, 1, 1, 1), 4, None, "num_groups 4 does not divide 6 channels"),
        (torch.zeros(2, 6, 1, 1, 1), 0, None, "num_groups 0 does not divide 6 channels"),
        (torch.zeros(6), 2, None, r"got torch.float32 of shape \(6,\)"),
        (torch.zeros(2, 6, dtype=torch.uint8), 2, None, "got torch.uint8"),
        (torch.zeros(2, 6, 1, 1, 1), 2, torch.ones(3), r"weight has shape \(3,\)"),
    ],
)
def test_arguments_that_do_not_fit_are_named(x, num_groups, weight, message):
    with pytest.raises(NormalizerError, match=message):
        group_norm_act(x, num_groups, weight)


def test_unknown_implementation_lists_the_known_ones():
    with pytest.raises(
        NormalizerError, match="'fast' of group_norm_act; choose one of auto, reference"
    ):
        group_norm_act(torch.zeros(1, 2, 1), 1, implementation="fast")


@st.composite
def grouped_clips(draw: st.DrawFn) -> tuple[torch.Tensor, int]:
    """A float64 clip batch with at least two different values in each group, and G."""
    groups = draw(st.integers(1, 4))
    channels = groups * draw(st.integers(1, 4))
    shape = (draw(st.integers(1, 3)), channels, *draw(st.tuples(*[st.integers(2, 4)] * 3)))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    if draw(st.booleans()):
        x = x.contiguous(memory_format=CHANNELS_LAST)
    return x, groups


properties = settings(max_examples=15, deadline=None, derandomize=True)
implementations = st.sampled_from(sorted(IMPLEMENTATIONS))


@properties
@given(grouped_clips(), implementations)
def test_output_is_unchanged_when_other_clips_change(clips_and_groups, implementation):
    x, groups = clips_and_groups
    others = torch.cat([x[:1], 5 * x[1:] - 3, x[:1] + 1])

    alone = group_norm_act(x[:1], groups, implementation=implementation)
    among_others = group_norm_act(others, groups, implementation=implementation)[:1]

    torch.testing.assert_close(among_others, alone, rtol=1e-12, atol=1e-12)


@properties
@given(grouped_clips(), implementations, st.floats(0.1, 10), st.floats(-100, 100))
def test_output_is_unchanged_by_scale_and_offset(clips_and_groups, implementation, scale, offset):
    x, groups = clips_and_groups

    y = group_norm_act(x, groups, eps=0.0, implementation=implementation)
    changed = group_norm_act(scale * x + offset, groups, eps=0.0, implementation=implementation)

    torch.testing.assert_close(changed, y, rtol=1e-9, atol=1e-9)


@properties
@given(grouped_clips(), implementations, st.randoms(use_true_random=False))
def test_permuting_channels_within_groups_permutes_the_output(
    clips_and_groups, implementation, random
):
    x, groups = clips_and_groups
    permutation: list[int] = []
    for channels in torch.arange(x.shape[1]).chunk(groups):
        permutation += random.sample(channels.tolist(), len(channels))

    y = group_norm_act(x, groups, implementation=implementation)
    permuted = group_norm_act(x[:, permutation], groups, implementation=implementation)

    torch.testing.assert_close(permuted, y[:, permutation], rtol=1e-12, atol=1e-12)


@properties
@given(grouped_clips(), implementations)
def test_one_channel_per_group_is_instance_norm(clips_and_groups, implementation):
    x, _ = clips_and_groups
    y = group_norm_act(x, x.shape[1], implementation=implementation)
    torch.testing.assert_close(y, functional.instance_norm(x), rtol=1e-10, atol=1e-10)


@properties
@given(grouped_clips(), implementations)
def test_one_group_is_layer_norm(clips_and_groups, implementation):
    x, _ = clips_and_groups
    y = group_norm_act(x, 1, implementation=implementation)
    torch.testing.assert_close(y, functional.layer_norm(x, x.shape[1:]), rtol=1e-10, atol=1e-10)
