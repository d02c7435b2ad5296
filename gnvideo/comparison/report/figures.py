"""Decides how the plots look: what is drawn for which numbers, in colours that everybody can tell.

Figures are plain dictionaries for plotly.js; colour names starting with "@" are resolved in
page.js. The colours are those of Okabe and Ito, "Color Universal Design", 2008; marker and dash
tell normalizers apart without them.
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Sequence
from statistics import fmean
from typing import Any

from gnvideo.comparison.analysis import Analysis, Series, display_name, format_clips
from gnvideo.comparison.results import RunResult

_STYLES = {
    "batch": ("@vermillion", "circle", "dash"),
    "group": ("@blue", "square", "solid"),
}
_OTHER_STYLES = (
    ("@green", "diamond", "dashdot"),
    ("@purple", "triangle-up", "longdash"),
    ("@orange", "cross", "longdashdot"),
    ("@yellow", "star", "solid"),
    ("@sky", "hexagon", "dash"),
    ("@ink", "x", "dashdot"),
)
_CLIPS_STYLES = (
    ("@purple", "solid"),
    ("@green", "dash"),
    ("@orange", "dashdot"),
    ("@sky", "longdash"),
    ("@ink", "solid"),
)
# Conditions at equal clips per batch stand this far apart, in doublings, so that bars do not hide.
_OFFSET_DOUBLINGS = 0.06

MeanCurve = list[tuple[float, float]]
"""Epoch and mean error in percent, ascending in epochs."""


def make_accuracy_figure(
    analysis: Analysis, clip_shape: tuple[int, int], range_percent: tuple[float, float]
) -> dict[str, Any]:
    """Returns video top-1 accuracy against clips per batch, a line with intervals for each series.

    Args:
        analysis: Of the comparison.
        clip_shape: Frames and stride of the settings to draw.
        range_percent: Of the accuracy axis; the same for all clip shapes.
    """
    settings = analysis.list_settings(clip_shape)
    clips = [setting.clips_per_batch for setting in settings]
    middle = (len(analysis.series) - 1) / 2
    data: list[dict[str, Any]] = []
    for index, series in enumerate(analysis.series):
        factor = 2 ** ((index - middle) * _OFFSET_DOUBLINGS)
        colour, symbol, dash = _get_style(analysis, series)
        label = html.escape(series.label)
        seeds = [
            (setting.clips_per_batch, seed, value)
            for setting in settings
            for seed, value in sorted(analysis.collect(series, setting).items())
        ]
        data.append(
            {
                "type": "scatter",
                "mode": "markers",
                "x": [count * factor * 2**0.025 for count, _, _ in seeds],
                "y": [value for _, _, value in seeds],
                "text": [f"seed {seed}" for _, seed, _ in seeds],
                "hovertemplate": f"{label}<br>%{{text}}: %{{y:.1f}} %<extra></extra>",
                "marker": {"color": colour, "symbol": symbol, "size": 6},
                "opacity": 0.55,
                "legendgroup": label,
                "showlegend": False,
            }
        )
        means = [
            (setting.clips_per_batch, summary)
            for setting in settings
            if (summary := analysis.summarize(series, setting)) is not None
        ]
        data.append(
            {
                "type": "scatter",
                "mode": "lines+markers",
                "name": label,
                "x": [count * factor for count, _ in means],
                "y": [summary.mean for _, summary in means],
                "customdata": [
                    f"{format_clips(count)} per batch, {summary.num_seeds} seeds"
                    for count, summary in means
                ],
                "error_y": {
                    "type": "data",
                    "array": [summary.margin or 0 for _, summary in means],
                    "color": colour,
                    "thickness": 1.5,
                    "width": 5,
                },
                "hovertemplate": f"{label}<br>%{{customdata}}: %{{y:.1f}} %<extra></extra>",
                "line": {"color": colour, "dash": dash, "width": 2.5},
                "marker": {"color": colour, "symbol": symbol, "size": 10},
                "legendgroup": label,
            }
        )
    layout = make_layout("clips per batch", "video top-1 accuracy (%)", range_percent)
    layout["height"] = 440
    layout["xaxis"] |= {
        "type": "log",
        "tickvals": clips,
        "ticktext": [str(count) for count in clips],
        "range": _compute_log_range(clips),
    }
    return {"data": data, "layout": layout}


def compute_accuracy_range(analysis: Analysis) -> tuple[float, float]:
    """Returns the range of accuracies, in percent, that holds all seeds and intervals."""
    values: list[float] = []
    for series in analysis.series:
        for setting in analysis.settings:
            values += analysis.collect(series, setting).values()
            summary = analysis.summarize(series, setting)
            if summary is not None and summary.low is not None and summary.high is not None:
                values += [summary.low, summary.high]
    return _pad(values)


def make_curve_figure(
    analysis: Analysis,
    normalizer: str,
    clip_shape: tuple[int, int],
    range_percent: tuple[float, float],
    height_pixels: int = 360,
) -> dict[str, Any]:
    """Returns validation error against epochs: one colour for each clips per batch.

    A thin line is a seed, also one that failed; a thick one is the mean over finished seeds.
    """
    data: list[dict[str, Any]] = []
    all_clips = sorted({setting.clips_per_batch for setting in analysis.settings})
    for setting in analysis.list_settings(clip_shape):
        runs = analysis.list_runs(normalizer, setting)
        colour, dash = _CLIPS_STYLES[all_clips.index(setting.clips_per_batch) % len(_CLIPS_STYLES)]
        name = f"{format_clips(setting.clips_per_batch)} per batch"
        for run in runs:
            data.append(
                {
                    "type": "scatter",
                    "mode": "lines",
                    "x": [point.epoch for point in run.curve],
                    "y": [100 - point.clip_top1 for point in run.curve],
                    "line": {"color": colour, "width": 1},
                    "opacity": 0.4,
                    "hoverinfo": "skip",
                    "legendgroup": name,
                    "showlegend": False,
                }
            )
        mean = compute_mean_curve(runs)
        if mean:
            data.append(
                {
                    "type": "scatter",
                    "mode": "lines",
                    "name": name,
                    "x": [epoch for epoch, _ in mean],
                    "y": [error for _, error in mean],
                    "hovertemplate": f"{name}<br>epoch %{{x:.3g}}: %{{y:.1f}} %<extra></extra>",
                    "line": {"color": colour, "width": 3, "dash": dash},
                    "legendgroup": name,
                }
            )
    layout = make_layout("epoch", "validation error (%)", range_percent)
    layout["height"] = height_pixels
    layout["xaxis"]["rangemode"] = "tozero"
    layout["showlegend"] = len(all_clips) > 1
    return {"data": data, "layout": layout}


def compute_mean_curve(runs: Iterable[RunResult]) -> MeanCurve:
    """Returns the mean error of the finished `runs` at the epochs that all of them evaluated."""
    curves = [
        {point.epoch: 100 - point.clip_top1 for point in run.curve}
        for run in runs
        if run.is_finished and run.curve
    ]
    if not curves:
        return []
    shared = set(curves[0]).intersection(*curves[1:])
    return [(epoch, fmean(curve[epoch] for curve in curves)) for epoch in sorted(shared)]


def compute_error_range(analysis: Analysis) -> tuple[float, float]:
    """Returns the range, in percent, that holds the errors of all curves."""
    return _pad([100 - point.clip_top1 for run in analysis.results.runs for point in run.curve])


def describe_curve_panel(analysis: Analysis, normalizer: str) -> str:
    """Returns what a panel of curves shows, in words."""
    return (
        f"Validation error of {display_name(normalizer)} over epochs, one line for each number of"
        f" clips per batch; the numbers are in the table below the plots."
    )


def _get_style(analysis: Analysis, series: Series) -> tuple[str, str, str]:
    others = [name for name in analysis.normalizers if name not in _STYLES]
    if series.normalizer in _STYLES:
        colour, symbol, dash = _STYLES[series.normalizer]
    else:
        colour, symbol, dash = _OTHER_STYLES[others.index(series.normalizer) % len(_OTHER_STYLES)]
    return (colour, f"{symbol}-open", "dot") if series.precise else (colour, symbol, dash)


def make_layout(x_title: str, y_title: str, y_range: tuple[float, float]) -> dict[str, Any]:
    """Returns the layout that all plots share."""
    axis = {
        "gridcolor": "@grid",
        "linecolor": "@axis",
        "zeroline": False,
        "showline": True,
        "ticks": "outside",
        "tickcolor": "@axis",
        "automargin": True,
        "fixedrange": True,
    }
    return {
        "xaxis": {**axis, "title": _make_title(x_title), "showgrid": False},
        "yaxis": {**axis, "title": _make_title(y_title), "range": list(y_range)},
        "font": {"color": "@ink", "size": 13},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "hoverlabel": {"bgcolor": "@surface", "bordercolor": "@axis", "font": {"color": "@ink"}},
        "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"},
        "margin": {"l": 8, "r": 12, "t": 8, "b": 8},
    }


def _make_title(text: str) -> dict[str, Any]:
    return {"text": text, "font": {"size": 13}, "standoff": 8}


def _compute_log_range(clips: Sequence[int]) -> list[float]:
    """Returns the ends of the axis as powers of ten, half a doubling beyond the data."""
    margin = math.log10(2) / 2
    return [math.log10(min(clips)) - margin, math.log10(max(clips)) + margin]


def _pad(values: Sequence[float]) -> tuple[float, float]:
    if not values:
        return 0.0, 100.0
    margin = max(1.0, 0.06 * (max(values) - min(values)))
    return max(0.0, min(values) - margin), min(100.0, max(values) + margin)
