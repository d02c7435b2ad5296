"""Decides how accuracies look where series are told apart by rows: many of them, one setting."""

from __future__ import annotations

import html
from typing import Any

from gnvideo.comparison.analysis import Analysis, Series, Setting
from gnvideo.comparison.report.figures import make_layout

_ROW_PIXELS = 34
_AXIS_PIXELS = 60

# Colour and marker by what is known of a series against the one with the highest mean.
_BEST = ("@blue", "diamond")
_ALIKE = ("@blue", "circle")
_LOWER = ("@ink", "circle-open")
_UNKNOWN = ("@axis", "x")


def make_dot_figure(
    analysis: Analysis, setting: Setting, range_percent: tuple[float, float]
) -> dict[str, Any]:
    """Returns video top-1 accuracy in one setting: a row for each series, in its order.

    Args:
        analysis: Of the comparison.
        setting: Clip shape and clips per batch.
        range_percent: Of the accuracy axis; the same for all settings.
    """
    rows = [series for series in analysis.series if analysis.list_runs(series.normalizer, setting)]
    styles = _choose_styles(analysis, setting)
    seeds = [
        (series, seed, value)
        for series in rows
        for seed, value in sorted(analysis.collect(series, setting).items())
    ]
    means = [
        (series, summary)
        for series in rows
        if (summary := analysis.summarize(series, setting)) is not None
    ]
    data = [
        {
            "type": "scatter",
            "mode": "markers",
            "x": [value for _, _, value in seeds],
            "y": [_make_row_name(series) for series, _, _ in seeds],
            "text": [f"seed {seed}" for _, seed, _ in seeds],
            "hovertemplate": "%{y}<br>%{text}: %{x:.1f} %<extra></extra>",
            "marker": {"color": [styles[series][0] for series, _, _ in seeds], "size": 5},
            "opacity": 0.5,
            "showlegend": False,
        },
        {
            "type": "scatter",
            "mode": "markers",
            "x": [summary.mean for _, summary in means],
            "y": [_make_row_name(series) for series, _ in means],
            "text": [f"{summary.num_seeds} seeds" for _, summary in means],
            "error_x": {
                "type": "data",
                "array": [summary.margin or 0 for _, summary in means],
                "color": "@axis",
                "thickness": 1.5,
                "width": 4,
            },
            "hovertemplate": "%{y}<br>mean of %{text}: %{x:.1f} %<extra></extra>",
            "marker": {
                "color": [styles[series][0] for series, _ in means],
                "symbol": [styles[series][1] for series, _ in means],
                "size": 11,
                "line": {"width": 2},
            },
            "showlegend": False,
        },
    ]
    layout = make_layout("video top-1 accuracy (%)", "", range_percent)
    names = [_make_row_name(series) for series in rows]
    layout["height"] = _ROW_PIXELS * len(rows) + _AXIS_PIXELS
    # The range belongs to the accuracies, which lie along the other axis here.
    layout["xaxis"] |= {"range": layout["yaxis"].pop("range"), "showgrid": True}
    layout["yaxis"] |= {
        "type": "category",
        "categoryarray": names,
        # Downwards, with half a row beyond the first and the last.
        "range": [len(names) - 0.5, -0.5],
        "ticks": "",
    }
    return {"data": data, "layout": layout}


def _choose_styles(analysis: Analysis, setting: Setting) -> dict[Series, tuple[str, str]]:
    styles: dict[Series, tuple[str, str]] = dict.fromkeys(analysis.series, _BEST)
    for contrast in analysis.contrast_best(setting):
        verdict = contrast.difference.verdict
        unknown = verdict.startswith("not enough seeds")
        styles[contrast.first[0]] = (
            _UNKNOWN if unknown else _LOWER if verdict == "lower" else _ALIKE
        )
    return styles


def _make_row_name(series: Series) -> str:
    """Returns the label on two lines where it has two parts, so that phones have room for dots."""
    return html.escape(series.label).replace(" (", "<br>(").replace(", precise", "<br>precise")
