from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
import pytest

from gnvideo.data.encoding import EncodedVideo
from gnvideo.data.encoding_profiles import EncodingSettings
from gnvideo.data.transcoding import compute_output_size, read_duration_seconds, transcode_video
from gnvideo.errors import VideoError

FPS = 25
NEARLY_LOSSLESS = EncodingSettings(crf=5)


def make_frame(t: int, height: int, width: int) -> npt.NDArray[np.uint8]:
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 3 + t, y * 4, np.full_like(x, 3 * t)], -1).clip(0, 255).astype(np.uint8)


def write_source(
    path: Path,
    codec: str = "libx264",
    *,
    count: int = 50,
    size: tuple[int, int] = (24, 32),
    pixel_format: str = "yuv420p",
    rotation_degrees: int = 0,
    pixel_aspect: Fraction | None = None,
    sound: bool = False,
    times: list[float] | None = None,
    **options: str,
) -> Path:
    """Writes a source of `size` (height, width), as other programs do, at 25 frames a second."""
    height, width = size
    with av.open(str(path), "w", options={"movflags": "faststart"}) as container:
        stream = container.add_stream(codec, rate=FPS, options=options)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = width, height, pixel_format
        if pixel_aspect:
            stream.codec_context.sample_aspect_ratio = pixel_aspect
        if times:
            stream.codec_context.time_base = Fraction(1, 1000)
        if rotation_degrees:
            stream.set_display_rotation(rotation_degrees)
        if sound:
            voice = container.add_stream("aac", rate=16000, layout="mono")
            silence = av.AudioFrame.from_ndarray(np.zeros((1, 16000), np.float32), "fltp", "mono")
            silence.sample_rate = 16000
            container.mux(voice.encode(silence))
            container.mux(voice.encode(None))
        for t in range(count):
            frame = av.VideoFrame.from_ndarray(make_frame(t, height, width), format="rgb24")
            if times:
                frame.pts, frame.time_base = round(times[t] * 1000), Fraction(1, 1000)
            container.mux(stream.encode(frame.reformat(format=pixel_format)))
        container.mux(stream.encode(None))
    return path


