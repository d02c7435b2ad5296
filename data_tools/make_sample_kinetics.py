"""Writes a small data set in Kinetics' layout: H.264 files, annotation CSVs, a few broken videos.

    python data_tools/make_sample_kinetics.py --output work/sample

OUTPUT/annotations/{train,val,test}.csv have the columns of the official Kinetics-400 files and
OUTPUT/videos/{train,val,test}/ the clips, named as its downloader names them. Sizes, orientations,
frame rates and lengths differ from clip to clip. The same seed gives the same pictures.
"""

from __future__ import annotations

import argparse
import csv
import io
import math
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path

import av
import numpy as np

from gnvideo.atomic_file import open_atomic
from gnvideo.data.annotations import Annotation
from gnvideo.data.drifting_textures import CLASS_NAMES, draw_video
from gnvideo.data.encoding import EncodingSettings, encode_video
from gnvideo.data.limited_process import JobFailure
from gnvideo.data.process_pool import run_in_processes
from gnvideo.errors import GnvideoError, WorkFailedError

_FRAME_RATES = (Fraction(24), Fraction(25), Fraction(30000, 1001), Fraction(30))
# Width and height as displayed.
_SIZES = ((64, 48), (72, 54), (80, 60), (60, 60), (48, 64), (54, 72))
_SECONDS = (1.6, 2.2)
# As downloads are: B-frames, and one keyframe in a short clip.
_SETTINGS = EncodingSettings(crf=18, keyframe_interval_frames=250, tune="", num_b_frames=2)
# Every so many videos one is stored on its side, with a rotation tag.
_ROTATED_EVERY = 10
_ID_ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
_BROKEN_KINDS = ("empty", "truncated", "no video stream", "text", "flipped bits", "random bytes")


