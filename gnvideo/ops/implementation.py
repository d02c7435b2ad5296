"""Which implementation of an operator runs, and why."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable

from gnvideo.errors import NormalizerError

IMPLEMENTATIONS = ("auto", "reference", "native", "triton")
"""Names that can be asked for: auto takes Triton's kernels on a GPU and torch's elsewhere."""

_logger = logging.getLogger(__name__)


def choose_implementation(
    operator: str, wanted: str, device_type: str, find_obstacle: Callable[[], str | None]
) -> str:
    """Returns `reference`, `native` or `triton`. Why it is not triton on a GPU is logged once.

    Args:
        operator: Its name, for messages.
        wanted: A name in `IMPLEMENTATIONS`.
        device_type: Of the tensors.
        find_obstacle: Returns why Triton's kernels cannot run on them, or None if they can.

    Raises:
        NormalizerError: The name is unknown, or it is triton and its kernels cannot run.
    """
    # The way of every forward pass on a CPU: nothing is looked at twice.
    if wanted == "auto" and device_type != "cuda":
        return "native"
    chosen, reason = explain_choice(operator, wanted, device_type, find_obstacle)
    if wanted == "auto" and chosen != "triton":
        _report(operator, reason)
    return chosen


def explain_choice(
    operator: str, wanted: str, device_type: str, find_obstacle: Callable[[], str | None]
) -> tuple[str, str]:
    """Returns what `choose_implementation` returns, and the reason in a few words.

    Raises:
        NormalizerError: The name is unknown, or it is triton and its kernels cannot run.
    """
    if wanted not in IMPLEMENTATIONS:
        raise NormalizerError(
            f"unknown implementation {wanted!r} of {operator}; "
            f"choose one of {', '.join(IMPLEMENTATIONS)}"
        )
    if wanted in ("reference", "native"):
        return wanted, "as configured"
    if wanted == "auto" and device_type != "cuda":
        return "native", f"Triton's are for GPUs, and the device is {device_type}"
    obstacle = find_obstacle()
    if obstacle is None:
        reason = "as configured" if wanted == "triton" else "the device is a GPU that they run on"
        return "triton", reason
    if wanted == "triton":
        raise NormalizerError(
            f"the triton implementation of {operator} cannot run: {obstacle}; choose auto or native"
        )
    return "native", f"torch's kernels instead of Triton's: {obstacle}"


@functools.cache
def _report(operator: str, reason: str) -> None:
    """Cached, so that each reason is logged once."""
    _logger.warning("%s runs by %s", operator, reason)
