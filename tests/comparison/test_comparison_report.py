from __future__ import annotations

import io
import re
from html.parser import HTMLParser

import pytest
from rich.console import Console

from gnvideo.comparison import make_runs, print_summary_table, read_results, write_report
from gnvideo.comparison.analysis import (
    Analysis,
    Series,
    Setting,
    display_name,
    format_signed,
)
from gnvideo.comparison.finding import compose_finding
from gnvideo.comparison.report.dots import make_dot_figure
from gnvideo.comparison.report.figures import make_accuracy_figure, make_curve_figure
from gnvideo.comparison.report.paper import TABLE_8
from gnvideo.comparison.run_folder import STATUS_FILE
from gnvideo.config import dump_config
from gnvideo.layers import NORMALIZERS

MINUS = "\N{MINUS SIGN}"
SECTIONS = [
    "Accuracy by clips per batch",
    "Differences, paired by seed",
    "Validation error over epochs",
    "Beside the paper",
    "Speed and memory",
    "How the comparison was made",
    "Runs",
    "Reproduce",
]


def read_finding(config) -> str:
    return compose_finding(Analysis(read_results(config.output)))


@pytest.fixture
def set_accuracies(make_comparison, write_run, write_comparison):
    """Writes a comparison at 1 and 8 clips whose accuracies are given by normalizer and clips."""

    def write(accuracies, *overrides):
        config = make_comparison(*overrides)
        write_comparison(config)
        for run in make_runs(config):
            key = run.label, run.config.training.clips_per_batch
            write_run(run, accuracy=accuracies[key][run.config.seed])
        return config

    return write


BATCH_EQUAL = {("batch", 8): (70, 71, 72), ("group", 8): (70.5, 71.0, 71.5)}


def test_the_finding_says_where_group_norm_wins(set_accuracies):
    config = set_accuracies(
        BATCH_EQUAL | {("batch", 1): (60, 61, 62), ("group", 1): (69, 71, 71.5)}
    )
    assert read_finding(config) == (
        "With 1 clip per batch GroupNorm is 9.5 points above BatchNorm (95 % interval +8.3 to"
        " +10.7); with 8 clips per batch no difference between GroupNorm and BatchNorm is shown"
        " (+0.0 points, 95 % interval \N{MINUS SIGN}1.2 to +1.2)."
    )


def test_the_finding_says_where_group_norm_loses(set_accuracies):
    config = set_accuracies(
        BATCH_EQUAL | {("batch", 1): (69, 71, 71.5), ("group", 1): (60, 61, 62)}
    )
    finding = read_finding(config)
    assert "With 1 clip per batch GroupNorm is 9.5 points below BatchNorm" in finding


def test_the_finding_claims_no_gain_that_precise_statistics_give_too(set_accuracies):
    # write_run lifts the accuracy with precise statistics by 2 points at 1 clip per batch.
    config = set_accuracies(
        BATCH_EQUAL | {("batch", 1): (60, 61, 62), ("group", 1): (62.0, 63.1, 63.9)}
    )
    finding = read_finding(config)
    assert "GroupNorm is 2.0 points above BatchNorm" in finding
    assert ", but against its precise statistics no difference shown: +0.0" in finding


def test_the_finding_says_nothing_from_two_seeds(set_accuracies):
    config = set_accuracies(
        BATCH_EQUAL | {("batch", 1): (60, 61, 62), ("group", 1): (69, 71, 71.5)},
        "grid.seeds=[0, 1]",
    )
    assert read_finding(config).startswith(
        "With 1 clip per batch nothing can be said about GroupNorm and BatchNorm:"
        " 2 of the 3 seeds that a verdict needs (so far +9.5 points);"
    )


MANY = "grid.normalizers=[batch, group, layer, instance, {name: group, num_groups: 1}]"
ONE_CLIP = {
    ("batch", 1): (60, 61, 62),
    ("group", 1): (66, 67.5, 68),
    ("layer", 1): (69, 71, 71.5),
    ("instance", 1): (68, 71.5, 71.5),
    ("group[num_groups=1]", 1): (66, 68, 67.5),
}


