"""What a network costs: parameters, multiply-accumulates, and what training keeps of each clip."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch

from gnvideo.models.activation_memory import ActivationMemory
from gnvideo.models.classifier import Size3, VideoClassifier

# The normalizers of batch statistics need more than one clip, and those of sub-batches whole ones.
_FEW_CLIPS, _MORE_CLIPS = 2, 4


@dataclass(frozen=True, slots=True)
class Costs:
    """What a network costs.

    Attributes:
        num_parameters: Numbers that are trained.
        num_macs: Multiply-accumulates per clip, of convolutions and matrix products (linear layers,
            attention). Two floating point operations each.
        activation_bytes: What autograd keeps for the backward pass of a training step, per clip, in
            float32. Weights, gradients, the optimizer's state and the workspace of single
            operators, which do not grow with the clips or are not kept, come on top.
    """

    num_parameters: int
    num_macs: int
    activation_bytes: int


def run_once(model: VideoClassifier, num_clips: int, clip: Size3) -> None:
    """Runs the model on clips of no content, on the device and in the dtype of its parameters."""
    parameter = next(model.parameters())
    model(torch.empty(num_clips, 3, *clip, device=parameter.device, dtype=parameter.dtype))


def compute_costs(model: VideoClassifier, clip: Size3) -> Costs:
    """Returns the costs of training on clips of (frames, height, width).

    Args:
        model: On the meta device, where nothing is computed or allocated, in float32. It is set to
            training.
        clip: The size of a clip.

    Raises:
        ModelError: The clip is too small for the network's strides.
    """
    # It imports Triton where that is installed.
    from torch.utils.flop_counter import FlopCounterMode

    model.train()
    with FlopCounterMode(display=False) as counter:
        run_once(model, _FEW_CLIPS, clip)
    return Costs(
        num_parameters=sum(parameter.numel() for parameter in model.parameters()),
        num_macs=counter.get_total_flops() // 2 // _FEW_CLIPS,
        activation_bytes=count_activation_bytes(model, clip),
    )


def count_activation_bytes(
    model: VideoClassifier,
    clip: Size3,
    mode: str = "keep",
    run: Callable[[VideoClassifier, int, Size3], object] = run_once,
) -> int:
    """Returns the bytes that a training step keeps of each clip for its backward pass.

    They are counted as the difference between two numbers of clips: so what is kept once, such as
    parameters and the weights that some convolutions compute of them, does not count.

    Args:
        model: In training.
        clip: The size (frames, height, width) of a clip.
        mode: A name in `gnvideo.models.activation_memory.ACTIVATION_MEMORY`.
        run: Runs the model on so many clips of that size.

    Raises:
        ModelError: The mode is unknown, or the clip is too small for the network's strides.
    """
    few, more = (
        _count_kept_bytes(model, mode, functools.partial(run, model, num_clips, clip))
        for num_clips in (_FEW_CLIPS, _MORE_CLIPS)
    )
    return (more - few) // (_MORE_CLIPS - _FEW_CLIPS)


def _count_kept_bytes(model: VideoClassifier, mode: str, run: Callable[[], object]) -> int:
    """Returns the bytes of all memory that is kept, however many tensors share it."""
    # By identity, which no other storage can have as long as this one is held here.
    kept: dict[int, torch.UntypedStorage] = {}

    def remember(tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        kept[id(storage)] = storage

    with ActivationMemory(model, mode, remember).forward_pass():
        run()
    return sum(storage.nbytes() for storage in kept.values())
