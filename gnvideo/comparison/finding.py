"""Decides what a comparison says it found: its first sentences, with their numbers."""

from __future__ import annotations

from collections.abc import Sequence

from gnvideo.comparison.analysis import (
    Analysis,
    Contrast,
    Series,
    Setting,
    display_name,
    format_clips,
    format_interval,
    format_signed,
)
from gnvideo.comparison.statistics import MIN_SEEDS, NO_DIFFERENCE

# So many series are named in a sentence; the others are counted, and stand in the tables.
_MAX_NAMES = 4


def compose_finding(analysis: Analysis) -> str:
    """Returns what the comparison found, in one or two sentences with their numbers.

    Of two normalizers it sets the one that is not the baseline against the baseline, at the fewest
    clips per batch and at the most, for the first clip shape. Of more it says for the fewest clips
    which has the highest mean, which are not shown to differ from it, where GroupNorm stands, and
    GroupNorm against the baseline. Where the baseline's precise statistics change a verdict the
    sentence says so, so that no gain is claimed that recomputing statistics would give.
    """
    challenger = _find_challenger(analysis)
    settings = analysis.list_settings(analysis.clip_shapes[0])
    if challenger is None:
        name = display_name(analysis.baseline)
        return f"{name} alone was run: there is nothing to compare it with."
    if len(analysis.normalizers) > 2:
        ranking = _describe_ranking(analysis, settings[0])
        if challenger.normalizer != "group":
            return ranking
        return f"{ranking} {_capitalize(_describe_contrast(analysis, challenger, settings[0]))}."
    clauses = [
        f"with {format_clips(setting.clips_per_batch)} per batch"
        f" {_describe_contrast(analysis, challenger, setting)}"
        for setting in dict.fromkeys([settings[0], settings[-1]])
    ]
    return f"{_capitalize('; '.join(clauses))}."


def describe_most_clips(analysis: Analysis) -> str | None:
    """Returns the ranking at the most clips per batch; None where the finding holds it already."""
    settings = analysis.list_settings(analysis.clip_shapes[0])
    if len(analysis.normalizers) <= 2 or len(settings) == 1:
        return None
    return _describe_ranking(analysis, settings[-1])


def _find_challenger(analysis: Analysis) -> Series | None:
    """Returns GroupNorm, or else the first normalizer that is not the baseline."""
    others = [label for label in analysis.normalizers if label != analysis.baseline]
    if not others:
        return None
    return Series("group" if "group" in others else others[0])


def _describe_ranking(analysis: Analysis, setting: Setting) -> str:
    start = f"With {format_clips(setting.clips_per_batch)} per batch"
    best = analysis.find_best(setting)
    summary = None if best is None else analysis.summarize(best, setting)
    if best is None or summary is None:
        return f"{start} nothing can be said: no run has finished."
    contrasts = analysis.contrast_best(setting)
    text = (
        f"{start} {_name(best)} has the highest mean video top-1 of the {len(contrasts) + 1}"
        f" compared ({summary.mean:.1f} %)"
    )
    unknown = [c for c in contrasts if c.difference.verdict.startswith("not enough seeds")]
    lower = [c for c in contrasts if c.difference.verdict == "lower"]
    alike = [contrast for contrast in contrasts if contrast not in unknown + lower]
    if len(unknown) == len(contrasts):
        return f"{text} so far; a verdict needs {MIN_SEEDS} seeds that finished."
    reference = Series("group" if "group" in analysis.normalizers else analysis.baseline)
    if alike:
        text += f"; no difference from it is shown for {_join_names(alike, reference)}"
    if lower:
        text += f"; {len(lower)} {'is' if len(lower) == 1 else 'are'} lower"
        for contrast in lower:
            if contrast.first[0] == reference and contrast.difference.summary is not None:
                points = abs(contrast.difference.summary.mean)
                interval = format_interval(contrast.difference.summary)
                text += f", {reference.label} among them by {points:.1f} points ({interval})"
    if unknown:
        lack = "lacks" if len(unknown) == 1 else "lack"
        text += f"; {len(unknown)} {lack} the {MIN_SEEDS} finished seeds that a verdict needs"
    return f"{text}."


def _join_names(contrasts: Sequence[Contrast], reference: Series) -> str:
    """Returns the series by descending mean, the reference first, as words of a sentence."""
    means = {
        contrast.first[0]: contrast.difference.summary.mean
        for contrast in contrasts
        if contrast.difference.summary is not None
    }
    ordered = sorted(means, key=lambda series: (series == reference, means[series]), reverse=True)
    names = [_name(series) for series in ordered]
    if len(names) > _MAX_NAMES + 1:
        names = [*names[:_MAX_NAMES], f"{len(names) - _MAX_NAMES} others"]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _name(series: Series) -> str:
    """Returns the label for use among others in a sentence, where commas part them."""
    return series.label.replace(", precise", " with precise")


def _capitalize(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}"


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
    series = _find_challenger(analysis)
    if precise not in analysis.series or series is None:
        return None
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
