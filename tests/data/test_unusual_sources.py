"""Sources as nobody would write them on purpose; most of them are real."""

from __future__ import annotations

import struct
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
import pytest

from gnvideo.data.encoding import EncodedVideo
from gnvideo.data.encoding_profiles import EncodingSettings
from gnvideo.data.transcoding import transcode_video
from gnvideo.errors import VideoError

FAITHFUL = EncodingSettings(crf=5)


def draw(t: int, height: int, width: int) -> npt.NDArray[np.uint8]:
    y, x = np.mgrid[:height, :width]
    ramps = np.stack([200 * x // width, 200 * y // height, np.full_like(x, 3 * t)], -1)
    return (ramps + 20).clip(0, 255).astype(np.uint8)


def write(
    path: Path,
    codec: str = "libx264",
    pixel_format: str = "yuv420p",
    *,
    size: tuple[int, int] = (48, 64),
    count: int = 10,
    rate: Fraction | int = 25,
    ticks: list[int] | None = None,
    time_base: Fraction | None = None,
    pixel_aspect: Fraction | None = None,
    options: dict[str, str] | None = None,
) -> Path:
    height, width = size
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, options=options or {})
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = width, height, pixel_format
        if time_base:
            stream.codec_context.time_base = time_base
        if pixel_aspect:
            stream.codec_context.sample_aspect_ratio = pixel_aspect
        for t in range(count):
            frame = av.VideoFrame.from_ndarray(draw(t, height, width), format="rgb24")
            frame = frame.reformat(format=pixel_format)
            frame.pts = ticks[t] if ticks else t
            frame.time_base = time_base or 1 / Fraction(rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def transcode(source: Path) -> tuple[EncodedVideo, list[av.VideoFrame]]:
    target = source.with_name("out") / "clip.mp4"
    video = transcode_video(source, target, settings=FAITHFUL)
    with av.open(str(target)) as container:
        return video, list(container.decode(video=0))


def assert_pictures(frames: list[av.VideoFrame], size: tuple[int, int] = (48, 64)) -> None:
    """Asserts that the frames show what `draw` drew."""
    for t, frame in enumerate(frames):
        shown = frame.to_ndarray(format="rgb24").astype(int)
        assert np.abs(shown - draw(t, *size)).mean() < 8


@pytest.mark.parametrize(
    ("name", "codec", "pixel_format", "options"),
    [
        ("a.mkv", "ffv1", "yuva420p", {}),
        ("a.mov", "png", "rgba", {}),
        ("a.mov", "qtrle", "argb", {}),
        ("a.mov", "prores_ks", "yuva444p10le", {"profile": "4444"}),
        ("a.mkv", "ffv1", "yuv420p10le", {}),
        ("a.mkv", "ffv1", "gbrp12le", {}),
        ("a.mkv", "ffv1", "yuv410p", {}),
        ("a.mkv", "libx264", "nv12", {}),
        ("a.mpg", "mpeg2video", "yuv420p", {"flags": "+ilme+ildct", "b": "9M"}),
        ("a.mkv", "libx264", "yuv420p", {"x264-params": "tff=1"}),
    ],
    ids=lambda value: str(value),
)
def test_every_form_of_pixels_becomes_420(
    tmp_path: Path, name: str, codec: str, pixel_format: str, options: dict[str, str]
) -> None:
    video, frames = transcode(write(tmp_path / name, codec, pixel_format, options=options))
    assert (video.frames, video.width, video.height) == (10, 64, 48)
    assert {frame.format.name for frame in frames} == {"yuv420p"}
    assert_pictures(frames)


def test_gray_stays_gray(tmp_path: Path) -> None:
    _, frames = transcode(write(tmp_path / "a.mkv", "ffv1", "gray"))
    shown = frames[0].to_ndarray(format="rgb24").astype(int)
    assert np.abs(shown - shown.mean(axis=-1, keepdims=True)).max() <= 3


@pytest.mark.parametrize("size", [(47, 63), (2, 2), (1, 9), (17, 300)], ids=str)
def test_odd_and_tiny_sizes_become_even(tmp_path: Path, size: tuple[int, int]) -> None:
    video, _ = transcode(write(tmp_path / "a.mkv", "ffv1", "yuv444p", size=size))
    assert video.frames == 10
    assert (video.width % 2, video.height % 2) == (0, 0)


def test_a_change_of_size_is_scaled_to_the_first(tmp_path: Path) -> None:
    parts = [
        write(tmp_path / f"{height}.ts", size=(height, height * 4 // 3), options={"bf": "0"})
        for height in (48, 96)
    ]
    source = tmp_path / "a.ts"
    source.write_bytes(b"".join(part.read_bytes() for part in parts))
    video, frames = transcode(source)
    assert (video.frames, video.width, video.height) == (20, 64, 48)
    assert_pictures(frames[:10])
    assert_pictures(frames[10:])


def test_times_below_zero_are_times(tmp_path: Path) -> None:
    ticks = [40 * t - 200 for t in range(10)]
    source = write(tmp_path / "a.mkv", "ffv1", "yuv420p", ticks=ticks, time_base=Fraction(1, 1000))
    video, frames = transcode(source)
    assert video.frames == 10
    assert [frame.time for frame in frames] == pytest.approx([0.04 * t for t in range(10)])


@pytest.mark.parametrize("rate", [Fraction(1, 100), Fraction(1, 3600), 1000, 90000], ids=str)
def test_absurd_rates_are_kept(tmp_path: Path, rate: Fraction | int) -> None:
    video, frames = transcode(write(tmp_path / "a.mp4", rate=rate, options={"bf": "0"}))
    assert video.frames == 10
    assert video.duration == pytest.approx(10 / rate, rel=0.02)
    assert_pictures(frames)


def test_a_gap_of_a_year_costs_nothing(tmp_path: Path) -> None:
    year = 365 * 24 * 3600
    ticks = [*range(9), year * 25]
    video, _ = transcode(write(tmp_path / "a.mp4", ticks=ticks, options={"bf": "0"}))
    assert video.frames == 10
    assert len(video.perceptual_hashes) < 2000


Patch = Callable[[bytearray], None]


def drop_edit_list(data: bytearray) -> None:
    """Drops what would keep the right duration."""
    data[data.index(b"edts") : data.index(b"edts") + 4] = b"free"


def patch_duration(data: bytearray) -> None:
    """The header says days."""
    drop_edit_list(data)
    for name in (b"mvhd", b"mdhd"):
        place = data.index(name) + 20
        data[place : place + 4] = struct.pack(">I", 2**31 - 1)


def patch_frame_count(data: bytearray) -> None:
    """The table of sample sizes claims four billion entries."""
    place = data.index(b"stsz") + 12
    data[place : place + 4] = struct.pack(">I", 2**32 - 1)


def patch_offsets(data: bytearray) -> None:
    """All samples lie beyond the end of the file."""
    place = data.index(b"stco") + 12
    data[place : place + 4] = struct.pack(">I", 2**31)


def patch_durations(data: bytearray) -> None:
    """Every frame lasts for as long as its field can say."""
    drop_edit_list(data)
    place = data.index(b"stts") + 16
    data[place : place + 4] = struct.pack(">I", 2**31 - 1)


@pytest.mark.parametrize(
    ("patch", "error"),
    [
        (patch_duration, None),
        (patch_frame_count, r"cannot open .*a\.mp4: Invalid data"),
        (patch_offsets, r"no frame of .*a\.mp4 could be decoded"),
        (patch_durations, None),
    ],
)
def test_a_header_that_lies_is_an_error_that_names_the_file_or_does_no_harm(
    tmp_path: Path, patch: Patch, error: str | None
) -> None:
    source = write(tmp_path / "a.mp4", options={"bf": "0"})
    data = bytearray(source.read_bytes())
    patch(data)
    source.write_bytes(data)
    if error is None:
        video, frames = transcode(source)
        assert video.frames == 10
        assert_pictures(frames)
    else:
        with pytest.raises(VideoError, match=error):
            transcode(source)
        assert list(tmp_path.rglob("*.mp4")) == [source]


def test_pixels_that_are_absurdly_wide_are_refused(tmp_path: Path) -> None:
    source = write(tmp_path / "a.mkv", size=(40, 1000), pixel_aspect=Fraction(39))
    with pytest.raises(VideoError, match=r"a\.mkv would be .* pixels; at most 16384 a side"):
        transcode(source)
