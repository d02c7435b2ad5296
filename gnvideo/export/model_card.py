"""The page that stands beside published weights: what they are and how well they do on what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gnvideo.training.checkpoint import ModelDescription

# What the `statistics` of an evaluation mean for a user of the weights.
_STATISTICS = {"running": "running, those of the file", "precise": "recomputed", "none": "none"}


@dataclass(frozen=True, slots=True)
class MeasuredAccuracy:
    """An accuracy of the weights.

    Attributes:
        evaluation: What stands in the evaluation's JSON file.
        videos: Which videos it was measured on, and how many were missing: one phrase.
    """

    evaluation: Mapping[str, Any]
    videos: str


def format_model_card(
    description: ModelDescription,
    step: int,
    num_parameters: int,
    accuracies: Sequence[MeasuredAccuracy],
) -> str:
    """Returns the README.md of a Hugging Face folder: a YAML header and Markdown.

    It states what was measured and nothing else. The license is left to whoever publishes.

    Args:
        description: Of the weights.
        step: Optimizer steps that made them.
        num_parameters: Numbers that were trained.
        accuracies: All that were measured with them; may be empty.
    """
    name, normalizer = description.model["name"], description.normalizer["name"]
    header = (
        "---\nlibrary_name: gnvideo\npipeline_tag: video-classification\n"
        f"tags:\n- video-classification\n- {name}\n---"
    )
    license_note = (
        "<!-- No license is stated. Add `license:` to the header before you publish the weights;"
        " the data that they were trained on may restrict it. -->"
    )
    introduction = (
        f"A video classifier of {len(description.classes)} classes: network `{name}` with"
        f" normalizer `{normalizer}`, {num_parameters / 1e6:.2f} million parameters, weights after"
        f" {step} steps. `config.json` has all settings and the classes."
    )
    use = (
        "Weights, settings and classes are in `model.safetensors`; gnvideo takes this folder as it"
        " is:\n\n"
        "    gnvideo predict FOLDER VIDEO\n"
        "    gnvideo eval FOLDER data.root=PREPARED_DATA"
    )
    return (
        "\n\n".join(
            (
                header,
                license_note,
                f"# {name}, normalizer {normalizer}",
                introduction,
                f"## Use\n\n{use}",
                f"## Input\n\n{_format_input(description.input_recipe)}",
                f"## Accuracy\n\n{_format_accuracies(accuracies)}",
            )
        )
        + "\n"
    )


def _format_input(recipe: Mapping[str, Any]) -> str:
    return (
        f"RGB clips (N, 3, {recipe['num_frames']}, {recipe['crop_pixels']},"
        f" {recipe['crop_pixels']}): {recipe['num_frames']} frames at a distance of"
        f" {recipe['stride']}, short side scaled to {recipe['test_short_side_pixels']} pixels, then"
        f" a crop. Values are (pixel / 255 - mean) / std with mean {recipe['mean']} and std"
        f" {recipe['std']}."
        " `preprocessor_config.json` says the same; processors that give (N, frames, 3, height,"
        " width) need the second axis and the third exchanged."
    )


def _format_accuracies(accuracies: Sequence[MeasuredAccuracy]) -> str:
    if not accuracies:
        return "Not measured: no evaluation of these weights was found when they were exported."
    columns = (
        *("protocol", "views", "video top-1", "video top-5", "of all asked, top-1", "clip top-1"),
        *("mean class accuracy", "batch statistics", "videos"),
    )
    lines = [columns, ("---",) * len(columns)]
    for accuracy in accuracies:
        evaluation = accuracy.evaluation
        figures = (
            *("video_top1", "video_top5", "video_top1_of_all", "clip_top1", "mean_class_accuracy"),
        )
        lines.append(
            (
                evaluation["protocol"],
                str(evaluation["views"]),
                *(_format_percent(evaluation[figure]) for figure in figures),
                _STATISTICS[evaluation["statistics"]],
                accuracy.videos,
            )
        )
    table = "\n".join(f"| {' | '.join(_escape(text) for text in line)} |" for line in lines)
    return (
        f"{table}\n\nPercent. A protocol says which views of a video are scored, see gnvideo's"
        " docs/comparison_protocol.md. `videos` is how many of the split's videos were there and"
        " readable; top-1 of all asked counts the others as wrong."
    )


def _format_percent(value: float | None) -> str:
    return "no labels" if value is None else f"{value:.2f}"


def _escape(text: str) -> str:
    return text.replace("|", "\\|")