@dataclass(frozen=True, slots=True)
class _PlannedVideo:
    annotation: Annotation
    class_name: str
    seed: tuple[int, int, int]
    rotated: bool
    broken: str | None


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the tool and returns its exit code: 0 done, 1 the work failed, 2 the input was wrong."""
    options = _make_parser().parse_args(arguments)
    counts = {"train": options.train, "val": options.val, "test": options.test}
    try:
        videos = [
            video
            for number, (split, count) in enumerate(counts.items())
            for video in _plan_split(split, number, count, options.seed, options.broken_share)
        ]
        write = partial(_write_video, output=options.output)
        for video, result in run_in_processes(write, videos, options.workers):
            if isinstance(result, JobFailure):
                raise WorkFailedError(f"writing {video.annotation.clip_id} {result.reason}")
        for split in counts:
            rows = [video.annotation for video in videos if video.annotation.split == split]
            _write_annotations(options.output / "annotations" / f"{split}.csv", rows)
    except GnvideoError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted; run the same command again", file=sys.stderr)
        return 130
    broken = sum(video.broken is not None for video in videos)
    print(
        f"wrote {len(videos)} videos of {len(CLASS_NAMES)} classes to {options.output}"
        f" ({broken} broken on purpose)"
    )
    return 0


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, required=True, help="a folder; made if missing")
    parser.add_argument("--train", type=int, default=100, help="training videos of each class")
    parser.add_argument("--val", type=int, default=30, help="validation videos of each class")
    parser.add_argument("--test", type=int, default=4, help="unlabelled test videos of each class")
    parser.add_argument(
        "--broken-share",
        type=_share,
        metavar="SHARE",
        help="broken among all videos of train and val, of all kinds in turn (one of each kind)",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes")
    return parser


def _share(text: str) -> float:
    if not 0 <= float(text) <= 0.5:
        raise argparse.ArgumentTypeError(f"{text} is not allowed; it must be from 0 to 0.5")
    return float(text)


def _plan_split(
    split: str, number: int, videos_per_class: int, seed: int, broken_share: float | None
) -> list[_PlannedVideo]:
    videos: list[_PlannedVideo] = []
    for place in range(videos_per_class * len(CLASS_NAMES)):
        class_name = CLASS_NAMES[place % len(CLASS_NAMES)]
        generator = np.random.default_rng([seed, number, place])
        videos.append(
            _PlannedVideo(
                annotation=_draw_annotation(split, class_name, generator),
                class_name=class_name,
                seed=(seed, number, place),
                rotated=place % _ROTATED_EVERY == _ROTATED_EVERY - 1,
                broken=None,
            )
        )
    if not videos or split == "test":
        return videos
    # Beside the sound ones, so that the classes stay equally frequent.
    num_broken = len(_BROKEN_KINDS)
    if broken_share is not None:
        num_broken = round(len(videos) * broken_share / (1 - broken_share))
    for place in range(num_broken):
        key = (seed, number, len(videos))
        class_name = CLASS_NAMES[place % len(CLASS_NAMES)]
        annotation = _draw_annotation(split, class_name, np.random.default_rng(key))
        kind = _BROKEN_KINDS[place % len(_BROKEN_KINDS)]
        videos.append(_PlannedVideo(annotation, class_name, key, rotated=False, broken=kind))
    return videos


def _draw_annotation(split: str, class_name: str, generator: np.random.Generator) -> Annotation:
    start = int(generator.integers(0, 300))
    return Annotation(
        youtube_id="".join(generator.choice(list(_ID_ALPHABET), 11)),
        label=None if split == "test" else class_name,
        start_seconds=start,
        end_seconds=start + math.ceil(_SECONDS[1]),
        split=split,
    )


def _write_video(video: _PlannedVideo, output: Path) -> bool:
    path = output / "videos" / video.annotation.split / f"{video.annotation.clip_id}.mp4"
    if video.broken == "empty":
        _write_bytes(path, b"")
        return True
    if video.broken == "text":
        _write_bytes(path, b"<html><body>This video is unavailable.</body></html>\n")
        return True
    generator = np.random.default_rng([*video.seed, 1])
    if video.broken == "random bytes":
        _write_bytes(path, generator.bytes(20_000))
        return True
    width, height = _SIZES[int(generator.integers(len(_SIZES)))]
    fps = _FRAME_RATES[int(generator.integers(len(_FRAME_RATES)))]
    frames_THWC = draw_video(
        video.class_name,
        generator,
        num_frames=round(generator.uniform(*_SECONDS) * fps),
        height_pixels=height,
        width_pixels=width,
        fps=float(fps),
    )
    if video.rotated:
        # Stored a quarter turn counter-clockwise; the tag asks the player to turn it back.
        encode_video(
            path,
            np.ascontiguousarray(np.rot90(frames_THWC, 1, axes=(1, 2))),
            fps=fps,
            settings=_SETTINGS,
            rotation_degrees=90,
        )
    else:
        encode_video(path, frames_THWC, fps=fps, settings=_SETTINGS)
    if video.broken == "truncated":
        whole = path.read_bytes()
        _write_bytes(path, whole[: len(whole) * 2 // 3])
    elif video.broken == "flipped bits":
        _write_bytes(path, _flip_bits(path.read_bytes(), generator))
    elif video.broken == "no video stream":
        path.unlink()
        _write_sound(path)
    return True


def _write_bytes(path: Path, content: bytes) -> None:
    with open_atomic(path) as file:
        file.write(content)


def _flip_bits(whole: bytes, generator: np.random.Generator) -> bytes:
    """Returns `whole` with one bit in 50 of its middle half changed: pictures, no header."""
    content = np.unpackbits(np.frombuffer(whole, np.uint8))
    middle = slice(len(content) // 4, len(content) * 3 // 4)
    content[middle] ^= generator.random(len(content[middle])) < 1 / 50
    return np.packbits(content).tobytes()


def _write_sound(path: Path) -> None:
    """Writes an MP4 whose only stream is half a second of silence."""
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=16000)
        samples = np.zeros((1, 8000), np.float32)
        frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def _write_annotations(path: Path, rows: Sequence[Annotation]) -> None:
    columns = ["youtube_id", "time_start", "time_end", "split"]
    lines: list[list[str | int]] = [
        [row.youtube_id, row.start_seconds, row.end_seconds, row.split] for row in rows
    ]
    # As in the official files: test rows have no label.
    if any(row.label is not None for row in rows):
        columns = ["label", *columns, "is_cc"]
        lines = [[row.label or "", *line, 0] for row, line in zip(rows, lines, strict=True)]
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows([columns, *lines])
    _write_bytes(path, text.getvalue().encode())


if __name__ == "__main__":
    sys.exit(main())
