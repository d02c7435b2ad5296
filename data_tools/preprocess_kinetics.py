"""Turns downloaded videos into a checked, fast-to-read copy with a manifest.

With Kinetics' annotation files:
    python data_tools/preprocess_kinetics.py --annotations train.csv --annotations validate.csv \
        --videos DOWNLOADS --output PREPARED

With your own videos, in one folder a class (or one folder a split, with class folders in it):
    python data_tools/preprocess_kinetics.py --videos MY_VIDEOS --val-share 0.2 --output PREPARED

An interrupted run goes on where it was when the same command is given again.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from gnvideo.data.annotations import read_annotation_files
from gnvideo.data.duplicates import DUPLICATES_NAME
from gnvideo.data.encoding_profiles import DEFAULT_PROFILE, PROFILES, EncodingSettings
from gnvideo.data.manifest import SPLITS
from gnvideo.data.preparation import (
    QUARANTINE_NAME,
    PreparationResult,
    PreparationSettings,
    prepare_videos,
)
from gnvideo.data.preparation_plan import (
    ClipJob,
    find_videos,
    plan_annotated_clips,
    plan_class_folders,
)
from gnvideo.data.preparation_progress import show_progress
from gnvideo.errors import AnnotationError, GnvideoError, InputFileError

_EXIT_INTERRUPTED = 130

Number = TypeVar("Number", int, float)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the tool and returns its exit code: 0 done, 1 the work failed, 2 the input was wrong."""
    options = _make_parser().parse_args(arguments)
    try:
        jobs = _plan(options)
        settings = PreparationSettings(
            options.short_side, _choose_encoding(options), options.rawframes_fps
        )
        with show_progress("videos") as on_progress:
            result = prepare_videos(
                jobs,
                options.videos,
                options.output,
                settings=settings,
                num_workers=options.workers,
                on_progress=on_progress,
            )
    except GnvideoError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        return _EXIT_INTERRUPTED
    _print_summary(result, options.output)
    return 0


def _plan(options: argparse.Namespace) -> list[ClipJob]:
    if not options.annotations:
        files = find_videos(options.videos, options.output)
        jobs = plan_class_folders(files, options.split, options.val_share)
        if not jobs:
            raise InputFileError(f"no video of split {options.split!r} below {options.videos}")
        return jobs
    if options.val_share is not None:
        raise InputFileError("--val-share is for videos without annotations; leave it out")
    annotations, num_repeated = read_annotation_files(options.annotations, options.split)
    if not annotations:
        named = ", ".join(map(str, options.annotations))
        wanted = f" of split {options.split!r}" if options.split else ""
        raise AnnotationError(f"{named}: no row{wanted}; choose another file or --split")
    if num_repeated:
        print(f"{num_repeated} rows stand twice in the annotations and count once")
    files = find_videos(options.videos, options.output)
    jobs = plan_annotated_clips(annotations, files)
    asked = {source.path for job in jobs for source in job.sources}
    if len(asked) < len(files):
        print(f"{len(files) - len(asked)} of {len(files)} videos belong to no annotation row")
    return jobs


def _choose_encoding(options: argparse.Namespace) -> EncodingSettings:
    """Returns the settings of the named profile, with what the user set otherwise."""
    changes = {"crf": options.crf, "keyframe_interval_frames": options.keyframe_interval}
    return dataclasses.replace(
        PROFILES[options.profile].settings,
        **{name: value for name, value in changes.items() if value is not None},
    )


def _print_summary(result: PreparationResult, output: Path) -> None:
    print(f"\n{'split':<8}{'asked':>9}{'present':>9}{'missing':>9}{'unreadable':>12}  fingerprint")
    num_unreadable = 0
    for name, split in result.coverage["splits"].items():
        num_unreadable += split["unreadable"]
        print(
            f"{name:<8}{split['asked']:>9}{split['present']:>9}{split['missing']:>9}"
            f"{split['unreadable']:>12}  {split['fingerprint']}"
        )
    print(f"\n{result.num_written} videos prepared now, {result.num_kept} before")
    if num_unreadable:
        print(f"unreadable videos, with reasons: {output / QUARANTINE_NAME}")
    if result.duplicates:
        num_leaked = len({(one.split, one.id) for one in result.duplicates})
        num_exact = len({(one.split, one.id) for one in result.duplicates if one.kind == "exact"})
        print(
            f"warning: {num_leaked} videos of val and test are in train too, {num_exact} of them"
            f" with the same pictures, so an accuracy on them says little;"
            f" see {output / DUPLICATES_NAME}"
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
        help="Kinetics CSV file; once for each file. Without it, folders are classes",
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
    add(
        "--profile",
        choices=PROFILES,
        default=DEFAULT_PROFILE,
        help="how to encode (%(default)s). "
        + "; ".join(f"{name}: {profile.purpose}" for name, profile in PROFILES.items()),
    )
    add(
        "--crf",
        type=_crf,
        help="libx264's quality, 0 (lossless) to 51; the profile's (23) unless set",
    )
    add(
        "--keyframe-interval",
        type=_positive,
        metavar="FRAMES",
        help="from one keyframe to the next: smaller reads faster and takes more space; the"
        " profile's unless set",
    )
    add(
        "--rawframes-fps",
        type=_rate,
        default=30,
        metavar="FPS",
        help="images per second, where videos are folders of images (%(default)s)",
    )
    add(
        "--workers",
        type=_positive,
        default=_count_cpus(),
        help="processes (all usable cores: %(default)s)",
    )
    return parser


def _count_cpus() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _positive(text: str) -> int:
    return _checked(int(text), int(text) >= 1, "at least 1")


def _crf(text: str) -> int:
    return _checked(int(text), 0 <= int(text) <= 51, "from 0 to 51")


def _rate(text: str) -> float:
    return _checked(float(text), 0.1 <= float(text) <= 1000, "from 0.1 to 1000")


def _even_pixels(text: str) -> int:
    return _checked(int(text), int(text) >= 2 and int(text) % 2 == 0, "even, at least 2")


def _share(text: str) -> float:
    return _checked(float(text), 0 < float(text) < 1, "between 0 and 1")


def _checked(number: Number, allowed: bool, rule: str) -> Number:
    if not allowed:
        raise argparse.ArgumentTypeError(f"{number} is not allowed; it must be {rule}")
    return number


if __name__ == "__main__":
    sys.exit(main())
