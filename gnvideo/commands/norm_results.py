"""What `bench norm` found: for each layer and contestant whether it is right, and how fast.

Axes: N clips.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from gnvideo.commands.bench_report import Spread
from gnvideo.commands.norm_layers import Kind, LayerTable, NormLayer

Verdict = Literal["right", "wrong", "failed", "left out"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one contestant did on one layer.

    Attributes:
        verdict: Only where it is right it has times.
        reason: Why it is not; empty where it is.
        errors: Of y and each gradient, relative to the scale of each.
        forward_seconds: Of each round.
        backward_seconds: Of each round.
        launches: Kernels of a forward and a backward pass; None where they were not counted.
    """

    verdict: Verdict
    reason: str = ""
    errors: dict[str, float] = field(default_factory=dict[str, float])
    forward_seconds: Sequence[float] = ()
    backward_seconds: Sequence[float] = ()
    launches: tuple[int, int] | None = None

    @property
    def seconds(self) -> list[float]:
        """Of both passes together, of each round."""
        pairs = zip(self.forward_seconds, self.backward_seconds, strict=True)
        return [forward + backward for forward, backward in pairs]


@dataclass(frozen=True, slots=True)
class LayerOutcome:
    """What all did on one layer.

    Attributes:
        layer: Which.
        outcomes: By contestant.
    """

    layer: NormLayer
    outcomes: dict[str, Outcome]


@dataclass(frozen=True, slots=True)
class TableOutcome:
    """What all did on a network's layers at one number of clips.

    Attributes:
        table: Which layers.
        itemsize_bytes: Of an element.
        rows: In the order of the table's layers.
    """

    table: LayerTable
    itemsize_bytes: int
    rows: tuple[LayerOutcome, ...]

    def compute_ratio(
        self, name: str, other: str, choose: Callable[[NormLayer], bool] = lambda _: True
    ) -> Spread | None:
        """Returns how many times as long `name` takes as `other`, over the layers that both do.

        Layers count as often as they stand in the network. One value a round makes the spread, from
        turns that followed one another. None where there is no such layer.
        """
        common = [
            row
            for row in self.rows
            if choose(row.layer) and _has_times(row, name) and _has_times(row, other)
        ]
        if not common:
            return None
        times = zip(_add_up(common, name), _add_up(common, other), strict=True)
        return Spread.of([one / two for one, two in times])

    def compute_seconds(self, name: str) -> list[float] | None:
        """Returns the time of the network's layers, one value a round; None unless it does all."""
        if not all(_has_times(row, name) for row in self.rows):
            return None
        return _add_up(self.rows, name)

    def count_bytes(self) -> int:
        """Returns the bytes that all layers move in both passes, by the two-read form."""
        return sum(row.layer.count * self.count_layer_bytes(row.layer) for row in self.rows)

    def count_floor_bytes(self) -> float:
        """Returns the bytes that two reads of all layers need at least, with a mask of bits."""
        saved = sum(
            row.layer.count * self.table.num_clips * row.layer.num_elements
            for row in self.rows
            if row.layer.kind == "add"
        )
        return self.count_bytes() - saved * (self.itemsize_bytes - 2 / 8)

    def count_layer_bytes(self, layer: NormLayer) -> int:
        """Returns the bytes that one layer moves in both passes, by the two-read form."""
        elements = self.table.num_clips * layer.num_elements
        return sum(ACCESSES[layer.kind]) * self.itemsize_bytes * elements


ACCESSES: dict[Kind, tuple[int, int]] = {"relu": (3, 5), "plain": (3, 5), "add": (4, 7)}
"""How often the two-read form reads or writes an element, forward and backward.

Forward: x twice, y; and the residual. Backward: x and dy twice, dx. With a residual: x, dy, y and
dresidual; then x, dresidual and dx. Triton's kernels are held to it by counting, in
`tests/ops/test_triton_norm_kernels.py`.
"""


def _has_times(row: LayerOutcome, name: str) -> bool:
    outcome = row.outcomes.get(name)
    return outcome is not None and outcome.verdict == "right"


def _add_up(rows: Sequence[LayerOutcome], name: str) -> list[float]:
    weighted = [
        [row.layer.count * seconds for seconds in row.outcomes[name].seconds] for row in rows
    ]
    return [sum(values) for values in zip(*weighted, strict=True)]
