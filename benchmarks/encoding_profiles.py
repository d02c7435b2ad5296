"""What the encoding profiles cost and bring, on the user's own videos.

    python benchmarks/encoding_profiles.py VIDEO... [--short-side 256] [--clips 20] [--json FILE]

Each video is scaled as preparation does and encoded by every profile and by libx264's defaults
(medium, crf 23, a keyframe every 250 frames). Sizes are compared at the SSIM that the defaults
reach (brightness, windows of 8x8), by a line through a profile's sizes at neighbouring crf. At the
profile's own crf, random clips of 32 frames in steps of 2 and of 8 in steps of 8 are read by the
decoder of gnvideo, beside decord (one thread) on the file that the user gave, A B A B, in CPU time
of this process; decord must first give the same frames of the prepared file.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import av
import decord
import numpy as np
import numpy.typing as npt

from gnvideo.commands.environment import describe_environment
from gnvideo.data.decoding import make_decoder
from gnvideo.data.encoding_profiles import PROFILES, EncodingSettings
from gnvideo.data.transcoding import transcode_video
from gnvideo.errors import GnvideoError

_DEFAULTS = EncodingSettings(
    crf=23, keyframe_interval_frames=250, num_b_frames=3, preset="medium", options=""
)
_LOSSLESS = EncodingSettings(crf=0, keyframe_interval_frames=250, preset="ultrafast", options="")
_CLIPS = {"32x2": (32, 2), "8x8": (8, 8)}
_ROUNDS = 5

Planes = list[npt.NDArray[np.float32]]
Read = Callable[[Path, npt.NDArray[np.int64]], npt.NDArray[np.uint8]]


@dataclass(frozen=True)
class Row:
    """One profile on one video; times are of CPU, medians over the rounds."""

    video: str
    profile: str
    bytes: int
    ssim: float
    size_ratio_at_equal_ssim: float
    crf_at_equal_ssim: float
    encoded_frames_per_second: float
    milliseconds: dict[str, float]
    decord_ratio: dict[str, float]
    decord_ratio_range: dict[str, tuple[float, float]]


def main() -> int:
    """Runs the benchmark and returns 0, or 1 where the decoders disagree."""
    options = _make_parser().parse_args()
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        for video in options.videos:
            try:
                rows += _measure(video, Path(folder), options.short_side, options.clips)
            except (GnvideoError, AssertionError) as error:
                print(f"error: {error}", file=sys.stderr)
                return 1
    if options.json:
        result = {"rows": [asdict(row) for row in rows], "environment": describe_environment()}
        options.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return 0


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("videos", type=Path, nargs="+")
    parser.add_argument("--short-side", type=int, default=256)
    parser.add_argument("--clips", type=int, default=20, help="of each kind, from each video")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    return parser


def _measure(video: Path, folder: Path, short_side: int, num_clips: int) -> list[Row]:
    def encode(name: str, settings: EncodingSettings) -> tuple[Path, float]:
        path = folder / f"{name}.mp4"
        start = time.process_time()
        written = transcode_video(video, path, short_side_pixels=short_side, settings=settings)
        return path, written.frames / (time.process_time() - start)

    scaled = _read_brightness(encode("scaled", _LOSSLESS)[0])
    reference, _ = encode("reference", _DEFAULTS)
    wanted = _compute_ssim(scaled, _read_brightness(reference))
    print(
        f"{video}: {len(scaled)} frames; libx264's defaults: {reference.stat().st_size} bytes,"
        f" SSIM {wanted:.4f}"
    )
    rows: list[Row] = []
    for name, profile in PROFILES.items():
        points: list[tuple[float, float, int]] = []
        for crf in range(12, 34, 3):
            path, _ = encode(name, replace(profile.settings, crf=crf))
            ssim = _compute_ssim(scaled, _read_brightness(path))
            points.append((ssim, np.log(path.stat().st_size), crf))
        ssims, sizes, crfs = zip(*sorted(points), strict=True)
        assert ssims[0] <= wanted <= ssims[-1], f"{name}: no crf reaches SSIM {wanted:.4f}"
        path, speed = encode(name, profile.settings)
        times = {kind: _time_clips(video, path, len(scaled), kind, num_clips) for kind in _CLIPS}
        ratios = {
            kind: [b / a for a, b in zip(*pairs, strict=True)] for kind, pairs in times.items()
        }
        row = Row(
            video=video.name,
            profile=name,
            bytes=path.stat().st_size,
            ssim=_compute_ssim(scaled, _read_brightness(path)),
            size_ratio_at_equal_ssim=float(
                np.exp(np.interp(wanted, ssims, sizes)) / reference.stat().st_size
            ),
            crf_at_equal_ssim=float(np.interp(wanted, ssims, crfs)),
            encoded_frames_per_second=speed,
            milliseconds={kind: statistics.median(pairs[0]) for kind, pairs in times.items()},
            decord_ratio={kind: statistics.median(values) for kind, values in ratios.items()},
            decord_ratio_range={kind: (min(v), max(v)) for kind, v in ratios.items()},
        )
        _print_row(row)
        rows.append(row)
    return rows


def _print_row(row: Row) -> None:
    clips = ", ".join(
        f"{kind} {row.milliseconds[kind]:.1f} ms, decord on the original {ratio:.2f} times that"
        f" ({row.decord_ratio_range[kind][0]:.2f} to {row.decord_ratio_range[kind][1]:.2f})"
        for kind, ratio in row.decord_ratio.items()
    )
    print(
        f"  {row.profile:10} {row.bytes} bytes, SSIM {row.ssim:.4f};"
        f" {row.size_ratio_at_equal_ssim:.2f} times the defaults' size at their SSIM"
        f" (crf {row.crf_at_equal_ssim:.1f}); {row.encoded_frames_per_second:.0f} frames a second;"
        f" {clips}"
    )


def _read_brightness(path: Path) -> Planes:
    with av.open(str(path)) as container:
        return [
            frame.to_ndarray()[: frame.height].astype(np.float32)
            for frame in container.decode(video=0)
        ]


def _compute_ssim(ours: Planes, theirs: Planes) -> float:
    return float(np.mean([_compare(a, b) for a, b in zip(ours, theirs, strict=True)]))


def _compare(a: npt.NDArray[np.float32], b: npt.NDArray[np.float32]) -> float:
    mean_a, mean_b = _average(a), _average(b)
    variance_a, variance_b = _average(a * a) - mean_a**2, _average(b * b) - mean_b**2
    covariance = _average(a * b) - mean_a * mean_b
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    ssim = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
    return float((ssim / ((mean_a**2 + mean_b**2 + c1) * (variance_a + variance_b + c2))).mean())


def _average(plane: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Returns the means over windows of 8x8, four pixels apart."""
    height, width = (side // 4 for side in plane.shape)
    sums = plane[: height * 4, : width * 4].reshape(height, 4, width, 4).sum((1, 3))
    return (sums[:-1, :-1] + sums[1:, :-1] + sums[:-1, 1:] + sums[1:, 1:]) / 64


def _time_clips(
    original: Path, prepared: Path, num_frames: int, kind: str, num_clips: int
) -> tuple[list[float], list[float]]:
    """Returns milliseconds a clip in each round, ours on `prepared` and decord's on `original`."""
    length, stride = _CLIPS[kind]
    span = (length - 1) * stride + 1
    assert num_frames >= span, f"{original} is shorter than a clip of {kind}"
    starts = np.random.default_rng(0).integers(0, num_frames - span + 1, num_clips)
    clips = [np.arange(start, start + span, stride) for start in starts]
    decoder = make_decoder("pyav")

    def read(path: Path, indices: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        return decoder.decode_frames(path, indices).frames_THWC

    for clip in clips:
        assert np.array_equal(read(prepared, clip), _read_with_decord(prepared, clip)), (
            f"the decoders give other frames of {prepared}"
        )
    ours: list[float] = []
    theirs: list[float] = []
    for _ in range(_ROUNDS):
        ours.append(_time(read, prepared, clips))
        theirs.append(_time(_read_with_decord, original, clips))
    return ours, theirs


def _read_with_decord(path: Path, indices: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
    return decord.VideoReader(str(path), num_threads=1).get_batch(indices.tolist()).asnumpy()


def _time(read: Read, path: Path, clips: Sequence[npt.NDArray[np.int64]]) -> float:
    start = time.process_time()
    for clip in clips:
        read(path, clip)
    return 1000 * (time.process_time() - start) / len(clips)


if __name__ == "__main__":
    sys.exit(main())
