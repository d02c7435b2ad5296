"""Frames of clips as clips of one frame, for statistics over (H, W) instead of (T, H, W).

Axes: N clips, C channels, T frames, H height, W width.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from gnvideo.ops.activation import Activation
from gnvideo.ops.recomputation import is_recording, recompute_in_backward

# From x, the residual, weight and bias to the normalized and activated x.
Normalize = Callable[
    [torch.Tensor, torch.Tensor | None, torch.Tensor | None, torch.Tensor | None], torch.Tensor
]


def split_frames(x: torch.Tensor) -> torch.Tensor:
    """Returns the frames of clips (N, C, T, H, W) as (N * T, C, 1, H, W).

    In channels_last_3d layout, where each frame lies by itself, it is a view; else a copy.
    """
    return x.transpose(1, 2).flatten(0, 1).unsqueeze(2)


def join_frames(frames: torch.Tensor, clips: torch.Tensor) -> torch.Tensor:
    """Returns frames (N * T, C, 1, H, W) as (N, C, T, H, W), in the shape and layout of `clips`."""
    frames_NTCHW = frames.squeeze(2).unflatten(0, (clips.shape[0], clips.shape[2]))
    joined = frames_NTCHW.transpose(1, 2)
    return joined.contiguous() if clips.is_contiguous() else joined


def normalize_frames(
    normalize: Normalize,
    x: torch.Tensor,
    residual: torch.Tensor | None,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    activation: Activation,
) -> torch.Tensor:
    """Returns x (N, C, T, H, W) with each frame normalized by itself, in its shape and layout.

    Args:
        normalize: Normalizes clips.
        x: The clips.
        residual: Of x's shape; None is nothing.
        weight: What `normalize` is called with.
        bias: Likewise.
        activation: What `normalize` ends with where there is no residual.
    """

    def run(
        x: torch.Tensor,
        residual: torch.Tensor | None,
        weight: torch.Tensor | None,
        bias: torch.Tensor | None,
    ) -> torch.Tensor:
        frames = None if residual is None else split_frames(residual)
        return join_frames(normalize(split_frames(x), frames, weight, bias), x)

    if activation is not None and residual is None and is_recording():
        # What `normalize` would offer are frames, and what comes next keeps clips.
        return recompute_in_backward(run, x, None, weight, bias)
    return run(x, residual, weight, bias)
