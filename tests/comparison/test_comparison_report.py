from __future__ import annotations

import io
import re
from html.parser import HTMLParser

import pytest
from rich.console import Console

from gnvideo.comparison import make_runs, print_summary_table, read_results, write_report
from gnvideo.comparison.analysis import Analysis, Series, Setting, compose_finding, format_signed
from gnvideo.comparison.report.figures import make_accuracy_figure, make_curve_figure
from gnvideo.comparison.report.paper import TABLE_8
from gnvideo.comparison.run_folder import STATUS_FILE
from gnvideo.config import dump_config

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
            key = run.config.normalizer.name, run.config.training.clips_per_batch
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


def test_report_says_what_the_fairness_rules_were(make_comparison, write_comparison):
    config = make_comparison(
        "mode=isolated", "clips_per_step=16", "base.training.precision=bfloat16"
    )
    write_comparison(config)
    text = write_report(read_results(config.output)).with_name("report.md").read_text()
    for statement in (
        "0 in the last normalizer of each residual block, 1 elsewhere",
        "Weight decay: 0 on gamma and beta, 0.0001 on the other weights",
        "0.02 for 64 clips per step, linear",
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
    assert "brand_new minus BatchNorm" in write_report(results).read_text()


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
