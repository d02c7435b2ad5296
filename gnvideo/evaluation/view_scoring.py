"""The probabilities of views, as many at once as the device's memory holds.

Axes: V views, C channels, T frames, H height, W width, K classes, P positions of the classifier.
"""

from __future__ import annotations

import logging
import typing
from collections.abc import Callable, Iterator
from typing import Literal

import torch
from torch import Tensor, nn

from gnvideo.errors import WorkFailedError

_logger = logging.getLogger(__name__)

Precision = Literal["float32", "bfloat16"]


class PositionClassifier(typing.Protocol):
    """A module that classifies at every position; the bare module, not one wrapped for DDP."""

    def compute_position_logits(self, clips_NCTHW: Tensor, /) -> Tensor:
        """Returns (N, K, P) logits."""
        ...

    def modules(self) -> Iterator[nn.Module]:
        """Returns the module itself and all below it."""
        ...

    def eval(self) -> object:
        """Puts every module into evaluation mode."""
        ...


class ViewScorer:
    """Runs the model on views, as many at once as the device's memory holds.

    Attributes:
        views_per_forward: At most so many at once; halved whenever they did not fit.
    """

    def __init__(
        self,
        model: PositionClassifier,
        prepare: Callable[[Tensor], Tensor],
        device: torch.device,
        precision: Precision,
        views_per_forward: int,
    ) -> None:
        self._model = model
        self._prepare = prepare
        self._device = device
        self._precision: Precision = precision
        self.views_per_forward = views_per_forward

    def score(self, views: list[Tensor]) -> Tensor:
        """Returns the probabilities (V, K) of views (C, T, H, W) of equal size."""
        done: list[Tensor] = []
        while views:
            piece = views[: self.views_per_forward]
            probabilities_VK = self._try(piece)
            if probabilities_VK is None:
                self._halve(len(piece), piece[0])
            else:
                done.append(probabilities_VK)
                views = views[len(piece) :]
        return torch.cat(done)

    def _try(self, views: list[Tensor]) -> Tensor | None:
        """Returns None where the device's memory is too small; nothing of the attempt is kept."""
        # Stored as (V, T, H, W, C), which is channels_last_3d, the layout of the loader's clips.
        views_VTHWC = torch.stack([view_CTHW.permute(1, 2, 3, 0) for view_CTHW in views])
        views_VCTHW = views_VTHWC.permute(0, 4, 1, 2, 3)
        try:
            return _compute_probabilities(
                self._model, views_VCTHW, self._prepare, self._device, self._precision
            )
        except torch.OutOfMemoryError:
            return None

    def _halve(self, num_views: int, view_CTHW: Tensor) -> None:
        frames, height, width = view_CTHW.shape[1:]
        described = f"{frames} frames of {height} x {width} pixels"
        if num_views == 1:
            raise WorkFailedError(
                f"the memory of {self._device} does not hold the model and one view of {described};"
                " free some of it, or use a shorter clip, a smaller test_short_side_pixels or"
                " another device"
            )
        self.views_per_forward = num_views // 2
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        _logger.info(
            f"the memory of {self._device} does not hold {num_views} views of {described} at once;"
            f" going on with {self.views_per_forward}"
        )


@torch.inference_mode()
def _compute_probabilities(
    model: PositionClassifier,
    views_VCTHW: Tensor,
    prepare: Callable[[Tensor], Tensor],
    device: torch.device,
    precision: Precision,
) -> Tensor:
    """Returns (V, K) float64 on the CPU: the mean over the positions of the softmax at each."""
    views_VCTHW = prepare(views_VCTHW.to(device, non_blocking=True))
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bfloat16"):
        logits_VKP = model.compute_position_logits(views_VCTHW)
    dtype = torch.promote_types(logits_VKP.dtype, torch.float32)
    return logits_VKP.to(dtype).softmax(dim=1).cpu().double().mean(dim=2)
