"""Decides how the validation error over epochs is reported: in panels, and in numbers."""

from __future__ import annotations

from gnvideo.comparison.analysis import Analysis, display_name, format_clips
from gnvideo.comparison.report.accuracy import NO_VALUE, format_clip_shape
from gnvideo.comparison.report.blocks import (
    Block,
    Details,
    Panel,
    Panels,
    Paragraph,
    Section,
    Table,
)
from gnvideo.comparison.report.figures import (
    compute_error_range,
    compute_mean_curve,
    describe_curve_panel,
    make_curve_figure,
)

_MAX_EPOCHS_IN_TABLE = 10
_MAX_LARGE_PANELS = 4
_SMALL_HEIGHT_PIXELS = 240


def make_curve_section(analysis: Analysis) -> Section:
    """Returns the validation error over epochs, one panel for each normalizer."""
    y_range = compute_error_range(analysis)
    protocols = dict.fromkeys(
        run.config.evaluation.monitor_protocol for run in analysis.results.runs
    )
    blocks: list[Block] = []
    small = len(analysis.normalizers) > _MAX_LARGE_PANELS
    size = {"height_pixels": _SMALL_HEIGHT_PIXELS} if small else {}
    for shape in analysis.clip_shapes:
        panels = [
            Panel(
                title=display_name(normalizer)
                + (f", {format_clip_shape(shape)}" if len(analysis.clip_shapes) > 1 else ""),
                description=describe_curve_panel(analysis, normalizer),
                figure=make_curve_figure(analysis, normalizer, shape, y_range, **size),
            )
            for normalizer in analysis.normalizers
        ]
        blocks.append(Panels(panels, small))
    blocks.append(
        Paragraph(
            f"Validation error (100 minus clip top-1) under {', '.join(protocols)}; the layout is"
            " that of the paper's Figure 7. Thin lines: single seeds, failed ones included. Thick"
            " lines: mean over finished seeds. All panels share one scale."
        )
    )
    blocks.append(Details("The curves in numbers", [_make_curve_table(analysis)]))
    return Section("Validation error over epochs", blocks)


def _make_curve_table(analysis: Analysis) -> Table:
    conditions = [
        (normalizer, setting, dict(compute_mean_curve(analysis.list_runs(normalizer, setting))))
        for setting in analysis.settings
        for normalizer in analysis.normalizers
        if analysis.list_runs(normalizer, setting)
    ]
    epochs = sorted({epoch for _, _, curve in conditions for epoch in curve})
    # The last epoch always, and a readable number of those before.
    step = max(1, -(-len(epochs) // _MAX_EPOCHS_IN_TABLE))
    shown = epochs[::-1][::step][::-1]
    return Table(
        caption="Mean validation error over finished seeds, percent",
        columns=("condition", *(f"epoch {epoch:.3g}" for epoch in shown)),
        rows=[
            (
                ", ".join(
                    (
                        display_name(normalizer),
                        *(
                            (format_clip_shape(setting.clip_shape),)
                            if len(analysis.clip_shapes) > 1
                            else ()
                        ),
                        format_clips(setting.clips_per_batch),
                    )
                ),
                *(f"{curve[epoch]:.1f}" if epoch in curve else NO_VALUE for epoch in shown),
            )
            for normalizer, setting, curve in conditions
        ],
    )