def decode(path: Path) -> npt.NDArray[np.uint8]:
    with av.open(str(path)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    return np.stack(frames).astype(np.uint8, copy=False)


def mean_difference(one: npt.NDArray[np.uint8], other: npt.NDArray[np.uint8]) -> float:
    assert one.shape == other.shape
    return float(np.abs(one.astype(int) - other).mean())


def transcode(source: Path, **settings: float) -> tuple[EncodedVideo, npt.NDArray[np.uint8]]:
    target = source.with_name("out") / "clip.mp4"
    pixels = int(settings.pop("short_side_pixels", 256))
    video = transcode_video(
        source, target, short_side_pixels=pixels, settings=NEARLY_LOSSLESS, **settings
    )
    return video, decode(target)


@pytest.mark.parametrize(
    ("name", "codec", "pixel_format"),
    [
        ("a.mp4", "libx264", "yuv420p"),
        ("a.mkv", "libx264", "yuv444p"),
        ("a.mov", "mpeg4", "yuv420p"),
        ("a.avi", "mjpeg", "yuvj420p"),
        ("a.webm", "libvpx-vp9", "yuv420p"),
        ("a.m4v", "libx264", "yuv420p10le"),
    ],
)
def test_every_kind_of_source_keeps_its_frames_rate_and_colours(
    tmp_path: Path, name: str, codec: str, pixel_format: str
) -> None:
    source = write_source(tmp_path / name, codec, count=20, pixel_format=pixel_format)
    video, frames = transcode(source)
    assert (video.frames, video.width, video.height) == (20, 32, 24)
    assert video.fps == pytest.approx(FPS)
    assert video.duration == pytest.approx(20 / FPS, abs=0.002)
    assert mean_difference(frames, decode(source)) < 2.5


def test_b_frames_and_long_intervals_become_random_access(tmp_path: Path) -> None:
    source = write_source(tmp_path / "a.mp4", bf="3", g="50")
    video, frames = transcode(source)
    assert video.keyframe_interval == NEARLY_LOSSLESS.keyframe_interval_frames
    assert mean_difference(frames, decode(source)) < 2


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts"])
def test_a_cut_holds_exactly_the_frames_of_its_seconds(tmp_path: Path, name: str) -> None:
    source = write_source(tmp_path / name, count=100, bf="2", g="40")
    video, frames = transcode(source, start_seconds=2, end_seconds=3)
    assert video.frames == FPS
    assert video.duration == pytest.approx(1, abs=0.002)
    assert mean_difference(frames, decode(source)[50:75]) < 2


def test_a_cut_that_the_video_ends_within_keeps_what_there_is(tmp_path: Path) -> None:
    source = write_source(tmp_path / "a.mp4", count=40)
    assert transcode(source, start_seconds=1, end_seconds=11)[0].frames == 15


def test_a_cut_beyond_the_end_is_an_error_with_both_times(tmp_path: Path) -> None:
    source = write_source(tmp_path / "a.mp4")
    with pytest.raises(VideoError, match=r"a\.mp4 is 2\.0 s long; the clip starts at 7\.0 s"):
        transcode(source, start_seconds=7, end_seconds=17)


def test_a_rotated_video_becomes_upright(tmp_path: Path) -> None:
    # -90: the picture has to be turned by 90 degrees clockwise, as a telephone held upright writes.
    source = write_source(tmp_path / "a.mp4", rotation_degrees=-90, count=5)
    video, frames = transcode(source)
    assert (video.width, video.height) == (24, 32)
    clockwise = np.rot90(decode(source), -1, axes=(1, 2))
    assert mean_difference(frames, np.ascontiguousarray(clockwise)) < 2
    with av.open(str(tmp_path / "out" / "clip.mp4")) as container:
        assert next(container.decode(video=0)).rotation == 0


def test_sound_is_dropped(tmp_path: Path) -> None:
    source = write_source(tmp_path / "a.mp4", sound=True)
    transcode(source)
    with av.open(str(tmp_path / "out" / "clip.mp4")) as container:
        assert [stream.type for stream in container.streams] == ["video"]


def test_uneven_timestamps_are_kept(tmp_path: Path) -> None:
    times = [0, 0.04, 0.2, 0.24, 0.6, 0.64]
    source = write_source(tmp_path / "a.mkv", count=6, times=times, bf="0")
    transcode(source)
    with av.open(str(tmp_path / "out" / "clip.mp4")) as container:
        written = [frame.time for frame in container.decode(video=0)]
    assert written == pytest.approx(times, abs=0.001)


@pytest.mark.parametrize(
    ("size", "short_side", "expected"),
    [
        ((640, 480), 256, (342, 256)),
        ((480, 640), 256, (256, 342)),
        ((340, 256), 256, (340, 256)),
        ((320, 240), 256, (320, 240)),
        ((175, 143), 256, (174, 142)),
        ((3, 2000), 256, (2, 1334)),
        ((1, 1), 256, (2, 2)),
    ],
)
def test_sizes_are_even_in_proportion_and_never_enlarged(
    size: tuple[int, int], short_side: int, expected: tuple[int, int]
) -> None:
    assert compute_output_size(*size, short_side) == expected


def test_the_short_side_is_scaled_and_pixels_become_square(tmp_path: Path) -> None:
    source = write_source(tmp_path / "a.mp4", size=(48, 64), count=3, pixel_aspect=Fraction(3, 2))
    video, _ = transcode(source, short_side_pixels=24)
    assert (video.width, video.height) == (48, 24)


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_a_truncated_file_ends_early(tmp_path: Path, name: str) -> None:
    source = write_source(tmp_path / name, count=100, g="10", bf="0")
    data = source.read_bytes()
    source.write_bytes(data[: len(data) * 6 // 10])
    with pytest.raises(VideoError, match=r"ends early: decoded \d+ of about (100|99|101) frames"):
        transcode(source)
    assert not any((tmp_path / "out").iterdir())


def test_a_file_that_lacks_its_last_frames_only_is_kept(tmp_path: Path) -> None:
    source = write_source(tmp_path / "a.mp4", count=100, g="10", bf="0")
    data = source.read_bytes()
    source.write_bytes(data[: len(data) * 97 // 100])
    assert 90 <= transcode(source)[0].frames < 100


def test_a_file_with_a_broken_middle_is_damaged(tmp_path: Path) -> None:
    source = write_source(tmp_path / "a.avi", "mjpeg", count=50, pixel_format="yuvj420p")
    data = bytearray(source.read_bytes())
    start = len(data) // 4
    data[start : 3 * start] = bytes(2 * start)
    source.write_bytes(data)
    with pytest.raises(VideoError, match=r"a\.avi (is damaged|ends early)"):
        transcode(source)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "is empty"), (b"<html>not found</html>" * 50, "cannot open")],
    ids=["empty", "web-page"],
)
def test_what_is_no_video_is_an_error_that_names_it(
    tmp_path: Path, content: bytes, message: str
) -> None:
    source = tmp_path / "a.mp4"
    source.write_bytes(content)
    with pytest.raises(VideoError, match=message) as error:
        transcode(source)
    assert str(source) in str(error.value)


def test_sound_alone_is_no_video(tmp_path: Path) -> None:
    source = tmp_path / "a.m4a"
    with av.open(str(source), "w", format="mp4") as container:
        voice = container.add_stream("aac", rate=16000, layout="mono")
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 16000), np.float32), "fltp", "mono")
        silence.sample_rate = 16000
        container.mux(voice.encode(silence))
        container.mux(voice.encode(None))
    with pytest.raises(VideoError, match="no video stream"):
        transcode(source)


def test_the_duration_is_that_of_the_video_stream(tmp_path: Path) -> None:
    assert read_duration_seconds(write_source(tmp_path / "a.mp4")) == pytest.approx(2)
    assert read_duration_seconds(write_source(tmp_path / "a.mkv")) == pytest.approx(2)
