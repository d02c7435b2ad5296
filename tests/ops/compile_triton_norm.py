"""Compiles the streaming kernels for a GPU that need not be here, and prints what came out as JSON.

A process of its own, since Triton's interpreter and its compiler exclude each other.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from gnvideo.ops.triton_norm import launches, one_read_kernels, one_read_launches
from gnvideo.ops.triton_norm import two_read_kernels as kernels
from gnvideo.ops.triton_norm.division import OPTIONS, _divide
from gnvideo.ops.triton_norm.sets import Sets

HOPPER = GPUTarget("cuda", 90, 32)
ACTIVATIONS = {
    *("x_ptr", "residual_ptr", "y_ptr", "saved_ptr", "dy_ptr"),
    *("dz_ptr", "dx_ptr", "dresidual_ptr"),
    *("left_dy_ptr", "left_saved_ptr", "left_dresidual_ptr"),
}
WITHOUT_RESIDUAL = {"ACTIVATION": "relu", "SAVED_IS_OUTPUT": False, "saved_ptr": None}
KERNELS: dict[str, tuple[Any, dict[str, Any]]] = {
    "moments": (kernels.write_moments, {}),
    "y": (kernels.normalize, {"ACTIVATION": "relu", "residual_ptr": None}),
    "y of a sum": (kernels.normalize, {"ACTIVATION": "relu"}),
    "sums": (kernels.write_sums, {**WITHOUT_RESIDUAL, "dz_ptr": None}),
    "sums of a sum": (kernels.write_sums, {"ACTIVATION": "relu", "SAVED_IS_OUTPUT": True}),
    "gradients": (
        kernels.write_gradients,
        {**WITHOUT_RESIDUAL, "dresidual_ptr": None, **launches.PARAMETER_BLOCK},
    ),
    "gradients of a sum": (
        kernels.write_gradients,
        {
            **{**WITHOUT_RESIDUAL, "ACTIVATION": None, "dresidual_ptr": None},
            **launches.PARAMETER_BLOCK,
        },
    ),
    "y at once": (
        one_read_kernels.normalize_at_once,
        {"ACTIVATION": "relu", "residual_ptr": None},
    ),
    "gradients at once": (
        one_read_kernels.write_gradients_at_once,
        {
            **{**WITHOUT_RESIDUAL, "dz_ptr": None, "left_saved_ptr": None},
            **{"left_dresidual_ptr": None, "LEFT_ACTIVATION": "relu"},
            **{"LEFT_SAVED_IS_OUTPUT": False, **launches.PARAMETER_BLOCK},
        },
    ),
    "gradients of a sum at once": (
        one_read_kernels.write_gradients_at_once,
        {
            **{"ACTIVATION": "relu", "SAVED_IS_OUTPUT": True, "left_saved_ptr": None},
            **{"left_dresidual_ptr": None, "LEFT_ACTIVATION": None},
            **{"LEFT_SAVED_IS_OUTPUT": False, **launches.PARAMETER_BLOCK},
        },
    ),
}


def compile_kernel(kernel: Any, constants: dict[str, Any], options: dict[str, Any]) -> Any:
    signature: dict[str, str] = {}
    attributes: dict[tuple[int], list[list[Any]]] = {}
    for place, name in enumerate(kernel.arg_names):
        if name in constants:
            signature[name] = "constexpr"
        elif name.endswith("_ptr"):
            kind = "bf16" if name in ACTIVATIONS else "i32" if name == "counter_ptr" else "fp32"
            signature[name] = f"*{kind}"
            # As for all memory that torch allocates.
            attributes[(place,)] = [["tt.divisibility", 16]]
        else:
            signature[name] = "fp32" if name == "eps" else "i32"
    source = ASTSource(kernel, signature, constants, attributes)
    return triton.compile(source, target=HOPPER, options=options)


def read_resources(cubin: bytes) -> dict[str, int]:
    """Returns what cuobjdump says that each thread uses, such as REG and STACK."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
        command = [str(tool), "-res-usage", file.name]
        printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return {name: int(value) for name, value in re.findall(r"(REG|STACK|LOCAL):(\d+)", printed)}


def describe(kernel: Any, constants: dict[str, Any], is_channels_last: bool) -> dict[str, Any]:
    division = _divide(1, 64, 200704, 2, is_channels_last, 132, Sets(32, joins_clips=False))
    options: dict[str, Any] = {**OPTIONS}
    constants = {**constants, **division.tile}
    if kernel in (kernels.write_moments, kernels.write_sums):
        options["maxnreg"] = launches.REGISTERS
    if kernel.__name__.endswith("at_once"):
        options = one_read_launches.OPTIONS
        constants |= division.merge_tile
    compiled = compile_kernel(kernel, constants, options)
    accesses = re.findall(r"\b((?:ld|st)\.global\S*|atom\S*|red\.\S*)", compiled.asm["ptx"])
    offsets = re.findall(r"tt\.addptr .* : (\S+), (\S+) ", compiled.asm["ttir"])
    return {
        "accesses": dict(Counter(accesses)),
        "resources": read_resources(compiled.asm["cubin"]),
        "offsets of activations": [
            offset for pointer, offset in offsets if pointer.endswith("!tt.ptr<bf16>>")
        ],
    }


if __name__ == "__main__":
    is_channels_last = sys.argv[1] == "NTHWC"
    found = {
        name: describe(kernel, constants, is_channels_last)
        for name, (kernel, constants) in KERNELS.items()
    }
    print(json.dumps(found))
