"""Stochastic gradient descent by torch's own update function, without torch's optimizer classes.

Making any `torch.optim.Optimizer` imports torch's compiler, which takes longer than importing torch
itself; a comparison of many short runs would spend a good part of its time on that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.optim.sgd import sgd


@dataclass(frozen=True)
class ParameterGroup:
    """Parameters that decay alike; `role` is their part in the model."""

    role: str
    parameters: tuple[nn.Parameter, ...]
    weight_decay: float


class Sgd:
    """SGD with momentum; the update of `torch.optim.SGD` to the bit.

    With gradient g, plus weight_decay * w:
        v = momentum * v + g        (v = g at the first step)
        w = w - learning_rate * (g + momentum * v if nesterov else v)
    The rate stands outside of v: when it drops, v needs no correction.

    Source: Sutskever et al., "On the importance of initialization and momentum in deep learning",
        ICML 2013, in the form of torch.optim.SGD.
    """

    def __init__(
        self, groups: Sequence[ParameterGroup], *, momentum: float, nesterov: bool
    ) -> None:
        self.groups = tuple(groups)
        self._momentum = momentum
        # Without momentum there is nothing to look ahead along.
        self._nesterov = nesterov and momentum > 0
        self._velocities: dict[nn.Parameter, torch.Tensor | None] = {
            parameter: None for group in self.groups for parameter in group.parameters
        }

    def clear_gradients(self) -> None:
        """Frees all gradients."""
        for parameter in self._velocities:
            parameter.grad = None

    @torch.no_grad()
    def step(self, learning_rate: float) -> None:
        """Updates every parameter that has a gradient."""
        for group in self.groups:
            parameters = [p for p in group.parameters if p.grad is not None]
            velocities = [self._velocities[p] for p in parameters]
            sgd(
                list[torch.Tensor](parameters),
                [p.grad for p in parameters if p.grad is not None],
                velocities,
                weight_decay=group.weight_decay,
                momentum=self._momentum,
                lr=learning_rate,
                dampening=0.0,
                nesterov=self._nesterov,
                maximize=False,
            )
            self._velocities.update(zip(parameters, velocities, strict=True))

    def state_dict(self) -> dict[str, Any]:
        """Returns v of every parameter, in the order of the groups; None before a first step."""
        return {"velocities": list(self._velocities.values())}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from what `state_dict` returned.

        Raises:
            ValueError: it is of other parameters.
        """
        velocities: list[torch.Tensor | None] = state["velocities"]
        shapes = [None if v is None else v.shape for v in velocities]
        fits = len(shapes) == len(self._velocities) and all(
            shape in (None, parameter.shape)
            for shape, parameter in zip(shapes, self._velocities, strict=True)
        )
        if not fits:
            raise ValueError("the optimizer's state is of other parameters")
        self._velocities = {
            parameter: None if velocity is None else velocity.to(parameter.device)
            for parameter, velocity in zip(self._velocities, velocities, strict=True)
        }
