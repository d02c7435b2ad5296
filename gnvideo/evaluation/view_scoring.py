"""The probabilities of views, as many at once as the device's memory holds.

Axes: N clips, V views, C channels, T frames, H height, W width, K classes, P positions of the
classifier.
"""

from __future__ import annotations

import logging
import typing
from collections.abc import Callable, Iterator, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from gnvideo.errors import WorkFailedError
from gnvideo.evaluation.protocols import Protocol
from gnvideo.evaluation.view_crops import cut_view

_logger = logging.getLogger(__name__)

Precision = Literal["float32", "bfloat16"]


class PositionClassifier(typing.Protocol):
    """A module that classifies at every position; the bare module, not one wrapped for DDP."""

    def compute_position_logits(self, clips_NCTHW: Tensor, /) -> Tensor:
        """Returns (N, K, P) logits."""
        ...

    def compute_whole_logits(self, clips_NCTHW: Tensor, /) -> Tensor:
        """Returns the (N, K, 1) logits of the clips' mean features."""
        ...

    def modules(self) -> Iterator[nn.Module]:
        """Returns the module itself and all below it."""
        ...

    def eval(self) -> object:
        """Puts every module into evaluation mode."""
        ...


class View(NamedTuple):
    """A crop of a clip, neither of which is made yet.

    Attributes:
        clips_NCTHW: The clips of its video, uint8, in the form that `prepare` takes.
        clip: Number of the clip.
        crop: Number of the crop.
    """

    clips_NCTHW: Tensor
    clip: int
    crop: int


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
        protocol: Protocol,
        precision: Precision,
        views_per_forward: int,
    ) -> None:
        self._model = model
        self._prepare = prepare
        self._device = device
        self._protocol = protocol
        self._precision: Precision = precision
        self.views_per_forward = views_per_forward

    def score(self, views: Sequence[View]) -> Tensor:
        """Returns (V, K) float64 on the CPU, the probabilities of views of clips of equal shape.

        Raises:
            WorkFailedError: the device's memory does not hold a single view.
        """
        done: list[Tensor] = []
        while views:
            piece = views[: self.views_per_forward]
            probabilities_VK = self._try(piece)
            if probabilities_VK is None:
                self._halve(len(piece))
            else:
                done.append(probabilities_VK)
                views = views[len(piece) :]
        return torch.cat(done)

    def _try(self, views: Sequence[View]) -> Tensor | None:
        """Returns None where the device's memory is too small; nothing of the attempt is kept."""
        try:
            return self._compute_probabilities(views)
        except torch.OutOfMemoryError:
            return None

    def _halve(self, num_views: int) -> None:
        if num_views == 1:
            raise WorkFailedError(
                f"the memory of {self._device} does not hold the model and a single view; free some"
                " of it, or use fewer data.num_frames, a smaller data.test_short_side_pixels or"
                " another training.device"
            )
        self.views_per_forward = num_views // 2
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        _logger.info(
            f"the memory of {self._device} does not hold {num_views} views at once; going on with"
            f" {self.views_per_forward}"
        )

    @torch.inference_mode()
    def _compute_probabilities(self, views: Sequence[View]) -> Tensor:
        """Returns (V, K): the mean over the positions of the softmax at each."""
        views_VCTHW = self._make_input(views)
        is_whole = self._protocol.pooling == "whole"
        classify = (
            self._model.compute_whole_logits if is_whole else self._model.compute_position_logits
        )
        is_bfloat16 = self._precision == "bfloat16"
        with torch.autocast(self._device.type, dtype=torch.bfloat16, enabled=is_bfloat16):
            logits_VKP = classify(views_VCTHW)
        dtype = torch.promote_types(logits_VKP.dtype, torch.float32)
        return logits_VKP.to(dtype).softmax(dim=1).cpu().double().mean(dim=2)

    def _make_input(self, views: Sequence[View]) -> Tensor:
        """Returns the model's input (V, C, T, H, W)."""
        if self._protocol.crop != "three":
            return self._prepare_clips([view.clips_NCTHW[view.clip] for view in views])
        # Each clip is moved and prepared once, and cut on the device.
        clips: dict[tuple[int, int], Tensor] = {}
        for view in views:
            clips.setdefault((id(view.clips_NCTHW), view.clip), view.clips_NCTHW[view.clip])
        prepared = dict(zip(clips, self._prepare_clips(list(clips.values())), strict=True))
        return _stack(
            [cut_view(prepared[id(view.clips_NCTHW), view.clip], view.crop) for view in views]
        )

    def _prepare_clips(self, clips: Sequence[Tensor]) -> Tensor:
        return self._prepare(_stack(clips).to(self._device, non_blocking=True))


def _stack(clips: Sequence[Tensor]) -> Tensor:
    """Returns clips (C, T, H, W) as (N, C, T, H, W) in channels_last_3d, the loader's layout."""
    clips_NTHWC = torch.stack([clip_CTHW.permute(1, 2, 3, 0) for clip_CTHW in clips])
    return clips_NTHWC.permute(0, 4, 1, 2, 3)
