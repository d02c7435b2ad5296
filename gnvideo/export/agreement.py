"""Whether an exported network computes what the network does that it was made of."""

from __future__ import annotations

from collections.abc import Callable

import torch

from gnvideo.errors import ExportError
from gnvideo.models import VideoClassifier
from gnvideo.models.classifier import Size3

MAX_RELATIVE_ERROR = 1e-4
"""Other kernels than torch's differ by some 1e-6 in networks of 50 layers; mistakes by far more."""

# One is a special case in many kernels; two show that the number is free.
_CLIP_COUNTS = (1, 2)


def check_agreement(
    model: VideoClassifier,
    compute_logits: Callable[[torch.Tensor], torch.Tensor],
    clip: Size3,
    name: str,
) -> float:
    """Returns the largest relative error of the logits on random clips, one and two at once.

    It is the largest difference between two logits over the largest logit of the model. The clips
    are of a normal distribution, as normalized ones are about, and the same every time.

    Args:
        model: In evaluation mode, on the CPU.
        compute_logits: The exported network: from float32 clips (N, 3, T, H, W) to logits.
        clip: The size of a clip: frames, height, width.
        name: What was exported, for the error.

    Raises:
        ExportError: The error exceeds `MAX_RELATIVE_ERROR`.
    """
    generator = torch.Generator().manual_seed(0)
    worst = 0.0
    for num_clips in _CLIP_COUNTS:
        clips_NCTHW = torch.randn(num_clips, 3, *clip, generator=generator)
        with torch.no_grad():
            expected = model(clips_NCTHW)
            logits = compute_logits(clips_NCTHW)
        assert logits.shape == expected.shape
        error = ((logits - expected).abs().max() / expected.abs().max()).item()
        # Written so that it holds for what is not a number, too.
        if not error <= MAX_RELATIVE_ERROR:
            raise ExportError(
                f"{name}: the logits of {num_clips} clips differ from the network's own by"
                f" {error:.1e} of the largest, and {MAX_RELATIVE_ERROR:.0e} is allowed; nothing was"
                " written, choose another format"
            )
        worst = max(worst, error)
    return worst
