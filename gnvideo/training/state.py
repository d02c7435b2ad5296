"""What training goes on from: the model, the optimizer, the place in the stream of clips, the RNGs.

A resumed run is bit-identical to one never stopped where the device's operators are deterministic,
as on the CPU.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from gnvideo.errors import CheckpointError
from gnvideo.training import distributed
from gnvideo.training.checkpoint import load_into_model, load_training_state, load_weights
from gnvideo.training.sgd import Sgd


@dataclass
class TrainingState:
    """A run at a step.

    Attributes:
        model: On `device`, never wrapped.
        optimizer: Over the model's parameters.
        device: Of the model.
        step: Steps taken.
        clips_seen: Clips consumed by all processes: the loader's position.
        window: Float64 on `device`: sum of losses, correct clips and clips of this process since
            the last line of the log. On the device, so that a step waits for no copy.
    """

    model: nn.Module
    optimizer: Sgd
    device: torch.device
    step: int = 0
    clips_seen: int = 0
    window: torch.Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.window = torch.zeros(3, dtype=torch.float64, device=self.device)


def seed_processes(seed: int) -> None:
    """Seeds torch's generators, which dropout draws from, apart for every process of the run."""
    sequence = np.random.SeedSequence([seed, distributed.get_rank()])
    torch.manual_seed(int(sequence.generate_state(1, np.uint64)[0]))


def dump_state(state: TrainingState) -> dict[str, Any]:
    """Returns all but the weights as plain values; every process must call it.

    What differs between processes, random generators and the log's window, is there for each.
    """
    own: dict[str, Any] = {
        "cpu_rng": torch.get_rng_state(),
        "cuda_rng": torch.cuda.get_rng_state(state.device) if state.device.type == "cuda" else None,
        "window": state.window.cpu(),
    }
    return {
        "step": state.step,
        "clips_seen": state.clips_seen,
        "optimizer": state.optimizer.state_dict(),
        "processes": distributed.gather_objects(own),
    }


def restore_state(state: TrainingState, checkpoint: Path) -> None:
    """Makes `state` and torch's generators what they were when the checkpoint was saved.

    Raises:
        CheckpointError: the checkpoint is damaged, belongs to another model, or was written by
            another number of processes.
    """
    weights = load_weights(checkpoint)
    saved = load_training_state(checkpoint)
    world_size = distributed.get_world_size()
    try:
        processes = saved["processes"]
        if len(processes) != world_size:
            raise CheckpointError(
                f"{checkpoint} was written by {len(processes)} processes and this run has"
                f" {world_size}; start as many, or start in a new run folder"
            )
        own = processes[distributed.get_rank()]
        load_into_model(state.model, weights)
        state.optimizer.load_state_dict(saved["optimizer"])
        state.window = own["window"].to(state.device)
        state.step = int(saved["step"])
        state.clips_seen = int(saved["clips_seen"])
        torch.set_rng_state(own["cpu_rng"])
        if state.device.type == "cuda" and own["cuda_rng"] is not None:
            torch.cuda.set_rng_state(own["cuda_rng"], state.device)
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"the training state in {checkpoint} does not fit this run: {error!r}; use the model"
            " and optimizer of the checkpoint, or start in a new run folder"
        ) from error
