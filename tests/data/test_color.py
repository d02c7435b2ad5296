from __future__ import annotations

from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import pytest
import torch

from gnvideo.data.color import compute_rgb_coefficients, convert_yuv420_to_rgb
from gnvideo.data.decoding import Yuv420Frames, YuvMatrix
from gnvideo.data.decoding_pyav import PyavDecoder
from gnvideo.errors import VideoError

# FFmpeg's AVColorSpace; 2 is unspecified.
COLOR_SPACES: dict[int, YuvMatrix] = {
    1: "bt709",
    2: "bt601",
    5: "bt601",
    6: "bt601",
    9: "bt2020",
}
# What the docstring of `convert_yuv420_to_rgb` says.
MAX_DIFFERENCE = 3
MAX_MEAN_DIFFERENCE = 1.5


def convert(frames: Yuv420Frames, dtype: torch.dtype = torch.uint8) -> torch.Tensor:
    """(T, H, W, 3) in RGB."""
    return convert_batch([frames], dtype)[0].permute(1, 2, 3, 0)


def convert_batch(clips: list[Yuv420Frames], dtype: torch.dtype = torch.uint8) -> torch.Tensor:
    return convert_yuv420_to_rgb(
        torch.from_numpy(np.stack([clip.y_THW for clip in clips])),
        torch.from_numpy(np.stack([clip.u_THW for clip in clips])),
        torch.from_numpy(np.stack([clip.v_THW for clip in clips])),
        torch.stack([compute_rgb_coefficients(clip) for clip in clips]),
        dtype=dtype,
    )


def assert_close(first: npt.NDArray[np.uint8], second: npt.NDArray[np.uint8]) -> None:
    difference = np.abs(first.astype(int) - second)
    assert difference.max() <= MAX_DIFFERENCE
    assert difference.mean() < MAX_MEAN_DIFFERENCE


def make_noise(
    height: int, width: int, color_space: int, *, is_full_range: bool, flat_chroma: bool = False
) -> tuple[Yuv420Frames, npt.NDArray[np.uint8]]:
    """One frame of all values of Y, U and V, also those outside a limited range, and its RGB."""
    generator = np.random.default_rng(0)
    frame = av.VideoFrame(width, height, "yuv420p")
    planes: list[npt.NDArray[np.uint8]] = []
    for number, plane in enumerate(frame.planes):
        lines = generator.integers(0, 256, (plane.height, plane.line_size), dtype=np.uint8)
        if flat_chroma and number:
            lines[:] = 90 + 60 * number
        plane.update(lines.tobytes())
        planes.append(lines[None, :, : plane.width])
    frame.colorspace, frame.color_range = color_space, 2 if is_full_range else 1
    stored = Yuv420Frames(
        planes[0],
        planes[1],
        planes[2],
        matrix=COLOR_SPACES[color_space],
        is_full_range=is_full_range,
        timestamps_seconds=np.zeros(1),
    )
    return stored, frame.to_ndarray(format="rgb24").astype(np.uint8)


@pytest.mark.parametrize("width", [64, 97], ids=["even", "odd-width"])
@pytest.mark.parametrize("is_full_range", [False, True], ids=["limited", "full"])
@pytest.mark.parametrize("color_space", COLOR_SPACES)
def test_conversion_is_close_to_swscale_for_all_values(
    color_space: int, is_full_range: bool, width: int
) -> None:
    stored, expected = make_noise(256, width, color_space, is_full_range=is_full_range)
    assert_close(convert(stored)[0].numpy(), expected)


def test_only_chroma_is_blended_where_the_height_is_odd() -> None:
    stored, expected = make_noise(63, 96, 5, is_full_range=False, flat_chroma=True)
    assert_close(convert(stored)[0].numpy(), expected)


