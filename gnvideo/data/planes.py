"""Clips as the planes that videos store: half the bytes of RGB, which is made on the device.

Frames of H by W pixels, both even, are packed into one array of 3 * H / 2 + 1 lines: those of Y;
then for each line of U the line of V beside it; then one whose first byte is the colour code, which
says how RGB is made of them. So a clip is one array whatever its colours, as one in RGB is.

Axes: N clips, C colour channels, T frames, H height, W width; L lines of a packed frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from gnvideo.data.color import compute_rgb_coefficients, convert_yuv420_to_rgb
from gnvideo.data.decoding import DecodedFrames, Yuv420Frames, YuvMatrix
from gnvideo.data.decoding_pyav import PyavDecoder
from gnvideo.data.transforms import Placement, TestTransform, TrainTransform, place_frames

# A colour code is a place in this table.
_COLOURS: tuple[tuple[YuvMatrix, bool], ...] = (
    *(("bt601", False), ("bt601", True), ("bt709", False)),
    *(("bt709", True), ("bt2020", False), ("bt2020", True)),
)

Bytes = npt.NDArray[np.uint8]


class PlanesDecoder:
    """Gives packed planes in place of RGB frames."""

    def __init__(self) -> None:
        """Opens nothing."""
        self._decoder = PyavDecoder()

    def decode_frames(
        self, path: Path, indices: Sequence[int] | npt.NDArray[np.integer]
    ) -> DecodedFrames:
        """Returns the frames at `indices` as (T, L, W, 1); of an odd side the last line is lost.

        Raises:
            VideoError: as `PyavDecoder.decode_yuv420`.
        """
        frames = self._decoder.decode_yuv420(path, indices)
        height, width = (side // 2 * 2 for side in frames.y_THW.shape[1:])
        planes = (
            frames.y_THW[:, :height, :width],
            frames.u_THW[:, : height // 2, : width // 2],
            frames.v_THW[:, : height // 2, : width // 2],
        )
        code = _COLOURS.index((frames.matrix, frames.is_full_range))
        return DecodedFrames(_pack(planes, code), frames.timestamps_seconds)


@dataclass(frozen=True, slots=True)
class PlanesTrainTransform:
    """As a `TrainTransform`, on packed planes, with the same draws.

    Sizes and places are rounded down to even pixels, since chroma has one sample for two. Planes
    are resized each by itself, before they become RGB.

    Attributes:
        transform: Says where the crop lies; its side must be even.
    """

    transform: TrainTransform

    def __call__(self, frames_TLW1: Bytes, generator: np.random.Generator) -> torch.Tensor:
        """Returns the packed clip (1, T, L, crop)."""
        return _place_planes(
            frames_TLW1, self.transform.draw(*_compute_size(frames_TLW1.shape), generator)
        )

    def compute_clip_shape(self, num_frames: int) -> tuple[int, int, int, int]:
        """Returns (T, L, crop, 1)."""
        side = self.transform.crop_pixels
        return num_frames, side * 3 // 2 + 1, side, 1


@dataclass(frozen=True, slots=True)
class PlanesTestTransform:
    """As a `TestTransform`, on packed planes; see `PlanesTrainTransform`."""

    transform: TestTransform

    def __call__(self, frames_TLW1: Bytes) -> torch.Tensor:
        """Returns the packed clip (1, T, L, W')."""
        return _place_planes(frames_TLW1, self.transform.place(*_compute_size(frames_TLW1.shape)))


def convert_packed_clips(clips_N1TLW: torch.Tensor) -> torch.Tensor:
    """Returns the clips (N, 3, T, H, W) as RGB, float32, 0 to 255, not rounded, on their device."""
    clips_NTLW = clips_N1TLW[:, 0]
    height, width = _compute_size((*clips_NTLW.shape[1:], 1))
    # Not made on the device, which would wait for all work queued there.
    table = _make_coefficient_table().to(clips_N1TLW.device, non_blocking=True)
    return convert_yuv420_to_rgb(
        clips_NTLW[:, :, :height],
        clips_NTLW[:, :, height:-1, : width // 2],
        clips_NTLW[:, :, height:-1, width // 2 :],
        table[clips_NTLW[:, 0, -1, 0].long()],
        dtype=torch.float32,
    )


def _compute_size(shape_TLW1: Sequence[int]) -> tuple[int, int]:
    """Returns the height and width of packed frames, in pixels."""
    return (shape_TLW1[1] - 1) // 3 * 2, shape_TLW1[2]


def _pack(planes_THW: Sequence[Bytes], code: int) -> Bytes:
    y_THW, u_THW, v_THW = planes_THW
    num_frames, height, width = y_THW.shape
    packed_TLW = np.zeros((num_frames, height * 3 // 2 + 1, width), np.uint8)
    packed_TLW[:, :height] = y_THW
    packed_TLW[:, height:-1, : width // 2] = u_THW
    packed_TLW[:, height:-1, width // 2 :] = v_THW
    packed_TLW[:, -1, 0] = code
    return packed_TLW[..., None]


def _place_planes(frames_TLW1: Bytes, placement: Placement) -> torch.Tensor:
    height, width = _compute_size(frames_TLW1.shape)
    # In units of chroma samples.
    chroma = Placement(
        placement.height // 2,
        placement.width // 2,
        placement.top // 2,
        placement.left // 2,
        placement.crop_height // 2,
        placement.crop_width // 2,
        placement.is_flipped,
    )
    luma = Placement(
        chroma.height * 2,
        chroma.width * 2,
        chroma.top * 2,
        chroma.left * 2,
        chroma.crop_height * 2,
        chroma.crop_width * 2,
        placement.is_flipped,
    )
    frames_TLW = frames_TLW1[..., 0]
    planes_THW = (
        _place_plane(frames_TLW[:, :height], luma),
        _place_plane(frames_TLW[:, height:-1, : width // 2], chroma),
        _place_plane(frames_TLW[:, height:-1, width // 2 :], chroma),
    )
    packed_TLW1 = _pack(planes_THW, int(frames_TLW[0, -1, 0]))
    return torch.from_numpy(packed_TLW1).permute(3, 0, 1, 2)


def _place_plane(plane_THW: Bytes, placement: Placement) -> Bytes:
    num_frames, height, width = plane_THW.shape
    # torch resizes four channels in the time of one: so each frame of four is one.
    group = next(size for size in (4, 3, 2, 1) if num_frames % size == 0)
    frames_THWC = plane_THW.reshape(-1, group, height, width).transpose(0, 2, 3, 1)
    placed_CTHW = place_frames(frames_THWC, placement).numpy()
    return placed_CTHW.transpose(1, 0, 2, 3).reshape(num_frames, *placed_CTHW.shape[2:])


def _make_coefficient_table() -> torch.Tensor:
    """Returns (codes, 3, 4): for each colour code the matrix that makes RGB."""
    nothing = np.empty((0, 0, 0), np.uint8)
    return torch.stack(
        [
            compute_rgb_coefficients(
                Yuv420Frames(nothing, nothing, nothing, matrix, is_full_range, np.empty(0))
            )
            for matrix, is_full_range in _COLOURS
        ]
    )
