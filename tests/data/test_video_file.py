"""Files that nobody vouches for, to reading and to preparation."""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import av
import av.error
import pytest

from gnvideo.data.decoding import make_decoder
from gnvideo.data.transcoding import read_duration_seconds, transcode_video
from gnvideo.errors import VideoError

Use = Callable[[Path], object]
WriteVideo = Callable[..., Path]


def decode(path: Path) -> object:
    return make_decoder("pyav").decode_frames(path, [0])


def read_metadata(path: Path) -> object:
    return make_decoder("pyav").read_metadata(path)


def prepare(path: Path) -> object:
    return transcode_video(path, path.with_name("out") / "clip.mp4")


every_use = pytest.mark.parametrize(
    "use",
    [decode, read_metadata, prepare, read_duration_seconds],
    ids=["decode", "metadata", "prepare", "duration"],
)


@pytest.fixture
def server() -> Iterator[socket.socket]:
    """A listening socket of this machine."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(0.05)
        yield listening


def count_connections(server: socket.socket) -> int:
    try:
        server.accept()[0].close()
    except TimeoutError:
        return 0
    return 1


PLAYLISTS = {
    "hls": "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\n{target}\n#EXT-X-ENDLIST\n",
    "concat": "ffconcat version 1.0\nfile '{target}'\n",
    "dash": (
        '<?xml version="1.0"?>\n<MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"'
        ' mediaPresentationDuration="PT2S"><Period><AdaptationSet mimeType="video/mp4">'
        '<Representation id="1" bandwidth="1"><BaseURL>{target}</BaseURL></Representation>'
        "</AdaptationSet></Period></MPD>\n"
    ),
    "sdp": (
        "v=0\no=- 0 0 IN IP4 127.0.0.1\ns={target}\nc=IN IP4 127.0.0.1\nt=0 0\n"
        "m=video {port} RTP/AVP 96\na=rtpmap:96 H264/90000\n"
    ),
    "ram": "{target}\n",
}


@every_use
@pytest.mark.parametrize("kind", PLAYLISTS)
def test_a_playlist_reaches_no_address(
    tmp_path: Path, server: socket.socket, kind: str, use: Use
) -> None:
    port = server.getsockname()[1]
    path = tmp_path / "a.mp4"
    path.write_text(PLAYLISTS[kind].format(target=f"http://127.0.0.1:{port}/x.mp4", port=port))
    with pytest.raises(VideoError, match=r"a\.mp4"):
        use(path)
    assert count_connections(server) == 0


def test_the_listening_socket_would_see_a_connection(tmp_path: Path, server: socket.socket) -> None:
    path = tmp_path / "a.m3u8"
    target = f"http://127.0.0.1:{server.getsockname()[1]}/x.ts"
    path.write_text(PLAYLISTS["hls"].format(target=target))
    # There is no answer, but time enough to connect.
    with pytest.raises(av.error.FFmpegError):
        av.open(str(path), timeout=0.3, options={"protocol_whitelist": "file,http,tcp"})
    assert count_connections(server) == 1


@every_use
@pytest.mark.parametrize("kind", ["hls", "concat", "dash"])
@pytest.mark.parametrize("absolute", [False, True], ids=["relative", "absolute"])
def test_a_playlist_reads_no_other_file(
    tmp_path: Path, write_video: WriteVideo, kind: str, absolute: bool, use: Use
) -> None:
    other = write_video(tmp_path / "other.ts", num_frames=5)
    path = tmp_path / "a.mp4"
    path.write_text(PLAYLISTS[kind].format(target=other if absolute else other.name))
    with pytest.raises(VideoError, match=r"a\.mp4"):
        use(path)


def test_the_other_file_would_be_read(tmp_path: Path, write_video: WriteVideo) -> None:
    write_video(tmp_path / "other.ts", num_frames=5)
    path = tmp_path / "a.mp4"
    path.write_text(PLAYLISTS["concat"].format(target="other.ts"))
    with av.open(str(path)) as container:
        assert next(container.decode(video=0)).width == 48


@pytest.mark.parametrize(
    "name",
    ["img_%03d.mp4", "*.mp4", "concat:a|b.mp4", "-i.mp4", "http:x.mp4", "data:,.mp4", "pipe:0.mp4"],
)
def test_a_name_is_a_name_and_never_an_address_or_a_pattern(
    tmp_path: Path, write_video: WriteVideo, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_video(tmp_path / "a.mp4", num_frames=3).rename(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    assert len(make_decoder("pyav").decode_frames(Path(name), [0, 2]).frames_THWC) == 2
    assert transcode_video(Path(name), Path("out") / "clip.mp4").frames == 3


def make_png(width: int, height: int) -> bytes:
    """Returns a black PNG of two colours, small whatever its size."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(1 << 16)))
        + chunk(b"IEND", b"")
    )


def write_large_video(path: Path, declared: tuple[int, int], actual: tuple[int, int]) -> Path:
    """Writes three frames of the `actual` (width, height) in a file that declares another."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("png", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "rgb24"
        for t in range(3):
            packet = av.Packet(make_png(*actual))
            packet.stream, packet.pts, packet.dts = stream, t, t
            packet.time_base, packet.is_keyframe = Fraction(1, 25), True
            container.mux(packet)
    data = bytearray(path.read_bytes())
    # Width and height in QuickTime's description of the samples.
    place = data.index(b"png ") + 28
    assert data[place : place + 4] == struct.pack(">HH", 64, 64)
    data[place : place + 4] = struct.pack(">HH", *declared)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("use", ["decode", "read_metadata", "prepare"])
@pytest.mark.parametrize("declared", [(30000, 30000), (64, 64)], ids=["declared", "hidden"])
def test_a_frame_that_is_too_large_is_refused_before_it_is_allocated(
    tmp_path: Path, declared: tuple[int, int], use: str
) -> None:
    path = write_large_video(tmp_path / "a.mov", declared, (30000, 30000))
    script = f"""
import sys
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parent)!r})
import test_video_file
from gnvideo.errors import VideoError
try:
    test_video_file.{use}(Path({str(path)!r}))
except VideoError as error:
    print(error)
print(next(line for line in Path("/proc/self/status").open() if line.startswith("VmPeak")))
"""
    # In a process of its own, whose memory is this video's.
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    error, peak = done.stdout.split("VmPeak:")
    assert "a.mov" in error
    # The frame alone would take 2.7 GB.
    assert int(peak.split()[0]) < 2_000_000


def test_a_large_frame_within_the_limit_is_read(tmp_path: Path) -> None:
    path = write_large_video(tmp_path / "a.mov", (64, 48), (64, 48))
    assert make_decoder("pyav").decode_frames(path, [0]).frames_THWC.shape == (1, 48, 64, 3)


@every_use
def test_a_pipe_or_a_folder_is_no_video(tmp_path: Path, use: Use) -> None:
    os.mkfifo(tmp_path / "a.mp4")
    (tmp_path / "b.mp4").mkdir()
    for name in ("a.mp4", "b.mp4"):
        with pytest.raises(VideoError, match=name):
            use(tmp_path / name)
