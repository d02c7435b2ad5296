"""What the residual networks share: the shortcut, the sum with it, and the pooled classifier.

Axes: N clips, C channels, T frames, H height, W width.
"""

from __future__ import annotations

import torch
from torch import nn

from gnvideo.layers import NormalizerFactory, normalize_and_add
from gnvideo.models.classifier import Size3, VideoClassifier
from gnvideo.models.non_local import NonLocalBlock


class ResidualBlock(nn.Module):
    """relu(branch(x) + shortcut(x)), with `shortcut` the identity where sizes allow it.

    A subclass sets `downsample` and defines `compute_branch`, after which `final_normalizer` comes
    as the branch's last step: it has no activation, and with the sum's ReLU it is one operator.

    Attributes:
        downsample: The shortcut's convolution and normalizer, or None for the identity.
    """

    downsample: nn.Sequential | None

    @property
    def final_normalizer(self) -> nn.Module:
        """The normalizer whose output is added to the shortcut."""
        raise NotImplementedError

    def compute_branch(self, x: torch.Tensor) -> torch.Tensor:
        """Returns what the final normalizer takes."""
        raise NotImplementedError

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns the block's output (N, C', T', H', W')."""
        shortcut = x if self.downsample is None else self.downsample(x)
        return normalize_and_add(self.final_normalizer, self.compute_branch(x), shortcut)


class ResidualClassifier(VideoClassifier):
    """A classifier of residual blocks: global average pool, dropout, linear layer.

    A subclass sets `dropout` and `fc` and defines `compute_feature_map`.
    """

    dropout: nn.Dropout
    fc: nn.Linear

    def get_classifier(self) -> nn.Linear:
        """Returns the last layer."""
        return self.fc

    def final_normalizers(self) -> list[nn.Module]:
        """Returns the last normalizer of each residual block, non-local blocks included."""
        blocks = (m for m in self.modules() if isinstance(m, ResidualBlock | NonLocalBlock))
        return [block.final_normalizer for block in blocks]

    def list_blocks(self) -> list[nn.Module]:
        """Returns the residual blocks, non-local ones included."""
        return [m for m in self.modules() if isinstance(m, ResidualBlock | NonLocalBlock)]

    def forward(self, clips_NCTHW: torch.Tensor) -> torch.Tensor:
        """Returns the logits (N, num_classes); see `VideoClassifier.forward`."""
        features_NC = self.compute_feature_map(clips_NCTHW).mean((2, 3, 4))
        return self.fc(self.dropout(features_NC))


def make_padded_conv(
    in_channels: int,
    out_channels: int,
    kernel: Size3,
    make_normalizer: NormalizerFactory,
    stride: Size3 = (1, 1, 1),
) -> nn.Conv3d:
    """Returns the convolution before a normalizer, padded by half of its (odd) kernel."""
    padding = (kernel[0] // 2, kernel[1] // 2, kernel[2] // 2)
    return make_normalizer.make_conv(in_channels, out_channels, kernel, stride, padding)


def make_downsample(
    in_channels: int, out_channels: int, stride: Size3, make_normalizer: NormalizerFactory
) -> nn.Sequential | None:
    """Returns the projection shortcut where channels or size change, else None ("type B")."""
    if in_channels == out_channels and stride == (1, 1, 1):
        return None
    return nn.Sequential(
        make_padded_conv(in_channels, out_channels, (1, 1, 1), make_normalizer, stride),
        make_normalizer(out_channels),
    )
