"""Random clips from the user's own files: gnvideo's PyAV decoder beside plain decord.

    python benchmarks/decoders.py FOLDER [--frames 8] [--stride 2] [--clips 200] [--json FILE]

Both read the same clips in turn, A B A B, on one thread, in CPU time of this process, opening the
file for each clip as a random-access loader does. No ratio is printed unless all frames are equal.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import decord
import numpy as np
import numpy.typing as npt

from gnvideo.commands.environment import describe_environment
from gnvideo.data.clip_sampling import sample_train_clip
from gnvideo.data.decoding import make_decoder
from gnvideo.errors import VideoError

_ROUNDS = 7
_SUFFIXES = (".mp4", ".mkv", ".webm", ".avi")

Read = Callable[[Path, npt.NDArray[np.int64]], npt.NDArray[np.uint8]]
Clip = tuple[Path, npt.NDArray[np.int64]]


def main() -> int:
    """Runs the benchmark and returns 0, or 1 where the decoders disagree."""
    options = _make_parser().parse_args()
    drawn = _draw_clips(options.folder, options.clips, options.frames, options.stride)
    clips = [clip for clip in drawn if _is_read_by_decord(clip)]
    if len(clips) < len(drawn):
        print(f"left out: {len(drawn) - len(clips)} of {len(drawn)} clips, which decord fails on")
    readers: dict[str, Read] = {"gnvideo": _make_own_reader(), "decord": _read_with_decord}
    unequal = [
        path
        for path, indices in clips
        if not np.array_equal(*(read(path, indices) for read in readers.values()))
    ]
    if unequal:
        print(f"the decoders give other frames in {len(unequal)} clips, first in {unequal[0]}")
        return 1
    milliseconds: dict[str, list[float]] = {name: [] for name in readers}
    for _ in range(_ROUNDS):
        for name, read in readers.items():
            milliseconds[name].append(_time_clips(read, clips))
    ratios = [b / a for a, b in zip(milliseconds["gnvideo"], milliseconds["decord"], strict=True)]
    for name, values in milliseconds.items():
        print(f"{name:8} {statistics.median(values):7.2f} ms of CPU a clip")
    print(
        f"decord / gnvideo: {statistics.median(ratios):.2f}"
        f" ({min(ratios):.2f} to {max(ratios):.2f} in {_ROUNDS} rounds of {len(clips)} clips,"
        " equal frames)"
    )
    if options.json:
        result = {"milliseconds_per_clip": milliseconds, "ratios": ratios, "clips": len(clips)}
        text = json.dumps(result | {"environment": describe_environment()}, indent=2)
        options.json.write_text(text + "\n", encoding="utf-8")
    return 0


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="videos, searched with its subfolders")
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--stride", type=int, default=2)
    parser.add_argument("--clips", type=int, default=200)
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    return parser


def _draw_clips(folder: Path, num_clips: int, num_frames: int, stride: int) -> list[Clip]:
    generator = np.random.default_rng(0)
    decoder = make_decoder("pyav")
    paths = sorted(path for path in folder.rglob("*") if path.suffix in _SUFFIXES)
    if not paths:
        sys.exit(f"error: no video in {folder}; make some with `make quickstart`")
    clips: list[Clip] = []
    for path in generator.choice(np.array(paths), num_clips):
        try:
            length = decoder.read_metadata(path).num_frames
        except VideoError as error:
            print(f"left out: {error}")
            continue
        clips.append((path, sample_train_clip(length, num_frames, stride, generator)))
    return clips


def _make_own_reader() -> Read:
    decoder = make_decoder("pyav")
    return lambda path, indices: decoder.decode_frames(path, indices).frames_THWC


def _read_with_decord(path: Path, indices: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
    return decord.VideoReader(str(path), num_threads=1).get_batch(list(indices)).asnumpy()


def _is_read_by_decord(clip: Clip) -> bool:
    """Returns whether plain decord reads the clip: it fails on some small widths."""
    try:
        _read_with_decord(*clip)
    except decord.DECORDError:
        return False
    return True


def _time_clips(read: Read, clips: list[Clip]) -> float:
    start = time.process_time()
    for path, indices in clips:
        read(path, indices)
    return 1000 * (time.process_time() - start) / len(clips)


if __name__ == "__main__":
    sys.exit(main())
