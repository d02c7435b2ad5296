"""Networks as after training: no parameter or statistic is at its start, where mistakes hide."""

from __future__ import annotations

import torch

from gnvideo.layers import has_running_statistics, normalizer_factory
from gnvideo.models import VideoClassifier, initialize, list_settings, make_model
from gnvideo.models.classifier import Size3


def make_trained(name: str, normalizer: str, num_classes: int = 5) -> tuple[VideoClassifier, Size3]:
    """Returns a small network of the kind in evaluation mode, and the size of its clips."""
    known = list_settings(name)
    frames, pixels = min(known["num_frames"], 16), 64
    model = make_model(
        name,
        num_classes,
        normalizer_factory(normalizer, num_groups=4),
        train_crop_pixels=pixels,
        num_frames=frames,
        **({"width": 8} if "width" in known else {}),
    )
    initialize(model, seed=0, zero_final_gamma=False)
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.data.add_(0.1 * noise * (parameter.detach().std(correction=0) + 0.1))
    if any(has_running_statistics(module) for module in model.modules()):
        model.train()(torch.randn(4, 3, frames, pixels, pixels, generator=generator))
    return model.eval(), (frames, pixels, pixels)


def make_clips(num_clips: int, clip: Size3) -> torch.Tensor:
    return torch.randn(num_clips, 3, *clip, generator=torch.Generator().manual_seed(2))


def compute_relative_error(logits: torch.Tensor, expected: torch.Tensor) -> float:
    assert logits.shape == expected.shape
    return ((logits - expected).abs().max() / expected.abs().max()).item()
