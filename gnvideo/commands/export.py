"""`export`: trained weights as a torch.export program, an ONNX file or a Hugging Face folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from gnvideo.build import build_described_model, build_recipe
from gnvideo.comparison.run_folder import read_json
from gnvideo.data.coverage import format_coverage
from gnvideo.errors import ConfigError, InputFileError, OutputError
from gnvideo.export import (
    OPSET,
    MeasuredAccuracy,
    save_huggingface_folder,
    save_onnx_file,
    save_torch_program,
)
from gnvideo.training.checkpoint import (
    CHECKPOINTS_FOLDER_NAME,
    LoadedWeights,
    load_weights,
    make_metadata,
)

Format = Literal["torch", "onnx", "huggingface"]

# torch.export.load warns of other names, and runtimes take them for other formats.
_SUFFIXES = {"torch": ".pt2", "onnx": ".onnx"}


def run_export(path: Path, *, format: Format, output: Path) -> None:
    """Writes the weights at `path` in another format and prints what was checked.

    Args:
        path: A run folder, a checkpoint's folder or a .safetensors file.
        format: "torch" and "onnx" are one file, "huggingface" is a folder.
        output: The file or folder, which must not exist.

    Raises:
        ConfigError: The file's name does not end as the format's names do.
        OutputError: The output exists or cannot be written.
        CheckpointError: There are no weights of gnvideo at `path`.
        MissingPackageError: The format needs a package that is not installed.
        ExportError: The exported network computes other logits; nothing is written.
    """
    suffix = _SUFFIXES.get(format, output.suffix)
    if output.suffix != suffix:
        raise ConfigError(
            f"--output is {output}; the name of a file in the format {format} ends in {suffix}"
        )
    if output.exists():
        raise OutputError(f"{output} exists; remove it, or choose another --output")
    weights = load_weights(path)
    data = build_recipe(weights, {"root": Path()})
    model = build_described_model(weights, data).eval()
    clip = (data.num_frames, data.crop_pixels, data.crop_pixels)
    metadata = make_metadata(weights.description, weights.step)
    if format == "huggingface":
        accuracies, num_others = _read_accuracies(weights)
        save_huggingface_folder(model, weights.description, weights.step, accuracies, output)
        print(f"saved {output} with {len(accuracies)} evaluations in its README.md")
        if num_others:
            print(
                f"{num_others} evaluations are of another step than the weights' {weights.step} and"
                " are left out; run eval to measure these"
            )
        print("its license is left to you: see the top of its README.md")
    elif format == "onnx":
        error = save_onnx_file(model, clip, metadata, output)
        print(f"saved {output}: opset {OPSET}, {_describe_check(error)}")
    else:
        error = save_torch_program(model, clip, metadata, output)
        print(f"saved {output}: {_describe_check(error)}")


def _describe_check(error: float) -> str:
    return f"its logits equal the network's to {error:.1e} on random clips"


def _read_accuracies(weights: LoadedWeights) -> tuple[list[MeasuredAccuracy], int]:
    """Returns the run's evaluations of these weights, and how many others it holds."""
    checkpoints = weights.path.absolute().parent.parent
    if checkpoints.name != CHECKPOINTS_FOLDER_NAME:
        return [], 0
    evaluations = list(_read_evaluations(checkpoints.parent / "evaluation"))
    accuracies = [
        MeasuredAccuracy(evaluation, format_coverage(evaluation["split"], evaluation["coverage"]))
        for evaluation in evaluations
        if evaluation["step"] == weights.step
    ]
    return accuracies, len(evaluations) - len(accuracies)


def _read_evaluations(folder: Path) -> Iterator[dict[str, Any]]:
    for path in sorted(folder.rglob("*.json")):
        evaluation = read_json(path)
        if evaluation is None or "protocol" not in evaluation:
            raise InputFileError(f"{path} is no evaluation; remove it and evaluate the run again")
        yield evaluation
