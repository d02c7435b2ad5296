from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from gnvideo.cli import main
from gnvideo.commands.bare_workers import BareWorkers, ClipJob, ClipRecipe, make_clip
from gnvideo.commands.bench_loader import _check_clips
from gnvideo.commands.loader_advice import advise
from gnvideo.commands.loader_profile import STAGES, WorkerProfile, profile_worker
from gnvideo.data.decoding import make_decoder
from gnvideo.data.transforms import TrainTransform
from gnvideo.errors import VideoError, WorkFailedError

RECIPE = ClipRecipe("pyav", "rgb", TrainTransform(32, (36, 44)), 44, num_frames=4, stride=2, seed=3)


@pytest.fixture(scope="module")
def jobs(prepared_kinetics: Path) -> list[ClipJob]:
    decoder = make_decoder("pyav")
    paths = sorted((prepared_kinetics / "videos" / "val").rglob("*.mp4"))[:4]
    return [ClipJob(path, decoder.read_metadata(path).num_frames, path.stem, 0) for path in paths]


def test_the_benchmark_times_both_sides_and_ends_in_words(
    prepared_kinetics: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    json_path = tmp_path / "loader.json"
    words = ["bench", "loader", prepared_kinetics, "--workers", 0, 1, "--batches", 2]
    settings = [
        *("data.num_frames=4", "data.crop_pixels=32", "data.short_side_range_pixels=[36,44]"),
        *("data.test_short_side_pixels=40", "training.clips_per_batch=2"),
    ]
    num_threads = torch.get_num_threads()
    options = [*words, "--rounds", 2, "--json", json_path, *settings]
    assert main([str(word) for word in options]) == 0
    assert torch.get_num_threads() == num_threads
    saved: dict[str, Any] = json.loads(json_path.read_text())
    results = saved["results"]
    assert list(results["workers"]) == ["0", "1"]
    for measured in results["workers"].values():
        assert len(measured["loader_clips_per_second"]) == 2
        assert min(measured["loader_clips_per_second"] + measured["bare_clips_per_second"]) > 0
    assert set(results["stage_milliseconds"]) == {*STAGES, "hand over"}
    assert saved["notes"]
    assert saved["notes"][0] in capsys.readouterr().out


def test_a_loader_that_gives_other_clips_is_refused(jobs: list[ClipJob]) -> None:
    decoder = make_decoder("pyav")
    clips_NCTHW = torch.stack([make_clip(job, RECIPE, decoder) for job in jobs])
    _check_clips(clips_NCTHW, jobs, RECIPE)
    clips_NCTHW[2, 0, 0, 0, 0] ^= 1
    with pytest.raises(WorkFailedError, match=f"video {jobs[2].video_id} in epoch 0"):
        _check_clips(clips_NCTHW, jobs, RECIPE)


def test_bare_workers_name_what_stops_them(jobs: list[ClipJob], tmp_path: Path) -> None:
    with BareWorkers(1, RECIPE) as workers:
        assert workers.measure_clips_per_second(jobs) > 0
        with pytest.raises(VideoError, match=r"absent\.mp4"):
            workers.measure_clips_per_second([ClipJob(tmp_path / "absent.mp4", 9, "absent", 0)])
        # It goes on after an error.
        assert workers.measure_clips_per_second(jobs) > 0
        (process,) = workers._processes
        assert process.pid
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        with pytest.raises(WorkFailedError, match="died"):
            workers.measure_clips_per_second(jobs)


def test_a_profile_has_all_stages_and_a_measured_copy(jobs: list[ClipJob]) -> None:
    profile = profile_worker(jobs, RECIPE)
    assert tuple(profile.stage_seconds) == STAGES
    assert sum(profile.compute_share(stage) for stage in STAGES) == pytest.approx(1)
    assert profile.short_side_pixels == 40
    assert profile.num_copies == 3
    assert min(profile.original_decode_seconds, profile.copy_decode_seconds) > 0


def make_profile(**changes: Any) -> WorkerProfile:
    """Returns a worker's that decodes 71 of 100 ms, of which a copy would take 80 less in all."""
    values: dict[str, Any] = {
        "stage_seconds": dict(zip(STAGES, (0.01, 0.071, 0.009, 0.009, 0.001), strict=True)),
        "keyframe_interval_frames": 250,
        "short_side_pixels": 256,
        "resized_short_side_pixels": 320,
        "original_decode_seconds": 0.09,
        "copy_decode_seconds": 0.018,
        "num_copies": 3,
    }
    return WorkerProfile(**{**values, **changes})


def test_long_groups_of_pictures_are_to_be_encoded_again() -> None:
    (line,) = advise(make_profile(), {2: 0.95}, num_cores=2)
    assert line.startswith("decode is 71 % of a worker's time; keyframes are 250 apart: re-encode")
    assert "--profile fast-seek, about 5.0 times as fast to read" in line
    assert "a worker about 3.6 times as fast" in line


def test_large_frames_are_to_be_made_smaller() -> None:
    stages = dict(zip(STAGES, (0.01, 0.05, 0.01, 0.03, 0.0), strict=True))
    profile = make_profile(short_side_pixels=1080, stage_seconds=stages)
    files, transform = advise(profile, {2: 0.95}, num_cores=2)
    assert "--profile fast-seek --short-side 320," in files
    assert transform.startswith("transform is 30 % of a worker's time: frames of 1080 pixels")


def test_files_that_are_fast_already_are_left_alone() -> None:
    (line,) = advise(make_profile(copy_decode_seconds=0.085), {2: 0.95}, num_cores=2)
    assert "re-encode" not in line
    assert "as good as they get" in line


def test_a_loader_that_lags_is_explained() -> None:
    _, line = advise(make_profile(), {1: 0.95, 2: 0.8}, num_cores=8)
    assert line.startswith("with 2 workers the loader reaches 80 % of bare decoding on 8 cores")
    assert "more workers make up for it" in line
    _, line = advise(make_profile(), {1: 0.95, 8: 0.8}, num_cores=8)
    assert "more workers do not help" in line


def test_where_nothing_stands_out_more_cores_are_what_is_left() -> None:
    stages = dict.fromkeys(STAGES, 0.02)
    profile = make_profile(stage_seconds=stages, copy_decode_seconds=0.09)
    (line,) = advise(profile, {4: 0.97}, num_cores=4)
    assert line.startswith("nothing stands out")
