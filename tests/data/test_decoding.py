from __future__ import annotations

import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gnvideo.data.decoding import DECODER_NAMES, VideoDecoder, make_decoder
from gnvideo.errors import DecoderUnavailableError, VideoError

MOVING_TIMES = np.cumsum(np.random.default_rng(1).integers(1, 9, 40)).tolist()

# Smaller sizes are refused by these encoders.
HEVC: dict[str, Any] = {
    "codec": "libx265",
    "height": 64,
    "width": 64,
    "codec_options": {
        "preset": "veryfast",
        "x265-params": "log-level=none:pools=none:frame-threads=1:keyint=12:bframes=3",
    },
}
AV1: dict[str, Any] = {
    "codec": "libsvtav1",
    "height": 64,
    "width": 64,
    "codec_options": {"preset": "12", "crf": "40"},
}
# With frames that are stored and not shown.
VP9: dict[str, Any] = {
    "codec": "libvpx-vp9",
    "codec_options": {"deadline": "good", "cpu-used": "5", "auto-alt-ref": "1", "b": "60k"},
}
MPEG2: dict[str, Any] = {"codec": "mpeg2video", "codec_options": {"bf": "2", "b": "200k"}}
MPEG4: dict[str, Any] = {"codec": "mpeg4", "codec_options": {"bf": "2"}}
INTERLACED: dict[str, Any] = {
    "height": 64,
    "codec_options": {"flags": "+ilme+ildct", "x264-params": "tff=1"},
}
# File name -> how it is written. PyAV reads all of these.
VIDEOS: dict[str, dict[str, Any]] = {
    "b_frames.mp4": {"b_frames": 3},
    "b_pyramid.mp4": {"b_frames": 5, "codec_options": {"x264-params": "b-pyramid=normal:ref=4"}},
    "no_b_frames.mp4": {"b_frames": 0},
    "open_gops.mp4": {"b_frames": 3, "codec_options": {"x264-params": "open-gop=1"}},
    "open_gops.mkv": {"b_frames": 3, "codec_options": {"x264-params": "open-gop=1"}},
    # Behind decord's seek, the last frame would be another one.
    "open_gops_to_the_end.mp4": {
        "num_frames": 14,
        "b_frames": 1,
        "keyframe_interval": 3,
        "times_centiseconds": MOVING_TIMES,
        "codec_options": {"x264-params": "open-gop=1:ref=1:b-adapt=0:scenecut=0"},
    },
    "one_keyframe.mp4": {"keyframe_interval": 250},
    "every_frame_a_keyframe.mp4": {"keyframe_interval": 1, "b_frames": 0},
    "one_frame.mp4": {"num_frames": 1},
    "odd_size.mp4": {"height": 37, "width": 51, "pixel_format": "yuv444p"},
    "padded_lines.mp4": {"width": 16},
    "bt709.mp4": {"codec_options": {"x264-params": "colormatrix=bt709"}},
    "full_range.mp4": {"pixel_format": "yuvj420p"},
    "half_chroma.mp4": {"pixel_format": "yuv422p"},
    "gray.mp4": {"pixel_format": "gray"},
    "rotated_90.mp4": {"rotation": 90},
    "rotated_180.mp4": {"rotation": 180},
    "rotated_270.mp4": {"rotation": 270, "width": 52},
    "mixed_rates.mp4": {"times_centiseconds": MOVING_TIMES},
    "late_start.mp4": {"times_centiseconds": range(500, 660, 4)},
    "start_offset_without_edit_list.mp4": {"container_options": {"use_editlist": "0"}},
    "fragmented.mp4": {"container_options": {"movflags": "frag_keyframe+empty_moov"}},
    "sound_first.mp4": {"with_audio_first": True},
    "matroska.mkv": {},
    "sound_first.mkv": {"with_audio_first": True},
    "mixed_rates.mkv": {"times_centiseconds": MOVING_TIMES},
    "hevc.mp4": HEVC,
    "hevc.mkv": HEVC,
    "mpeg4.mp4": MPEG4,
    "mpeg2.mkv": MPEG2,
    "mjpeg.mp4": {"codec": "mjpeg", "pixel_format": "yuvj420p"},
    "vp9.webm": VP9,
    "vp8.webm": {"codec": "libvpx", "codec_options": VP9["codec_options"]},
    "av1.mp4": AV1,
    "av1.webm": AV1,
    "hidden_by_edit_list.mp4": {"times_centiseconds": range(-30, 130, 4)},
    "ten_bits.mp4": {"pixel_format": "yuv420p10le"},
    "odd_size.webm": VP9 | {"height": 37, "width": 51},
    "interlaced.mp4": INTERLACED,
    "interlaced.mkv": INTERLACED,
    "matroska_without_duration.mkv": {"container_options": {"live": "1"}},
    "transport_stream.ts": {},
    "mpeg2.ts": MPEG2,
    "mpeg2.mpg": MPEG2,
    "flash.flv": {},
    "no_b_frames.avi": {"b_frames": 0},
    "b_frames.avi": {"b_frames": 2},
    "mpeg4.avi": MPEG4,
    "odd_size.avi": {"codec": "mjpeg", "pixel_format": "yuvj420p", "height": 37, "width": 51},
    "pictures.gif": {"codec": "gif", "pixel_format": "rgb8"},
}
# What the others would read wrongly, or not at all.
REFUSED_BY_BOTH = {
    *("ten_bits.mp4", "odd_size.webm", "interlaced.mp4"),
    *("interlaced.mkv", "transport_stream.ts", "mpeg2.ts", "mpeg2.mpg", "flash.flv"),
    *("no_b_frames.avi", "b_frames.avi", "mpeg4.avi", "odd_size.avi", "pictures.gif"),
}
REFUSED = {
    "decord": REFUSED_BY_BOTH
    | {"hidden_by_edit_list.mp4", "matroska_without_duration.mkv", "av1.mp4", "av1.webm"},
    "torchcodec": REFUSED_BY_BOTH | {"open_gops.mp4", "open_gops.mkv"},
}


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory, write_video: Any) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("a folder: with spaces, 100%d and ünïcode")
    return {name: write_video(folder / name, **how) for name, how in VIDEOS.items()}


