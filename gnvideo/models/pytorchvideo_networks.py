"""pytorchvideo's networks as video classifiers: what stands around its blocks.

Axes: N clips, C channels, T frames, H height, W width, K classes.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from torch import nn

from gnvideo.errors import ModelError
from gnvideo.layers import NormalizerFactory, replace_max_pools
from gnvideo.models.classifier import Size3, VideoClassifier, Window
from gnvideo.models.pytorchvideo_normalizers import NormalizerSlot, place_normalizers

ALPHA = 4
"""SlowFast's frames of the fast pathway for each of the slow one."""


class PytorchvideoNetwork(VideoClassifier):
    """A network of pytorchvideo's hub under its own parameter names.

    Args:
        name: The hub's function.
        windows: The layers that change the size of the map, in order.
        num_classes: The number of classes.
        make_normalizer: Makes every normalizer of the network.
        dropout_rate: Dropout before the last layer.
        train_clip: Frames, height and width of a training clip; they set the head's pooling.

    Attributes:
        blocks: The blocks of pytorchvideo's network: stem, stages, poolings, head.
        plain_convs: Names of the convolutions without bias that no normalizer follows.
        hub_settings: What the hub's function is called with besides.
    """

    plain_convs: ClassVar[Sequence[str]] = ()
    hub_settings: ClassVar[Mapping[str, Any]] = MappingProxyType({})

    def __init__(
        self,
        name: str,
        windows: Sequence[Window],
        num_classes: int,
        make_normalizer: NormalizerFactory,
        dropout_rate: float,
        train_clip: Size3,
    ) -> None:
        super().__init__(num_classes, windows, train_clip)
        network = getattr(_import_hub(), name)(
            model_num_class=num_classes,
            norm=NormalizerSlot,
            head_activation=None,
            **self.hub_settings,
        )
        place_normalizers(network, make_normalizer, self.plain_convs)
        replace_max_pools(network)
        self.blocks: nn.ModuleList = network.blocks
        # Not passed on: the hub fixes it for R(2+1)D.
        self.head.dropout = nn.Dropout(dropout_rate)
        self.set_pool(nn.AvgPool3d(self.position_pool, (1, 1, 1), (0, 0, 0)))
        # With the head's pooling, from here on a clip must not be smaller than in training.
        self.windows += (Window(self.position_pool, (1, 1, 1), (0, 0, 0)),)

    @property
    def head(self) -> Any:
        """The last block."""
        return self.blocks[-1]

    def set_pool(self, pool: nn.AvgPool3d) -> None:
        """Makes the head average the feature map by `pool`."""
        self.head.pool = pool

    def compute_head_input(self, clips_NCTHW: torch.Tensor) -> torch.Tensor:
        """Returns the map (N, C, T', H', W') that enters pytorchvideo's head."""
        self.check_clips(clips_NCTHW)
        return self.run_stages(clips_NCTHW)

    def run_stages(self, x: Any) -> torch.Tensor:
        """Returns the output of all blocks before the head."""
        for block in self.blocks[:-1]:
            x = block(x)
        return x

    def compute_feature_map(self, clips_NCTHW: torch.Tensor) -> torch.Tensor:
        """Returns the feature map (N, C, T', H', W') that the head averages."""
        return self.compute_head_input(clips_NCTHW)

    def get_classifier(self) -> nn.Linear:
        """Returns the head's projection."""
        return self.head.proj

    def final_normalizers(self) -> list[nn.Module]:
        """Returns the last normalizer of each bottleneck block."""
        blocks: list[Any] = [m for m in self.modules() if hasattr(m, "norm_c")]
        return [block.norm_c for block in blocks]

    def list_blocks(self) -> list[nn.Module]:
        """Returns the residual blocks."""
        return [m for m in self.modules() if hasattr(m, "branch2")]

    def forward(self, clips_NCTHW: torch.Tensor) -> torch.Tensor:
        """Returns the logits (N, num_classes) of pytorchvideo's head."""
        return self.head(self.compute_head_input(clips_NCTHW))


