"""Group normalization of long clips on a CPU, by torch's operators over rows of channels.

For tensors whose channels lie innermost. However wide the groups are, each operator passes through
memory in order, and nothing is turned. Exact: deviations are squared after a mean is taken off, and
torch's sums over rows are pairwise. The small operators beside make it slow for short clips.

Axes: N clips, C channels, G groups, D = C / G channels of a group, P positions (T * H * W).
"""

from __future__ import annotations

import torch

from gnvideo.ops.moments import pool_moments, spread_groups


def normalize_rows(
    x: torch.Tensor,
    num_groups: int,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    eps: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Returns y in x's shape and layout, mean (N, G) and 1 / deviation (N, G).

    Args:
        x: (N, C, *), dense with its channels innermost, float32 or float64.
        num_groups: G.
        weight: (C,) in x's dtype; None is 1.
        bias: (C,) in x's dtype; None is 0.
        eps: Added to the variance.
    """
    num_channels = x.shape[1]
    x_NPC = _view_rows(x)
    mean_NC = x_NPC.mean(1)
    # Its memory becomes y's.
    squares_NPC = (x_NPC - mean_NC[:, None]).square_()
    mean_NG, var_NG = pool_moments(mean_NC, squares_NPC.mean(1), num_groups)
    rstd_NG = (var_NG + eps).rsqrt_()
    scale_NC = spread_groups(rstd_NG, num_channels)
    if weight is not None:
        scale_NC *= weight
    shift_NC = -spread_groups(mean_NG, num_channels) * scale_NC
    if bias is not None:
        shift_NC += bias
    y = torch.addcmul(shift_NC[:, None], x_NPC, scale_NC[:, None], out=squares_NPC)
    # In place: of a view, what follows could not be done in place.
    return y.as_strided_(x.shape, x.stride()), mean_NG, rstd_NG


def differentiate_rows(
    dy: torch.Tensor,
    x: torch.Tensor,
    weight: torch.Tensor | None,
    mean_NG: torch.Tensor,
    rstd_NG: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Returns dx in x's shape and layout, dweight (C,) and dbias (C,).

    Args:
        dy: (N, C, *), dense with its channels innermost, as x.
        x: What was normalized.
        weight: As there.
        mean_NG: From there, as the following.
        rstd_NG: 1 / deviation.
    """
    num_channels, num_groups = x.shape[1], mean_NG.shape[1]
    x_NPC, dy_NPC = _view_rows(x), _view_rows(dy)
    mean_NC = spread_groups(mean_NG, num_channels)
    rstd_NC = spread_groups(rstd_NG, num_channels)
    scale_NC = rstd_NC if weight is None else rstd_NC * weight
    # Its memory becomes dx's.
    products_NPC = dy_NPC * x_NPC
    sum_NC = dy_NPC.sum(1)
    along_x_hat_NC = (products_NPC.sum(1) - mean_NC * sum_NC) * rstd_NC
    # dx = scale * dy - rstd * (m1 + m2 * x_hat), with the means m1 of weight * dy over a group and
    # m2 of weight * dy * x_hat.
    num_positions = x_NPC.shape[1]
    means_NG = [
        (scale_NC * sums_NC).unflatten(1, (num_groups, -1)).mean(2) / num_positions
        for sums_NC in (sum_NC, along_x_hat_NC)
    ]
    slope_NC = spread_groups(-means_NG[1] * rstd_NG, num_channels)
    shift_NC = -spread_groups(means_NG[0], num_channels) - mean_NC * slope_NC
    dx = torch.addcmul(shift_NC[:, None], x_NPC, slope_NC[:, None], out=products_NPC)
    dx.addcmul_(dy_NPC, scale_NC[:, None])
    return dx.as_strided_(x.shape, x.stride()), along_x_hat_NC.sum(0), sum_NC.sum(0)


def _view_rows(x: torch.Tensor) -> torch.Tensor:
    """Returns a view of x as (N, P, C)."""
    return x.flatten(2).transpose(1, 2)