@pytest.fixture(params=DECODER_NAMES)
def decoder(request: pytest.FixtureRequest) -> VideoDecoder:
    return make_decoder(request.param)


def decode_all(path: Path) -> npt.NDArray[np.uint8]:
    """All frames as displayed, by the plainest use of PyAV: one after the other, from the start."""
    with av.open(str(path)) as container:
        frames = [
            np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90)
            for frame in container.decode(video=0)
        ]
    return np.stack(frames).astype(np.uint8)


@pytest.mark.parametrize("name", VIDEOS)
def test_any_frames_equal_those_of_a_full_sequential_decode(
    name: str, videos: dict[str, Path]
) -> None:
    path, pyav = videos[name], make_decoder("pyav")
    expected = decode_all(path)
    assert pyav.read_metadata(path).num_frames == len(expected)

    @settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(st.lists(st.integers(0, len(expected) - 1), min_size=1, max_size=12))
    def check(indices: list[int]) -> None:
        decoded = pyav.decode_frames(path, indices).frames_THWC
        np.testing.assert_array_equal(decoded, expected[indices])

    check()
    np.testing.assert_array_equal(
        pyav.decode_frames(path, range(len(expected))).frames_THWC, expected
    )


@pytest.mark.parametrize("name", VIDEOS)
def test_threads_change_no_bit(name: str, videos: dict[str, Path]) -> None:
    expected = decode_all(videos[name])
    threaded = make_decoder("pyav", num_threads=3)
    for indices in ([len(expected) - 1], range(0, len(expected), 3), range(len(expected))):
        decoded = threaded.decode_frames(videos[name], indices)
        np.testing.assert_array_equal(decoded.frames_THWC, expected[list(indices)])


@pytest.mark.parametrize("other", REFUSED)
@pytest.mark.parametrize("name", VIDEOS)
def test_other_decoders_give_the_same_frames_and_times_or_refuse(
    name: str, other: str, videos: dict[str, Path]
) -> None:
    path = videos[name]
    metadata = make_decoder("pyav").read_metadata(path)
    last = metadata.num_frames - 1
    indices = np.append(np.random.default_rng(2).integers(0, last + 1, 12), last)
    if name in REFUSED[other]:
        with pytest.raises(VideoError, match=r"use the decoder 'pyav'") as caught:
            make_decoder(other).decode_frames(path, indices)
        assert name in str(caught.value)
        assert "\n" not in str(caught.value)
        return
    first, second = (make_decoder(n).decode_frames(path, indices) for n in ("pyav", other))
    np.testing.assert_array_equal(first.frames_THWC, second.frames_THWC)
    np.testing.assert_array_equal(first.timestamps_seconds, second.timestamps_seconds)
    assert make_decoder(other).read_metadata(path) == metadata


