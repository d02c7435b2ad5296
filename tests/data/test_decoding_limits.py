"""What a decoder must not do: open other files, take any amount of memory, wait for ever."""

from __future__ import annotations

import resource
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.stream import Disposition

from gnvideo.data.decoding import VideoDecoder, make_decoder
from gnvideo.data.video_file import MAX_PIXELS
from gnvideo.errors import VideoError


@pytest.fixture
def listening_port() -> Iterator[tuple[int, list[bytes]]]:
    """A port, and what came in on it until the test ends."""
    requests: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.1)
        stop = threading.Event()

        def listen() -> None:
            while not stop.is_set():
                try:
                    connection, _ = server.accept()
                except TimeoutError:
                    continue
                with connection:
                    requests.append(connection.recv(1000))

        thread = threading.Thread(target=listen)
        thread.start()
        yield server.getsockname()[1], requests
        stop.set()
        thread.join()


SCRIPTS = {
    "hls-network": "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\nhttp://127.0.0.1:{port}/a.ts\n"
    "#EXT-X-ENDLIST\n",
    "hls-file": "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\n{other}\n#EXT-X-ENDLIST\n",
    "hls-nested": "#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\nhttp://127.0.0.1:{port}/a.m3u8\n",
    "concat-network": "ffconcat version 1.0\nfile http://127.0.0.1:{port}/a.mp4\n",
    "concat-file": "ffconcat version 1.0\nfile {other}\n",
    "dash": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"'
    ' mediaPresentationDuration="PT2S"><Period><AdaptationSet mimeType="video/mp4">'
    '<Representation id="1" bandwidth="1"><BaseURL>http://127.0.0.1:{port}/a.mp4</BaseURL>'
    "</Representation></AdaptationSet></Period></MPD>",
    "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\n"
    "m=video {port} RTP/AVP 96\na=rtpmap:96 H264/90000\n",
}


@pytest.mark.parametrize("kind", SCRIPTS)
def test_a_script_in_a_video_reaches_neither_the_network_nor_another_file(
    kind: str,
    tmp_path: Path,
    write_video: Any,
    decoder: VideoDecoder,
    listening_port: tuple[int, list[bytes]],
) -> None:
    port, requests = listening_port
    # It would be read if it were reached.
    other = write_video(tmp_path / "other.ts")
    assert make_decoder("pyav").read_metadata(other).num_frames == 40
    path = tmp_path / "video.mp4"
    path.write_text(SCRIPTS[kind].format(port=port, other=other.name))
    for read in (decoder.read_metadata, lambda p: decoder.decode_frames(p, [0])):
        with pytest.raises(VideoError, match=r"video\.mp4"):
            read(path)
    assert not requests