def test_the_finding_of_many_names_the_best_its_equals_and_where_group_norm_loses(set_accuracies):
    config = set_accuracies(ONE_CLIP, MANY, "grid.clips_per_batch=[1]")
    assert read_finding(config) == (
        "With 1 clip per batch LayerNorm has the highest mean video top-1 of the 6 compared"
        " (70.5 %); no difference from it is shown for InstanceNorm; 4 are lower, GroupNorm among"
        f" them by 3.3 points (95 % interval {MINUS}4.1 to {MINUS}2.6)."
        " GroupNorm is 6.2 points above BatchNorm (95 % interval +5.4 to +6.9)."
    )


def test_the_finding_of_many_says_what_changes_at_the_most_clips(set_accuracies):
    same = {(label, 8): (70.0, 71.0, 71.5) for label, _ in ONE_CLIP}
    same["batch", 8] = (75.0, 75.5, 77.0)
    config = set_accuracies(ONE_CLIP | same, MANY)
    text = write_report(read_results(config.output)).with_name("report.md").read_text()
    title, lede = text.split("\n\n")[:2]
    assert "With 1 clip per batch LayerNorm has the highest mean" in title
    # write_run lifts precise statistics by a quarter of a point at 8 clips.
    best = "BatchNorm with precise statistics"
    assert f"With 8 clips per batch {best} has the highest mean video top-1 of the 6" in lede
    assert "4 are lower, GroupNorm among them by" in lede
    assert "lower" not in title.partition(";")[0]


def test_the_finding_of_many_names_few_and_counts_the_others(make_comparison, write_run):
    names = ", ".join(f"{{name: group, num_groups: {groups}}}" for groups in range(1, 10))
    config = make_comparison(f"grid.normalizers=[{names}]", "grid.clips_per_batch=[2]")
    for run in make_runs(config):
        groups, seed = run.config.normalizer.num_groups, run.config.seed
        write_run(run, accuracy=70 + groups / 100 + (seed * groups % 7))
    (config.output / "config.yaml").write_text(dump_config(config))
    finding = read_finding(config)
    assert re.search(r"shown for GroupNorm \(1 group\), ([^,]+, ){2}[^,]+ and 4 others\.$", finding)
    assert finding.count("GroupNorm (") == 5


def test_one_lucky_seed_is_not_the_best_of_many(set_accuracies, write_run):
    config = set_accuracies(ONE_CLIP, MANY, "grid.clips_per_batch=[1]")
    lucky, *others = [run for run in make_runs(config) if run.label == "instance"]
    write_run(lucky, accuracy=99)
    for run in others:
        write_run(run, num_epochs=2, is_done=False)
    finding = read_finding(config)
    assert finding.startswith("With 1 clip per batch LayerNorm has the highest mean")
    assert "1 lacks the 3 finished seeds that a verdict needs" in finding


def test_nothing_is_found_among_many_from_two_seeds(make_comparison, write_comparison):
    config = make_comparison(MANY, "grid.seeds=[0, 1]", "grid.clips_per_batch=[2]")
    write_comparison(config)
    finding = read_finding(config)
    assert "so far; a verdict needs 3 seeds that finished" in finding
    assert "lower" not in finding


def test_a_series_has_its_settings_in_its_name():
    assert display_name("group") == "GroupNorm"
    assert display_name("group[num_groups=1]") == "GroupNorm (1 group)"
    assert display_name("group[num_groups=16,per_frame=true]") == (
        "GroupNorm (16 groups, per frame)"
    )
    assert display_name("instance[channels_per_group=null,eps=1e-05]") == (
        "InstanceNorm (channels per group null, eps 1e-05)"
    )
    assert display_name("new[momentum=0.5]") == "new (momentum 0.5)"


@pytest.mark.parametrize("name", NORMALIZERS)
def test_reports_write_every_normalizer_as_a_name(name):
    assert display_name(name)[0].isupper()
    assert "_" not in display_name(name)


def test_the_baseline_is_batch_norm_or_else_the_grids_first(make_comparison, write_comparison):
    names = "{name: group, num_groups: 8}, {name: group, num_groups: 4}"
    config = make_comparison(f"grid.normalizers=[{names}]", "grid.clips_per_batch=[2]")
    write_comparison(config)
    assert Analysis(read_results(config.output)).baseline == "group[num_groups=8]"
    config = make_comparison(f"grid.normalizers=[{names}, {{name: batch, momentum: 0.5}}]")
    write_comparison(config)
    assert Analysis(read_results(config.output)).baseline == "batch[momentum=0.5]"