def test_metadata_describes_the_displayed_video(videos: dict[str, Path]) -> None:
    metadata = make_decoder("pyav").read_metadata(videos["rotated_270.mp4"])
    assert metadata.num_frames == 40
    assert metadata.fps == Fraction(25)
    assert (metadata.width, metadata.height) == (36, 52)
    assert metadata.duration_seconds == pytest.approx(1.6)
    assert metadata.rotation_degrees == 270
    assert metadata.keyframe_interval_frames == 12


def test_metadata_counts_only_frames_that_an_edit_list_shows(videos: dict[str, Path]) -> None:
    metadata = make_decoder("pyav").read_metadata(videos["hidden_by_edit_list.mp4"])
    assert metadata.num_frames == len(decode_all(videos["hidden_by_edit_list.mp4"])) < 40


@pytest.mark.parametrize(
    ("name", "keyframe_interval"),
    [("one_keyframe.mp4", 40), ("every_frame_a_keyframe.mp4", 1), ("transport_stream.ts", 12)],
)
def test_keyframe_interval_is_the_largest_distance_in_frames(
    name: str, keyframe_interval: int, videos: dict[str, Path]
) -> None:
    metadata = make_decoder("pyav").read_metadata(videos[name])
    assert metadata.keyframe_interval_frames == keyframe_interval


def test_duration_is_known_without_one_in_the_header(videos: dict[str, Path]) -> None:
    metadata = make_decoder("pyav").read_metadata(videos["matroska_without_duration.mkv"])
    assert metadata.duration_seconds == pytest.approx(1.6)


def test_timestamps_are_those_that_the_file_was_written_with(
    videos: dict[str, Path], decoder: VideoDecoder
) -> None:
    times = np.array(MOVING_TIMES) / 100
    decoded = decoder.decode_frames(videos["mixed_rates.mkv"], [39, 0, 17, 17])
    np.testing.assert_allclose(
        decoded.timestamps_seconds - decoded.timestamps_seconds[1],
        times[[39, 0, 17, 17]] - times[0],
        atol=1e-3,
    )
    late = decoder.decode_frames(videos["late_start.mp4"], [0, 1])
    np.testing.assert_allclose(late.timestamps_seconds, [5.0, 5.04])


def test_rotation_turns_clockwise(videos: dict[str, Path]) -> None:
    pyav = make_decoder("pyav")
    upright = pyav.decode_frames(videos["b_frames.mp4"], [0]).frames_THWC[0].astype(int)
    turned = pyav.decode_frames(videos["rotated_90.mp4"], [0]).frames_THWC[0].astype(int)
    assert turned.shape == (48, 36, 3)
    # Top left comes to top right; the encodings differ a little.
    assert np.abs(np.rot90(upright, -1) - turned).mean() < 8


@pytest.mark.parametrize("index", [-1, 40])
def test_an_index_outside_the_video_is_an_error_that_names_file_and_index(
    index: int, videos: dict[str, Path], decoder: VideoDecoder
) -> None:
    with pytest.raises(VideoError, match=rf"b_frames\.mp4: frame {index} .* 0 to 39"):
        decoder.decode_frames(videos["b_frames.mp4"], [3, index])


@pytest.mark.parametrize("indices", [[], [[1, 2]], [0.5]], ids=["empty", "nested", "fraction"])
def test_indices_that_are_no_list_of_integers_are_refused(
    indices: Any, videos: dict[str, Path], decoder: VideoDecoder
) -> None:
    with pytest.raises(ValueError, match="at least one integer"):
        decoder.decode_frames(videos["b_frames.mp4"], indices)


def write_broken(kind: str, path: Path, source: Path, write_video: Any) -> None:
    if kind == "empty":
        path.touch()
    elif kind == "text":
        path.write_text("not a video\n" * 200)
    elif kind == "playlist":
        path.write_text("#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/clip.ts\n#EXT-X-ENDLIST\n")
    elif kind == "without_end":
        path.write_bytes(source.read_bytes()[:2000])
    elif kind == "audio_only":
        with av.open(str(path), "w") as container:
            stream = container.add_stream("aac", rate=8000)
            sound = av.AudioFrame.from_ndarray(
                np.zeros((1, 1024), np.float32), format="fltp", layout="mono"
            )
            sound.rate = 8000
            container.mux(stream.encode(sound))
            container.mux(stream.encode(None))
    elif kind == "folder":
        path.mkdir()


