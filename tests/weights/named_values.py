"""Values that follow from a name alone, so that two programs can fill equal networks alike."""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping

import numpy as np
import torch


def make_uniform(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """Returns float32 values in [-1, 1) by integer arithmetic on the name and each position."""
    positions = np.arange(math.prod(shape), dtype=np.uint64)
    mixed = positions * np.uint64(2654435761) + np.uint64(zlib.crc32(name.encode()))
    mixed = (mixed ^ (mixed >> np.uint64(15))) * np.uint64(2246822519) % np.uint64(2**32)
    mixed = (mixed ^ (mixed >> np.uint64(13))) * np.uint64(3266489917) % np.uint64(2**32)
    values = (mixed.astype(np.float64) / 2**31 - 1).astype(np.float32)
    return torch.from_numpy(values).reshape(shape)


def make_named_state(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    """Returns a state dict of these names and shapes that keeps activations near size 1."""
    state: dict[str, torch.Tensor] = {}
    for name, shape in shapes.items():
        values = make_uniform(name, shape)
        if name.endswith("num_batches_tracked"):
            state[name] = torch.tensor(7)
        elif len(shape) > 1:
            # Variance 2 / fan_in.
            state[name] = values * math.sqrt(6 / math.prod(shape[1:]))
        elif name.endswith(("running_var", ".weight")):
            state[name] = 1 + 0.5 * values
        else:
            state[name] = 0.2 * values
    return state


def fill_by_name(model: torch.nn.Module) -> None:
    """Gives every parameter and buffer of a network the values of its name."""
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    model.load_state_dict(make_named_state(shapes))
