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
    """Returns `reference`, `native` or `triton`.

    Args:
        operator: Its name, for messages.
        wanted: A name in `IMPLEMENTATIONS`.
        device_type: Of the tensors.
        find_obstacle: Returns why Triton's kernels cannot run on them, or None if they can.

    Raises:
        NormalizerError: The name is unknown, or it is triton and its kernels cannot run.
    """
    if wanted == "auto":
        if device_type != "cuda":
            return "native"
        obstacle = find_obstacle()
        if obstacle is None:
            return "triton"
        _report(operator, obstacle)
        return "native"
    if wanted not in IMPLEMENTATIONS:
        raise NormalizerError(
            f"unknown implementation {wanted!r} of {operator}; "
            f"choose one of {', '.join(IMPLEMENTATIONS)}"
        )
    if wanted == "triton":
        obstacle = find_obstacle()
        if obstacle is not None:
            raise NormalizerError(
                f"the triton implementation of {operator} cannot run: {obstacle}; "
                f"choose auto or native"
            )
    return wanted


@functools.cache
def _report(operator: str, obstacle: str) -> None:
    """Cached, so that each reason is logged once."""
    _logger.warning("%s runs by torch's kernels instead of Triton's: %s", operator, obstacle)
