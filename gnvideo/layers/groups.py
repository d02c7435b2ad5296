"""How many groups of channels there are: the one rule of every normalizer with groups."""

from __future__ import annotations

import functools
import logging

from gnvideo.errors import NormalizerError

_logger = logging.getLogger(__name__)


def find_num_groups(
    num_channels: int, num_groups: int = 32, channels_per_group: int | None = None
) -> int:
    """Returns the number of groups G in use, which divides the channels C.

    Where the wanted G does not divide C, it is the largest divisor of C below; where the wanted
    C / G does not, C / G is the largest divisor of C below. Either is logged once.

    Args:
        num_channels: C.
        num_groups: The wanted G.
        channels_per_group: The wanted C / G, instead of num_groups.

    Raises:
        NormalizerError: An argument is not a positive integer.
    """
    check_count("num_channels", num_channels)
    check_count("num_groups", num_groups)
    if channels_per_group is None:
        return _find_divisor(num_channels, num_groups, "groups")
    check_count("channels_per_group", channels_per_group)
    return num_channels // _find_divisor(num_channels, channels_per_group, "channels per group")


def check_count(name: str, value: object) -> int:
    """Returns the value.

    Raises:
        NormalizerError: It is not a positive integer.
    """
    # A float here is most likely BatchNorm3d's eps, second in its positional order.
    if not isinstance(value, int) or value < 1:
        raise NormalizerError(f"normalizer's {name} is {value!r}; it must be a positive integer")
    return value


@functools.cache
def _find_divisor(num_channels: int, wanted: int, unit: str) -> int:
    """Returns the largest divisor of num_channels up to `wanted`; cached, so that it logs once."""
    divisor = next(d for d in range(min(wanted, num_channels), 0, -1) if num_channels % d == 0)
    if divisor != wanted:
        _logger.info(
            "%d %s do not divide %d channels; using %d", wanted, unit, num_channels, divisor
        )
    return divisor
