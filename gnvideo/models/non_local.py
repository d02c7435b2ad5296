"""The non-local block: attention of every position of a clip's feature map to all positions.

Axes: N clips, C channels, T frames, H height, W width, Q positions that attend, K positions that
are attended to.
"""

from __future__ import annotations

import torch
from torch import nn

from gnvideo.layers import NormalizerFactory, max_pool3d


class NonLocalBlock(nn.Module):
    """Adds to each position what it gathers from all positions of the clip, over space and time.

    With x_i the features of position i of (T, H, W), and p_j those of position j of x after a max
    pooling 1x2x2, stride 1,2,2 (an axis of length 1 is not pooled):
        y_i = sum_j softmax_j(theta(x_i) . phi(p_j) / sqrt(C / 2)) g(p_j)
        z_i = x_i + norm(out(y_i))
    theta, phi and g are linear maps to C / 2 channels with bias, out one back to C without. There
    is no activation after the sum. Where torch has a fused kernel for the device, no matrix of all
    pairs of positions is ever held.

    Shape:
        input  (N, C, T, H, W)
        output same shape, dtype and layout

    Args:
        num_channels: C.
        make_normalizer: Makes the normalizer at the end.

    Source: Wang et al., "Non-local Neural Networks", CVPR 2018, sec. 3.2 (embedded Gaussian) and
        3.3 (subsampling), arXiv:1711.07971; the factor 1 / sqrt(C / 2) as in its published code.
    """

    def __init__(self, num_channels: int, make_normalizer: NormalizerFactory) -> None:
        super().__init__()
        inner_channels = num_channels // 2
        self.theta = nn.Conv3d(num_channels, inner_channels, 1)
        self.phi = nn.Conv3d(num_channels, inner_channels, 1)
        self.g = nn.Conv3d(num_channels, inner_channels, 1)
        self.out = make_normalizer.make_conv(inner_channels, num_channels, (1, 1, 1))
        self.norm = make_normalizer(num_channels)

    @property
    def final_normalizer(self) -> nn.Module:
        """The normalizer whose output is added to the input."""
        return self.norm

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns the block's output (N, C, T, H, W)."""
        pool = (1, min(2, x.shape[3]), min(2, x.shape[4]))
        pooled = max_pool3d(x, pool, pool)
        theta = self.theta(x)
        # The default scale is that of the docstring: a position has C / 2 features.
        y_N1QC = nn.functional.scaled_dot_product_attention(
            _to_positions(theta), _to_positions(self.phi(pooled)), _to_positions(self.g(pooled))
        )
        y = y_N1QC.squeeze(1).transpose(1, 2).reshape(theta.shape)
        # x stands first: the sum takes its layout.
        return x + self.norm(self.out(y))


def _to_positions(x: torch.Tensor) -> torch.Tensor:
    """Returns x (N, C, T, H, W) as one head of attention, (N, 1, T * H * W, C).

    Contiguous, as the fused kernels need it; of a channels-last x it is a view.
    """
    return x.flatten(2).transpose(1, 2).contiguous()[:, None]