def test_many_series_are_ranked_and_the_settings_of_one_normalizer_keep_their_order(
    set_accuracies,
):
    config = set_accuracies(ONE_CLIP, MANY, "grid.clips_per_batch=[1]")
    analysis = Analysis(read_results(config.output))
    assert analysis.is_ranked
    labels = ["layer", "instance", "group", "group[num_groups=1]", "batch"]
    assert list(analysis.normalizers) == labels
    assert [series.normalizer for series in analysis.series] == [*labels, "batch"]
    figure = make_dot_figure(analysis, Setting(8, 2, 1), (0, 100))
    rows = figure["layout"]["yaxis"]["categoryarray"]
    assert rows == [
        *("LayerNorm", "InstanceNorm", "GroupNorm", "GroupNorm<br>(1 group)", "BatchNorm"),
        "BatchNorm<br>precise statistics",
    ]
    seeds, means = figure["data"]
    assert means["y"] == rows
    assert len(seeds["x"]) == 6 * 3
    summary = analysis.summarize(Series("layer"), Setting(8, 2, 1))
    assert summary is not None
    assert (means["x"][0], means["error_x"]["array"][0]) == (summary.mean, summary.margin)
    # The best, one like it, and four below.
    assert means["marker"]["symbol"] == ["diamond", "circle", *["circle-open"] * 4]


def test_few_series_at_several_clips_are_lines_in_the_grids_order(
    make_comparison, write_comparison
):
    config = make_comparison("grid.normalizers=[instance, batch, group]")
    write_comparison(config)
    analysis = Analysis(read_results(config.output))
    assert not analysis.is_ranked
    assert analysis.normalizers == ("instance", "batch", "group")


def test_the_paper_stands_only_beside_its_own_normalizers(make_comparison, write_comparison):
    config = make_comparison("grid.normalizers=[group, {name: group, num_groups: 8}]")
    write_comparison(config)
    text = write_report(read_results(config.output)).with_name("report.md").read_text()
    assert "## Beside the paper" not in text


def test_no_verdict_stands_in_a_report_of_two_seeds(make_comparison, write_comparison):
    config = make_comparison("grid.seeds=[0, 1]")
    write_comparison(config)
    text = write_report(read_results(config.output)).with_name("report.md").read_text()
    assert "not enough seeds: 2 of 3" in text
    for word in ("higher", "lower", "no difference shown", "±"):
        # The caption explains the sign; no cell carries it.
        cells = [cell.strip() for line in text.splitlines() for cell in line.split("|")[1:-1]]
        assert not any(word in cell for cell in cells)


def test_the_finding_is_not_made_up_for_one_normalizer(make_comparison, write_comparison):
    config = make_comparison("grid.normalizers=[group]")
    write_comparison(config)
    assert read_finding(config) == ("GroupNorm alone was run: there is nothing to compare it with.")
    assert write_report(read_results(config.output)).exists()


def test_a_failed_seed_counts_in_no_mean_and_stands_in_the_report(
    make_comparison, write_comparison, write_run
):
    config = make_comparison()
    failed, *_ = write_comparison(config)
    write_run(failed, num_epochs=4, is_done=False)
    reason = "the loss is nan at step 120 <script>alert(1)</script> | `x`"
    (failed.folder / STATUS_FILE).write_text(f"failed: {reason}\n")
    results = read_results(config.output)
    analysis = Analysis(results)
    collected = analysis.collect(Series("batch"), Setting(8, 2, 1))
    assert sorted(collected) == [1, 2]
    page_path = write_report(results)
    page, text = page_path.read_text(), page_path.with_name("report.md").read_text()
    assert "1 of 12 runs failed and are in no mean" in page
    assert "1 of 12 runs failed and are in no mean" in text
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "<script>" not in text
    row = next(line for line in text.splitlines() if line.startswith(f"| **{failed.name}**"))
    assert len(re.split(r"(?<!\\)\|", row)) == 9


