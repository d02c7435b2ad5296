"""What Triton's kernels cost: launches, bytes for each element, and the instructions they become.

Axes: N clips, C channels, G groups, T frames, H height, W width.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from clip_case import LAYOUTS, Case
from norm_inputs import DEVICE, apply_triton, make_inputs

CASE = Case(N=2, C=12, G=3, T=2, H=5, W=3)
OPERATORS = pytest.mark.parametrize("operator", ["group", "batch"])
RESIDUALS = pytest.mark.parametrize("has_residual", [False, True], ids=["plain", "residual"])
# Bytes of an element of bfloat16 that the passes over the tensors read and write. Forward: x twice,
# the residual, y. Backward without a residual: x and dy twice, dx. With one: x, dy and y, of which
# dresidual is written; then x and dresidual, of which dx is.
BYTES_FORWARD = {False: 6, True: 8}
BYTES_BACKWARD = {False: 10, True: 14}


@contextmanager
def counted_launches(monkeypatch: pytest.MonkeyPatch) -> Generator[list[str]]:
    """Collects the names of the kernels that are launched."""
    from gnvideo.ops.triton_norm import two_read_kernels

    names: list[str] = []
    kernel_class: Any = type(two_read_kernels.normalize)
    launch = kernel_class.run

    def note(self: Any, *args: Any, **kwargs: Any) -> Any:
        names.append(self.fn.__name__)
        return launch(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(kernel_class, "run", note)
        yield names


@contextmanager
def counted_bytes(monkeypatch: pytest.MonkeyPatch) -> Generator[dict[str, int]]:
    """Adds up the bytes of bfloat16 that the interpreter loads and stores."""
    import triton.language as tl
    from triton.runtime.interpreter import InterpreterBuilder

    totals = {"loaded": 0, "stored": 0}
    load, store = InterpreterBuilder.create_masked_load, InterpreterBuilder.create_masked_store

    def note_load(self: Any, pointers: Any, mask: Any, *rest: Any) -> Any:
        if pointers.get_element_ty() == tl.bfloat16:
            totals["loaded"] += 2 * int(mask.data.sum())
        return load(self, pointers, mask, *rest)

    def note_store(self: Any, pointers: Any, value: Any, mask: Any, *rest: Any) -> Any:
        if pointers.get_element_ty() == tl.bfloat16:
            totals["stored"] += 2 * int(mask.data.sum())
        return store(self, pointers, value, mask, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(InterpreterBuilder, "create_masked_load", note_load)
        patch.setattr(InterpreterBuilder, "create_masked_store", note_store)
        yield totals


@RESIDUALS
@OPERATORS
def test_three_launches_forward_and_three_backward(operator, has_residual, monkeypatch):
    inputs = make_inputs(CASE, has_residual=has_residual).map(lambda t: t.requires_grad_())

    with counted_launches(monkeypatch) as forward:
        y = apply_triton(operator, inputs, CASE.G, "relu")
    with counted_launches(monkeypatch) as backward:
        y.backward(inputs.dy.detach())

    assert forward == ["write_moments", "merge_moments", "normalize"]
    assert backward == ["write_sums", "merge_sums", "write_gradients"]


@RESIDUALS
@OPERATORS
def test_one_read_takes_one_launch_forward_and_one_backward(operator, has_residual, monkeypatch):
    inputs = make_inputs(CASE, has_residual=has_residual).map(lambda t: t.requires_grad_())

    with counted_launches(monkeypatch) as names:
        y = apply_triton(operator, inputs, CASE.G, "relu", variant="one-read")
        y.backward(inputs.dy.detach())

    assert names == ["normalize_at_once", "write_gradients_at_once"]


@pytest.mark.skipif(DEVICE == "cuda", reason="only the interpreter counts")
@LAYOUTS
@RESIDUALS
@OPERATORS
def test_bytes_moved_for_each_element(operator, has_residual, layout, monkeypatch):
    inputs = make_inputs(CASE, torch.bfloat16, layout, has_residual=has_residual)
    inputs = inputs.map(lambda t: t.requires_grad_())
    elements = inputs.x.numel()

    with counted_bytes(monkeypatch) as forward:
        y = apply_triton(operator, inputs, CASE.G, "relu")
    with counted_bytes(monkeypatch) as backward:
        y.backward(inputs.dy.detach())

    assert forward["stored"] == 2 * elements
    assert sum(forward.values()) == BYTES_FORWARD[has_residual] * elements
    assert backward["stored"] == (4 if has_residual else 2) * elements
    assert sum(backward.values()) == BYTES_BACKWARD[has_residual] * elements


@pytest.mark.skipif(sys.platform != "linux", reason="Triton is for Linux")
@pytest.mark.parametrize("layout", ["NTHWC", "NCTHW"])
def test_compiled_kernels_access_16_bytes_at_once_without_atomics_or_spills(layout, tmp_path):
    environment = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path)}
    environment.pop("TRITON_INTERPRET", None)
    script = Path(__file__).with_name("compile_triton_norm.py")
    done = subprocess.run(
        [sys.executable, str(script), layout],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
        timeout=120,
    )
    kernels = json.loads(done.stdout)
    # Tensors of bfloat16 that each reads and writes; a thread has four accesses to each under way.
    tensors = {
        "moments": (1, 0),
        "y": (1, 1),
        "y of a sum": (2, 1),
        "sums": (2, 0),
        "sums of a sum": (3, 1),
        "gradients": (2, 1),
        "gradients of a sum": (2, 1),
        # The sum of what precedes.
        "y at once": (2, 1),
        "gradients at once": (4, 1),
        "gradients of a sum at once": (5, 2),
    }
    assert kernels.keys() == tensors.keys()
    for name, (num_read, num_written) in tensors.items():
        accesses = kernels[name]["accesses"]
        assert accesses["ld.global.v4.b32"] >= 4 * num_read, name
        assert accesses.get("st.global.v4.b32", 0) == 4 * num_written, name
        atomics = {access for access in accesses if access.startswith(("atom", "red"))}
        # The one on which programs wait for each other.
        assert atomics == ({"atom.global.gpu.acq_rel.add.u32"} if "once" in name else set()), name
        # Statistics and parameters are float32; nothing narrower is accessed at all.
        assert all(access.endswith(".b32") for access in accesses if access not in atomics), name
        resources = kernels[name]["resources"]
        assert resources["LOCAL"] == 0, name
        assert resources["STACK"] == 0 or name == "gradients of a sum at once", name
        # Two programs of 256 threads share the 65536 registers of a multiprocessor.
        assert resources["REG"] <= 128, name
        offsets = kernels[name]["offsets of activations"]
        assert len(offsets) == num_read + num_written, name
        assert all(offset.endswith("xi64>") for offset in offsets), name
