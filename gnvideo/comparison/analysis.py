"""Decides which conditions of a comparison are set against each other, and in which order.

A condition is a series (a normalizer, with the batch statistics it is evaluated with) in a setting
(clip shape and clips per batch). The baseline is BatchNorm where the comparison has it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gnvideo.comparison.results import ComparisonResults, RunResult
from gnvideo.comparison.statistics import PairedDifference, Summary, compare_paired, summarize

# More lines than these in one plot cannot be followed, whatever their colours and dashes.
_MAX_LINES = 8

_DISPLAY_NAMES = {
    "batch": "BatchNorm",
    "sync_batch": "Synchronized BatchNorm",
    "frozen_batch": "Frozen BatchNorm",
    "sub_batch": "Sub-batch BatchNorm",
    "batch_renorm": "Batch Renormalization",
    "moving_average_batch": "Moving-average BatchNorm",
    "batch_channel": "Batch-Channel Norm",
    "group": "GroupNorm",
    "layer": "LayerNorm",
    "instance": "InstanceNorm",
    "group_ws": "GroupNorm + weight standardization",
    "filter_response": "Filter Response Norm",
    "evonorm_s0": "EvoNorm-S0",
    "switchable": "Switchable Norm",
    "rms_group": "RMS GroupNorm",
    "weight_norm": "Weight Norm",
}


def get_kind(label: str) -> str:
    """Returns the name of a label's normalizer, without settings."""
    return label.partition("[")[0]


def display_name(normalizer: str) -> str:
    """Returns how reports write a normalizer's label, such as "GroupNorm (16 groups)".

    Args:
        normalizer: Such as "group" or "group[num_groups=16]".
    """
    name, _, settings = normalizer.partition("[")
    shown = _DISPLAY_NAMES.get(name, name)
    if not settings:
        return shown
    words = [_describe_setting(*text.split("=")) for text in settings.removesuffix("]").split(",")]
    return f"{shown} ({', '.join(words)})"


def _describe_setting(key: str, value: str) -> str:
    if key == "num_groups":
        return "1 group" if value == "1" else f"{value} groups"
    if key == "channels_per_group" and value != "null":
        return "1 channel per group" if value == "1" else f"{value} channels per group"
    if key == "per_frame":
        return "per frame" if value == "true" else "per clip"
    return f"{key.replace('_', ' ')} {value}"


@dataclass(frozen=True, slots=True)
class Series:
    """A normalizer, and whether it is evaluated with recomputed (precise) batch statistics.

    Attributes:
        normalizer: The label of its runs.
        precise: Whether with recomputed statistics.
    """

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
    """The conditions of a comparison and the statistics over their seeds.

    Attributes:
        results: Of the comparison.
        normalizers: Their labels. In the grid's order; where `is_ranked` the kind of normalizer
            that reaches the highest mean in the first setting comes first, and the settings of one
            kind stay in the grid's order.
        settings: In order.
        series: In the order of the normalizers, with running statistics before precise ones.
        baseline: The label of the normalizer that the others are set against.
        is_ranked: Whether series are told apart by rows instead of lines, since they are too many
            for lines, or since every clip shape has one number of clips per batch.
    """

    def __init__(self, results: ComparisonResults) -> None:
        self.results = results
        self._runs: dict[tuple[str, Setting], list[RunResult]] = {}
        for run in results.runs:
            data, training = run.config.data, run.config.training
            setting = Setting(data.num_frames, data.stride, training.clips_per_batch)
            self._runs.setdefault((run.label, setting), []).append(run)
        found = dict.fromkeys(label for label, _ in self._runs)
        # The grid's order, whatever the order of the runs.
        planned = [entry.label for entry in results.config.grid.normalizers if entry.label in found]
        self.settings = tuple(sorted({setting for _, setting in self._runs}))
        self.normalizers = tuple(dict.fromkeys([*planned, *found]))
        self.baseline = next(
            (label for label in self.normalizers if get_kind(label) == "batch"),
            self.normalizers[0],
        )
        self.series = self._list_series()
        self.is_ranked = len(self.series) > _MAX_LINES or len(self.clip_shapes) == len(
            self.settings
        )
        if self.is_ranked:
            self.normalizers = self._rank_normalizers()
            self.series = self._list_series()

    def _list_series(self) -> tuple[Series, ...]:
        with_precise = {
            run.label for run in self.results.runs if run.precise_evaluation is not None
        }
        return tuple(
            Series(label, precise)
            for label in self.normalizers
            for precise in (False, True)
            if not precise or label in with_precise
        )

    def _rank_normalizers(self) -> tuple[str, ...]:
        best: dict[str, float] = {}
        for series in self.series:
            summary = self.summarize(series, self.settings[0])
            if summary is not None:
                kind = get_kind(series.normalizer)
                best[kind] = max(summary.mean, best.get(kind, 0.0))
        kinds = dict.fromkeys(map(get_kind, self.normalizers))
        ranked = sorted(kinds, key=lambda kind: best.get(kind, -1.0), reverse=True)
        return tuple(
            label for kind in ranked for label in self.normalizers if get_kind(label) == kind
        )

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

    def find_best(self, setting: Setting) -> Series | None:
        """Returns the series with the highest mean; None where no run has finished.

        One with an interval comes before all without: a lucky seed of few is no best normalizer.
        """
        summaries = [
            (summary.margin is not None, summary.mean, series)
            for series in self.series
            if (summary := self.summarize(series, setting)) is not None
        ]
        return max(summaries, key=lambda found: found[:2], default=(False, 0.0, None))[2]

    def contrast_best(self, setting: Setting) -> list[Contrast]:
        """Returns each series that was run against the one with the highest mean."""
        best = self.find_best(setting)
        return [
            self.contrast((series, setting), (best, setting))
            for series in self.series
            if best is not None and series != best and self.list_runs(series.normalizer, setting)
        ]

    def contrast_batches(self) -> list[Contrast]:
        """Returns each series with fewer clips per batch against itself with the most."""
        return [
            self.contrast((series, setting), (series, settings[-1]))
            for settings in map(self.list_settings, self.clip_shapes)
            for series in self.series
            for setting in settings[:-1]
        ]


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
