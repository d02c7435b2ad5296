"""What a training step keeps of its forward pass for the backward pass, and what it makes again.

Every way gives the same gradients, bit for bit.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from gnvideo.errors import ModelError
from gnvideo.models.classifier import VideoClassifier
from gnvideo.ops.recomputation import Recorder, offer_recomputation, recording, running_again

ACTIVATION_MEMORY = ("keep", "recompute-norm", "recompute-pointwise", "recompute-block")
"""What is made again in the backward pass: nothing; normalized activations; the outputs of widening
1x1x1 convolutions, too; everything within a block."""


class ActivationMemory:
    """The forward pass of a model in training, with less kept.

    recompute-norm: a normalizer keeps its input x, a convolution behind it needs the normalized and
    activated y for the gradient of its weight. y is made again of x. Max pooling keeps no indices.

    recompute-pointwise: as that, and x itself is made again where a 1x1x1 convolution made it of no
    more channels, of that convolution's input. (One that makes fewer channels costs as much work
    for a fraction of the memory.) What ends a chain is the output of a larger or a narrowing
    convolution, of a residual sum or of a pooling.

    recompute-block: of a block, residual or Inception, its input is kept, and the rest computed
    again. Outside of blocks as recompute-norm.

    Args:
        model: Not changed, except while its forward pass runs.
        mode: A name in `ACTIVATION_MEMORY`.
        observe: Called with each tensor that is kept.

    Raises:
        ModelError: The mode is unknown.
    """

    def __init__(
        self,
        model: VideoClassifier,
        mode: str,
        observe: Callable[[torch.Tensor], object] | None = None,
    ) -> None:
        if mode not in ACTIVATION_MEMORY:
            raise ModelError(
                f"activation memory is {mode!r}; choose one of {', '.join(ACTIVATION_MEMORY)}"
            )
        self._mode = mode
        self._observe = observe
        self._blocks = model.list_blocks() if mode == "recompute-block" else []
        self._convs = _find_widening_convs(model) if mode == "recompute-pointwise" else []

    def forward_pass(self) -> AbstractContextManager[None]:
        """Returns the context in which the forward pass of a training step runs."""
        if self._mode == "keep" and self._observe is None:
            return nullcontext()
        return self._record()

    @contextmanager
    def _record(self) -> Generator[None]:
        recorder = Recorder(self._observe)
        with ExitStack() as stack:
            for conv in self._convs:
                # Before others' hooks, which may give another output.
                handle = conv.register_forward_hook(_offer_conv, prepend=True)
                stack.callback(handle.remove)
            for block in self._blocks:
                stack.callback(_restore_forward, block, vars(block).get("forward"))
                block.forward = functools.partial(
                    checkpoint,
                    block.forward,
                    use_reentrant=False,
                    context_fn=_make_contexts,
                    # Blocks draw no random numbers.
                    preserve_rng_state=False,
                )
            stack.enter_context(recording(None if self._mode == "keep" else recorder))
            stack.enter_context(
                torch.autograd.graph.saved_tensors_hooks(recorder.pack, recorder.unpack)
            )
            yield


def _find_widening_convs(model: nn.Module) -> list[nn.Conv3d]:
    return [
        module
        for module in model.modules()
        if isinstance(module, nn.Conv3d)
        and module.kernel_size == (1, 1, 1)
        and module.out_channels >= module.in_channels
    ]


def _offer_conv(conv: nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
    # The method, not the module: no hooks. Also computes the weight again where that is computed.
    offer_recomputation(output, type(conv).forward, conv, inputs[0])


def _restore_forward(block: nn.Module, forward: Any) -> None:
    """Gives a block the `forward` that it had beside its class's, or none."""
    if forward is None:
        del block.forward
    else:
        block.forward = forward


def _make_contexts() -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
    """Returns those of a block's first and second run, which must keep the same tensors."""
    return recording(None), _SecondRun()


class _SecondRun(AbstractContextManager[None]):
    """Is entered once for each backward pass, of which a kept graph may have several."""

    def __enter__(self) -> None:
        self._stack = ExitStack()
        # The backward pass may run within the forward pass's context.
        self._stack.enter_context(recording(None))
        self._stack.enter_context(running_again())

    def __exit__(self, *_: object) -> None:
        self._stack.close()
