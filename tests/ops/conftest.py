from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest
import torch


@pytest.fixture(autouse=True, scope="package")
def _one_thread():
    """The tensors here are too small to gain from threads, and lose to their start."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True, scope="package")
def _interpreter_rounds_as_a_gpu_does():
    """Triton's interpreter cuts the last bits of a float32 off to make a bfloat16."""
    if os.environ.get("TRITON_INTERPRET") != "1":
        yield
        return
    import triton.language as tl
    from triton.runtime import interpreter

    convert = interpreter._convert_float

    def convert_nearest(data: Any, source: Any, target: Any, rounding_mode: Any) -> Any:
        if (source, target) == (tl.float32, tl.bfloat16):
            values = torch.from_numpy(np.ascontiguousarray(data)).bfloat16()
            return values.view(torch.uint16).numpy().reshape(data.shape)
        return convert(data, source, target, rounding_mode)

    interpreter._convert_float = convert_nearest
    yield
    interpreter._convert_float = convert