def test_a_comparison_without_any_result_has_a_report(make_comparison, write_run):
    config = make_comparison("grid.seeds=[0]")
    for run in make_runs(config):
        write_run(run, num_epochs=0, is_done=False)
    (config.output / "config.yaml").write_text(dump_config(config))
    results = read_results(config.output)
    text = write_report(results).with_name("report.md").read_text()
    assert "nothing can be said" in text.splitlines()[0]
    assert "4 of 4 runs are still to be done" in text


def test_differing_coverage_is_said_before_everything_else(
    make_comparison, write_comparison, write_run
):
    config = make_comparison("grid.seeds=[0]")
    runs = write_comparison(config)
    write_run(runs[2], coverage={"fingerprint": "ffffffffffff"})
    page_path = write_report(read_results(config.output))
    for text in (page_path.read_text(), page_path.with_name("report.md").read_text()):
        warning = text.index("not evaluated on the same data: coverage differs")
        assert warning < text.index("Accuracy by clips per batch")


@pytest.mark.parametrize(
    ("override", "statement"),
    [
        (
            "grid.seeds=[0, 1, 2]",
            "every normalizer starts from the same random convolution weights",
        ),
        (
            "base.training.initial_weights=one.pth",
            "every normalizer starts from `one.pth`, and at one seed from the same head",
        ),
        (
            "grid.initial_weights={batch: bn.pth, group: gn.pth}",
            "started from `bn.pth` (BatchNorm), `gn.pth` (GroupNorm)",
        ),
    ],
)
def test_report_says_which_weights_the_runs_started_from(
    make_comparison, write_comparison, override, statement
):
    config = make_comparison(override)
    write_comparison(config)
    text = write_report(read_results(config.output)).with_name("report.md").read_text()
    # Under how the comparison was made, and beside the paper.
    assert text.count(statement) == 2


def test_report_says_what_the_fairness_rules_were(make_comparison, write_comparison):
    config = make_comparison(
        "mode=isolated",
        "clips_per_step=16",
        "base.training.precision=bfloat16",
        "base.normalizer={num_groups: 4, eps: 1e-3}",
    )
    write_comparison(config)
    text = write_report(read_results(config.output)).with_name("report.md").read_text()
    for statement in (
        "0 in the last normalizer of each residual block, 1 elsewhere",
        "Weight decay: 0 on gamma and beta, 0.0001 on the other weights",
        "0.02 for 64 clips per step, linear",
        "Settings of normalizers: num_groups 4, eps 0.001, for each that reads them",
        "the optimizer's batch is 16 clips throughout",
        "bfloat16, channels last",
        "recomputed over 200 batches",
        "protocol `gn-10` (10 clips a video) on 200 videos of split `val`; 10 videos",
        "fingerprint 0f3a5c7e9b1d",
        "| 1 | 16 | 16 | 0.005 |",
        "| 8 | 2 | 16 | 0.005 |",
        "| torch | 2.11.0 |",
    ):
        assert statement in text


def test_sections_stand_in_order_in_both_forms(make_comparison, write_comparison):
    config = make_comparison()
    write_comparison(config)
    page_path = write_report(read_results(config.output))
    headings = re.findall(r"<h2>(.*?)</h2>", page_path.read_text())
    assert headings == SECTIONS
    text = page_path.with_name("report.md").read_text()
    assert re.findall(r"^## (.*)$", text, re.M) == SECTIONS


def test_the_papers_table_8_is_quoted_right():
    # Wu and He (2018), Table 8: the prose states the gaps.
    eight, four, long = TABLE_8
    assert (eight.batch, eight.group) == ((73.3, 90.7), (73.0, 90.6))
    assert (four.batch, four.group) == ((72.1, 90.0), (72.8, 90.6))
    assert (long.batch, long.group) == ((73.3, 90.8), (74.5, 91.7))
    assert eight.batch[0] - four.batch[0] == pytest.approx(1.2)
    assert long.group[0] - four.group[0] == pytest.approx(1.7)


