from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
import pytest

from gnvideo.data.decoding import make_decoder
from gnvideo.data.encoding import encode_video
from gnvideo.data.encoding_profiles import PROFILES, EncodingSettings
from gnvideo.data.verification import verify_video
from gnvideo.errors import OutputError, SaveFailedError


def make_frames(count: int, height: int = 24, width: int = 32) -> Iterator[npt.NDArray[np.uint8]]:
    y, x = np.mgrid[:height, :width]
    for t in range(count):
        yield np.stack([x * 6 + t, y * 8, np.full_like(x, 5 * t)], -1).clip(0, 255).astype(np.uint8)


def decode(path: Path) -> npt.NDArray[np.uint8]:
    with av.open(str(path)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    return np.stack(frames).astype(np.uint8, copy=False)


@pytest.mark.parametrize(
    "fps", [Fraction(25), Fraction(30000, 1001), Fraction(24000, 1001)], ids=str
)
def test_what_is_returned_is_what_the_file_holds(tmp_path: Path, fps: Fraction) -> None:
    path = tmp_path / "new folder" / "a b'c.mp4"
    video = encode_video(path, make_frames(30), fps=fps)
    assert (video.frames, video.width, video.height) == (30, 32, 24)
    assert video.fps == pytest.approx(float(fps), rel=1e-6)
    assert video.duration == pytest.approx(30 / float(fps), abs=1e-3)
    assert video.keyframe_interval == 24
    assert video.bytes == path.stat().st_size
    assert len(decode(path)) == 30


def test_frames_come_back_nearly_as_they_were(tmp_path: Path) -> None:
    encode_video(
        tmp_path / "a.mp4", make_frames(13), fps=Fraction(25), settings=EncodingSettings(crf=5)
    )
    frames_THWC = decode(tmp_path / "a.mp4")
    difference = np.abs(frames_THWC.astype(int) - np.stack(list(make_frames(13))))
    # Colours have half the resolution of brightness.
    assert difference.mean() < 3
    # Blue is 5 t all over frame t, so this also tells their order.
    np.testing.assert_allclose(frames_THWC[..., 2].mean(axis=(1, 2)), 5 * np.arange(13), atol=2)


def test_files_have_no_b_frames_and_the_asked_keyframes(tmp_path: Path) -> None:
    settings = EncodingSettings(keyframe_interval_frames=5)
    video = encode_video(tmp_path / "a.mp4", make_frames(21), fps=Fraction(25), settings=settings)
    with av.open(str(tmp_path / "a.mp4")) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    assert all(packet.pts == packet.dts for packet in packets)
    keys = [i for i, packet in enumerate(packets) if packet.is_keyframe]
    assert keys == [0, 5, 10, 15, 20]
    assert video.keyframe_interval == 5


def test_bits_and_hash_repeat_and_the_hash_follows_the_content(tmp_path: Path) -> None:
    first = encode_video(tmp_path / "a.mp4", make_frames(12), fps=Fraction(25))
    again = encode_video(tmp_path / "b.mp4", make_frames(12), fps=Fraction(25))
    other = encode_video(tmp_path / "c.mp4", (255 - f for f in make_frames(12)), fps=Fraction(25))
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()
    assert first == again
    assert other.content_hash != first.content_hash


@pytest.mark.parametrize(
    "frames",
    [
        pytest.param([np.zeros((24, 31, 3), np.uint8)], id="odd-width"),
        pytest.param([np.zeros((24, 32), np.uint8)], id="no-colours"),
        pytest.param([np.zeros((24, 32, 3), np.float32)], id="not-bytes"),
        pytest.param([np.zeros((s, 32, 3), np.uint8) for s in (24, 26)], id="two-sizes"),
        pytest.param([], id="none"),
    ],
)
def test_frames_that_do_not_fit_are_an_error_and_leave_no_file(
    tmp_path: Path, frames: list[npt.NDArray[np.uint8]]
) -> None:
    with pytest.raises(ValueError, match="frame"):
        encode_video(tmp_path / "a.mp4", frames, fps=Fraction(25))
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_an_output_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"cannot write .*file.*output folder"):
        encode_video(tmp_path / "file" / "a.mp4", make_frames(2), fps=Fraction(25))


