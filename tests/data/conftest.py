"""Real, tiny, encoded videos."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import pytest

from gnvideo.data.decoding import DECODER_NAMES, VideoDecoder, make_decoder
from gnvideo.errors import DecoderUnavailableError

WriteVideo = Callable[..., Path]


def make_frames(num_frames: int, height: int, width: int) -> npt.NDArray[np.uint8]:
    """Returns (T, H, W, 3) frames of coloured blocks that move, no two alike."""
    blocks = np.random.default_rng(0).integers(0, 256, (height // 8 + 1, width // 8 + 1, 3))
    scene = blocks.repeat(8, axis=0).repeat(8, axis=1)[:height, :width]
    frames = [np.roll(scene, (t, 2 * t), axis=(0, 1)) + 5 * t for t in range(num_frames)]
    return np.stack(frames).astype(np.uint8)


@contextmanager
def keep_scheduling() -> Generator[None]:
    """Undoes what SVT-AV1 does where it is root: the calling thread, and so every process started
    later, gets real-time priority, and a loop in one of them starves the machine.
    """
    if not hasattr(os, "sched_getscheduler"):
        yield
        return
    policy, parameters = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        yield
    finally:
        os.sched_setscheduler(0, policy, parameters)


@pytest.fixture(params=DECODER_NAMES)
def decoder(request: pytest.FixtureRequest) -> VideoDecoder:
    try:
        return make_decoder(request.param)
    except DecoderUnavailableError as error:
        # decord has no wheel for macOS on Arm; torchcodec needs an FFmpeg of the system.
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def write_video() -> WriteVideo:
    """A function that encodes a video, with libx264 unless told otherwise, and returns its path."""

    def write(
        path: Path,
        *,
        num_frames: int = 40,
        height: int = 36,
        width: int = 48,
        keyframe_interval: int = 12,
        b_frames: int = 2,
        rotation: int = 0,
        pixel_format: str = "yuv420p",
        times_centiseconds: Sequence[int] | None = None,
        codec_options: dict[str, str] | None = None,
        container_options: dict[str, str] | None = None,
        container_format: str | None = None,
        codec: str = "libx264",
        with_audio_first: bool = False,
    ) -> Path:
        with (
            keep_scheduling(),
            av.open(
                str(path), "w", format=container_format, options=container_options or {}
            ) as container,
        ):
            sound = container.add_stream("aac", rate=8000) if with_audio_first else None
            # PyAV's types know video codecs by a list of literals.
            stream: Any = container.add_stream(codec, rate=25)
            stream.height, stream.width, stream.pix_fmt = height, width, pixel_format
            stream.options = {"g": str(keyframe_interval), "threads": "1"}
            if codec == "libx264":
                preset = "veryfast" if b_frames else "ultrafast"
                stream.options |= {"bf": str(b_frames), "preset": preset, "sc_threshold": "0"}
            stream.options |= codec_options or {}
            if times_centiseconds is not None:
                stream.codec_context.time_base = Fraction(1, 100)
            if rotation:
                # PyAV counts counter-clockwise.
                stream.set_display_rotation(-rotation)
            if sound is not None:
                for _ in range(num_frames // 4):
                    silence = np.zeros((1, 1024), np.float32)
                    samples = av.AudioFrame.from_ndarray(silence, format="fltp", layout="mono")
                    samples.rate = 8000
                    container.mux(sound.encode(samples))
                container.mux(sound.encode(None))
            for t, image in enumerate(make_frames(num_frames, height, width)):
                frame = av.VideoFrame.from_ndarray(image, format="rgb24")
                if times_centiseconds is not None:
                    frame.pts, frame.time_base = times_centiseconds[t], Fraction(1, 100)
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        return path

    return write