def test_floats_are_in_range_and_round_to_the_integers() -> None:
    stored, _ = make_noise(64, 64, 1, is_full_range=False)
    rgb = convert(stored, torch.float32)
    assert rgb.min() >= 0
    assert rgb.max() <= 255
    assert (rgb != rgb.round()).any()
    assert torch.equal(rgb.round().to(torch.uint8), convert(stored))


def test_gray_stays_gray_and_black_and_white_are_exact() -> None:
    luma = np.array([[[16, 235], [126, 126]]], np.uint8)
    chroma = np.full((1, 1, 1), 128, np.uint8)
    frames = Yuv420Frames(luma, chroma, chroma, "bt709", False, np.zeros(1))
    rgb = convert(frames)
    assert rgb[0, 0, 0].tolist() == [0, 0, 0]
    assert rgb[0, 0, 1].tolist() == [255, 255, 255]
    assert len(set(rgb[0, 1, 0].tolist())) == 1


def test_each_clip_of_a_batch_has_its_own_coefficients_and_the_layout_is_channels_last() -> None:
    clips = [make_noise(36, 48, space, is_full_range=space == 5)[0] for space in (1, 5)]
    batch = convert_batch(clips)
    assert batch.shape == (2, 3, 1, 36, 48)
    assert batch.is_contiguous(memory_format=torch.channels_last_3d)
    for clip, rgb in zip(clips, batch, strict=True):
        assert torch.equal(rgb.permute(1, 2, 3, 0), convert(clip))


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"codec_options": {"x264-params": "colormatrix=bt709"}},
        {"pixel_format": "yuvj420p"},
        {"rotation": 90},
        {"rotation": 180},
        {"rotation": 270, "width": 52},
        {"b_frames": 3, "keyframe_interval": 250},
    ],
    ids=["bt601", "bt709", "full-range", "90", "180", "270", "b-frames"],
)
def test_planes_of_a_video_become_the_frames_that_are_decoded_as_rgb(
    how: dict[str, Any], tmp_path: Path, write_video: Any
) -> None:
    path = write_video(tmp_path / "video.mp4", **how)
    indices = [7, 3, 3, 39]
    stored = PyavDecoder().decode_yuv420(path, indices)
    expected = PyavDecoder().decode_frames(path, indices)
    assert_close(convert(stored).numpy(), expected.frames_THWC)
    np.testing.assert_array_equal(stored.timestamps_seconds, expected.timestamps_seconds)


def test_planes_are_those_that_the_file_stores(tmp_path: Path, write_video: Any) -> None:
    path = write_video(tmp_path / "video.mp4")
    stored = PyavDecoder().decode_yuv420(path, range(40))
    with av.open(str(path)) as container:
        for t, frame in enumerate(container.decode(video=0)):
            planes = frame.to_ndarray().astype(np.uint8)
            np.testing.assert_array_equal(stored.y_THW[t], planes[:36])
            np.testing.assert_array_equal(stored.u_THW[t].ravel(), planes[36:45].ravel())
            np.testing.assert_array_equal(stored.v_THW[t].ravel(), planes[45:].ravel())


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ({"pixel_format": "yuv420p10le"}, "pixel format is yuv420p10le"),
        ({"pixel_format": "yuv444p"}, "pixel format is yuv444p"),
        ({"codec_options": {"x264-params": "colormatrix=fcc"}}, "colour space is 4"),
        (
            {"height": 64, "codec_options": {"flags": "+ilme+ildct", "x264-params": "tff=1"}},
            "interlaced",
        ),
    ],
    ids=["10-bits", "444", "fcc", "interlaced"],
)
def test_other_formats_are_refused_in_one_line(
    how: dict[str, Any], reason: str, tmp_path: Path, write_video: Any
) -> None:
    path = write_video(tmp_path / "video.mp4", **how)
    with pytest.raises(VideoError, match=rf"video\.mp4: .*{reason}; read it as RGB") as caught:
        PyavDecoder().decode_yuv420(path, [0])
    assert "\n" not in str(caught.value)
