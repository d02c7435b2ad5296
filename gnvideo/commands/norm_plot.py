"""A roofline picture of normalizations, as SVG: bandwidth reached against bytes moved.

All do about as few operations for a byte, so the roof over all of them is the copy's bandwidth. It
can be reached where a layer moves enough bytes to hide the launches.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple
from xml.sax.saxutils import escape, quoteattr

_WIDTH, _HEIGHT = 900, 520
_LEFT, _RIGHT, _TOP, _BOTTOM = 80, 700, 60, 450
_GRID = "#dddddd"
_INK = "#222222"
# Okabe and Ito's colours, which the colour-blind tell apart, dark ones first; marks differ too.
_COLORS = (
    *("#0072B2", "#D55E00", "#009E73", "#CC79A7"),
    *("#E69F00", "#56B4E9", "#000000", "#999999"),
)
_MARKS = (
    "M-5,0A5,5 0 1 0 5,0A5,5 0 1 0 -5,0Z",
    "M-5,-5H5V5H-5Z",
    "M0,-6L6,5H-6Z",
    "M0,-6L6,0L0,6L-6,0Z",
    "M0,6L6,-5H-6Z",
    "M-6,-2H-2V-6H2V-2H6V2H2V6H-2V2H-6Z",
    "M-5,-3L0,-6L5,-3L5,3L0,6L-5,3Z",
    "M-6,-6L0,-2L6,-6L2,0L6,6L0,2L-6,6L-2,0Z",
)


class Mark(NamedTuple):
    """A layer by a contestant.

    Attributes:
        series: The contestant.
        label: The layer, shown under the pointer.
        num_bytes: That the layer moves.
        bytes_per_second: What the contestant reached.
    """

    series: str
    label: str
    num_bytes: float
    bytes_per_second: float


def draw_roofline(title: str, marks: Sequence[Mark], roof_bytes_per_second: float) -> str:
    """Returns the picture. At most eight series have a look of their own.

    Args:
        title: One line.
        marks: At least one.
        roof_bytes_per_second: The bandwidth of a copy.
    """
    first = math.floor(math.log10(min(mark.num_bytes for mark in marks)))
    last = max(first + 1, math.ceil(math.log10(max(mark.num_bytes for mark in marks))))
    highest = 1.08 * max(roof_bytes_per_second, *(mark.bytes_per_second for mark in marks))
    step = _find_round_step(highest)

    def place_x(num_bytes: float) -> float:
        return _LEFT + (_RIGHT - _LEFT) * (math.log10(num_bytes) - first) / (last - first)

    def place_y(bytes_per_second: float) -> float:
        return _BOTTOM - (_BOTTOM - _TOP) * bytes_per_second / highest

    def draw() -> Iterator[str]:
        yield _write(title, _LEFT, 32, size=17)
        for power in range(first, last + 1):
            x = place_x(10**power)
            yield _rule(x, _TOP, x, _BOTTOM, _GRID)
            yield _write(_name_bytes(power), x, _BOTTOM + 20, anchor="middle")
        for number in range(math.floor(highest / step) + 1):
            y = place_y(number * step)
            yield _rule(_LEFT, y, _RIGHT, y, _GRID)
            yield _write(f"{number * step / 1e9:g}", _LEFT - 8, y + 4, anchor="end")
        middle = (_LEFT + _RIGHT) / 2
        yield _write(
            "bytes that the two-read form moves, forward and backward",
            *(middle, _BOTTOM + 48),
            anchor="middle",
        )
        yield (
            f'<g transform="translate(24 {(_TOP + _BOTTOM) / 2}) rotate(-90)">'
            f"{_write('these bytes over the time taken, GB/s', 0, 0, anchor='middle')}</g>"
        )
        roof = place_y(roof_bytes_per_second)
        yield _rule(_LEFT, roof, _RIGHT, roof, _INK, 'stroke-width="2" stroke-dasharray="8 4"')
        yield _write(f"copy: {roof_bytes_per_second / 1e9:.0f} GB/s", _RIGHT + 8, roof + 4)
        for number, series in enumerate(dict.fromkeys(mark.series for mark in marks)):
            look = number % len(_COLORS)
            y = _TOP + 60 + 26 * number
            yield _draw_mark("key", look, _RIGHT + 24, y, series)
            yield _write(series, _RIGHT + 40, y + 5)
            for mark in marks:
                if mark.series == series:
                    x, y = place_x(mark.num_bytes), place_y(mark.bytes_per_second)
                    text = f"{series}, {mark.label}: {mark.bytes_per_second / 1e9:.0f} GB/s"
                    yield _draw_mark("mark", look, x, y, text)

    body = "\n".join(draw())
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}"'
        f' width="{_WIDTH}" height="{_HEIGHT}" font-family="sans-serif" font-size="13"'
        f' fill="{_INK}">\n<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>\n'
        f"{body}\n</svg>\n"
    )


def _find_round_step(highest: float) -> float:
    """Returns 1, 2 or 5 times a power of ten of which four to nine fit below `highest`."""
    power = 10 ** math.floor(math.log10(highest))
    return next(step for step in (power / 5, power / 2, power, 2 * power) if highest < 10 * step)


def _name_bytes(power: int) -> str:
    units = ("B", "kB", "MB", "GB", "TB")
    place = min(power // 3, len(units) - 1)
    return f"{10 ** (power - 3 * place)} {units[place]}"


def _write(text: str, x: float, y: float, *, anchor: str = "start", size: int = 13) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}">'
        f"{escape(text)}</text>"
    )


def _rule(x: float, y: float, to_x: float, to_y: float, color: str, more: str = "") -> str:
    return f'<path d="M{x:.1f},{y:.1f}L{to_x:.1f},{to_y:.1f}" stroke="{color}" {more}/>'


def _draw_mark(kind: str, look: int, x: float, y: float, text: str) -> str:
    return (
        f'<path class={quoteattr(kind)} transform="translate({x:.1f} {y:.1f})" d="{_MARKS[look]}"'
        f' fill="{_COLORS[look]}" fill-opacity="0.85"><title>{escape(text)}</title></path>'
    )
