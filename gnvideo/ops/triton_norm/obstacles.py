"""What keeps Triton's kernels from running on given tensors."""

from __future__ import annotations

import importlib.util
import os
import shutil

import torch

from gnvideo.ops.triton_norm.layout import find_layout

_DTYPES = (torch.float16, torch.bfloat16, torch.float32)
# That of the first GPUs with bfloat16 arithmetic, which are also the oldest that Triton supports.
_MIN_CAPABILITY = (8, 0)


def find_obstacle(
    x: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    residual: torch.Tensor | None,
    running_mean: torch.Tensor | None = None,
    running_var: torch.Tensor | None = None,
) -> str | None:
    """Returns why the kernels cannot run on these, or None if they can.

    Args:
        x: (N, C, *), floating point.
        weight: (C,).
        bias: (C,).
        residual: Of x's shape.
        running_mean: (C,).
        running_var: (C,).
    """
    if x.dtype not in _DTYPES:
        return f"the input is {x.dtype}, and the kernels take float16, bfloat16 and float32"
    for name, values in (
        *(("weight", weight), ("bias", bias)),
        *(("running_mean", running_mean), ("running_var", running_var)),
    ):
        if values is None:
            continue
        if values.dtype not in (x.dtype, torch.float32):
            return f"{name} is {values.dtype} beside an input of {x.dtype}"
        if values.device != x.device:
            return f"{name} is on {values.device} and the input on {x.device}"
        if not values.is_contiguous():
            return f"{name} has strides {tuple(values.stride())}, and the kernels take (1,)"
    if residual is not None and residual.device != x.device:
        return f"the residual is on {residual.device} and the input on {x.device}"
    layout = find_layout(x)
    if layout is None:
        return (
            f"the input of shape {tuple(x.shape)} has strides {tuple(x.stride())}, "
            f"neither contiguous nor channels_last"
        )
    if residual is not None and residual.dtype != x.dtype:
        return f"the residual is {residual.dtype} and the input {x.dtype}"
    if residual is not None and find_layout(residual) != layout:
        return (
            f"the residual has strides {tuple(residual.stride())}, not the input's {layout} layout"
        )
    return find_device_obstacle(x.device)


def find_device_obstacle(device: torch.device) -> str | None:
    """Returns why the kernels cannot run on a device at all, or None if they can."""
    if device not in _device_obstacles:
        _device_obstacles[device] = _examine_device(device)
    return _device_obstacles[device]


_device_obstacles: dict[torch.device, str | None] = {}
# The answer cannot change while a program runs, so a compiler need not look into it. This is what
# torch.compiler.assume_constant_result sets; calling that would import the whole compiler.
vars(find_device_obstacle)["_dynamo_marked_constant"] = True


def _examine_device(device: torch.device) -> str | None:
    if device.type not in ("cpu", "cuda"):
        return f"the device is {device.type}"
    if importlib.util.find_spec("triton") is None:
        return "the package triton is not installed"
    if device.type == "cpu":
        if os.environ.get("TRITON_INTERPRET") == "1":
            return None
        return "on a CPU they run in Triton's interpreter alone, with TRITON_INTERPRET=1"
    if torch.version.hip is not None:
        return "they are made for NVIDIA's GPUs"
    capability = torch.cuda.get_device_capability(device)
    if capability < _MIN_CAPABILITY:
        return f"the GPU has compute capability {capability[0]}.{capability[1]}, and 8.0 is needed"
    # Triton builds a small library when it first launches a kernel.
    if not os.environ.get("CC") and not any(map(shutil.which, ("gcc", "clang"))):
        return "Triton needs a C compiler, and there is neither gcc nor clang nor the variable CC"
    return None
