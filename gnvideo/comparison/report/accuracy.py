"""Decides how final accuracies are reported: the main plot and the tables under it."""

from __future__ import annotations

from collections.abc import Sequence

from gnvideo.comparison.analysis import (
    Analysis,
    Contrast,
    Setting,
    format_clips,
    format_signed,
    get_kind,
)
from gnvideo.comparison.report.blocks import (
    Block,
    Panel,
    Panels,
    Paragraph,
    Section,
    Table,
)
from gnvideo.comparison.report.dots import make_dot_figure
from gnvideo.comparison.report.figures import (
    compute_accuracy_range,
    make_accuracy_figure,
)
from gnvideo.comparison.statistics import MIN_SEEDS, Summary

NO_VALUE = "n/a"

# Of normalizers whose statistics see other clips than those of their batch.
_STATISTICS_NOTES = {
    "sub_batch": " Those of Sub-batch BatchNorm see the part of them that `sub_batch_clips` says.",
    "moving_average_batch": " Those of Moving-average BatchNorm see earlier batches, too.",
}


def make_accuracy_section(analysis: Analysis) -> Section:
    """Returns video accuracy by series and clips per batch, as plots and as a table."""
    legend = (
        "Large markers: mean over seeds, with 95 % confidence intervals (Student's t) from"
        f" {MIN_SEEDS} seeds on. Small markers: single seeds. The clips per batch are those that"
        " batch statistics see."
    )
    kinds = set(map(get_kind, analysis.normalizers))
    legend += "".join(note for kind, note in _STATISTICS_NOTES.items() if kind in kinds)
    if analysis.is_ranked:
        legend += (
            " Diamond: the highest mean. Blue discs: no difference from it is shown. Open circles:"
            " lower by the paired difference, whose interval may decide where those of the means"
            " overlap. Crosses: too few seeds for a verdict. In order of accuracy, but for the"
            " settings of one normalizer, which stand together in the grid's order."
        )
    if any(series.precise for series in analysis.series):
        legend += (
            " Batch statistics are evaluated twice: the running ones, and statistics recomputed"
            " after training (precise)."
        )
    blocks: list[Block] = [
        Panels(_make_dot_panels(analysis) if analysis.is_ranked else _make_line_panels(analysis)),
        Paragraph(legend),
        _make_cell_table(analysis),
    ]
    return Section("Accuracy by clips per batch", blocks)


def _make_line_panels(analysis: Analysis) -> list[Panel]:
    y_range = compute_accuracy_range(analysis)
    return [
        Panel(
            title=format_clip_shape(shape) if len(analysis.clip_shapes) > 1 else "",
            description="Video top-1 accuracy against clips per batch for"
            f" {format_clip_shape(shape)}, one line for each normalizer; the numbers are in the"
            " table below.",
            figure=make_accuracy_figure(analysis, shape, y_range),
        )
        for shape in analysis.clip_shapes
    ]


def _make_dot_panels(analysis: Analysis) -> list[Panel]:
    x_range = compute_accuracy_range(analysis)
    panels: list[Panel] = []
    for setting in analysis.settings:
        title = f"{format_clips(setting.clips_per_batch)} per batch"
        if len(analysis.clip_shapes) > 1:
            title += f", {format_clip_shape(setting.clip_shape)}"
        description = (
            f"Video top-1 accuracy with {title}, one row for each normalizer; the numbers are in"
            " the table below."
        )
        panels.append(Panel(title, description, make_dot_figure(analysis, setting, x_range)))
    return panels


def make_difference_section(analysis: Analysis) -> Section:
    """Returns the paired differences between normalizers and between clips per batch."""
    blocks: list[Block] = []
    if len(analysis.normalizers) > 2:
        for setting in analysis.settings:
            blocks += _make_normalizer_tables(
                analysis, analysis.contrast_best(setting), ", the highest mean"
            )
    blocks += _make_normalizer_tables(analysis, analysis.contrast_normalizers(), "")
    within = analysis.contrast_batches()
    if within:
        rows = [
            (
                series.label,
                *format_setting(analysis, fewer),
                *_format_contrast(contrast),
            )
            for contrast in within
            for (series, fewer), _ in [(contrast.first, contrast.second)]
        ]
        most = ", ".join(
            dict.fromkeys(str(contrast.second[1].clips_per_batch) for contrast in within)
        )
        blocks.append(
            _make_difference_table(
                f"What fewer clips per batch change, against {most} clips per batch, in points of"
                " video top-1",
                analysis,
                rows,
                within,
                [contrast.first[0] for contrast in within],
            )
        )
    blocks.append(
        Paragraph(
            "Differences are taken seed by seed: at one seed the runs start from the same"
            " convolution weights, and at equal clips per batch they see the same clips in the"
            " same order. A verdict says on which side of zero the 95 % interval lies; each row"
            " stands for itself, without a correction for the number of rows: of many, some decide"
            " by chance, and the highest of many means is partly luck."
        )
    )
    return Section("Differences, paired by seed", blocks)