def test_panels_of_curves_share_one_scale_and_show_every_seed(make_comparison, write_comparison):
    config = make_comparison()
    write_comparison(config)
    analysis = Analysis(read_results(config.output))
    figures = [make_curve_figure(analysis, name, (8, 2), (10, 90)) for name in ("batch", "group")]
    for figure in figures:
        assert figure["layout"]["yaxis"]["range"] == [10, 90]
        # Two clips per batch, each three seeds and their mean.
        assert len(figure["data"]) == 2 * 4
        thick = [trace for trace in figure["data"] if trace["line"]["width"] > 1]
        assert [len(trace["x"]) for trace in thick] == [10, 10]


def test_the_main_plot_shows_means_intervals_and_seeds(make_comparison, write_comparison):
    config = make_comparison()
    write_comparison(config)
    analysis = Analysis(read_results(config.output))
    figure = make_accuracy_figure(analysis, (8, 2), (0, 100))
    lines = {trace["name"]: trace for trace in figure["data"] if trace["mode"] == "lines+markers"}
    assert list(lines) == ["BatchNorm", "BatchNorm, precise statistics", "GroupNorm"]
    styles = {(line["line"]["dash"], line["marker"]["symbol"]) for line in lines.values()}
    assert len(styles) == 3
    summary = analysis.summarize(Series("group"), Setting(8, 2, 1))
    assert summary is not None
    assert lines["GroupNorm"]["y"][0] == summary.mean
    assert lines["GroupNorm"]["error_y"]["array"][0] == summary.margin
    seeds = [trace for trace in figure["data"] if trace["mode"] == "markers"]
    assert [len(trace["y"]) for trace in seeds] == [6, 6, 6]


def test_normalizers_unknown_to_the_report_get_styles_of_their_own(
    make_comparison, write_comparison
):
    config = make_comparison("grid.normalizers=[batch, group, layer, brand_new]")
    write_comparison(config)
    results = read_results(config.output)
    figure = make_accuracy_figure(Analysis(results), (8, 2), (0, 100))
    lines = [trace for trace in figure["data"] if trace["mode"] == "lines+markers"]
    assert len({line["marker"]["symbol"] for line in lines}) == len(lines) == 5
    assert '<th scope="row">brand_new</th>' in write_report(results).read_text()


class ReferenceCollector(HTMLParser):
    """Collects what a page would load, outside of its scripts."""

    def __init__(self) -> None:
        super().__init__()
        self.references: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.references += [
            value or "" for name, value in attrs if name in ("src", "href", "srcset", "data")
        ]


def test_the_page_refers_to_nothing_outside_itself(make_comparison, write_comparison):
    config = make_comparison()
    write_comparison(config)
    page = write_report(read_results(config.output)).read_text()
    collector = ReferenceCollector()
    collector.feed(page)
    assert collector.references
    assert all(reference.startswith("#") for reference in collector.references)
    assert "default-src 'none'" in page
    style = page[page.index("<style>") : page.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style


def test_every_table_has_a_caption_and_scoped_headers(make_comparison, write_comparison):
    config = make_comparison()
    write_comparison(config)
    page = write_report(read_results(config.output)).read_text()
    tables = re.findall(r"<table.*?</table>", page[page.index("<main>") :], re.S)
    assert len(tables) >= 8
    for table in tables:
        assert table.count("<caption>") == 1
        assert "<th>" not in table
        assert table.count('scope="row"') == table.count("<tr") - 1


def test_the_terminal_table_shows_means_and_the_report(make_comparison, write_comparison):
    config = make_comparison()
    write_comparison(config)
    output = io.StringIO()
    console = Console(file=output, width=100)
    results = read_results(config.output)
    print_summary_table(results, console)
    shown = output.getvalue()
    summary = Analysis(results).summarize(Series("group"), Setting(8, 2, 1))
    assert summary is not None
    assert f"{summary.mean:.1f} ± {summary.margin:.1f}" in shown
    assert f"report: {config.output / 'report' / 'index.html'}" in shown


@pytest.mark.parametrize(
    ("value", "text"),
    [(1.25, "+1.2"), (-1.25, "\N{MINUS SIGN}1.2"), (-0.01, "+0.0"), (0.0, "+0.0")],
)
def test_signed_numbers_have_a_minus_sign_and_no_negative_zero(value, text):
    assert format_signed(value) == text
