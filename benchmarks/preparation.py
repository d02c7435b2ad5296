"""Preparation beside the `ffmpeg` command line with the same encoder settings, on the same cores.

    python benchmarks/preparation.py VIDEO... [--copies 16] [--cores 2] [--rounds 5] [--json FILE]

Each video is prepared `copies` times, by gnvideo's workers (one a core) and by ffmpeg in both of
its arrangements: one process a core with one thread each, and one process after the other with all
threads. All scale with the same flags and encode with the same options of libx264; gnvideo also
hashes, verifies and flushes what it writes. They run in turn, A B C A B C, in wall time, pinned to
the same cores. No ratio is printed unless frame counts are equal and sizes within 5 %.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import av

from gnvideo.data.encoding_profiles import DEFAULT_PROFILE, PROFILES, EncodingSettings
from gnvideo.data.process_pool import run_in_processes
from gnvideo.data.transcoding import compute_output_size, transcode_video

_MAX_SIZE_DIFFERENCE = 0.05

Pair = tuple[Path, Path]


def main() -> int:
    """Runs the benchmark and returns 0, or 1 where the outputs differ."""
    options = _make_parser().parse_args()
    if shutil.which("ffmpeg") is None:
        sys.exit("error: no ffmpeg on the path; install it")
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.cores])
    settings = PROFILES[options.profile].settings
    runs: dict[str, Callable[[list[Pair]], None]] = {
        "gnvideo": partial(_run_own, settings, options.short_side, options.cores),
        "ffmpeg, a process a core": partial(
            _run_ffmpeg, settings, options.short_side, options.cores, 1
        ),
        "ffmpeg, all threads": partial(_run_ffmpeg, settings, options.short_side, 1, options.cores),
    }
    print(_read_version())
    with tempfile.TemporaryDirectory() as folder:
        jobs = {
            name: [
                (video, Path(folder) / str(number) / f"{copy} {video.stem}.mp4")
                for video in options.videos
                for copy in range(options.copies)
            ]
            for number, name in enumerate(runs)
        }
        for number in range(len(runs)):
            (Path(folder) / str(number)).mkdir()
        seconds: dict[str, list[float]] = {name: [] for name in runs}
        for _ in range(options.rounds):
            for name, run in runs.items():
                start = time.perf_counter()
                run(jobs[name])
                seconds[name].append(time.perf_counter() - start)
        if not _are_alike(list(jobs.values())):
            return 1
    num_videos = len(options.videos) * options.copies
    for name, values in seconds.items():
        print(f"{name:26} {num_videos / statistics.median(values):7.2f} videos a second")
    ratios = [
        min(others) / own for own, *others in zip(*(seconds[name] for name in runs), strict=True)
    ]
    print(
        f"best ffmpeg time / gnvideo time: {statistics.median(ratios):.2f}"
        f" ({min(ratios):.2f} to {max(ratios):.2f} in {options.rounds} rounds)"
    )
    if options.json:
        # Not at the top: it imports torch, and every worker process imports this file.
        from gnvideo.commands.environment import describe_environment

        result = {
            "seconds": seconds,
            "ratios": ratios,
            "videos": num_videos,
            "ffmpeg": _read_version(),
            "environment": describe_environment(),
        }
        options.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return 0


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("videos", type=Path, nargs="+")
    parser.add_argument("--profile", choices=PROFILES, default=DEFAULT_PROFILE)
    parser.add_argument("--short-side", type=int, default=256)
    parser.add_argument("--copies", type=int, default=16)
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    return parser


def _run_own(settings: EncodingSettings, short_side: int, cores: int, jobs: list[Pair]) -> None:
    prepare = partial(_prepare, settings=settings, short_side=short_side)
    for (video, _), done in run_in_processes(prepare, jobs, cores):
        assert done, f"the process of {video} died"


def _prepare(job: Pair, settings: EncodingSettings, short_side: int) -> bool:
    transcode_video(*job, short_side_pixels=short_side, settings=settings)
    return True


def _run_ffmpeg(
    settings: EncodingSettings, short_side: int, processes: int, threads: int, jobs: list[Pair]
) -> None:
    with ThreadPoolExecutor(processes) as pool:
        for done in pool.map(partial(_call_ffmpeg, settings, short_side, threads), jobs):
            done.check_returncode()


def _call_ffmpeg(
    settings: EncodingSettings, short_side: int, threads: int, job: Pair
) -> subprocess.CompletedProcess[bytes]:
    video, target = job
    with av.open(str(video), metadata_errors="replace") as container:
        stream = container.streams.video[0]
        display_width = round(stream.width * (stream.sample_aspect_ratio or 1))
        width, height = compute_output_size(display_width, stream.height, short_side)
    command = ["ffmpeg", "-nostdin", "-v", "error", "-y", "-threads", f"{threads}"]
    command += ["-i", f"{video}", "-an", "-sn", "-dn", "-fps_mode", "passthrough"]
    command += ["-vf", f"scale={width}:{height}:flags=bicubic+accurate_rnd+bitexact,setsar=1"]
    command += ["-pix_fmt", "yuv420p", "-c:v", "libx264", "-threads", f"{threads}"]
    command += ["-crf", f"{settings.crf}", "-preset", settings.preset]
    command += ["-g", f"{settings.keyframe_interval_frames}", "-bf", f"{settings.num_b_frames}"]
    command += ["-x264-params", settings.options, f"{target}"]
    return subprocess.run(command, check=False)


def _are_alike(jobs: list[list[Pair]]) -> bool:
    """Returns whether all runs wrote the same numbers of frames and nearly the same sizes."""
    for own, *others in zip(*jobs, strict=True):
        for other in others:
            frames = [_count_frames(path) for _, path in (own, other)]
            sizes = [path.stat().st_size for _, path in (own, other)]
            if frames[0] != frames[1] or abs(sizes[0] / sizes[1] - 1) > _MAX_SIZE_DIFFERENCE:
                print(f"the outputs of {own[0]} differ: {frames} frames, {sizes} bytes")
                return False
    return True


def _count_frames(path: Path) -> int:
    with av.open(str(path)) as container:
        return sum(1 for packet in container.demux(video=0) if packet.size)


def _read_version() -> str:
    done = subprocess.run(["ffmpeg", "-version"], capture_output=True, text=True, check=True)
    libraries = ", ".join(
        f"{name} {'.'.join(map(str, av.library_versions[name]))}"
        for name in ("libavcodec", "libswscale")
    )
    return f"{done.stdout.splitlines()[0]}; PyAV {av.__version__} with {libraries}"


if __name__ == "__main__":
    sys.exit(main())