def format_clip_shape(shape: tuple[int, int]) -> str:
    """Returns "32 frames, stride 2"."""
    return f"{shape[0]} frames, stride {shape[1]}"


def format_summary(summary: Summary | None) -> str:
    """Returns "71.3 ± 0.4"; the interval is left out where there are too few seeds for one."""
    if summary is None:
        return NO_VALUE
    return f"{summary.mean:.1f}" + ("" if summary.margin is None else f" ± {summary.margin:.1f}")


def _make_cell_table(analysis: Analysis) -> Table:
    metrics = ("video_top1", "video_top5", "clip_top1", "mean_class_accuracy")
    has_shapes = len(analysis.clip_shapes) > 1
    conditions = [
        (series, setting)
        for setting in analysis.settings
        for series in analysis.series
        if analysis.list_runs(series.normalizer, setting)
    ]
    rows: list[tuple[str, ...]] = []
    warned_rows: list[int] = []
    for index, (series, setting) in enumerate(conditions):
        num_seeds = len(analysis.collect(series, setting))
        num_planned = len(analysis.list_runs(series.normalizer, setting))
        means = [analysis.summarize(series, setting, metric) for metric in metrics]
        rows.append(
            (
                series.label,
                *format_setting(analysis, setting),
                *map(format_summary, means),
                f"{num_seeds} of {num_planned}",
            )
        )
        if num_seeds < num_planned:
            warned_rows.append(index)
    return Table(
        caption="Accuracy in percent, mean ± half the 95 % interval over seeds",
        columns=(
            "normalizer",
            *list_setting_columns(analysis),
            "video top-1",
            "video top-5",
            "clip top-1",
            "mean class",
            "seeds",
        ),
        rows=rows,
        text_columns=(1,) if has_shapes else (),
        warned_rows=warned_rows,
        group_starts=_find_changes([setting for _, setting in conditions]),
    )


def _make_normalizer_tables(
    analysis: Analysis, contrasts: Sequence[Contrast], note: str
) -> list[Table]:
    """Returns a table for each series that others are set against in equal settings.

    Args:
        analysis: Of the comparison.
        contrasts: In the order of the rows.
        note: On that series, for the caption.
    """
    tables: list[Table] = []
    for reference in dict.fromkeys(contrast.second[0] for contrast in contrasts):
        against = [contrast for contrast in contrasts if contrast.second[0] == reference]
        rows = [
            (
                contrast.first[0].label,
                *format_setting(analysis, contrast.first[1]),
                *_format_contrast(contrast),
            )
            for contrast in against
        ]
        caption = (
            f"Video top-1 minus that of {reference.label}{note}, at equal clips per batch, in"
            " points"
        )
        groups = [contrast.first[1] for contrast in against]
        tables.append(_make_difference_table(caption, analysis, rows, against, groups))
    return tables


def _make_difference_table(
    caption: str,
    analysis: Analysis,
    rows: Sequence[Sequence[str]],
    contrasts: Sequence[Contrast],
    groups: Sequence[object],
) -> Table:
    has_shapes = len(analysis.clip_shapes) > 1
    return Table(
        caption=caption,
        columns=(
            "normalizer",
            *list_setting_columns(analysis),
            "difference",
            "95 % interval",
            "seeds",
            "verdict",
        ),
        rows=rows,
        text_columns=(1, 6) if has_shapes else (5,),
        marked_rows=[
            index for index, contrast in enumerate(contrasts) if contrast.difference.is_decided
        ],
        group_starts=_find_changes(groups),
    )


def _find_changes(values: Sequence[object]) -> list[int]:
    """Returns the indices at which a value differs from the one before it."""
    return [index for index in range(1, len(values)) if values[index] != values[index - 1]]


def list_setting_columns(analysis: Analysis) -> tuple[str, ...]:
    """Returns the columns that tell settings apart: the clip only where it varies."""
    return (
        ("frames x stride", "clips per batch")
        if len(analysis.clip_shapes) > 1
        else ("clips per batch",)
    )


def format_setting(analysis: Analysis, setting: Setting) -> tuple[str, ...]:
    """Returns the cells under `list_setting_columns`."""
    clips = str(setting.clips_per_batch)
    if len(analysis.clip_shapes) > 1:
        return f"{setting.num_frames} x {setting.stride}", clips
    return (clips,)


def _format_contrast(contrast: Contrast) -> tuple[str, str, str, str]:
    difference = contrast.difference
    summary = difference.summary
    if summary is None:
        return NO_VALUE, NO_VALUE, f"0 of {difference.num_planned}", difference.verdict
    interval = NO_VALUE
    if summary.low is not None and summary.high is not None:
        interval = f"{format_signed(summary.low)} to {format_signed(summary.high)}"
    seeds = f"{summary.num_seeds} of {difference.num_planned}"
    return format_signed(summary.mean), interval, seeds, difference.verdict
