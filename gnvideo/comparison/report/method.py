"""Decides how a report says what was done: cost, fairness rules in force, environment, runs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any, cast

import yaml

from gnvideo.comparison.analysis import Analysis, display_name
from gnvideo.comparison.report.accuracy import NO_VALUE, format_setting, list_setting_columns
from gnvideo.comparison.report.blocks import (
    Block,
    Bullets,
    Code,
    Details,
    Paragraph,
    Section,
    Table,
)
from gnvideo.comparison.results import ComparisonResults, RunResult
from gnvideo.comparison.statistics import MIN_SEEDS
from gnvideo.config import TrainingConfig


def make_cost_section(analysis: Analysis) -> Section:
    """Returns training speed and memory for each cell."""
    rows: list[tuple[str, ...]] = []
    for setting in analysis.settings:
        for normalizer in analysis.normalizers:
            runs = analysis.list_runs(normalizer, setting)
            if runs:
                speeds = [run.train_clips_per_second for run in runs]
                memories = [run.peak_memory_mib for run in runs]
                rows.append(
                    (
                        display_name(normalizer),
                        *format_setting(analysis, setting),
                        _format_reduced([x for x in speeds if x is not None], median, ".1f"),
                        _format_reduced([x for x in memories if x is not None], max, ",.0f"),
                    )
                )
    table = Table(
        "Training speed (median over runs) and peak memory (largest of the runs)",
        ("normalizer", *list_setting_columns(analysis), "clips per second", "peak memory (MiB)"),
        rows,
        text_columns=(1,) if len(analysis.clip_shapes) > 1 else (),
    )
    note = Paragraph(
        "Runs that went on side by side shared their machine: these speeds say what this comparison"
        " cost and do not measure the normalizer alone. Memory is that of tensors on a GPU, and of"
        " the whole process on the CPU."
    )
    return Section("Speed and memory", [table, note])


def make_method_section(analysis: Analysis) -> Section:
    """Returns the rules that make the comparison fair, with the values in force."""
    blocks: list[Block] = [Bullets(_list_rules(analysis)), _make_batch_table(analysis)]
    environment = _make_environment_table(analysis.results.runs)
    if environment.rows:
        blocks.append(environment)
    base = yaml.safe_dump(analysis.results.config.model_dump(mode="json"), sort_keys=False)
    blocks.append(Details("The configuration of the comparison", [Code(base.rstrip())]))
    return Section("How the comparison was made", blocks)


def make_run_section(analysis: Analysis) -> Section:
    """Returns every run with its status; none is left out."""
    runs = analysis.results.runs
    table = Table(
        caption="All runs; click a column to sort by it",
        columns=(
            "run",
            "status",
            "video top-1",
            "video top-1, precise",
            "clip top-1",
            "clips/s",
            "steps",
        ),
        rows=[
            (
                run.name,
                run.status,
                _format_number(run.read_metric("video_top1"), ".1f"),
                _format_number(run.read_metric("video_top1", precise=True), ".1f"),
                _format_number(run.read_metric("clip_top1"), ".1f"),
                _format_number(run.train_clips_per_second, ".1f"),
                _format_number(run.steps, ",d"),
            )
            for run in runs
        ],
        text_columns=(1,),
        warned_rows=[index for index, run in enumerate(runs) if not run.is_finished],
        sortable=True,
    )
    blocks: list[Block] = [table]
    unfinished = [run for run in runs if not run.is_finished]
    if unfinished:
        blocks.append(
            Paragraph(
                f"{len(unfinished)} of {len(runs)} runs have no accuracy. They are in no mean; a"
                " mean over the other seeds may flatter a normalizer whose runs diverge. What they"
                " printed is in `output.txt` in their folders."
            )
        )
    return Section("Runs", blocks)


def make_reproduction_section(analysis: Analysis) -> Section:
    """Returns the commands that make the comparison, one run, and this report again."""
    folder = analysis.results.folder
    lines = (
        f"gnvideo compare {folder / 'config.yaml'} output=NEW_FOLDER",
        f"gnvideo train {folder / 'runs' / analysis.results.runs[0].name / 'config.yaml'}"
        " output=NEW_FOLDER",
        f"gnvideo report {folder}",
    )
    return Section(
        "Reproduce",
        [Paragraph("The whole comparison; one run of it; this report:"), Code("\n".join(lines))],
    )


def _list_rules(analysis: Analysis) -> list[str]:
    results = analysis.results
    config = results.runs[0].config
    training, evaluation = config.training, config.evaluation
    finished = [run for run in results.runs if run.is_finished]
    seeds = ", ".join(map(str, results.config.grid.seeds))
    zero = "0 in the last normalizer of each residual block, 1 elsewhere"
    rules = [
        f"Weights: {describe_start(results)}. Seeds: {seeds}.",
        f"Gamma starts at {zero if config.model.zero_final_gamma else '1 everywhere'}, whatever the"
        " normalizer.",
        f"Weight decay: {training.normalizer_weight_decay:g} on gamma and beta,"
        f" {training.weight_decay:g} on the other weights, whatever the normalizer.",
        f"Clips: the same, in the same order, with the same augmentation, at one seed;"
        f" {training.epochs:g} epochs for every run{_describe_clips(finished)}.",
        f"Settings of normalizers: {_describe_settings(results)}, for each that reads them; what"
        " the grid varies stands in the names.",
        f"Learning rate: {_describe_rate(training)}; schedule {training.schedule}. It was not"
        " searched for each normalizer.",
        "Batch: "
        + (
            "as in the paper, the optimizer's batch is the clips per batch"
            if results.config.mode == "paper"
            else f"the optimizer's batch is {results.config.clips_per_step} clips throughout, by"
            " accumulation; only the batch that statistics see changes"
        )
        + ". The table below states both.",
        f"Numbers: {training.precision}, "
        + ("channels last" if training.channels_last else "channels first")
        + ", the same for every normalizer.",
        f"Batch statistics are evaluated twice: running, and recomputed over"
        f" {evaluation.precise_batches} batches (precise).",
        f"Verdicts need {MIN_SEEDS} seeds that finished in both conditions; failed runs are listed"
        " below and count in no mean.",
    ]
    rules.append(_describe_evaluation(finished))
    return rules


def describe_start(results: ComparisonResults) -> str:
    """Returns which weights the runs started from."""
    files = {
        display_name(run.config.normalizer.name): str(run.config.training.initial_weights)
        for run in results.runs
        if run.config.training.initial_weights is not None
    }
    if not files:
        return "at one seed every normalizer starts from the same random convolution weights"
    path, *others = dict.fromkeys(files.values())
    if not others:
        return f"every normalizer starts from `{path}`, and at one seed from the same head"
    return "started from " + ", ".join(f"`{path}` ({name})" for name, path in files.items())


def _describe_settings(results: ComparisonResults) -> str:
    given: Mapping[str, Any] = results.config.base.get("normalizer", {})
    return ", ".join(f"{key} {value}" for key, value in given.items()) or "the defaults"


def _describe_evaluation(finished: Sequence[RunResult]) -> str:
    if not finished or finished[0].evaluation is None:
        return "Evaluation: no run has finished yet."
    evaluation = finished[0].evaluation
    coverage: object = evaluation.get("coverage")
    known = cast(Mapping[str, Any], coverage) if isinstance(coverage, Mapping) else {}
    described = ", ".join(f"{key} {value}" for key, value in known.items())
    return (
        f"Evaluation: protocol `{evaluation['protocol']}` ({evaluation['views']} clips a video) on"
        f" {evaluation['num_videos']} videos of split `{evaluation['split']}`;"
        f" {evaluation['num_failed']} videos of it are missing or unreadable and counted nowhere."
        f" Coverage of the data: {described or 'not stated'}."
    )


def _describe_clips(finished: Sequence[RunResult]) -> str:
    totals = {
        run.steps * run.config.training.clips_per_batch * run.config.training.accumulation_steps
        for run in finished
        if run.steps is not None
    }
    if not totals:
        return ""
    low, high = min(totals), max(totals)
    return f", {low:,} clips" if low == high else f", {low:,} to {high:,} clips (whole steps)"


def _describe_rate(training: TrainingConfig) -> str:
    reference = training.reference_clips_per_step
    if reference is None:
        return f"{training.learning_rate:g} for all, whatever the batch"
    return (
        f"{training.learning_rate:g} for {reference} clips per step, linear in the clips per step"
    )


def _make_batch_table(analysis: Analysis) -> Table:
    rows: dict[int, tuple[str, ...]] = {}
    for run in analysis.results.runs:
        training = run.config.training
        clips_per_step = training.clips_per_batch * training.accumulation_steps
        reference = training.reference_clips_per_step
        rate = training.learning_rate * (clips_per_step / reference if reference else 1)
        rows[training.clips_per_batch] = (
            str(training.clips_per_batch),
            str(training.accumulation_steps),
            str(clips_per_step),
            f"{rate:g}",
        )
    return Table(
        "The batch that statistics see, apart from the optimizer's",
        ("clips per batch (statistics)", "batches per step", "clips per step", "learning rate"),
        [rows[clips] for clips in sorted(rows)],
    )


def _make_environment_table(runs: Sequence[RunResult]) -> Table:
    values: dict[str, list[str]] = {}
    for run in runs:
        for key, value in run.environment.items():
            text = value if isinstance(value, str) else json.dumps(value)
            found = values.setdefault(key, [])
            if text not in found:
                found.append(text)
    return Table(
        "Environment of the runs; several values where runs differ",
        ("key", "value"),
        [(key, "; ".join(found)) for key, found in values.items()],
        text_columns=(1,),
    )


def _format_reduced(values: list[float], reduce: Any, spec: str) -> str:
    return format(reduce(values), spec) if values else NO_VALUE


def _format_number(value: float | None, spec: str) -> str:
    return NO_VALUE if value is None else format(value, spec)