class PytorchvideoX3D(PytorchvideoNetwork):
    """X3D, whose head has a convolution before and one after the pooling."""

    plain_convs = (
        "blocks.0.conv.conv_t",
        # The first shortcut changes the size only, and pytorchvideo does not normalize it.
        "blocks.1.res_blocks.0.branch1_conv",
        "blocks.5.pool.post_conv",
    )
    # pytorchvideo's own function of this activation does not compile or export.
    hub_settings = MappingProxyType({"inner_act": nn.SiLU})

    def set_pool(self, pool: nn.AvgPool3d) -> None:
        """Makes the head average the feature map by `pool`."""
        self.head.pool.pool = pool

    def compute_feature_map(self, clips_NCTHW: torch.Tensor) -> torch.Tensor:
        """Returns the feature map (N, 432, T', H', W') that the head averages."""
        before = self.head.pool
        x = before.pre_conv(self.compute_head_input(clips_NCTHW))
        return before.pre_act(before.pre_norm(x))

    def classify(self, pooled_NCTHW: torch.Tensor) -> torch.Tensor:
        """Returns the logits (N, K, T, H, W), by way of the head's 2048 channels."""
        after = self.head.pool
        return super().classify(after.post_act(after.post_conv(pooled_NCTHW)))


class PytorchvideoSlowFast(PytorchvideoNetwork):
    """SlowFast. It makes its two pathways of one clip, and joins them before the head.

    The fast pathway takes all T frames, the slow one T / 4 of them: i (T - 1) / (T / 4 - 1)
    rounded down, for i = 0, 1, ..., so the first, the last and those spread between.

    Source: Feichtenhofer et al., "SlowFast Networks for Video Recognition", ICCV 2019,
        arXiv:1812.03982; the frames as in facebookresearch/SlowFast, slowfast/datasets/utils.py,
        pack_pathway_output, which rounds in float32 and takes the frame before in clips of some
        lengths, of which 160 is the shortest.
    """

    def set_pool(self, pool: nn.AvgPool3d) -> None:
        """Makes the head average the joined map by `pool`."""
        super().set_pool(pool)
        # pytorchvideo pools each pathway here, by sizes of its own.
        self.blocks[-2] = _JoinPathways()

    def compute_map_size(self, clip: Size3) -> Size3:
        """Returns the size (T, H, W) of the joined map; see `VideoClassifier.compute_map_size`.

        Raises:
            ModelError: The clip is too small, or its frames are no multiple of 4.
        """
        size = super().compute_map_size(clip)
        if clip[0] % ALPHA != 0:
            raise ModelError(
                f"a clip of {clip[0]} frames does not divide into SlowFast's pathways; "
                f"give a multiple of {ALPHA} frames"
            )
        return size

    def compute_head_input(self, clips_NCTHW: torch.Tensor) -> torch.Tensor:
        """Returns the joined map (N, 2304, T / 4, H', W') that enters pytorchvideo's head."""
        self.check_clips(clips_NCTHW)
        # Slices keep the layout, and give torch.compile and exports no indices to look up.
        slow = [clips_NCTHW[:, :, t : t + 1] for t in pick_slow_frames(clips_NCTHW.shape[2])]
        return self.run_stages([torch.cat(slow, dim=2), clips_NCTHW])


def pick_slow_frames(num_frames: int) -> list[int]:
    """Returns which of a clip's frames SlowFast's slow pathway takes; num_frames divides by 4."""
    last = num_frames // ALPHA - 1
    return [i * (num_frames - 1) // max(1, last) for i in range(last + 1)]


class _JoinPathways(nn.Module):
    """Averages the fast map over the frames of each slow one, and concatenates channels.

    The mean of the result over a window is the pathways' means over that window.
    """

    def forward(self, pathways: list[torch.Tensor]) -> torch.Tensor:
        slow_NCTHW, fast_NCTHW = pathways
        fast_NCTHW = nn.functional.avg_pool3d(fast_NCTHW, (ALPHA, 1, 1))
        return torch.cat([slow_NCTHW, fast_NCTHW], dim=1)


def _import_hub() -> Any:
    """Returns pytorchvideo's package of hub networks, imported when first needed."""
    try:
        with warnings.catch_warnings():
            # It calls torch.jit functions that torch has deprecated.
            warnings.simplefilter("ignore")
            from pytorchvideo.models import hub
    except ImportError as error:
        raise ModelError(
            f"pytorchvideo does not import ({error}); install pytorchvideo, or choose another model"
        ) from error
    return hub