@pytest.mark.parametrize(
    "kind",
    [
        "missing",
        "empty",
        "text",
        "playlist",
        "without_end",
        "audio_only",
        "folder",
    ],
)
def test_a_broken_file_is_an_error_of_one_line_that_names_it(
    kind: str, tmp_path: Path, videos: dict[str, Path], write_video: Any, decoder: VideoDecoder
) -> None:
    path = tmp_path / f"{kind}.mp4"
    write_broken(kind, path, videos["b_frames.mp4"], write_video)
    for read in (decoder.read_metadata, lambda p: decoder.decode_frames(p, [0])):
        with pytest.raises(VideoError) as caught:
            read(path)
        assert str(caught.value).startswith(str(path))
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("b_frames", [0, 3])
@pytest.mark.parametrize("share", [0.3, 0.7, 0.99])
def test_what_a_file_that_is_cut_short_holds_is_read(
    share: float, b_frames: int, tmp_path: Path, write_video: Any
) -> None:
    path = write_video(
        tmp_path / "cut.mp4", b_frames=b_frames, container_options={"movflags": "faststart"}
    )
    whole, pyav = decode_all(path), make_decoder("pyav")
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    metadata = pyav.read_metadata(path)
    assert 0 < metadata.num_frames < 40
    assert metadata.num_frames + metadata.num_missing_frames == 40
    decoded = pyav.decode_frames(path, range(metadata.num_frames)).frames_THWC
    np.testing.assert_array_equal(decoded, whole[: metadata.num_frames])
    num_missing = metadata.num_missing_frames
    match = rf"frame 39 .* 0 to {metadata.num_frames - 1} \(it is cut short, {num_missing} are mis"
    with pytest.raises(VideoError, match=match):
        pyav.decode_frames(path, [0, 39])


@pytest.mark.parametrize("name", ["cut.mkv", "cut.ts", "cut.avi", "cut.webm"])
def test_a_stream_that_ends_early_is_read_to_its_end(
    name: str, tmp_path: Path, write_video: Any
) -> None:
    how = VP9 if name.endswith("webm") else {"b_frames": 0}
    path, pyav = write_video(tmp_path / name, **how), make_decoder("pyav")
    whole = decode_all(path)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * 0.6)])
    num_frames = pyav.read_metadata(path).num_frames
    assert 0 < num_frames < len(whole)
    decoded = pyav.decode_frames(path, range(num_frames)).frames_THWC
    np.testing.assert_array_equal(decoded, whole[:num_frames])
    with pytest.raises(VideoError, match=rf"frame {num_frames} .* 0 to {num_frames - 1}"):
        pyav.decode_frames(path, [num_frames])


def test_damaged_frames_are_an_error_that_names_the_file(
    tmp_path: Path, videos: dict[str, Path]
) -> None:
    data = bytearray(videos["b_frames.mp4"].read_bytes())
    start = data.index(b"mdat") + 4
    path = tmp_path / "zeros.mp4"
    data[start + 1000 : start + 4000] = bytes(3000)
    path.write_bytes(data)
    with pytest.raises(VideoError, match=r"zeros\.mp4"):
        make_decoder("pyav").decode_frames(path, range(40))


def test_a_title_that_is_not_utf8_does_not_matter(tmp_path: Path) -> None:
    path = tmp_path / "title.mp4"
    with av.open(str(path), "w") as container:
        container.metadata["title"] = "a cafe~"
        stream = container.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = 36, 48, "yuv420p"
        image = np.zeros((36, 48, 3), np.uint8)
        container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))
    path.write_bytes(path.read_bytes().replace(b"a cafe~", b"a caf\xe9\xff"))
    assert make_decoder("pyav").read_metadata(path).num_frames == 1


def test_no_file_stays_open(videos: dict[str, Path], decoder: VideoDecoder) -> None:
    descriptors = Path("/proc/self/fd")
    if not descriptors.is_dir():
        pytest.skip("needs /proc/self/fd")
    for _ in range(3):
        decoder.decode_frames(videos["b_frames.mp4"], [5, 30])
    names = [link.resolve().name for link in descriptors.iterdir()]
    assert "b_frames.mp4" not in names


def test_an_unknown_decoder_is_refused_with_the_names_to_choose_from() -> None:
    with pytest.raises(DecoderUnavailableError, match="choose one of: pyav, decord, torchcodec"):
        make_decoder("opencv")


@pytest.mark.parametrize("module", ["decord", "torchcodec.decoders"])
def test_a_decoder_that_does_not_import_is_a_clear_error(
    module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = module.partition(".")[0]
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(DecoderUnavailableError, match=rf"'{name}' .*use the decoder 'pyav'"):
        make_decoder(name)
