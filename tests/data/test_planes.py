from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gnvideo.data.dataset import make_frame_source
from gnvideo.data.decoding import make_decoder
from gnvideo.data.decoding_pyav import PyavDecoder
from gnvideo.data.planes import (
    PlanesDecoder,
    PlanesTestTransform,
    PlanesTrainTransform,
    convert_packed_clips,
)
from gnvideo.data.transforms import Placement, TestTransform, TrainTransform, place_frames
from gnvideo.errors import DecoderUnavailableError, VideoError

INDICES = [3, 4, 9, 20, 21]
COLOURS: dict[str, dict[str, Any]] = {
    "bt601": {},
    "bt709": {"codec_options": {"x264-params": "colormatrix=bt709"}},
    "full_range": {"pixel_format": "yuvj420p"},
}


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory, write_video: Any) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("planes")
    return {name: write_video(folder / f"{name}.mp4", **how) for name, how in COLOURS.items()}


def convert(clip_1TLW: torch.Tensor) -> torch.Tensor:
    return convert_packed_clips(clip_1TLW[None])[0]


def decode_both(path: Path) -> tuple[Any, Any]:
    return (
        make_decoder("pyav").decode_frames(path, INDICES).frames_THWC,
        PlanesDecoder().decode_frames(path, INDICES).frames_THWC,
    )


@pytest.mark.parametrize("name", COLOURS)
def test_unresized_planes_give_the_decoders_rgb_within_its_rounding(
    name: str, videos: dict[str, Path]
) -> None:
    rgb_THWC, packed_TLW1 = decode_both(videos[name])
    assert packed_TLW1.nbytes < 0.6 * rgb_THWC.nbytes
    clip = convert(PlanesTestTransform(TestTransform(36, "full"))(packed_TLW1))
    assert clip.dtype == torch.float32
    difference = (clip - torch.from_numpy(rgb_THWC).permute(3, 0, 1, 2)).abs()
    # swscale works with fewer bits than float32, and rounds three times.
    assert difference.max() < 3
    assert difference.mean() < 1.3


def test_clips_of_different_colours_share_a_batch(videos: dict[str, Path]) -> None:
    transform = PlanesTestTransform(TestTransform(36, "full"))
    clips = [transform(decode_both(path)[1]) for path in videos.values()]
    together = convert_packed_clips(torch.stack(clips))
    for clip, converted in zip(clips, together, strict=True):
        assert torch.equal(convert(clip), converted)


def test_the_crop_is_that_of_rgb_at_even_pixels_and_mirrored_alike(
    videos: dict[str, Path],
) -> None:
    _, packed_TLW1 = decode_both(videos["bt601"])
    whole = convert(PlanesTestTransform(TestTransform(36, "full"))(packed_TLW1))
    transform = TrainTransform(20, (36, 36))
    seen_flips: set[bool] = set()
    for seed in range(8):
        placed = transform.draw(36, 48, np.random.default_rng(seed))
        seen_flips.add(placed.is_flipped)
        top, left = placed.top // 2 * 2, placed.left // 2 * 2
        expected = whole[:, :, top : top + 20, left : left + 20]
        if placed.is_flipped:
            expected = expected.flip(-1)
        clip = PlanesTrainTransform(transform)(packed_TLW1, np.random.default_rng(seed))
        assert clip.permute(1, 2, 3, 0).shape == PlanesTrainTransform(transform).compute_clip_shape(
            len(INDICES)
        )
        assert torch.equal(convert(clip), expected)
    assert seen_flips == {False, True}


def test_a_resized_clip_lies_where_the_rgb_clip_lies() -> None:
    # A smooth picture: of resized chroma nothing but its place can differ.
    rows, columns = np.mgrid[:80, :100].astype(np.float64)
    luma = np.round(128 + 60 * np.sin(rows / 9) * np.cos(columns / 11)).astype(np.uint8)
    chroma = np.round(128 + 40 * np.cos(rows[::2, ::2] / 17)).astype(np.uint8)
    packed = np.zeros((4, 121, 100, 1), np.uint8)
    packed[:, :80, :, 0] = luma
    packed[:, 80:-1, :50, 0] = packed[:, 80:-1, 50:, 0] = chroma
    whole = convert(torch.from_numpy(packed).permute(3, 0, 1, 2))
    rgb_THWC = whole.round().byte().permute(1, 2, 3, 0).contiguous().numpy()
    transform = TestTransform(60, "center", 48)
    placement = transform.place(80, 100)
    assert (placement.width, placement.left, placement.top) == (75, 13, 6)
    clip = convert(PlanesTestTransform(transform)(packed))

    def compute_distance(top: int, left: int) -> float:
        shown = place_frames(rgb_THWC, Placement(60, 74, top, left, 48, 48))
        return (clip - shown).abs().mean().item()

    best = compute_distance(6, 12)
    # Chroma that is constant over two by two pixels is not what is left of it after resizing.
    assert best < 2
    assert all(
        compute_distance(top, left) > 1.5 * best
        for top in (5, 6, 7)
        for left in (11, 12, 13)
        if (top, left) != (6, 12)
    )


@pytest.mark.parametrize("count", [1, 2, 3, 5, 8])
def test_frames_are_treated_alike_however_many(count: int) -> None:
    frames = np.random.default_rng(0).integers(0, 6, (1, 61, 50, 1), dtype=np.uint8)
    one = PlanesTestTransform(TestTransform(30, "center", 28))(frames)
    many = PlanesTestTransform(TestTransform(30, "center", 28))(frames.repeat(count, axis=0))
    assert torch.equal(many, one.expand_as(many))


def test_of_an_odd_side_the_last_line_is_left_out(tmp_path: Path, write_video: Any) -> None:
    path = write_video(
        tmp_path / "odd.webm",
        height=37,
        width=51,
        codec="libvpx-vp9",
        codec_options={"deadline": "realtime", "cpu-used": "8"},
    )
    frames = PyavDecoder().decode_yuv420(path, INDICES)
    packed_TLW = PlanesDecoder().decode_frames(path, INDICES).frames_THWC[..., 0]
    assert frames.y_THW.shape[1:] == (37, 51)
    assert packed_TLW.shape[1:] == (36 * 3 // 2 + 1, 50)
    np.testing.assert_array_equal(packed_TLW[:, :36], frames.y_THW[:, :36, :50])
    np.testing.assert_array_equal(packed_TLW[:, 36:-1, :25], frames.u_THW[:, :18, :25])
    np.testing.assert_array_equal(packed_TLW[:, 36:-1, 25:], frames.v_THW[:, :18, :25])


def test_a_file_that_is_not_420_is_one_clear_error(tmp_path: Path, write_video: Any) -> None:
    path = write_video(tmp_path / "full.mp4", pixel_format="yuv444p")
    with pytest.raises(VideoError, match=r"full\.mp4.*4:2:0") as caught:
        PlanesDecoder().decode_frames(path, [0])
    assert "\n" not in str(caught.value)


def test_only_pyav_gives_planes() -> None:
    with pytest.raises(DecoderUnavailableError, match="use pyav"):
        make_frame_source("decord", "yuv420")
