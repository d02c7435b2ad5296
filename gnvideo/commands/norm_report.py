"""Tables, notes, plain values and the picture of what `bench norm` found."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from gnvideo.commands.bench_report import BenchReport, ReportTable, Spread
from gnvideo.commands.norm_contestants import OURS, Contestant
from gnvideo.commands.norm_plot import Mark, draw_roofline
from gnvideo.commands.norm_results import Outcome, TableOutcome
from gnvideo.commands.norm_targets import Target, compute_bandwidth_share

# Of the tables, the one in the picture: at so many clips, or else the first.
_PICTURED_CLIPS = 4


def make_report(
    method: str,
    outcomes: Sequence[TableOutcome],
    contestants: Sequence[Contestant],
    targets: Sequence[Target],
    copy_bytes_per_second: Spread,
) -> BenchReport:
    """Returns all that is printed and saved.

    Args:
        method: One line.
        outcomes: Of each table.
        contestants: Those that took part.
        targets: Judged.
        copy_bytes_per_second: Of a copy in the same run.
    """
    tables = [_make_totals(outcomes, contestants, copy_bytes_per_second)]
    tables += [_make_layer_table(outcome, contestants) for outcome in outcomes]
    results: dict[str, Any] = {
        "copy_bytes_per_second": _to_plain(copy_bytes_per_second),
        "tables": [_describe_table(outcome) for outcome in outcomes],
        "totals": [
            _describe_totals(outcome, contestants, copy_bytes_per_second) for outcome in outcomes
        ],
        "targets": [asdict(target) | {"is_met": target.is_met} for target in targets],
    }
    notes = [f"{contestant.name}: {contestant.meaning}" for contestant in contestants]
    notes += dict.fromkeys(_find_complaints(outcomes))
    notes += map(str, targets)
    return BenchReport("norm", method, tuple(tables), tuple(notes), results)


def draw_outcome(outcomes: Sequence[TableOutcome], copy_bytes_per_second: Spread) -> str:
    """Returns the picture of one table: a mark for each layer and contestant that was timed."""
    pictured = [o for o in outcomes if o.table.num_clips == _PICTURED_CLIPS]
    outcome = (pictured or list(outcomes))[0]
    marks = [
        Mark(name, row.layer.name, num_bytes, num_bytes / Spread.of(result.seconds).median)
        for row in outcome.rows
        for num_bytes in (outcome.count_layer_bytes(row.layer),)
        for name, result in row.outcomes.items()
        if result.verdict == "right"
    ]
    title = f"Normalization, sum and ReLU: {outcome.table.name}"
    return draw_roofline(title, marks, copy_bytes_per_second.median)


def _make_totals(
    outcomes: Sequence[TableOutcome],
    contestants: Sequence[Contestant],
    copy_bytes_per_second: Spread,
) -> ReportTable:
    rows: list[tuple[str, ...]] = []
    for outcome in outcomes:
        for contestant in contestants:
            seconds = outcome.compute_seconds(contestant.name)
            ratio = outcome.compute_ratio(contestant.name, OURS)
            num_right = sum(
                row.outcomes[contestant.name].verdict == "right" for row in outcome.rows
            )
            share = compute_bandwidth_share(outcome, contestant.name, copy_bytes_per_second.median)
            rows.append(
                (
                    outcome.table.name if contestant is contestants[0] else "",
                    contestant.name,
                    f"{num_right} of {len(outcome.rows)}",
                    "-" if seconds is None else f"{1000 * Spread.of(seconds).median:.3f}",
                    "-" if ratio is None else str(ratio),
                    "-" if share is None else f"{100 * share.median:.0f} %",
                )
            )
    columns = ("layers of", "by", "right", "ms", "time / ours: median (range)", "of the copy")
    title = (
        "a network's layers, each as often as it stands there; a ratio is over the layers that both"
        " do; 'of the copy': the two-read form's bytes at a copy's"
        f" {copy_bytes_per_second.median / 1e9:.0f} GB/s, over the time"
    )
    return ReportTable(title, columns, tuple(rows))


def _make_layer_table(outcome: TableOutcome, contestants: Sequence[Contestant]) -> ReportTable:
    rows = [
        (
            row.layer.name,
            str(row.layer.count),
            *(_describe_times(row.outcomes[contestant.name]) for contestant in contestants),
        )
        for row in outcome.rows
    ]
    columns = ("layer", "count", *(contestant.name for contestant in contestants))
    title = f"{outcome.table.name}: µs forward + backward, median; kernels where counted"
    return ReportTable(title, columns, tuple(rows))


def _describe_times(outcome: Outcome) -> str:
    if outcome.verdict != "right":
        return outcome.verdict
    forward, backward = (
        1e6 * Spread.of(seconds).median
        for seconds in (outcome.forward_seconds, outcome.backward_seconds)
    )
    text = f"{forward:.1f} + {backward:.1f}"
    if outcome.launches is not None:
        text += f" ({outcome.launches[0]} + {outcome.launches[1]})"
    return text


def _find_complaints(outcomes: Sequence[TableOutcome]) -> Iterator[str]:
    for outcome in outcomes:
        for row in outcome.rows:
            for name, result in row.outcomes.items():
                if result.verdict == "left out":
                    yield f"{name} was left out where {result.reason}"
                elif result.verdict != "right":
                    where = f"{row.layer.name}, {outcome.table.name}"
                    yield f"{name} {result.verdict}, and has no time: {where}: {result.reason}"


def _describe_table(outcome: TableOutcome) -> dict[str, Any]:
    return {
        "network": outcome.table.network,
        "clips": outcome.table.num_clips,
        "layers": [
            {
                "layer": row.layer.name,
                "count": row.layer.count,
                "two_read_bytes": outcome.count_layer_bytes(row.layer),
                "outcomes": {name: _describe(result) for name, result in row.outcomes.items()},
            }
            for row in outcome.rows
        ],
    }


def _describe(outcome: Outcome) -> dict[str, Any]:
    """Returns an outcome with the spread of its rounds in their place."""
    plain = asdict(outcome)
    for name in ("forward_seconds", "backward_seconds"):
        plain[name] = _to_plain(Spread.of(plain[name])) if plain[name] else None
    return plain


def _describe_totals(
    outcome: TableOutcome, contestants: Sequence[Contestant], copy_bytes_per_second: Spread
) -> dict[str, Any]:
    return {
        "network": outcome.table.network,
        "clips": outcome.table.num_clips,
        "contestants": {
            contestant.name: {
                "seconds": outcome.compute_seconds(contestant.name),
                "time_over_ours": _to_plain(outcome.compute_ratio(contestant.name, OURS)),
                "bandwidth_share": _to_plain(
                    compute_bandwidth_share(outcome, contestant.name, copy_bytes_per_second.median)
                ),
            }
            for contestant in contestants
        },
    }


def _to_plain(spread: Spread | None) -> list[float] | None:
    return None if spread is None else [spread.median, spread.lowest, spread.highest]
