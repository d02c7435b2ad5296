"""Frames of clips as clips of one frame, for statistics over (H, W) instead of (T, H, W).

Axes: N clips, C channels, T frames, H height, W width.
"""

from __future__ import annotations

import torch


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
