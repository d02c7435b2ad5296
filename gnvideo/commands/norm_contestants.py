"""Who takes part in `bench norm`: gnvideo's operators, and the ways that torch and apex offer.

Axes: N clips, C channels, T frames, H height, W width.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from gnvideo.commands.norm_layers import NormLayer
from gnvideo.commands.norm_step import (
    EPS,
    Family,
    Leaves,
    NormInputs,
    NormStep,
    Tolerance,
    grow_with_root,
    stay_at,
    take_leaves,
)
from gnvideo.errors import ConfigError
from gnvideo.layers import normalize_and_add, normalizer_factory
from gnvideo.ops.activation import Activation
from gnvideo.ops.batch_norm import batch_norm_act
from gnvideo.ops.group_norm import group_norm_act
from gnvideo.ops.triton_norm import Variant, group_norm_act_triton

# Half a unit in the last place, relative to the value.
_FLOAT32_UNIT = 2.0**-24
_BFLOAT16_UNIT = 2.0**-8

# As in the tests: float32 arithmetic, then one rounding to bfloat16; 1 % for what precedes it.
_ONE_ROUNDING = Tolerance(1.01 * _BFLOAT16_UNIT, grow_with_root(8 * _FLOAT32_UNIT))
# float32 arithmetic by kernels that add up in an order of their own, and a rounding at either end.
_FLOAT32_INSIDE = Tolerance(2 * _BFLOAT16_UNIT, stay_at(2.0**-10))
# The normalized value is rounded before the sum, and statistics and the parameters' gradients are
# bfloat16 too.
_SEVERAL_ROUNDINGS = Tolerance(4 * _BFLOAT16_UNIT, stay_at(4 * _BFLOAT16_UNIT))
# Twice what the tests allow, whose sets are up to a hundred times smaller.
_FLOAT32 = Tolerance(16 * _FLOAT32_UNIT, grow_with_root(16 * _FLOAT32_UNIT))
# torch's kernel for channels_last takes the variance as E[x^2] - E[x]^2, of plain float32 sums.
_FLOAT32_OTHERS = Tolerance(128 * _FLOAT32_UNIT, grow_with_root(128 * _FLOAT32_UNIT))

_MakeForward = Callable[[NormInputs, Leaves], Callable[[], torch.Tensor]]


@dataclass(frozen=True, slots=True)
class Contestant:
    """A way to normalize, sum and activate.

    Attributes:
        name: The word for it in options and results.
        meaning: In a few words.
        family: Whose statistics.
        tolerance: How far it may be from exact values.
        make_forward: Returns the function that computes y of the leaves.
        is_own: Whether it is gnvideo's: where it is wrong, so is the benchmark.
        is_default: Whether it takes part unasked.
        parameter_dtype: Of weight and bias.
        residual_dtype: None is x's.
        find_obstacle: Returns why it does not take a layer at a number of clips, or None.
    """

    name: str
    meaning: str
    family: Family
    tolerance: Tolerance
    make_forward: _MakeForward
    is_own: bool = False
    is_default: bool = True
    parameter_dtype: torch.dtype = torch.float32
    residual_dtype: torch.dtype | None = None
    find_obstacle: Callable[[NormLayer], str | None] = lambda _: None

    def make_step(self, inputs: NormInputs) -> NormStep:
        """Returns its forward and backward pass on inputs."""
        leaves = take_leaves(inputs, self.parameter_dtype, self.residual_dtype)
        present = tuple(leaf for leaf in leaves if leaf is not None)
        return NormStep(self.make_forward(inputs, leaves), present, inputs.dy)


def choose_contestants(device_type: str, names: Sequence[str] | None) -> tuple[Contestant, ...]:
    """Returns those of the given names, and ours, against which all others are set.

    Args:
        device_type: cpu or cuda.
        names: None is all that take part unasked.

    Raises:
        ConfigError: there is none of that name for the device.
    """
    contestants = CUDA_CONTESTANTS if device_type == "cuda" else CPU_CONTESTANTS
    if names is None:
        return tuple(contestant for contestant in contestants if contestant.is_default)
    known = [contestant.name for contestant in contestants]
    for name in names:
        if name not in known:
            raise ConfigError(
                f"--contestants has {name!r}; on {device_type} there are {', '.join(known)}"
            )
    return tuple(contestant for contestant in contestants if contestant.name in {OURS, *names})


def _make_own_group(inputs: NormInputs, leaves: Leaves) -> Callable[[], torch.Tensor]:
    return lambda: group_norm_act(
        *(leaves.x, inputs.layer.num_groups, leaves.weight, leaves.bias, EPS, leaves.residual),
        activation=inputs.activation,
        implementation="triton",
    )


def _make_variant(
    inputs: NormInputs, leaves: Leaves, variant: Variant
) -> Callable[[], torch.Tensor]:
    return lambda: group_norm_act_triton(
        *(leaves.x, inputs.layer.num_groups, leaves.weight, leaves.bias, EPS, leaves.residual),
        activation=inputs.activation,
        variant=variant,
    )


def _make_own_batch(inputs: NormInputs, leaves: Leaves) -> Callable[[], torch.Tensor]:
    running = _make_running_statistics(leaves.x)
    return lambda: batch_norm_act(
        *(leaves.x, *running, leaves.weight, leaves.bias),
        training=True,
        eps=EPS,
        residual=leaves.residual,
        activation=inputs.activation,
        implementation="triton",
    )


def _make_own_module(inputs: NormInputs, leaves: Leaves, name: str) -> Callable[[], torch.Tensor]:
    factory = normalizer_factory(name, num_groups=inputs.layer.num_groups, eps=EPS)
    activation: Activation = "relu" if inputs.layer.kind == "relu" else None
    norm: Any = factory(inputs.layer.num_channels, activation)
    norm.weight, norm.bias = leaves.weight, leaves.bias
    if leaves.residual is None:
        return lambda: norm(leaves.x)
    residual = leaves.residual
    return lambda: normalize_and_add(norm, leaves.x, residual)


def _make_torch_group(inputs: NormInputs, leaves: Leaves) -> Callable[[], torch.Tensor]:
    def run() -> torch.Tensor:
        y = functional.group_norm(
            leaves.x, inputs.layer.num_groups, leaves.weight, leaves.bias, EPS
        )
        return _sum_and_activate(y, inputs, leaves)

    return run


def _make_autocast(inputs: NormInputs, leaves: Leaves) -> Callable[[], torch.Tensor]:
    run_plainly = _make_torch_group(inputs, leaves)

    def run() -> torch.Tensor:
        with torch.autocast(leaves.x.device.type, torch.bfloat16):
            y = run_plainly()
        # The next convolution casts down; the sum that follows where nothing is activated does not.
        return y if inputs.activation is None else y.to(leaves.x.dtype)

    return run


def _make_compiled(inputs: NormInputs, leaves: Leaves) -> Callable[[], torch.Tensor]:
    # What is compiled for one layer is of no use to the next, and counts against a limit.
    torch.compiler.reset()
    groups, activation = inputs.layer.num_groups, inputs.activation

    def run(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, *residuals: torch.Tensor):
        y = functional.group_norm(x, groups, weight, bias, EPS)
        for residual in residuals:
            y = y + residual
        return y if activation is None else functional.relu(y)

    compiled = torch.compile(run, dynamic=False, fullgraph=True)
    present = [leaf for leaf in leaves if leaf is not None]
    return lambda: compiled(*present)


def _make_apex(inputs: NormInputs, leaves: Leaves) -> Callable[[], torch.Tensor]:
    group_norm: Any = importlib.import_module("apex.contrib.group_norm")
    norm = group_norm.GroupNorm(
        inputs.layer.num_groups, inputs.layer.num_channels, EPS, device=leaves.x.device
    )
    norm.weight, norm.bias = leaves.weight, leaves.bias

    def run() -> torch.Tensor:
        # It knows one height: all frames under one another, which moves nothing in memory.
        y_NCHW: torch.Tensor = norm(leaves.x.flatten(2, 3))
        return _sum_and_activate(y_NCHW.unflatten(2, leaves.x.shape[2:4]), inputs, leaves)

    return run


def _find_apex_obstacle(layer: NormLayer) -> str | None:
    try:
        group_norm: Any = importlib.import_module("apex.contrib.group_norm")
    except ImportError as error:
        return f"it does not import here ({error})"
    known = group_norm.GroupNorm
    if (
        layer.num_channels not in known.SUPPORTED_CHANNELS
        or layer.num_groups not in known.SUPPORTED_GROUPS
    ):
        return "its kernels take at least 128 channels, and 16 or 32 groups"
    return None


def _make_torch_batch(inputs: NormInputs, leaves: Leaves) -> Callable[[], torch.Tensor]:
    running = _make_running_statistics(leaves.x)

    def run() -> torch.Tensor:
        y = functional.batch_norm(
            leaves.x, *running, leaves.weight, leaves.bias, training=True, eps=EPS
        )
        return _sum_and_activate(y, inputs, leaves)

    return run


def _make_torch_module(
    inputs: NormInputs, leaves: Leaves, make_norm: Callable[[NormLayer], nn.Module]
) -> Callable[[], torch.Tensor]:
    norm: Any = make_norm(inputs.layer)
    norm.weight, norm.bias = leaves.weight, leaves.bias
    relu = nn.ReLU(inplace=True)

    def run() -> torch.Tensor:
        y = norm(leaves.x)
        if leaves.residual is not None:
            y += leaves.residual
        return y if inputs.activation is None else relu(y)

    return run


def _sum_and_activate(y: torch.Tensor, inputs: NormInputs, leaves: Leaves) -> torch.Tensor:
    if leaves.residual is not None:
        y += leaves.residual
    return y if inputs.activation is None else functional.relu_(y)


def _make_running_statistics(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    mean_C = torch.zeros(x.shape[1], device=x.device)
    return mean_C, torch.ones_like(mean_C)


OURS = "ours"
CUDA_CONTESTANTS = (
    Contestant(
        *(OURS, "group_norm_act, Triton, two reads", "group", _ONE_ROUNDING, _make_own_group),
        is_own=True,
    ),
    Contestant(
        *("one-read", "the same by its one-read kernels", "group", _ONE_ROUNDING),
        partial(_make_variant, variant="one-read"),
        is_own=True,
    ),
    Contestant(
        *("eager", "torch's group_norm, +=, relu_ in bfloat16", "group", _SEVERAL_ROUNDINGS),
        _make_torch_group,
        parameter_dtype=torch.bfloat16,
    ),
    Contestant(
        *("autocast", "the same under autocast: in float32", "group", _FLOAT32_INSIDE),
        _make_autocast,
        residual_dtype=torch.float32,
    ),
    Contestant(
        *("compile", "eager by torch.compile", "group", _SEVERAL_ROUNDINGS, _make_compiled),
        parameter_dtype=torch.bfloat16,
    ),
    Contestant(
        *("apex", "apex's GroupNorm, +=, relu_", "group", _SEVERAL_ROUNDINGS, _make_apex),
        parameter_dtype=torch.bfloat16,
        find_obstacle=_find_apex_obstacle,
    ),
    Contestant(
        *("batch", "batch_norm_act, Triton", "batch", _ONE_ROUNDING, _make_own_batch),
        is_own=True,
    ),
    Contestant(
        *("torch-batch", "torch's batch_norm, +=, relu_", "batch"),
        *(Tolerance(_SEVERAL_ROUNDINGS.values, _FLOAT32_INSIDE.parameters), _make_torch_batch),
    ),
)
CPU_CONTESTANTS = (
    Contestant(
        *(OURS, "GroupNorm3d", "group", _FLOAT32, partial(_make_own_module, name="group")),
        is_own=True,
    ),
    Contestant(
        *("eager", "nn.GroupNorm, +=, nn.ReLU(inplace=True)", "group", _FLOAT32_OTHERS),
        partial(
            _make_torch_module,
            make_norm=lambda layer: nn.GroupNorm(layer.num_groups, layer.num_channels, EPS),
        ),
    ),
    Contestant(
        *("compile", "group_norm, +, relu by torch.compile", "group", _FLOAT32_OTHERS),
        _make_compiled,
        is_default=False,
    ),
    Contestant(
        # By torch's kernel, as its peer.
        *(
            "batch",
            "BatchNorm3d",
            "batch",
            _FLOAT32_OTHERS,
            partial(_make_own_module, name="batch"),
        ),
        is_own=True,
    ),
    Contestant(
        *("torch-batch", "nn.BatchNorm3d, +=, nn.ReLU(inplace=True)", "batch", _FLOAT32_OTHERS),
        partial(
            _make_torch_module,
            make_norm=lambda layer: nn.BatchNorm3d(layer.num_channels, EPS),
        ),
    ),
)
