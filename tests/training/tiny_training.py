"""A training run of milliseconds: a tiny network on generated clips.

As a script: `tiny_training.py FOLDER NORMALIZER KILL_AT` trains and ends itself by SIGKILL, without
any clean-up, when the batch at clip position KILL_AT is fetched.
"""

from __future__ import annotations

import dataclasses
import os
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gnvideo.layers import make_normalizer
from gnvideo.training import distributed
from gnvideo.training.checkpoint import CheckpointFolder, ModelDescription
from gnvideo.training.loop import train
from gnvideo.training.loop_settings import LoopSettings
from gnvideo.training.optimizer import make_optimizer
from gnvideo.training.run_log import NoopRunLog, RunLog
from gnvideo.training.schedules import make_schedule
from gnvideo.training.state import TrainingState

NUM_CLASSES = 3

# Six steps an epoch; a save falls between two lines of the log.
SETTINGS = LoopSettings(
    seed=5,
    total_steps=20,
    clips_per_batch=2,
    accumulation_steps=2,
    num_videos=24,
    precision="float32",
    channels_last=True,
    max_gradient_norm=1.0,
    log_every_steps=2,
    evaluate_every_epochs=1,
    save_every_epochs=0.5,
)

DESCRIPTION = ModelDescription(
    classes=("archery", "été", "zumba"),
    input_recipe={"num_frames": 2, "mean": [0.45, 0.45, 0.45]},
    model={"name": "tiny"},
    normalizer={"name": "group", "num_groups": 2},
)


@dataclass
class TinyBatch:
    clips_NCTHW: Tensor
    labels_N: Tensor


def make_tiny_model(normalizer: str, *, dropout_rate: float = 0.5, width: int = 4) -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Conv3d(3, width, (1, 3, 3), bias=False),
        make_normalizer(normalizer, width, num_groups=2),
        nn.ReLU(),
        nn.AdaptiveAvgPool3d(1),
        nn.Flatten(),
        nn.Dropout(dropout_rate),
        nn.Linear(width, NUM_CLASSES),
    )


def make_tiny_state(normalizer: str, *, dropout_rate: float = 0.5) -> TrainingState:
    model = make_tiny_model(normalizer, dropout_rate=dropout_rate)
    optimizer = make_optimizer(
        model,
        momentum=0.9,
        nesterov=True,
        weight_decay=1e-3,
        normalizer_weight_decay=1e-4,
    )
    return TrainingState(model, optimizer, torch.device("cpu"))


def make_clip(position: int) -> tuple[Tensor, int]:
    generator = torch.Generator().manual_seed(position)
    clip = torch.randint(0, 256, (3, 2, 6, 6), generator=generator, dtype=torch.uint8)
    label = position % NUM_CLASSES
    clip[label] //= 2
    return clip, label


def generate_batches(
    start_position: int, clips_per_batch: int, on_fetch: Callable[[int], None] | None
) -> Iterator[TinyBatch]:
    position = start_position + distributed.get_rank() * clips_per_batch
    while True:
        if on_fetch is not None:
            on_fetch(position)
        clips, labels = zip(
            *(make_clip(p) for p in range(position, position + clips_per_batch)), strict=True
        )
        yield TinyBatch(torch.stack(clips), torch.tensor(labels))
        position += clips_per_batch * distributed.get_world_size()


def prepare_tiny(clips_uint8: Tensor) -> Tensor:
    return clips_uint8.float() / 255 - 0.5


def evaluate_tiny(state: TrainingState) -> dict[str, Any]:
    state.model.eval()
    clips, labels = zip(*(make_clip(10_000 + p) for p in range(6)), strict=True)
    with torch.no_grad():
        logits = state.model(prepare_tiny(torch.stack(clips)))
    state.model.train()
    torch.rand(7)
    correct = (logits.argmax(dim=1) == torch.tensor(labels)).float().mean().item()
    return {"protocol": "tiny", "clip_top1": 100 * correct, "logit": logits[0, 0].item()}


def train_tiny(
    run_folder: Path,
    normalizer: str = "group",
    *,
    on_fetch: Callable[[int], None] | None = None,
    state: TrainingState | None = None,
    learning_rate: float = 0.1,
    show_progress: bool = False,
    **changes: Any,
) -> TrainingState:
    """Trains, or goes on, in `run_folder`; returns the state at the end."""
    settings = dataclasses.replace(SETTINGS, **changes)
    run_folder.mkdir(exist_ok=True, parents=True)
    state = state or make_tiny_state(normalizer)
    run_log = (
        RunLog(run_folder, tensorboard=False) if distributed.is_main_process() else NoopRunLog()
    )
    with run_log:
        train(
            state,
            make_batches=lambda start: generate_batches(start, settings.clips_per_batch, on_fetch),
            prepare=prepare_tiny,
            evaluate=evaluate_tiny,
            schedule=make_schedule(
                "cosine", learning_rate=learning_rate, total_steps=SETTINGS.total_steps
            ),
            settings=settings,
            run_log=run_log,
            checkpoints=CheckpointFolder(run_folder, DESCRIPTION),
            show_progress=show_progress,
        )
    return state


def _kill_itself_at(kill_position: int) -> Callable[[int], None]:
    def on_fetch(position: int) -> None:
        if position >= kill_position:
            os.kill(os.getpid(), signal.SIGKILL)

    return on_fetch


if __name__ == "__main__":
    torch.set_num_threads(1)
    folder, normalizer_name, kill_at = sys.argv[1:]
    train_tiny(Path(folder), normalizer_name, on_fetch=_kill_itself_at(int(kill_at)))
