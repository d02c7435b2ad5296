"""The moving pictures of the generated data set: oriented bands that drift over a still background.

A class is a direction of drift; the bands stand across it. One frame shows how the bands lie and
so leaves two classes, which differ in the sign of the motion alone. Brightness, contrast and colour
cast belong to the clip and tell nothing about its class: they make the statistics of a small batch
noisy, as real videos do.

Lengths are relative to the short side, so a video keeps its look when it is scaled.

Axes: T frames, H height, W width, C colour channels (RGB).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

# The direction of drift in degrees, clockwise from "to the right" because rows count downwards.
DRIFT_DEGREES = {
    "bands drifting right": 0.0,
    "bands drifting down right": 60.0,
    "bands drifting down left": 120.0,
    "bands drifting left": 180.0,
    "bands drifting up left": 240.0,
    "bands drifting up right": 300.0,
}
CLASS_NAMES = tuple(DRIFT_DEGREES)

# Half of the 60 degrees between two directions lies 2.3 of these deviations away: some two
# percent of the videos look like their neighbour, which keeps the best accuracy below 100 %.
_DIRECTION_DEVIATION_DEGREES = 13.0
_WAVE_DEVIATION_DEGREES = 5.0
_NUM_BAND_WAVES = 6
_NUM_BACKGROUND_WAVES = 24
# In units of the short side.
_BAND_PERIOD = (0.2, 0.3)
_BACKGROUND_PERIOD = (0.125, 0.35)
_SPEED_PER_SECOND = (0.55, 0.85)
_WINDOW_RADIUS = (0.45, 0.65)
_WINDOW_EDGE = 0.0375
# In units of full brightness.
_BRIGHTNESS = (0.38, 0.62)
_CONTRAST = (0.1, 0.2)
_COLOR_CAST = 0.08
_CHANNEL_GAIN = (0.75, 1.25)
_NOISE_TO_CONTRAST = 0.33


def draw_video(
    class_name: str,
    generator: np.random.Generator,
    *,
    num_frames: int,
    height_pixels: int,
    width_pixels: int,
    fps: float,
) -> npt.NDArray[np.uint8]:
    """Returns a video of the class as uint8 (T, H, W, C); draws from `generator`."""
    unit = min(height_pixels, width_pixels)
    y_HW, x_HW = np.mgrid[0:height_pixels, 0:width_pixels].astype(np.float32) / unit
    time_T = np.arange(num_frames, dtype=np.float32) / fps

    bands_THW = _draw_bands(DRIFT_DEGREES[class_name], x_HW, y_HW, time_T, generator)
    background_HW = _draw_background(x_HW, y_HW, generator)
    window_HW = _draw_window(x_HW, y_HW, generator)
    bands_strength = np.float32(generator.uniform(0.7, 1.0))
    background_strength = np.float32(generator.uniform(0.12, 0.3))
    picture_THW = (
        bands_strength * window_HW * bands_THW
        + background_strength * (1 - 0.6 * window_HW) * background_HW
    )
    return _render(picture_THW.astype(np.float32), generator)


def _draw_bands(
    degrees: float,
    x_HW: npt.NDArray[np.float32],
    y_HW: npt.NDArray[np.float32],
    time_T: npt.NDArray[np.float32],
    generator: np.random.Generator,
) -> npt.NDArray[np.float32]:
    """Returns a texture (T, H, W) of unit variance that moves rigidly along `degrees`."""
    direction = np.deg2rad(degrees + generator.normal(0, _DIRECTION_DEVIATION_DEGREES))
    distance_T = generator.uniform(*_SPEED_PER_SECOND) * time_T
    texture_THW = np.zeros((len(time_T), *x_HW.shape), np.float32)
    for _ in range(_NUM_BAND_WAVES):
        angle = direction + np.deg2rad(generator.normal(0, _WAVE_DEVIATION_DEGREES))
        frequency = 2 * np.pi / generator.uniform(*_BAND_PERIOD)
        phase = generator.uniform(0, 2 * np.pi)
        place_HW = frequency * (x_HW * np.cos(angle) + y_HW * np.sin(angle)) + phase
        moved_T = frequency * np.cos(angle - direction) * distance_T
        texture_THW += np.cos(place_HW - moved_T[:, None, None], dtype=np.float32)
    return texture_THW / np.float32(np.sqrt(_NUM_BAND_WAVES / 2))


def _draw_background(
    x_HW: npt.NDArray[np.float32], y_HW: npt.NDArray[np.float32], generator: np.random.Generator
) -> npt.NDArray[np.float32]:
    """Returns a still texture (H, W) of unit variance without a preferred orientation."""
    period = generator.uniform(*_BACKGROUND_PERIOD)
    texture_HW = np.zeros_like(x_HW)
    for _ in range(_NUM_BACKGROUND_WAVES):
        angle = generator.uniform(0, np.pi)
        frequency = 2 * np.pi / (period * generator.uniform(0.7, 1.5))
        phase = generator.uniform(0, 2 * np.pi)
        texture_HW += np.cos(frequency * (x_HW * np.cos(angle) + y_HW * np.sin(angle)) + phase)
    return texture_HW / np.float32(np.sqrt(_NUM_BACKGROUND_WAVES / 2))


def _draw_window(
    x_HW: npt.NDArray[np.float32], y_HW: npt.NDArray[np.float32], generator: np.random.Generator
) -> npt.NDArray[np.float32]:
    """Returns the share (H, W) of the bands at each pixel: a disc with a soft edge."""
    center_x = np.float32(generator.uniform(0.3, 0.7) * x_HW.max())
    center_y = np.float32(generator.uniform(0.3, 0.7) * y_HW.max())
    radius = generator.uniform(*_WINDOW_RADIUS)
    distance_HW = np.hypot(x_HW - center_x, y_HW - center_y)
    share_HW = 1 / (1 + np.exp((distance_HW - np.float32(radius)) / np.float32(_WINDOW_EDGE)))
    return share_HW.astype(np.float32)


def _render(
    picture_THW: npt.NDArray[np.float32], generator: np.random.Generator
) -> npt.NDArray[np.uint8]:
    """Returns the picture in the clip's own brightness, contrast and colours, with camera noise."""
    brightness = generator.uniform(*_BRIGHTNESS)
    contrast = generator.uniform(*_CONTRAST)
    cast_C = generator.uniform(-_COLOR_CAST, _COLOR_CAST, 3)
    gain_C = generator.uniform(*_CHANNEL_GAIN, 3)
    noise_THWC = generator.standard_normal((*picture_THW.shape, 3), dtype=np.float32)
    video_THWC = picture_THW[..., None] * (contrast * gain_C).astype(np.float32)
    video_THWC += (brightness + cast_C).astype(np.float32)
    video_THWC += np.float32(contrast * _NOISE_TO_CONTRAST) * noise_THWC
    return (255 * np.clip(video_THWC, 0, 1)).round().astype(np.uint8)
