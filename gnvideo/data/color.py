"""From the planes that a video stores to RGB, on any device.

Chroma samples lie on a grid of half the resolution. Each serves its two by two pixels, as in
swscale's own fast path, which the decoders' RGB output comes from.

Axes: N clips, C colour channels (RGB), T frames, H height, W width. Chroma planes have ceil(H/2)
lines of ceil(W/2) samples.
"""

from __future__ import annotations

import torch

from gnvideo.data.decoding import Yuv420Frames, YuvMatrix

# The weights of red and blue in the luma of each matrix; green has the rest.
# Source: Rec. ITU-R BT.601-7, sec. 2.5.1; BT.709-6, sec. 3.2; BT.2020-2, table 4.
_LUMA_WEIGHTS: dict[YuvMatrix, tuple[float, float]] = {
    "bt601": (0.299, 0.114),
    "bt709": (0.2126, 0.0722),
    "bt2020": (0.2627, 0.0593),
}


def compute_rgb_coefficients(frames: Yuv420Frames) -> torch.Tensor:
    """Returns the (3, 4) float32 matrix by which (Y, U, V, 1), 0 to 255, gives (R, G, B)."""
    red, blue = _LUMA_WEIGHTS[frames.matrix]
    green = 1 - red - blue
    luma_gain, chroma_gain, black = (
        (1.0, 1.0, 0.0) if frames.is_full_range else (255 / 219, 255 / 224, 16.0)
    )
    red_of_v, blue_of_u = 2 * (1 - red) * chroma_gain, 2 * (1 - blue) * chroma_gain
    green_of_u, green_of_v = -blue_of_u * blue / green, -red_of_v * red / green
    rows = ((0.0, red_of_v), (green_of_u, green_of_v), (blue_of_u, 0.0))
    return torch.tensor(
        [[luma_gain, u, v, -black * luma_gain - 128 * (u + v)] for u, v in rows],
        dtype=torch.float32,
    )


def convert_yuv420_to_rgb(
    y_NTHW: torch.Tensor,
    u_NTHW: torch.Tensor,
    v_NTHW: torch.Tensor,
    coefficients_N34: torch.Tensor,
    *,
    dtype: torch.dtype = torch.uint8,
) -> torch.Tensor:
    """Returns the clips (N, 3, T, H, W) as RGB, 0 to 255, in channels_last_3d layout.

    Args:
        y_NTHW: (N, T, H, W) uint8.
        u_NTHW: (N, T, ceil(H/2), ceil(W/2)) uint8.
        v_NTHW: As `u_NTHW`.
        coefficients_N34: (N, 3, 4) float32 on the same device, from `compute_rgb_coefficients`.
        dtype: uint8, rounded; or a floating type, not rounded.
    """
    height, width = y_NTHW.shape[2:]
    planes = [
        y_NTHW,
        *(
            plane.repeat_interleave(2, dim=2)[:, :, :height].repeat_interleave(2, dim=3)[
                ..., :width
            ]
            for plane in (u_NTHW, v_NTHW)
        ),
    ]
    yuv_NTHW3 = torch.stack(planes, dim=-1).float()
    weights_NT33 = coefficients_N34[:, None, None, :, :3].transpose(-1, -2)
    rgb_NTHW3 = yuv_NTHW3 @ weights_NT33 + coefficients_N34[:, None, None, None, :, 3]
    rgb_NTHW3.clamp_(0, 255)
    if dtype == torch.uint8:
        rgb_NTHW3.round_()
    return rgb_NTHW3.to(dtype).permute(0, 4, 1, 2, 3)