def test_a_write_that_fails_half_way_leaves_no_file(tmp_path: Path) -> None:
    # A limit on the size of files stands in for a disk that is full.
    script = f"""
import resource, signal, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from fractions import Fraction
from pathlib import Path
from test_encoding import make_frames
from gnvideo.data.encoding import encode_video
from gnvideo.errors import SaveFailedError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    encode_video(Path({str(tmp_path / "a.mp4")!r}), make_frames(12), fps=Fraction(25))
except SaveFailedError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert "a.mp4" in done.stdout
    assert "File too large" in done.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", PROFILES)
def test_every_profile_is_read_alike_by_the_decoders(tmp_path: Path, name: str) -> None:
    path = tmp_path / "a.mp4"
    settings = PROFILES[name].settings
    frames = make_frames(60, 64, 80)
    video = encode_video(path, frames, fps=Fraction(25), settings=settings)
    assert video.keyframe_interval == min(settings.keyframe_interval_frames, 60)
    clips = [
        make_decoder(decoder).decode_frames(path, [59, 0, 31, 8]) for decoder in ("pyav", "decord")
    ]
    np.testing.assert_array_equal(clips[0].frames_THWC, clips[1].frames_THWC)
    np.testing.assert_array_equal(clips[0].timestamps_seconds, clips[1].timestamps_seconds)


def test_the_content_hash_tells_pictures_and_encoding_but_not_bits(tmp_path: Path) -> None:
    def hash_content(name: str, settings: EncodingSettings, change: int = 0) -> str:
        frames = list(make_frames(5))
        frames[3][7:9, 5:7] += np.uint8(change)
        video = encode_video(tmp_path / name, frames, fps=Fraction(25), settings=settings)
        return video.content_hash

    # So coarse that the changed pixels are lost in the file.
    coarse = EncodingSettings(crf=51)
    first = hash_content("a.mp4", coarse)
    changed = hash_content("b.mp4", coarse, change=3)
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()
    assert changed != first
    assert hash_content("c.mp4", EncodingSettings(crf=50)) != first


@pytest.mark.parametrize("frame", [0, 10, 20], ids=["first-group", "middle-group", "last-group"])
def test_a_file_with_a_damaged_frame_is_not_verified(tmp_path: Path, frame: int) -> None:
    path = tmp_path / "a.mp4"
    settings = EncodingSettings(crf=5, keyframe_interval_frames=5)
    # Fine detail, which gives the keyframes much to say.
    scene = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    encode_video(path, [scene] * 25, fps=Fraction(25), settings=settings)
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    assert [packet.is_keyframe for packet in packets] == [t % 5 == 0 for t in range(25)]
    place, size = packets[frame].pos, packets[frame].size
    assert place is not None
    data = bytearray(path.read_bytes())
    noise = np.random.default_rng(0).integers(1, 256, size // 2, np.uint8)
    data[place + size - size // 2 : place + size] = noise.tobytes()
    with pytest.raises(SaveFailedError, match=r"a\.mp4"):
        verify_video(io.BytesIO(data), path, 25)


def test_a_file_with_other_frames_than_were_written_is_not_verified(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    encode_video(path, make_frames(25), fps=Fraction(25))
    data = path.read_bytes()
    assert verify_video(io.BytesIO(data), path, 25).bytes == len(data)
    with pytest.raises(SaveFailedError, match="wrote 26 frames and read 25 back"):
        verify_video(io.BytesIO(data), path, 26)
    with pytest.raises(SaveFailedError, match="did not read back"):
        verify_video(io.BytesIO(data[: len(data) // 2]), path, 25)
