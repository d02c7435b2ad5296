"""Turns downloaded videos into a checked, fast-to-read copy with a manifest.

With Kinetics' annotation files:
    python data_tools/preprocess_kinetics.py --annotations train.csv --annotations validate.csv \\
        --videos DOWNLOADS --output PREPARED

With lists of files and their classes ('<video> <label>', as other tools read them):
    python data_tools/preprocess_kinetics.py --annotations train.txt --annotations val.txt \\
        --classes label_map.txt --videos DOWNLOADS --output PREPARED

With your own videos, in one folder a class (or one folder a split, with class folders in it):
    python data_tools/preprocess_kinetics.py --videos MY_VIDEOS --val-share 0.2 --output PREPARED

An interrupted run goes on where it was when the same command is given again.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TypeVar

from gnvideo.data.differences import write_differences
from gnvideo.data.encoding import EncodingSettings
from gnvideo.data.limited_process import JobLimits
from gnvideo.data.manifest import SPLITS
from gnvideo.data.planning import PreparationPlan, PreparationRequest, plan_preparation
from gnvideo.data.preparation import (
    PreparationResult,
    PreparationSettings,
    RunJobs,
    prepare_videos,
)
from gnvideo.data.preparation_log import open_prepared_clips
from gnvideo.data.preparation_plan import ClipJob
from gnvideo.data.preparation_progress import show_progress
from gnvideo.data.preparation_survey import survey_jobs
from gnvideo.data.process_pool import run_in_processes
from gnvideo.data.quarantine import QUARANTINE_NAME
from gnvideo.data.ray_engine import run_on_ray
from gnvideo.errors import GnvideoError

_EXIT_INTERRUPTED = 130

Number = TypeVar("Number", int, float)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the tool and returns its exit code: 0 done, 1 the work failed, 2 the input was wrong."""
    parser = _make_parser()
    options = parser.parse_args(arguments)
    if options.ray_address is not None and options.engine != "ray":
        parser.error("--ray-address is for --engine ray; add it, or leave the address out")
    try:
        plan = _plan(options)
        settings = PreparationSettings(
            options.short_side, EncodingSettings(options.crf, options.keyframe_interval)
        )
        if options.dry_run:
            _print_survey(plan.jobs, settings, options)
            return 0
        if plan.differences is not None:
            write_differences(options.output, plan.differences)
        with show_progress("videos") as on_progress:
            result = prepare_videos(
                plan.jobs,
                options.videos,
                options.output,
                settings=settings,
                run_jobs=_choose_engine(options),
                on_progress=on_progress,
                classes=plan.classes,
            )
    except GnvideoError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        return _EXIT_INTERRUPTED
    _print_summary(result, options.output)
    return 0


def _plan(options: argparse.Namespace) -> PreparationPlan:
    plan = plan_preparation(
        PreparationRequest(
            videos=options.videos,
            output=options.output,
            annotations=options.annotations,
            split=options.split,
            val_share=options.val_share,
            class_file=options.classes,
            exclusions=options.exclude,
            has_rawframes_fps=options.rawframes_fps is not None,
        )
    )
    for note in plan.notes:
        print(note)
    return plan


def _choose_engine(options: argparse.Namespace) -> RunJobs:
    limits = JobLimits(options.timeout, options.memory_limit_mb)
    if options.engine == "ray":
        address = options.ray_address or "auto"
        return partial(run_on_ray, num_workers=options.workers, limits=limits, address=address)
    return partial(run_in_processes, num_workers=options.workers or _count_cpus(), limits=limits)


def _print_survey(
    jobs: Sequence[ClipJob], settings: PreparationSettings, options: argparse.Namespace
) -> None:
    with open_prepared_clips(options.output, options.videos, asdict(settings)) as prepared:
        survey = survey_jobs(jobs, prepared)
    print(f"{'split':<8}{'to prepare':>12}{'kept':>9}{'missing':>9}{'excluded':>10}")
    for split, (waiting, kept, missing, excluded) in survey.count_by_split().items():
        print(f"{split:<8}{waiting:>12}{kept:>9}{missing:>9}{excluded:>10}")
    print("\nnothing was written: leave out --dry-run to prepare")