@pytest.mark.parametrize("name", ["picture%d.png", "picture1.png", "picture*.png"])
def test_pictures_are_no_video(name: str, tmp_path: Path, decoder: VideoDecoder) -> None:
    for number in range(3):
        with av.open(str(tmp_path / f"picture{number}.png"), "w", format="image2pipe") as container:
            stream = container.add_stream("png", rate=25)
            stream.height, stream.width, stream.pix_fmt = 36, 48, "rgb24"
            image = np.zeros((36, 48, 3), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
    with pytest.raises(VideoError):
        decoder.decode_frames(tmp_path / name, [0])


@pytest.mark.parametrize(
    "path",
    ["http://127.0.0.1:{port}/a.mp4", "concat:{other}|{other}", "subfile,,start,0,end,9,,:x"],
)
def test_a_path_is_no_address(
    path: str,
    tmp_path: Path,
    write_video: Any,
    decoder: VideoDecoder,
    listening_port: tuple[int, list[bytes]],
) -> None:
    port, requests = listening_port
    other = write_video(tmp_path / "other.ts")
    with pytest.raises(VideoError):
        decoder.decode_frames(Path(path.format(port=port, other=other)), [0])
    assert not requests


def write_large_claim(path: Path, write_video: Any, width: int, height: int) -> None:
    """Writes a small video of which the header claims a large size, and nothing else tells it."""
    write_video(path, codec="ffv1")
    data = path.read_bytes()
    at = data.index(b"strf") + 12
    claim = width.to_bytes(4, "little") + height.to_bytes(4, "little")
    path.write_bytes(data[:at] + claim + data[at + len(claim) :])


@pytest.mark.parametrize("sides", [(16000, 16000), (2**31 - 1, 2**31 - 1), (0, 36)])
def test_a_frame_over_the_limit_is_refused_before_memory_is_taken(
    sides: tuple[int, int], tmp_path: Path, write_video: Any, decoder: VideoDecoder
) -> None:
    path = tmp_path / "huge.avi"
    write_large_claim(path, write_video, *sides)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for read in (decoder.read_metadata, lambda p: decoder.decode_frames(p, [0])):
        with pytest.raises(VideoError, match=rf"over the limit of {MAX_PIXELS:,} pixels"):
            read(path)
    # In KiB. A frame of the first size would take 384,000 of them.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000


def test_a_frame_that_grows_over_the_limit_is_an_error(tmp_path: Path) -> None:
    """The container claims a small size, the frames of the codec have another."""
    width, height = 8208, 8192
    assert width * height > MAX_PIXELS
    path = tmp_path / "grown.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=25)
        stream.height, stream.width, stream.pix_fmt = 36, 48, "yuvj420p"
        encoder = av.CodecContext.create("mjpeg", "w")
        encoder.height, encoder.width, encoder.pix_fmt = height, width, "yuvj420p"
        encoder.time_base = Fraction(1, 25)
        frame = av.VideoFrame(width, height, "yuvj420p")
        frame.pts = 0
        for packet in encoder.encode(frame):
            packet.stream = stream
            container.mux(packet)
    with pytest.raises(VideoError, match=r"grown\.mp4"):
        make_decoder("pyav").decode_frames(path, [0])


def test_the_main_one_of_several_video_streams_is_read(tmp_path: Path) -> None:
    """As FFmpeg chooses it, and not a cover picture that comes first."""
    path = tmp_path / "cover.mp4"
    with av.open(str(path), "w") as container:
        cover = container.add_stream("mjpeg", rate=25)
        cover.height, cover.width, cover.pix_fmt = 64, 64, "yuvj420p"
        cover.disposition = Disposition.attached_pic
        film = container.add_stream("libx264", rate=25)
        film.height, film.width, film.pix_fmt = 36, 48, "yuv420p"
        for stream, count in ((cover, 1), (film, 12)):
            for t in range(count):
                image = np.full((stream.height, stream.width, 3), 20 * t, np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
            container.mux(stream.encode(None))
    with av.open(str(path)) as container:
        assert len(container.streams.video) == 2
    pyav = make_decoder("pyav")
    assert pyav.read_metadata(path).num_frames == 12
    means = pyav.decode_frames(path, range(12)).frames_THWC.mean(axis=(1, 2, 3))
    np.testing.assert_allclose(means, 20 * np.arange(12), atol=6)


@pytest.mark.parametrize("degrees", [45, 30])
def test_a_rotation_that_is_no_quarter_turn_is_refused(
    degrees: int, tmp_path: Path, write_video: Any
) -> None:
    path = write_video(tmp_path / "slanted.mp4", rotation=degrees)
    with pytest.raises(VideoError, match=r"not a multiple of 90"):
        make_decoder("pyav").decode_frames(path, [0])


def test_threads_that_are_left_early_do_not_hang(tmp_path: Path, write_video: Any) -> None:
    path = write_video(tmp_path / "video.mp4", num_frames=60, height=144, width=176, b_frames=3)
    code = f"""
from pathlib import Path
from gnvideo.data.decoding import make_decoder
decoder = make_decoder("pyav", num_threads=4)
for index in range(150):
    decoder.decode_frames(Path({str(path)!r}), [index % 60, (index * 7) % 60])
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


MEASURE_MEMORY = """
import sys
from pathlib import Path
import numpy as np
from gnvideo.data.decoding import make_decoder

decoder, num_clips = make_decoder(sys.argv[1]), int(sys.argv[2])
paths = [Path(name) for name in sys.argv[3:]]
generator = np.random.default_rng(0)

def read_resident_bytes():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

resident = []
for clip in range(num_clips):
    start = int(generator.integers(0, 24))
    decoder.decode_frames(paths[clip % len(paths)], range(start, start + 16, 2))
    if clip % 20 == 0:
        resident.append(read_resident_bytes())
# The first clips fill the allocator's pools.
settled = np.array(resident[len(resident) // 3 :], float)
print(np.polyfit(20 * np.arange(len(settled)), settled, 1)[0])
"""
MAX_BYTES_PER_CLIP = 1024


def measure_bytes_per_clip(name: str, num_clips: int, folder: Path, write_video: Any) -> float:
    paths = [
        write_video(folder / f"b_frames{suffix}", height=144, width=176, b_frames=3)
        for suffix in (".mp4", ".mkv")
    ]
    paths.append(write_video(folder / "short_gop.mp4", height=144, width=176, b_frames=0))
    done = subprocess.run(
        [sys.executable, "-c", MEASURE_MEMORY, name, str(num_clips), *map(str, paths)],
        check=True,
        capture_output=True,
        text=True,
        timeout=1800,
    )
    return float(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_stays_flat_over_clips(tmp_path: Path, write_video: Any) -> None:
    assert measure_bytes_per_clip("pyav", 1000, tmp_path, write_video) < MAX_BYTES_PER_CLIP


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("name", ["pyav", "decord"])
def test_memory_stays_flat_over_ten_thousand_clips(
    name: str, tmp_path: Path, write_video: Any
) -> None:
    assert measure_bytes_per_clip(name, 10_000, tmp_path, write_video) < MAX_BYTES_PER_CLIP
