"""Tensors that need not be kept for the backward pass, since they can be made again bit for bit.

An operator offers such an output with the function that makes it from what is kept anyway. Whether
anybody takes the offer is decided where the forward pass is run; without a recorder an offer costs
nothing and changes nothing.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch.autograd.function import once_differentiable

Function = Callable[..., torch.Tensor]


class Recorder:
    """Takes offers during a forward pass, and keeps recipes instead of what was offered.

    `pack` and `unpack` are the two hooks of `torch.autograd.graph.saved_tensors_hooks`. A recipe
    holds what its function needs, packed in the same way, so that recipes can be made of recipes.
    Nothing here refers to the graph; recipes live and die with the tensors that autograd keeps.

    Args:
        observe: Called with each tensor that is kept, also as part of a recipe.
    """

    def __init__(self, observe: Callable[[torch.Tensor], object] | None = None) -> None:
        self._offers: dict[int, _Offer] = {}
        self._observe = observe

    def take_offer(
        self, output: torch.Tensor, function: Function, inputs: tuple[object, ...]
    ) -> None:
        """Notes that `function(*inputs)` gives `output` again."""
        if output.is_inference():
            # Nothing is kept of it.
            return
        key = _find_storage(output)
        packed = tuple(
            self._pack(value) if isinstance(value, torch.Tensor) else value for value in inputs
        )
        recipe = _Recipe(function, packed, _capture_autocast(output.device.type))
        self._offers[key] = _Offer(weakref.ref(output), output._version, recipe)  # pyright: ignore[reportPrivateUsage]
        # When the output is gone, another storage may have its place.
        weakref.finalize(output, self._offers.pop, key, None)

    def pack(self, tensor: torch.Tensor) -> _Packed:
        """Returns what is kept of a tensor: its recipe if it was offered, or else itself."""
        packed = self._pack(tensor)
        if self._observe is not None:
            for kept in _list_tensors(packed):
                self._observe(kept)
        return packed

    def _pack(self, tensor: torch.Tensor) -> _Packed:
        offer = self._offers.get(_find_storage(tensor))
        if offer is not None and offer.is_of(tensor):
            return offer.recipe
        # Detached: an operator that keeps its own output would keep itself alive by it.
        return _Kept(tensor.detach(), tensor._version)  # pyright: ignore[reportPrivateUsage] (torch's documented name)

    @staticmethod
    def unpack(packed: _Packed) -> torch.Tensor:
        """Returns the tensor of which `pack` kept this.

        Raises:
            RuntimeError: It, or what its recipe needs, was changed in place since the forward pass.
        """
        return packed.get()


@dataclass(frozen=True, slots=True)
class _Offer:
    output: weakref.ref[torch.Tensor]
    version: int
    recipe: _Recipe

    def is_of(self, tensor: torch.Tensor) -> bool:
        """Returns whether the tensor is the whole output, as it was when it was offered."""
        output = self.output()
        if output is None or output._version != self.version:  # pyright: ignore[reportPrivateUsage]
            return False
        return _describe(tensor) == _describe(output)


@dataclass(frozen=True, slots=True)
class _Kept:
    """A tensor, whose changes autograd does not look for where hooks keep it."""

    tensor: torch.Tensor
    version: int

    def get(self) -> torch.Tensor:
        if self.tensor._version != self.version:  # pyright: ignore[reportPrivateUsage]
            raise RuntimeError(
                f"a tensor of shape {tuple(self.tensor.shape)} that is needed for the backward pass"
                f" was changed in place after the forward pass"
            )
        return self.tensor


@dataclass(frozen=True, slots=True)
class _Recipe:
    function: Function
    inputs: tuple[object, ...]
    make_autocast: Callable[[], AbstractContextManager[Any]]

    def get(self) -> torch.Tensor:
        inputs = [value.get() if isinstance(value, _Packed) else value for value in self.inputs]
        with torch.no_grad(), self.make_autocast(), running_again():
            return self.function(*inputs)


_Packed = _Kept | _Recipe


class _State(threading.local):
    """Of each thread, as autograd's hooks are."""

    recorder: Recorder | None = None
    is_running_again = False


_state = _State()


def is_recording() -> bool:
    """Returns whether offers are taken."""
    return _state.recorder is not None