def _print_summary(result: PreparationResult, output: Path) -> None:
    print(
        f"\n{'split':<8}{'asked':>9}{'present':>9}{'missing':>9}{'unreadable':>12}{'excluded':>10}"
        "  fingerprint"
    )
    num_unreadable = 0
    for name, split in result.coverage["splits"].items():
        num_unreadable += split["unreadable"]
        print(
            f"{name:<8}{split['asked']:>9}{split['present']:>9}{split['missing']:>9}"
            f"{split['unreadable']:>12}{split['excluded']:>10}  {split['fingerprint']}"
        )
    print(f"\n{result.num_written} videos prepared now, {result.num_kept} before")
    if num_unreadable:
        print(f"unreadable videos, with reasons: {output / QUARANTINE_NAME}")
    if result.num_leaked:
        print(
            f"warning: {result.num_leaked} videos of val and test have the same frames as a video"
            " of train; an accuracy on them says little"
        )
    print(f"next: python launch.py train CONFIG.yaml data.root={output}")


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add(
        "--annotations",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="Kinetics CSV or JSON file, or a list '<video> <label>' or '<folder of images>"
        " <count> <label>'; once for each file. Without it, folders are classes",
    )
    add(
        "--classes",
        type=Path,
        metavar="FILE",
        help="class list, one name a line in the order of the indices; needed where labels are"
        " numbers. Without it, the labels sorted by code point, as in Kinetics' own lists",
    )
    add(
        "--exclude",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="leave out every clip of the videos in this annotation file, or of these ids, one a"
        " line; once for each file, in the splits that this run prepares",
    )
    add(
        "--rawframes-fps",
        type=_rate,
        metavar="FPS",
        help="frame rate of listed folders of images, which do not say theirs",
    )
    add(
        "--videos",
        type=Path,
        required=True,
        metavar="DIR",
        help="folder of the downloads, searched at any depth for"
        " <id>_<start>_<end>.<ext>, which are used whole, and <id>.<ext>, which are cut",
    )
    add("--output", type=Path, required=True, metavar="DIR", help="the prepared folder")
    add("--split", choices=SPLITS, help="only this split; without any split in sight, that of all")
    add(
        "--val-share",
        type=_share,
        metavar="SHARE",
        help="without annotations: share of the videos for val, chosen by a hash of their names",
    )
    add(
        "--short-side",
        type=_even_pixels,
        default=256,
        metavar="PIXELS",
        help="of the prepared videos; smaller ones keep their size (256)",
    )
    add("--crf", type=_crf, default=23, help="libx264's quality, 0 (lossless) to 51 (23)")
    add(
        "--keyframe-interval",
        type=_positive,
        default=12,
        metavar="FRAMES",
        help="from one keyframe to the next: smaller reads faster and takes more space (12)",
    )
    add(
        "--timeout",
        type=_positive_seconds,
        default=300,
        metavar="SECONDS",
        help="a video that takes longer is stopped and set aside (%(default)s)",
    )
    add(
        "--memory-limit-mb",
        type=_positive,
        default=2048,
        metavar="MIB",
        help="a video that needs more memory is stopped and set aside; on Linux only (%(default)s)",
    )
    add("--dry-run", action="store_true", help="say what would be done and write nothing")
    add(
        "--engine",
        choices=("local", "ray"),
        default="local",
        help="where to work: on this machine, or on a Ray cluster whose nodes all have gnvideo"
        " installed and the same folders at the same paths (%(default)s)",
    )
    add(
        "--ray-address",
        metavar="HOST:PORT",
        help="of the cluster's head; by default the one that this machine belongs to",
    )
    add(
        "--workers",
        type=_positive,
        help=f"processes (all usable cores: {_count_cpus()} here, or those of the Ray cluster)",
    )
    return parser


def _count_cpus() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _positive(text: str) -> int:
    return _checked(int(text), int(text) >= 1, "at least 1")


def _positive_seconds(text: str) -> float:
    return _checked(float(text), 0 < float(text) < math.inf, "above 0")


def _crf(text: str) -> int:
    return _checked(int(text), 0 <= int(text) <= 51, "from 0 to 51")


def _even_pixels(text: str) -> int:
    return _checked(int(text), int(text) >= 2 and int(text) % 2 == 0, "even, at least 2")


def _rate(text: str) -> float:
    return _checked(float(text), 0.1 <= float(text) <= 1000, "from 0.1 to 1000")


def _share(text: str) -> float:
    return _checked(float(text), 0 < float(text) < 1, "between 0 and 1")


def _checked(number: Number, allowed: bool, rule: str) -> Number:
    if not allowed:
        raise argparse.ArgumentTypeError(f"{number} is not allowed; it must be {rule}")
    return number


if __name__ == "__main__":
    sys.exit(main())
