"""Decides which conditions of a comparison are set against each other, and the sentence it finds.

A condition is a series (a normalizer, with the batch statistics it is evaluated with) in a setting
(clip shape and clips per batch). The baseline is BatchNorm where the comparison has it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gnvideo.comparison.results import ComparisonResults, RunResult
from gnvideo.comparison.statistics import (
    MIN_SEEDS,
    NO_DIFFERENCE,
    PairedDifference,
    Summary,
    compare_paired,
    summarize,
)

_DISPLAY_NAMES = {
    "batch": "BatchNorm",
    "group": "GroupNorm",
    "layer": "LayerNorm",
    "instance": "InstanceNorm",
}


def display_name(normalizer: str) -> str:
    """Returns how reports write the normalizer called `normalizer` in configurations."""
    return _DISPLAY_NAMES.get(normalizer, normalizer)


@dataclass(frozen=True, slots=True)
class Series:
    """A normalizer, and whether it is evaluated with recomputed (precise) batch statistics."""

    normalizer: str
    precise: bool = False

    @property
    def label(self) -> str:
        """The series in words."""
        name = display_name(self.normalizer)
        return f"{name}, precise statistics" if self.precise else name


@dataclass(frozen=True, slots=True, order=True)
class Setting:
    """What all normalizers are run in. Orders by clip shape, then clips per batch."""

    num_frames: int
    stride: int
    clips_per_batch: int

    @property
    def clip_shape(self) -> tuple[int, int]:
        """Frames and stride."""
        return self.num_frames, self.stride


@dataclass(frozen=True, slots=True)
class Contrast:
    """`first` minus `second`, paired by seed.

    Attributes:
        first: Series and setting.
        second: Series and setting; differs from `first` in one of the two.
        difference: In points of the metric.
    """

    first: tuple[Series, Setting]
    second: tuple[Series, Setting]
    difference: PairedDifference


class Analysis:
    """The conditions of a comparison and the statistics over their seeds."""

    def __init__(self, results: ComparisonResults) -> None:
        self.results = results
        self._runs: dict[tuple[str, Setting], list[RunResult]] = {}
        for run in results.runs:
            data, training = run.config.data, run.config.training
            setting = Setting(data.num_frames, data.stride, training.clips_per_batch)
            self._runs.setdefault((run.config.normalizer.name, setting), []).append(run)
        found = dict.fromkeys(name for name, _ in self._runs)
        # The grid's order, whatever the order of the runs.
        planned = [name for name in results.config.grid.normalizers if name in found]
        self.normalizers = tuple(dict.fromkeys([*planned, *found]))
        self.settings = tuple(sorted({setting for _, setting in self._runs}))
        with_precise = {
            run.config.normalizer.name for run in results.runs if run.precise_evaluation is not None
        }
        self.series = tuple(
            Series(name, precise)
            for name in self.normalizers
            for precise in (False, True)
            if not precise or name in with_precise
        )

    @property
    def baseline(self) -> str:
        """The normalizer that the others are set against."""
        return "batch" if "batch" in self.normalizers else self.normalizers[0]

    @property
    def clip_shapes(self) -> tuple[tuple[int, int], ...]:
        """Frames and stride of the clips, ascending."""
        return tuple(dict.fromkeys(setting.clip_shape for setting in self.settings))

    def list_settings(self, clip_shape: tuple[int, int]) -> tuple[Setting, ...]:
        """Returns the settings with clips of `clip_shape`, ascending in clips per batch."""
        return tuple(setting for setting in self.settings if setting.clip_shape == clip_shape)

    def list_runs(self, normalizer: str, setting: Setting) -> Sequence[RunResult]:
        """Returns all runs of a cell, finished or not."""
        return self._runs.get((normalizer, setting), ())

    def collect(
        self, series: Series, setting: Setting, metric: str = "video_top1"
    ) -> dict[int, float]:
        """Returns the metric of the finished runs of a condition by seed, in percent."""
        values = {
            run.config.seed: run.read_metric(metric, series.precise)
            for run in self.list_runs(series.normalizer, setting)
        }
        return {seed: value for seed, value in values.items() if value is not None}

    def summarize(
        self, series: Series, setting: Setting, metric: str = "video_top1"
    ) -> Summary | None:
        """Returns mean and interval of a condition; None without a finished run."""
        return summarize(list(self.collect(series, setting, metric).values()))

    def contrast(
        self,
        first: tuple[Series, Setting],
        second: tuple[Series, Setting],
        metric: str = "video_top1",
    ) -> Contrast:
        """Returns the paired difference of two conditions."""
        difference = compare_paired(
            self.collect(*first, metric),
            self.collect(*second, metric),
            num_planned=len(self.list_runs(first[0].normalizer, first[1])),
        )
        return Contrast(first, second, difference)

    def contrast_normalizers(self) -> list[Contrast]:
        """Returns each normalizer against every series of the baseline, in each setting."""
        return [
            self.contrast((series, setting), (baseline, setting))
            for setting in self.settings
            for series in self.series
            if series.normalizer != self.baseline and not series.precise
            for baseline in self.series
            if baseline.normalizer == self.baseline
        ]

    def contrast_batches(self) -> list[Contrast]:
        """Returns each series with fewer clips per batch against itself with the most."""
        return [
            self.contrast((series, setting), (series, settings[-1]))
            for settings in map(self.list_settings, self.clip_shapes)
            for series in self.series
            for setting in settings[:-1]
        ]


def compose_finding(analysis: Analysis) -> str:
    """Returns what the comparison found, in one sentence with its numbers.

    It sets the first normalizer that is not the baseline (GroupNorm where there is one) against the
    baseline, at the fewest clips per batch and at the most, for the first clip shape. Where the
    baseline's precise statistics change the verdict the sentence says so, so that no gain is
    claimed that recomputing statistics would give.
    """
    others = [name for name in analysis.normalizers if name != analysis.baseline]
    settings = analysis.list_settings(analysis.clip_shapes[0])
    if not others:
        name = display_name(analysis.baseline)
        return f"{name} alone was run: there is nothing to compare it with."
    series = Series("group" if "group" in others else others[0])
    clauses = [
        f"with {format_clips(setting.clips_per_batch)} per batch"
        f" {_describe_contrast(analysis, series, setting)}"
        for setting in dict.fromkeys([settings[0], settings[-1]])
    ]
    sentence = "; ".join(clauses)
    return f"{sentence[0].upper()}{sentence[1:]}."


def _describe_contrast(analysis: Analysis, series: Series, setting: Setting) -> str:
    baseline = Series(analysis.baseline)
    precise = Series(analysis.baseline, precise=True)
    difference = analysis.contrast((series, setting), (baseline, setting)).difference
    against_precise = analysis.contrast((series, setting), (precise, setting)).difference
    summary = difference.summary
    if summary is None or summary.margin is None:
        text = f"nothing can be said about {series.label} and {baseline.label}: "
        num_seeds = 0 if summary is None else summary.num_seeds
        so_far = "" if summary is None else f" (so far {format_signed(summary.mean)} points)"
        return f"{text}{num_seeds} of the {MIN_SEEDS} seeds that a verdict needs{so_far}"
    numbers = f"{format_signed(summary.mean)} points, {format_interval(summary)}"
    if difference.is_decided:
        above = "above" if difference.verdict == "higher" else "below"
        text = f"{series.label} is {abs(summary.mean):.1f} points {above} {baseline.label}"
        text += f" ({format_interval(summary)})"
    elif difference.verdict == NO_DIFFERENCE:
        text = f"no difference between {series.label} and {baseline.label} is shown ({numbers})"
    else:
        text = (
            f"{series.label} and {baseline.label} differ by {format_signed(summary.mean)} points at"
            " every seed, too alike for a verdict"
        )
    if against_precise.summary is not None and against_precise.verdict != difference.verdict:
        verdict = f"{against_precise.verdict}: {format_signed(against_precise.summary.mean)}"
        interval = format_interval(against_precise.summary)
        text += f", but against its precise statistics {verdict} ({interval})"
    return text


def describe_precise(analysis: Analysis) -> str | None:
    """Returns the difference to the baseline's precise statistics, in a sentence; None without."""
    precise = Series(analysis.baseline, precise=True)
    others = [name for name in analysis.normalizers if name != analysis.baseline]
    if precise not in analysis.series or not others:
        return None
    series = Series("group" if "group" in others else others[0])
    settings = analysis.list_settings(analysis.clip_shapes[0])
    parts: list[str] = []
    for setting in dict.fromkeys([settings[0], settings[-1]]):
        difference = analysis.contrast((series, setting), (precise, setting)).difference
        if difference.summary is not None:
            parts.append(
                f"{format_signed(difference.summary.mean)} points with"
                f" {format_clips(setting.clips_per_batch)} ({format_interval(difference.summary)};"
                f" {difference.verdict})"
            )
    if not parts:
        return None
    return (
        f"Against {display_name(analysis.baseline)} with statistics recomputed after training"
        f" (precise), {series.label} is at {' and '.join(parts)}."
    )


def format_clips(count: int) -> str:
    """Returns "1 clip", "8 clips"."""
    return f"{count} clip" if count == 1 else f"{count} clips"


def format_signed(value: float) -> str:
    """Returns "+4.1", or with a minus sign; never a negative zero."""
    return f"{value:+z.1f}".replace("-", "\N{MINUS SIGN}")


def format_interval(summary: Summary) -> str:
    """Returns "95 % interval +2.0 to +6.2", or that there is none."""
    if summary.low is None or summary.high is None:
        return "no interval"
    return f"95 % interval {format_signed(summary.low)} to {format_signed(summary.high)}"
