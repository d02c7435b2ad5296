"""What the tests of normalizations by torch and by definition share.

Axes: N clips, C channels, G groups, T frames, H height, W width.
"""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from clip_case import CHANNELS_LAST, Case
from norm_inputs import EPS, Inputs, compute_plainly, relative_error, run
from norm_inputs import OUTPUT_TOLERANCE as HALF_AND_SINGLE_TOLERANCE
from norm_inputs import make_inputs as make_inputs_with_float32_parameters

from gnvideo.ops.batch_norm import batch_norm_act
from gnvideo.ops.group_norm import group_norm_act

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


def find_tolerance(name: str, case: Case, inputs: Inputs) -> float:
    if name not in ("dweight", "dbias"):
        return OUTPUT_TOLERANCE[inputs.x.dtype]
    # They add so many products; the error grows with their number's root.
    unit = 2.0**-53 if inputs.weight.dtype == torch.float64 else 2.0**-24
    return 8 * unit * math.sqrt(case.N * case.T * case.H * case.W)


def check(implementation, operator, case: Case, inputs: Inputs, activation) -> None:
    exact = run(compute_plainly, operator, inputs.map(torch.Tensor.double), case.G, activation)

    results = run(make_apply(implementation), operator, inputs, case.G, activation)

    assert results.keys() == exact.keys()
    for name, actual in results.items():
        is_parameter = name in ("dweight", "dbias")
        assert relative_error(actual, exact[name]) <= find_tolerance(name, case, inputs), name
        source = inputs.weight if is_parameter else inputs.x
        assert actual.dtype == source.dtype, name
        # The reference's gradients are computed over joined clips and left as they come.
        if name not in ("dx", "dresidual") or implementation != "reference":
            assert actual.is_contiguous(memory_format=find_layout(source)), name


def find_layout(tensor: torch.Tensor) -> torch.memory_format:
    is_last = tensor.ndim == 5 and tensor.is_contiguous(memory_format=CHANNELS_LAST)
    return CHANNELS_LAST if is_last else torch.contiguous_format
