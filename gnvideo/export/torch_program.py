"""A network as a program of torch.export, which runs without gnvideo.

Axes: N clips, C channels, T frames, H height, W width.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

import torch

from gnvideo.atomic_file import open_atomic
from gnvideo.export.agreement import check_agreement
from gnvideo.models import VideoClassifier
from gnvideo.models.classifier import Size3


def trace_program(model: VideoClassifier, clip: Size3) -> torch.export.ExportedProgram:
    """Returns the program from float32 clips (N, 3, T, H, W) to logits, for any N from 1.

    Args:
        model: In evaluation mode, on the CPU.
        clip: The size of a clip, which is fixed: frames, height, width.
    """
    # Of two clips, since one would fix their number.
    example_NCTHW = torch.zeros(2, 3, *clip)
    return torch.export.export(
        model, (example_NCTHW,), dynamic_shapes=({0: torch.export.Dim("clips", min=1)},)
    )


def save_torch_program(
    model: VideoClassifier, clip: Size3, metadata: Mapping[str, str], path: Path
) -> float:
    """Writes the network to `path` and returns the relative error of what was read back.

    Args:
        model: In evaluation mode, on the CPU.
        clip: The size of a clip: frames, height, width.
        metadata: Texts by name, which `torch.export.load(path, extra_files=...)` gives back.
        path: The file; its name should end in .pt2, which torch.export.load expects.

    Raises:
        ExportError: The program computes other logits than the network; nothing is written.
        OutputError: The folder cannot be written.
        SaveFailedError: Writing failed half-way.
    """
    content = io.BytesIO()
    torch.export.save(trace_program(model, clip), content, extra_files=dict(metadata))
    content.seek(0)
    program = torch.export.load(content).module()
    error = check_agreement(model, program, clip, path.name)
    with open_atomic(path) as file:
        file.write(content.getbuffer())
    return error