def is_running_again() -> bool:
    """Returns whether a forward pass is computed again: what counts batches must not count it."""
    return _state.is_running_again


def offer_recomputation(output: torch.Tensor, function: Function, *inputs: object) -> None:
    """Says that `function(*inputs)` gives `output` again, bit for bit, without a gradient.

    The tensors among the inputs have to be kept for the backward pass anyway.
    """
    if _state.recorder is not None:
        _state.recorder.take_offer(output, function, inputs)


def keep_inputs_only(function: Function, *inputs: object) -> torch.Tensor:
    """Returns `function(*inputs)`, keeping nothing but the inputs.

    The backward pass computes the function again, this time with its gradients. They are equal, bit
    for bit, to those without this, if the function gives the same bits each time.
    """
    return _RecomputedFunction.apply(function, *inputs)  # pyright: ignore[reportReturnType] (torch types apply as Any | None)


def recompute_in_backward(function: Function, *inputs: object) -> torch.Tensor:
    """Returns `function(*inputs)`, keeping nothing but the inputs, and offers the result."""
    output = keep_inputs_only(function, *inputs)
    offer_recomputation(output, function, *inputs)
    return output


@contextmanager
def recording(recorder: Recorder | None) -> Generator[None]:
    """Within it, offers go to the recorder; None refuses them."""
    outer, _state.recorder = _state.recorder, recorder
    try:
        yield
    finally:
        _state.recorder = outer


@contextmanager
def running_again() -> Generator[None]:
    """Within it, a forward pass is computed again, and `is_running_again`."""
    outer, _state.is_running_again = _state.is_running_again, True
    try:
        yield
    finally:
        _state.is_running_again = outer


class _RecomputedFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, function: Function, *inputs: object) -> torch.Tensor:
        is_tensor = [isinstance(value, torch.Tensor) for value in inputs]
        ctx.save_for_backward(*(value for value in inputs if isinstance(value, torch.Tensor)))
        ctx.others = [None if has else value for value, has in zip(inputs, is_tensor, strict=True)]
        ctx.is_tensor = is_tensor
        ctx.function = function
        # What is offered within is nobody's: only the output leaves.
        with recording(None):
            output = function(*inputs)
        ctx.make_autocast = _capture_autocast(output.device.type)
        return output

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride] (torch's decorator hides names)
        ctx: Any, *grad_outputs: torch.Tensor
    ) -> tuple[torch.Tensor | None, ...]:
        tensors = iter(ctx.saved_tensors)
        inputs = [
            next(tensors).detach() if is_tensor else value
            for value, is_tensor in zip(ctx.others, ctx.is_tensor, strict=True)
        ]
        is_needed = ctx.needs_input_grad[1:]
        needed = [value for value, needs in zip(inputs, is_needed, strict=True) if needs]
        for value in needed:
            value.requires_grad_()
        with torch.enable_grad(), ctx.make_autocast(), running_again():
            output = ctx.function(*inputs)
        gradients = iter(torch.autograd.grad(output, needed, grad_outputs))
        return None, *(next(gradients) if needs else None for needs in is_needed)


def _list_tensors(packed: _Packed) -> list[torch.Tensor]:
    """Returns the tensors that a packed one holds."""
    if isinstance(packed, _Kept):
        return [packed.tensor]
    inputs = (value for value in packed.inputs if isinstance(value, _Packed))
    return [tensor for value in inputs for tensor in _list_tensors(value)]


def _describe(tensor: torch.Tensor) -> tuple[object, ...]:
    """Returns what tells a tensor from others in the same storage."""
    return tensor.dtype, tensor.shape, tensor.stride(), tensor.storage_offset()


def _find_storage(tensor: torch.Tensor) -> int:
    """Returns the address of the tensor's storage object; on the meta device there is no other."""
    return tensor.untyped_storage()._cdata  # pyright: ignore[reportPrivateUsage] (no public name)


def _capture_autocast(device_type: str) -> Callable[[], AbstractContextManager[Any]]:
    """Returns what enters autocast as it is now."""
    # Devices such as meta have no autocast, and asking for its state fails there.
    if not torch.amp.is_autocast_available(device_type):
        return nullcontext
    is_enabled = torch.is_autocast_enabled(device_type)
    dtype = torch.get_autocast_dtype(device_type)
    return lambda: torch.autocast(device_type, dtype, is_enabled, cache_enabled=False)
