"""The decoders that people use, each as its own documentation shows it, beside gnvideo's.

Every reader opens the file, decodes one clip and closes the file, as a loader with random access
does, and uses one thread where it can be told so.

Axes: T frames, H height, W width, C colour channels (RGB).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any, NamedTuple

import av
import numpy as np
import numpy.typing as npt
import torch

from gnvideo.commands.bench_clips import BenchClip
from gnvideo.data.decoding import make_decoder

OWN_NAME = "gnvideo"


class Reader(NamedTuple):
    """How one library reads a clip.

    Attributes:
        read: From a clip to the frames in the library's own form; this is timed.
        convert: From that form to (T, H, W, 3) uint8, for the comparison; this is not timed.
        remark: What to know about its figure; empty if nothing.
    """

    read: Callable[[BenchClip], Any]
    convert: Callable[[Any], npt.NDArray[np.uint8]]
    remark: str = ""


def make_readers() -> tuple[dict[str, Reader], dict[str, str]]:
    """Returns the readers by name, gnvideo's first, and why each of the others is not here."""
    makers: Mapping[str, Callable[[], Reader]] = {
        OWN_NAME: _make_own_reader,
        "decord": _make_decord_reader,
        "torchcodec exact": lambda: _make_torchcodec_reader("exact"),
        "torchcodec approximate": lambda: _make_torchcodec_reader("approximate"),
        "pytorchvideo": _make_pytorchvideo_reader,
        "plain PyAV": _make_plain_reader,
    }
    readers: dict[str, Reader] = {}
    absent: dict[str, str] = {}
    for name, make in makers.items():
        try:
            readers[name] = make()
        # torchcodec raises a RuntimeError where it finds no FFmpeg.
        except (ImportError, OSError, RuntimeError) as error:
            absent[name] = f"does not import here: {str(error).strip().splitlines()[0]}"
    return readers, absent


def _make_own_reader() -> Reader:
    decoder = make_decoder("pyav")

    def read(clip: BenchClip) -> npt.NDArray[np.uint8]:
        return decoder.decode_frames(clip.path, clip.indices).frames_THWC

    return Reader(read, np.asarray)


def _make_decord_reader() -> Reader:
    import decord

    decord.logging.set_level(decord.logging.QUIET)

    def read(clip: BenchClip) -> npt.NDArray[np.uint8]:
        video = decord.VideoReader(str(clip.path), ctx=decord.cpu(0), num_threads=1)
        return video.get_batch(clip.indices.tolist()).asnumpy()

    return Reader(read, np.asarray)


def _make_torchcodec_reader(seek_mode: str) -> Reader:
    from torchcodec.decoders import VideoDecoder

    def read(clip: BenchClip) -> torch.Tensor:
        video = VideoDecoder(
            str(clip.path),
            dimension_order="NHWC",
            num_ffmpeg_threads=1,
            seek_mode=seek_mode,  # pyright: ignore[reportArgumentType] (one of its literals)
        )
        return video.get_frames_at(indices=clip.indices.tolist()).data

    def convert(frames_THWC: torch.Tensor) -> npt.NDArray[np.uint8]:
        return frames_THWC.numpy()

    return Reader(read, convert)


def _make_pytorchvideo_reader() -> Reader:
    """Takes every frame of the clip's time, and of these the wanted ones, as its transforms do."""
    from pytorchvideo.data.encoded_video import EncodedVideo

    def read(clip: BenchClip) -> torch.Tensor:
        video = EncodedVideo.from_path(str(clip.path), decode_audio=False, decoder="pyav")
        first, last = int(clip.indices.min()), int(clip.indices.max())
        rate = clip.metadata.fps
        # It takes fractions of a second, and annotates them as floats.
        start: Any = Fraction(first) / rate
        stop: Any = Fraction(last + 1) / rate
        frames_CTHW = video.get_clip(start, stop)["video"]
        video.close()
        if frames_CTHW is None:
            raise ValueError("no frame in the clip's time")
        return frames_CTHW[:, clip.indices - first]

    def convert(frames_CTHW: torch.Tensor) -> npt.NDArray[np.uint8]:
        return frames_CTHW.permute(1, 2, 3, 0).byte().numpy()

    return Reader(
        read,
        convert,
        "addresses frames by time, gives float32, and leaves the number of threads to FFmpeg",
    )


def _make_plain_reader() -> Reader:
    """Seeks to the first wanted frame, decodes up to the last, converts the wanted ones."""

    def read(clip: BenchClip) -> npt.NDArray[np.uint8]:
        wanted = set(clip.indices.tolist())
        images: dict[int, npt.NDArray[np.uint8]] = {}
        with av.open(str(clip.path)) as container:
            stream = container.streams.video[0]
            stream.codec_context.thread_count = 1
            origin = stream.start_time or 0
            # Never unset in a stream that was read from a file.
            assert stream.time_base
            ticks = 1 / (clip.metadata.fps * Fraction(str(stream.time_base)))
            container.seek(origin + math.floor(min(wanted) * ticks), stream=stream)
            for frame in container.decode(stream):
                index = round(((frame.pts or 0) - origin) / ticks)
                if index in wanted:
                    image: Any = frame.to_ndarray(format="rgb24")
                    images[index] = image
                if index >= max(wanted):
                    break
        return np.stack([images[index] for index in clip.indices.tolist()])

    return Reader(read, np.asarray, "finds frames by their time at a constant rate")
