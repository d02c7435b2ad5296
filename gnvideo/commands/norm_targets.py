"""What the normalizations are to reach, and whether they do.

Axes: N clips.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from gnvideo.commands.bench_report import Spread
from gnvideo.commands.norm_contestants import OURS
from gnvideo.commands.norm_layers import NormLayer
from gnvideo.commands.norm_results import TableOutcome

_ENOUGH_CLIPS_TO_FILL_A_GPU = (4, 8)


@dataclass(frozen=True, slots=True)
class Target:
    """A bound, and what was measured.

    Attributes:
        text: What is bounded, on which layers.
        value: What was measured; None where something that it takes was not.
        bound: What is wanted.
        is_lower: Whether the value must be at least, or else at most, the bound.
    """

    text: str
    value: float | None
    bound: float
    is_lower: bool

    @property
    def is_met(self) -> bool | None:
        """Whether it is; None where nothing was measured."""
        if self.value is None:
            return None
        return self.value >= self.bound if self.is_lower else self.value <= self.bound

    def __str__(self) -> str:
        wanted = f"{'at least' if self.is_lower else 'at most'} {self.bound:.2f}"
        if self.value is None:
            return f"not measured: {self.text}; wanted is {wanted}"
        verdict = "met" if self.is_met else "missed"
        return f"{verdict}: {self.text} is {self.value:.3f}; wanted is {wanted}"


def judge_cuda(outcomes: Sequence[TableOutcome], copy_bytes_per_second: float) -> Iterator[Target]:
    """Yields the targets of the kernels on a GPU, for each table that one speaks of."""
    for outcome in outcomes:
        name = outcome.table.name
        others = [("batch", "our BatchNorm"), ("torch-batch", "torch's BatchNorm")]
        for other, words in others:
            ratio = outcome.compute_ratio(OURS, other)
            yield _bound(f"{name}: our time over that of {words}", ratio, 1.05, is_lower=False)
        if outcome.table.num_clips not in _ENOUGH_CLIPS_TO_FILL_A_GPU:
            continue
        share = compute_bandwidth_share(outcome, OURS, copy_bytes_per_second)
        yield _bound(
            f"{name}: share of the two-read floor, at the bandwidth of a copy", share, 0.85
        )
        ratio = outcome.compute_ratio(OURS, "one-read")
        yield _bound(f"{name}: time of two reads over that of one", ratio, 1.10)
        ratio = outcome.compute_ratio("autocast", OURS)
        yield _bound(f"{name}: time of torch under autocast over ours", ratio, 4.0)
        if outcome.table.num_clips == _ENOUGH_CLIPS_TO_FILL_A_GPU[0]:
            ratio = outcome.compute_ratio("eager", OURS)
            yield _bound(f"{name}: time of torch in bfloat16 over ours", ratio, 2.0)
            stem = outcome.table.layers[0]
            ratio = outcome.compute_ratio("eager", OURS, _is(stem))
            yield _bound(f"{name}: the same on {stem.name}", ratio, 4.0)


def judge_cpu(outcomes: Sequence[TableOutcome]) -> Iterator[Target]:
    """Yields the targets on a CPU: over all tables, and the worst layer of all."""
    yield Target(
        "time of torch's modules over ours, all batches, as many clips of each",
        compute_overall_ratio(outcomes, "eager", OURS),
        1.3,
        is_lower=True,
    )
    worst = find_worst_layer(outcomes)
    where = "" if worst is None else f" ({worst[0]})"
    value = None if worst is None else worst[1].median
    yield Target(f"the same on the worst layer{where}", value, 1.0, is_lower=True)


def compute_bandwidth_share(
    outcome: TableOutcome, name: str, copy_bytes_per_second: float
) -> Spread | None:
    """Returns the time that the two-read floor's bytes take to copy over the time that was taken.

    The floor is what two reads need at least. With a residual our kernels move 14 bytes an element
    of bfloat16 backward, and a mask of one bit an element, written forward and read twice, would
    need 12.25 in all.
    """
    seconds = outcome.compute_seconds(name)
    if seconds is None:
        return None
    floor = outcome.count_floor_bytes() / copy_bytes_per_second
    return Spread.of([floor / taken for taken in seconds])


def compute_overall_ratio(outcomes: Sequence[TableOutcome], name: str, other: str) -> float | None:
    """Returns the ratio of the median times of a clip, added up over the tables."""
    totals = [0.0, 0.0]
    for outcome in outcomes:
        for place, contestant in enumerate((name, other)):
            seconds = outcome.compute_seconds(contestant)
            if seconds is None:
                return None
            totals[place] += Spread.of(seconds).median / outcome.table.num_clips
    return totals[0] / totals[1]


def find_worst_layer(outcomes: Sequence[TableOutcome]) -> tuple[str, Spread] | None:
    """Returns where torch's modules are fastest beside ours, and their time over ours there."""
    found = [
        (f"{layer.name}, {outcome.table.name}", ratio)
        for outcome in outcomes
        for layer in outcome.table.layers
        if (ratio := outcome.compute_ratio("eager", OURS, _is(layer))) is not None
    ]
    return min(found, key=lambda pair: pair[1].median, default=None)


def _is(wanted: NormLayer) -> Callable[[NormLayer], bool]:
    return lambda layer: layer == wanted


def _bound(text: str, value: Spread | None, bound: float, *, is_lower: bool = True) -> Target:
    return Target(text, None if value is None else value.median, bound, is_lower)
