"""A network as an ONNX file, which many runtimes execute.

Axes: N clips, C channels, T frames, H height, W width.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from gnvideo.atomic_file import open_atomic
from gnvideo.errors import MissingPackageError
from gnvideo.export.agreement import check_agreement
from gnvideo.export.torch_program import trace_program
from gnvideo.models import VideoClassifier
from gnvideo.models.classifier import Size3

OPSET = 20
"""Version of ONNX's operators; onnxruntime has had them since 1.17."""

INPUT_NAME, OUTPUT_NAME = "clips", "logits"


def save_onnx_file(
    model: VideoClassifier, clip: Size3, metadata: Mapping[str, str], path: Path
) -> float:
    """Writes the network to `path` and returns the relative error of onnxruntime's logits.

    Input `clips` float32 (N, 3, T, H, W) with any N from 1, output `logits` float32 (N, classes).

    Args:
        model: In evaluation mode, on the CPU.
        clip: The size of a clip, which is fixed: frames, height, width.
        metadata: Texts by name, which become the file's `metadata_props`.
        path: The file.

    Raises:
        MissingPackageError: onnx, onnxscript or onnxruntime is not installed.
        ExportError: onnxruntime computes other logits than the network; nothing is written.
        OutputError: The folder cannot be written.
        SaveFailedError: Writing failed half-way.
    """
    onnxruntime = _import_packages()
    with _quiet_exporter():
        program = torch.onnx.export(
            trace_program(model, clip),
            dynamo=True,
            input_names=[INPUT_NAME],
            output_names=[OUTPUT_NAME],
            opset_version=OPSET,
            verbose=False,
        )
    assert program is not None
    program.model.metadata_props.update(metadata)
    content = program.model_proto.SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])

    def compute_logits(clips_NCTHW: torch.Tensor) -> torch.Tensor:
        (logits,) = session.run([OUTPUT_NAME], {INPUT_NAME: clips_NCTHW.numpy()})
        return torch.from_numpy(logits)

    error = check_agreement(model, compute_logits, clip, path.name)
    with open_atomic(path) as file:
        file.write(content)
    return error


def _import_packages() -> Any:
    """Returns the module onnxruntime, after a look at the packages that torch's exporter needs."""
    try:
        for name in ("onnx", "onnxscript"):
            importlib.import_module(name)
        return importlib.import_module("onnxruntime")
    except ImportError as error:
        raise MissingPackageError(
            f"{error.name} does not import here ({error}), and ONNX files need it; install it with"
            ' pip install "gnvideo[export]"'
        ) from None


@contextmanager
def _quiet_exporter() -> Generator[None]:
    """Keeps the exporter's optimizer from logging each step that it takes."""
    loggers = [logging.getLogger(name) for name in ("onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
