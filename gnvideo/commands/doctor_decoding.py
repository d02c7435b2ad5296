"""The decoders, as `doctor` looks at them: on a video made here, and on the user's own."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np

from gnvideo.commands.bench_clips import draw_clips, find_videos
from gnvideo.commands.environment import read_version
from gnvideo.commands.finding import Finding
from gnvideo.data.decoding import DECODER_NAMES, VideoDecoder, make_decoder
from gnvideo.data.drifting_textures import CLASS_NAMES, draw_video
from gnvideo.data.encoding import encode_video
from gnvideo.errors import DecoderUnavailableError, GnvideoError, InputFileError, VideoError

_CLIPS_PER_FILE = 2
_FRAMES_PER_CLIP, _STRIDE = 8, 3


def check_decoding() -> Iterator[Finding]:
    """Encodes a small video and reads it with every decoder; all must give the same frames."""
    frames_THWC = draw_video(
        CLASS_NAMES[0],
        np.random.default_rng(0),
        num_frames=24,
        height_pixels=48,
        width_pixels=64,
        fps=25,
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "video.mp4"
        try:
            encode_video(path, frames_THWC, fps=Fraction(25))
        except GnvideoError as error:
            yield Finding("encoder", "broken", f"libx264 through PyAV: {error}")
            return
        yield Finding("encoder", "ok", f"libx264 through PyAV {read_version('av')}")
        reference: np.ndarray | None = None
        for name in DECODER_NAMES:
            try:
                decoded = make_decoder(name).decode_frames(path, range(0, 24, 3)).frames_THWC
            except DecoderUnavailableError as error:
                yield Finding(f"decoder {name}", "note", str(error))
                continue
            except GnvideoError as error:
                yield Finding(f"decoder {name}", "broken", str(error))
                continue
            if reference is None:
                reference = decoded
                yield Finding(f"decoder {name}", "ok", "reads H.264")
            elif np.array_equal(reference, decoded):
                yield Finding(f"decoder {name}", "ok", f"same frames as {DECODER_NAMES[0]}")
            else:
                yield Finding(
                    f"decoder {name}",
                    "broken",
                    f"other frames than {DECODER_NAMES[0]}: keep data.decoder={DECODER_NAMES[0]}",
                )


def check_videos(paths: Sequence[Path], max_files: int) -> Iterator[Finding]:
    """Reads random clips of the user's videos with every decoder; all must give the same frames.

    A video that a decoder refuses is a note: the decoder says so instead of giving other frames.

    Raises:
        InputFileError: there is no video below `paths`.
    """
    videos = find_videos(paths)[:max_files]
    reference_name, *other_names = DECODER_NAMES
    reference = make_decoder(reference_name)
    try:
        clips, unreadable = draw_clips(
            videos,
            reference,
            num_clips=_CLIPS_PER_FILE * len(videos),
            num_frames=_FRAMES_PER_CLIP,
            stride=_STRIDE,
        )
    except InputFileError as error:
        yield Finding("your videos", "broken", str(error))
        return
    expected: dict[Path, list[tuple[np.ndarray, np.ndarray]]] = {}
    for clip in clips:
        if clip.path in expected and len(expected[clip.path]) == 0:
            continue
        try:
            frames = reference.decode_frames(clip.path, clip.indices).frames_THWC
        except VideoError as error:
            unreadable.append(str(error))
            expected[clip.path] = []
            continue
        expected.setdefault(clip.path, []).append((clip.indices, frames))
    readable = {path: kept for path, kept in expected.items() if kept}
    text = f"{reference_name} reads {len(readable)} of {len(videos)}"
    if unreadable:
        yield Finding("your videos", "note", f"{text}; the first that fails: {unreadable[0]}")
    else:
        yield Finding("your videos", "ok", text)
    for name in other_names:
        try:
            decoder = make_decoder(name)
        except DecoderUnavailableError:
            # The check on the video made here says why.
            continue
        yield _compare(decoder, reference_name, readable)


def _compare(
    decoder: VideoDecoder,
    reference_name: str,
    expected: Mapping[Path, Sequence[tuple[np.ndarray, np.ndarray]]],
) -> Finding:
    refused: list[str] = []
    differing: list[Path] = []
    for path, clips in expected.items():
        try:
            decoded = [decoder.decode_frames(path, indices).frames_THWC for indices, _ in clips]
        except VideoError as error:
            refused.append(str(error))
            continue
        if not all(
            np.array_equal(frames, wanted)
            for frames, (_, wanted) in zip(decoded, clips, strict=True)
        ):
            differing.append(path)
    subject = f"your videos, {decoder.name}"
    if differing:
        text = (
            f"other frames than {reference_name} in {len(differing)} of {len(expected)}, the first"
            f" is {differing[0]}: keep data.decoder={reference_name}"
        )
        return Finding(subject, "broken", text)
    num_same = len(expected) - len(refused)
    text = f"same frames as {reference_name} in {num_same} of {len(expected)}"
    if refused:
        return Finding(subject, "note", f"{text}; it refuses the others, the first: {refused[0]}")
    return Finding(subject, "ok", text)
