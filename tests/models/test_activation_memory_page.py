"""docs/activation_memory.md says what every normalizer allows, and the code does so."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from gnvideo.layers import NORMALIZERS, is_normalizer, normalizer_factory
from gnvideo.models import make_model
from gnvideo.models.activation_memory import ActivationMemory

PAGE = Path(__file__).parents[2] / "docs" / "activation_memory.md"
NUM_CLIPS = 4


def read_refused() -> list[str]:
    """Returns the normalizers in the first column of the page's table of what is refused."""
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    first_cells = [line.split("|")[1].strip(" `") for line in lines if line.startswith("|")]
    return [cell for cell in first_cells if cell in NORMALIZERS]


def find_kept_values(normalizer: str, mode: str, **settings: bool) -> tuple[int, int]:
    """Returns how many activated outputs of normalizers are kept, and how many there are."""
    with torch.device("meta"):
        factory = normalizer_factory(normalizer, num_groups=4, **settings)
        model = make_model("resnet3d_10", 5, factory, width=8, stem_pool=True).train()
    outputs: list[torch.UntypedStorage] = []
    kept: dict[int, torch.UntypedStorage] = {}

    def note(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        # With a residual, what comes out is a sum.
        if len(inputs) == 1 and getattr(module, "activation", None) is not None:
            outputs.append(output.untyped_storage())

    def remember(tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        kept[id(storage)] = storage

    for module in model.modules():
        if is_normalizer(module):
            module.register_forward_hook(note)
    with ActivationMemory(model, mode, remember).forward_pass():
        model(torch.empty(NUM_CLIPS, 3, 4, 32, 32, device="meta"))
    return sum(id(storage) in kept for storage in outputs), len(outputs)


def test_refused_are_those_that_read_earlier_batches():
    readers = [name for name, spec in NORMALIZERS.items() if spec.reads_past_batches]
    assert read_refused() == readers


@pytest.mark.parametrize("mode", ["recompute-norm", "recompute-pointwise"])
@pytest.mark.parametrize("normalizer", NORMALIZERS)
def test_no_normalized_value_is_kept(normalizer, mode):
    # The stem's, and one of each of four blocks.
    assert find_kept_values(normalizer, mode) == (0, 5)


@pytest.mark.parametrize("normalizer", ["group", "layer", "instance", "group_ws", "rms_group"])
def test_none_is_kept_of_single_frames(normalizer):
    assert find_kept_values(normalizer, "recompute-norm", per_frame=True) == (0, 5)


def test_keeping_keeps_every_value():
    assert find_kept_values("group", "keep") == (5, 5)
