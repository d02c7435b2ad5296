"""Videos that hang, crash or exhaust the process that prepares them."""

from __future__ import annotations

import csv
import ctypes
import importlib
import os
import signal
from collections.abc import Callable, Generator, Sequence
from fractions import Fraction
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from gnvideo.data.encoding import encode_video
from gnvideo.data.limited_process import JobFailure, JobLimits
from gnvideo.data.manifest import read_manifest
from gnvideo.data.preparation import (
    ClipOutcome,
    PreparationResult,
    PreparationSettings,
    RunJobs,
    prepare_videos,
)
from gnvideo.data.preparation_plan import ClipJob, Source
from gnvideo.data.process_pool import run_in_processes

LIMITS = JobLimits(timeout_seconds=2, memory_mib=256)


def write_video(path: Path, height: int = 24, width: int = 32, num_frames: int = 12) -> None:
    frames = (np.full((height, width, 3), 10 * t, np.uint8) for t in range(num_frames))
    encode_video(path, frames, fps=Fraction(12))


def prepare_or_suffer(job: ClipJob, function: Callable[[ClipJob], ClipOutcome]) -> ClipOutcome:
    """Does with a source named so what bugs in a decoder do; prepares the others."""
    match Path(job.sources[0].path).stem:
        case "hangs":
            ctypes.PyDLL(None).sleep(600)
        case "crashes":
            os.kill(os.getpid(), signal.SIGSEGV)
        case "swallows":
            np.ones(2**29, np.uint8)
        case _:
            pass
    return function(job)


def run_and_suffer(
    function: Callable[[ClipJob], ClipOutcome], jobs: Sequence[ClipJob]
) -> Generator[tuple[ClipJob, ClipOutcome | JobFailure]]:
    return run_in_processes(partial(prepare_or_suffer, function=function), jobs, 2, LIMITS)


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    folder = tmp_path / "downloads"
    for name in ("fine", "hangs", "crashes", "swallows", "other"):
        write_video(folder / f"{name}.mp4")
    (folder / "empty.mp4").touch()
    return folder


def make_job(video_id: str, *names: str) -> ClipJob:
    sources = tuple(Source(f"{name}.mp4", is_clip=True) for name in names)
    return ClipJob(video_id, "a class", "train", 0, 1, sources)


JOBS = [
    make_job("one", "fine"),
    make_job("two", "hangs"),
    make_job("three", "crashes"),
    make_job("four", "swallows"),
    # Where one file ruins its process, the next may do.
    make_job("five", "empty", "crashes", "other"),
    make_job("six", "crashes", "empty", "hangs"),
    *(make_job(f"more {i}", "fine") for i in range(6)),
]


def prepare(videos: Path, output: Path, run_jobs: RunJobs) -> PreparationResult:
    return prepare_videos(
        JOBS,
        videos,
        output,
        settings=PreparationSettings(),
        run_jobs=run_jobs,
        on_progress=lambda done, total: None,
    )


def read_reasons(root: Path) -> dict[str, str]:
    with (root / "quarantine.csv").open(newline="") as file:
        return {entry["id"].split("_")[0]: entry["reason"] for entry in csv.DictReader(file)}


def test_videos_that_ruin_their_process_are_set_aside_with_the_reason(
    videos: Path, tmp_path: Path
) -> None:
    root = tmp_path / "out"
    result = prepare(videos, root, run_and_suffer)
    crashed = "crashes.mp4 crashed its process with SIGSEGV"
    assert read_reasons(root) == {
        "two": "hangs.mp4 took longer than 2 s",
        "three": crashed,
        "four": "swallows.mp4 needed more than 256 MiB of memory",
        "six": f"{crashed}; empty.mp4 is empty; hangs.mp4 took longer than 2 s",
    }
    assert result.num_written == 8
    rows = {row.id.split("_")[0]: row for row in read_manifest(root)}
    assert {name for name, row in rows.items() if row.status == "ok"} == {
        "one", "five", *(f"more {i}" for i in range(6))
    }  # fmt: skip
    assert {rows[name].reason for name in read_reasons(root)} == set(read_reasons(root).values())
    assert not list(root.rglob("*.partial"))

    # With a better decoder the same command does what is left.
    better = prepare(videos, root, partial(run_in_processes, num_workers=1))
    assert (better.num_kept, better.num_written) == (8, 4)
    assert {row.status for row in read_manifest(root)} == {"ok"}
    assert read_reasons(root) == {}


def test_the_limits_are_options(tmp_path: Path) -> None:
    tool = importlib.import_module("preprocess_kinetics")
    mine = tmp_path / "mine"
    write_video(mine / "class" / "small.mp4")
    write_video(mine / "class" / "large.mp4", height=4320, width=7680, num_frames=2)
    words = ["--videos", str(mine), "--split", "train", "--output", str(tmp_path / "out")]
    assert tool.main([*words, "--memory-limit-mb", "64", "--workers", "1"]) == 0
    assert read_reasons(tmp_path / "out") == {
        "large": "class/large.mp4 needed more than 64 MiB of memory"
    }
    assert tool.main([*words, "--memory-limit-mb", "1000", "--workers", "1"]) == 0
    assert read_reasons(tmp_path / "out") == {}
    # No process reads, scales and encodes 8K so fast.
    (tmp_path / "out" / ".progress.jsonl").unlink()
    assert tool.main([*words, "--timeout", "0.001", "--workers", "1"]) == 0
    assert read_reasons(tmp_path / "out")["large"] == "class/large.mp4 took longer than 0.001 s"
