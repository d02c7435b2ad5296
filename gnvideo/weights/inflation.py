"""Kernels of images to kernels of videos.

Axes: O output channels, I input channels, T frames, H height, W width.
"""

from __future__ import annotations

import torch


def inflate_kernel(kernel: torch.Tensor, num_frames: int) -> torch.Tensor:
    """Returns an image kernel (O, I, H, W), or (O, I, 1, H, W), as one of `num_frames` frames.

    The kernel is repeated num_frames times and divided by num_frames. So on a video whose frames
    are all equal, away from its first and last ones, the convolution gives what the image kernel
    gives on the frame.

    Source: Carreira and Zisserman, "Quo Vadis, Action Recognition?", CVPR 2017, sec. 2.4,
        arXiv:1705.07750.
    """
    kernel_OITHW = kernel if kernel.ndim == 5 else kernel.unsqueeze(2)
    return kernel_OITHW.repeat(1, 1, num_frames, 1, 1) / num_frames


def can_inflate(kernel_shape: torch.Size, wanted_shape: torch.Size) -> bool:
    """Returns whether a kernel differs from the wanted (O, I, T, H, W) in nothing but T."""
    is_image = len(kernel_shape) == 4 or (len(kernel_shape) == 5 and kernel_shape[2] == 1)
    return (
        is_image
        and len(wanted_shape) == 5
        and kernel_shape[:2] == wanted_shape[:2]
        and kernel_shape[-2:] == wanted_shape[-2:]
    )
