"""Decides what is set beside the paper's Table 8, and says what differs from it.

Source of the numbers: Wu and He, "Group Normalization", ECCV 2018, Table 8, arXiv:1803.08494.
"""

from __future__ import annotations

from dataclasses import dataclass

from gnvideo.comparison.analysis import Analysis, Series, Setting, format_clips, format_signed
from gnvideo.comparison.report.accuracy import NO_VALUE
from gnvideo.comparison.report.blocks import Bullets, Columns, Paragraph, Section, Table
from gnvideo.comparison.report.method import describe_start


@dataclass(frozen=True, slots=True)
class PaperCell:
    """One column of Table 8: top-1 and top-5 accuracy in percent on Kinetics-400 val."""

    setting: Setting
    batch: tuple[float, float]
    group: tuple[float, float]


TABLE_8 = (
    PaperCell(Setting(32, 2, 8), batch=(73.3, 90.7), group=(73.0, 90.6)),
    PaperCell(Setting(32, 2, 4), batch=(72.1, 90.0), group=(72.8, 90.6)),
    PaperCell(Setting(64, 1, 4), batch=(73.3, 90.8), group=(74.5, 91.7)),
)


def make_paper_sections(analysis: Analysis) -> list[Section]:
    """Returns the paper's Table 8 beside this comparison's, where that has the table's columns."""
    if not {"batch", "group"} <= set(analysis.normalizers):
        return []
    blocks = [
        Paragraph(
            "Read the differences, not the absolute numbers: GroupNorm minus BatchNorm in each row,"
            " and what each loses from more to fewer clips per batch. The paper gives no intervals;"
            " those of this comparison are in the tables of differences above."
        ),
        Columns([_make_paper_table(), _make_our_table(analysis)]),
        Bullets(_describe_differences(analysis)),
    ]
    return [Section("Beside the paper", blocks)]


def _make_paper_table() -> Table:
    rows = [
        (
            _format_setting(cell.setting),
            _format_pair(cell.batch),
            _format_pair(cell.group),
            _format_gap(cell.group, cell.batch),
        )
        for cell in TABLE_8
    ]
    more, fewer = TABLE_8[0], TABLE_8[1]
    rows.append(
        (
            "8 to 4 clips",
            _format_gap(fewer.batch, more.batch),
            _format_gap(fewer.group, more.group),
            NO_VALUE,
        )
    )
    return Table(
        "Wu and He (2018), Table 8: Kinetics-400 val, top-1 / top-5 in percent",
        ("clip and batch", "BatchNorm", "GroupNorm", "difference"),
        rows,
    )


def _make_our_table(analysis: Analysis) -> Table:
    batch, group = Series("batch"), Series("group")
    rows = [
        (
            _format_setting(setting),
            _format_means(analysis, batch, setting),
            _format_means(analysis, group, setting),
            _format_contrast(analysis, (group, setting), (batch, setting)),
        )
        for shape in analysis.clip_shapes
        for setting in reversed(analysis.list_settings(shape))
    ]
    for shape in analysis.clip_shapes:
        settings = analysis.list_settings(shape)
        fewest, most = settings[0], settings[-1]
        if fewest != most:
            rows.append(
                (
                    f"{most.clips_per_batch} to {format_clips(fewest.clips_per_batch)}",
                    _format_contrast(analysis, (batch, fewest), (batch, most)),
                    _format_contrast(analysis, (group, fewest), (group, most)),
                    NO_VALUE,
                )
            )
    return Table(
        "This comparison: video top-1 / top-5 in percent, means over seeds",
        ("clip and batch", "BatchNorm", "GroupNorm", "difference"),
        rows,
    )


def _describe_differences(analysis: Analysis) -> list[str]:
    results = analysis.results
    config = results.runs[0].config
    evaluations = [run.evaluation for run in results.runs if run.evaluation is not None]
    videos = ", ".join(dict.fromkeys(str(evaluation["num_videos"]) for evaluation in evaluations))
    shapes = ", ".join(f"{frames} x {stride}" for frames, stride in analysis.clip_shapes)
    return [
        "Data: Kinetics-400 in the paper; here"
        f" `{config.data.root}`, {videos or 'no'} videos evaluated.",
        "Network: I3D ResNet-50 started from ImageNet weights in the paper; here"
        f" `{config.model.name}` of width {config.model.width}, and {describe_start(results)}.",
        f"Clips: 32 frames x stride 2 and 64 x 1 in the paper; here {shapes}, cropped to"
        f" {config.data.crop_pixels} pixels.",
        "Testing: 10 clips a video, softmax averaged, in the paper; here protocol"
        f" `{config.evaluation.protocol}`.",
        "Optimizer: the paper states neither the number of GPUs nor the learning rate of its"
        ' Kinetics runs; what was done here is said under "How the comparison was made".',
    ]


def _format_setting(setting: Setting) -> str:
    return f"{setting.num_frames} x {setting.stride}, {format_clips(setting.clips_per_batch)}"


def _format_pair(values: tuple[float, float]) -> str:
    return f"{values[0]:.1f} / {values[1]:.1f}"


def _format_gap(first: tuple[float, float], second: tuple[float, float]) -> str:
    return " / ".join(format_signed(a - b) for a, b in zip(first, second, strict=True))


def _format_means(analysis: Analysis, series: Series, setting: Setting) -> str:
    top1 = analysis.summarize(series, setting)
    top5 = analysis.summarize(series, setting, "video_top5")
    if top1 is None or top5 is None:
        return NO_VALUE
    return _format_pair((top1.mean, top5.mean))


def _format_contrast(
    analysis: Analysis, first: tuple[Series, Setting], second: tuple[Series, Setting]
) -> str:
    top1 = analysis.contrast(first, second).difference.summary
    top5 = analysis.contrast(first, second, "video_top5").difference.summary
    if top1 is None or top5 is None:
        return NO_VALUE
    return f"{format_signed(top1.mean)} / {format_signed(top5.mean)}"
