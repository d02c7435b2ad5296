"""`bench`: side by side with the peers, on the user's own files. Its words, and which runs what."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    # What add_subparsers returns.
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]  # pyright: ignore[reportPrivateUsage]


def add_bench_command(commands: Commands) -> None:
    """Adds `bench` and the benchmarks below it to the command line. Imports nothing slow."""
    bench = commands.add_parser("bench", help="measure side by side with other libraries")
    benchmarks = bench.add_subparsers(dest="benchmark", required=True, metavar="BENCHMARK")

    decode = benchmarks.add_parser("decode", help="random clips of your videos, by each decoder")
    decode.add_argument("paths", type=Path, nargs="+", metavar="VIDEO_OR_FOLDER")
    decode.add_argument("--frames", type=int, default=32, help="of a clip; default: %(default)s")
    decode.add_argument("--stride", type=int, default=2, help="default: %(default)s")
    decode.add_argument("--clips", type=int, default=40, help="default: %(default)s")

    loader = benchmarks.add_parser("loader", help="the training loader against bare decoding")
    loader.add_argument("source", type=Path, metavar="CONFIG.yaml_OR_PREPARED_FOLDER")
    loader.add_argument(
        "overrides", nargs="*", metavar="key.sub=value", help="such as data.num_frames=16"
    )
    loader.add_argument(
        "--workers", type=int, nargs="+", help="default: 0, 1, 2, 4, ... up to the cores"
    )
    loader.add_argument(
        "--batches", type=int, default=8, help="timed for each worker; default: %(default)s"
    )

    memory = benchmarks.add_parser("memory", help="what a training step keeps of a clip, counted")
    memory.add_argument("--model", default="i3d_r50", metavar="NAME", help="default: %(default)s")
    memory.add_argument(
        "--frames", type=int, nargs="+", default=[32, 64], help="of a clip; default: 32 64"
    )
    memory.add_argument("--pixels", type=int, default=224, help="default: %(default)s")

    norm = benchmarks.add_parser("norm", help="normalization, sum and ReLU, by each library")
    norm.add_argument("--device", default="auto", help="auto (default), cpu, cuda or cuda:<n>")
    norm.add_argument(
        "--contestants", nargs="+", metavar="NAME", help="beside ours; default: nearly all"
    )
    norm.add_argument(
        "--layers", nargs="+", metavar="WORD", help="those with a word in their names; default: all"
    )
    norm.add_argument("--frames", type=int, nargs="+", help="on a GPU, of a clip; default: 32 64")
    norm.add_argument("--clips", type=int, nargs="+", help="on a GPU; default: 1 2 4 8 16")
    norm.add_argument(
        "--config",
        type=Path,
        metavar="COMPARISON.yaml",
        help="on a CPU, whose network and batches; default: that of make quickstart",
    )
    norm.add_argument("--sweep", action="store_true", help="on a CPU: many sizes, one layer each")
    norm.add_argument("--threads", type=int, default=1, help="of the CPU; default: %(default)s")
    norm.add_argument("--rounds", type=int, default=15, help="default: %(default)s")
    norm.add_argument("--plot", type=Path, metavar="FILE.svg", help="draw a roofline here")

    for benchmark in (decode, loader):
        benchmark.add_argument("--rounds", type=int, default=5, help="default: %(default)s")
    for benchmark in (decode, loader, memory, norm):
        benchmark.add_argument(
            "--json", type=Path, metavar="FILE", help="save here, and as Markdown beside it"
        )


def run_bench(options: argparse.Namespace) -> None:
    """Runs the benchmark that the parsed words name."""
    if options.benchmark == "decode":
        from gnvideo.commands.bench_decode import run_bench_decode

        run_bench_decode(
            options.paths,
            num_frames=options.frames,
            stride=options.stride,
            num_clips=options.clips,
            num_rounds=options.rounds,
            json_path=options.json,
        )
    elif options.benchmark == "norm":
        from gnvideo.commands.bench_norm import NormChoices, run_bench_norm

        run_bench_norm(
            NormChoices(
                frames=options.frames,
                clips=options.clips,
                config=options.config,
                sweep=options.sweep,
                layers=options.layers,
                contestants=options.contestants,
            ),
            device=options.device,
            num_threads=options.threads,
            num_rounds=options.rounds,
            json_path=options.json,
            plot_path=options.plot,
        )
    elif options.benchmark == "memory":
        from gnvideo.commands.bench_memory import run_bench_memory

        run_bench_memory(
            options.model,
            frame_counts=options.frames,
            crop_pixels=options.pixels,
            json_path=options.json,
        )
    else:
        from gnvideo.commands.bench_loader import run_bench_loader

        run_bench_loader(
            options.source,
            options.overrides,
            worker_counts=options.workers,
            batches_per_worker=options.batches,
            num_rounds=options.rounds,
            json_path=options.json,
        )
