"""The optimizer and its parameter groups, formed by role and never by the kind of normalizer."""

from __future__ import annotations

from torch import nn

from gnvideo.layers.normalizer import is_normalizer
from gnvideo.training.sgd import ParameterGroup, Sgd


def make_parameter_groups(
    model: nn.Module, *, weight_decay: float, normalizer_weight_decay: float
) -> tuple[ParameterGroup, ParameterGroup]:
    """Returns two groups, "weights" and "normalizers", that hold every parameter exactly once.

    "normalizers" holds what belongs to a module of which `is_normalizer` is true; "weights" holds
    the rest: convolutions, the linear layer, and its bias, which decays as in Caffe2's and the
    non-local code's recipe. Parameters stand in the model's order; a shared one counts once, as a
    normalizer's if one of its owners is.

    Args:
        model: Any model.
        weight_decay: Of the group "weights".
        normalizer_weight_decay: Of gamma and beta.

    Source: weight decay 1e-4 and 0 on normalizers: Wang et al., video-nonlocal-net,
        lib/core/config.py (WEIGHT_DECAY, WEIGHT_DECAY_BN).
    """
    normalizer_ids = {
        id(parameter)
        for module in model.modules()
        if is_normalizer(module)
        for parameter in module.parameters()
    }
    parameters = list(model.parameters())
    return (
        ParameterGroup(
            role="weights",
            parameters=tuple(p for p in parameters if id(p) not in normalizer_ids),
            weight_decay=weight_decay,
        ),
        ParameterGroup(
            role="normalizers",
            parameters=tuple(p for p in parameters if id(p) in normalizer_ids),
            weight_decay=normalizer_weight_decay,
        ),
    )


def make_optimizer(
    model: nn.Module,
    *,
    momentum: float,
    nesterov: bool,
    weight_decay: float,
    normalizer_weight_decay: float,
) -> Sgd:
    """Returns SGD over the model's parameter groups; the loop gives the rate of every step.

    Args:
        model: Already on its device.
        momentum: In [0, 1).
        nesterov: Without momentum it changes nothing.
        weight_decay: See `make_parameter_groups`.
        normalizer_weight_decay: See `make_parameter_groups`.
    """
    groups = make_parameter_groups(
        model, weight_decay=weight_decay, normalizer_weight_decay=normalizer_weight_decay
    )
    return Sgd(groups, momentum=momentum, nesterov=nesterov)
