"""Tensors that need not be kept for the backward pass, since they can be made again bit for bit.

An operator offers such an output with the function that makes it from what is kept anyway. Whether
anybody takes the offer is decided where the forward pass is run; without a recorder an offer costs
nothing and changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Protocol

import torch


class Recorder(Protocol):
    """Takes offers while a forward pass is recorded."""

    def take_offer(
        self,
        output: torch.Tensor,
        function: Callable[..., torch.Tensor],
        inputs: tuple[object, ...],
    ) -> None:
        """Notes that `function(*inputs)` gives `output` again."""
        ...


_recorder: Recorder | None = None


def is_recording() -> bool:
    """Returns whether offers are taken."""
    return _recorder is not None


def offer_recomputation(
    output: torch.Tensor, function: Callable[..., torch.Tensor], *inputs: object
) -> None:
    """Says that `function(*inputs)` gives `output` again, bit for bit, without a gradient.

    The tensors among the inputs have to be kept for the backward pass anyway.
    """
    if _recorder is not None:
        _recorder.take_offer(output, function, inputs)


@contextmanager
def recording(recorder: Recorder | None) -> Generator[None]:
    """Within it, offers go to the recorder; None refuses them."""
    global _recorder
    outer, _recorder = _recorder, recorder
    try:
        yield
    finally:
        _recorder = outer
