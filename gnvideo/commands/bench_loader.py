"""`bench loader`: the training loader against bare decoding and transforming of the same clips.

Both run in turn, A B A B, with equally many processes, and both are timed by the wall while all of
them are busy: the loader between two of its batches, after its queues have filled and before they
drain.

Axes: N clips, C colour channels, T frames, H height, W width.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.progress import track

from gnvideo.build import build_index
from gnvideo.build.loaders import build_train_loader, build_train_transform
from gnvideo.commands.bare_workers import BareWorkers, ClipJob, ClipRecipe, make_clip
from gnvideo.commands.bench_report import BenchReport, ReportTable, Spread, publish
from gnvideo.commands.loader_advice import advise
from gnvideo.commands.loader_profile import WorkerProfile, profile_worker
from gnvideo.config import RunConfig, load_config, make_config
from gnvideo.data.class_list import read_classes
from gnvideo.data.dataset import ClipBatch, make_frame_source
from gnvideo.data.video_index import VideoIndex
from gnvideo.errors import ConfigError, WorkFailedError

# A worker has as many batches in the loader's queue; so many are taken before the clock starts.
_WARMUP_BATCHES_PER_WORKER = 3
_DRAIN_BATCHES_PER_WORKER = 3


_ClipName = tuple[str, int]
"""(Video id, epoch): all that a clip is drawn from, beside the run's settings."""


@dataclass(frozen=True, slots=True)
class _TimedBatches:
    """What came out of a loader: its first batch, for the comparison, and those that were timed.

    Attributes:
        first_clips_NCTHW: Of the first batch.
        first_names: Of its clips.
        names: Of the timed clips.
        seconds: By the wall, from the arrival of the batch before the timed ones to the last's.
    """

    first_clips_NCTHW: torch.Tensor
    first_names: list[_ClipName]
    names: list[_ClipName]
    seconds: float


def run_bench_loader(
    source: Path,
    overrides: Sequence[str],
    *,
    worker_counts: Sequence[int] | None,
    batches_per_worker: int,
    num_rounds: int,
    json_path: Path | None,
) -> None:
    """Prints, and saves if asked, the clips per second of the loader and what to do about them.

    Args:
        source: The configuration of a run, or a prepared folder.
        overrides: `key.sub=value` words.
        worker_counts: Numbers of loader workers; None: 0, 1, 2, 4, ... up to the cores.
        batches_per_worker: Batches that are timed, for each worker.
        num_rounds: How often each is timed.
        json_path: Where to save; None: nowhere.

    Raises:
        ConfigError: a number or setting is out of range.
        ManifestError: the folder is not prepared.
        WorkFailedError: the loader's clips are not those of the training stream.
    """
    num_cores = _count_cores()
    counts = _choose_worker_counts(num_cores) if worker_counts is None else sorted(worker_counts)
    if min(counts) < 0 or batches_per_worker < 1 or num_rounds < 1:
        raise ConfigError(
            f"--workers {' '.join(map(str, counts))}, --batches {batches_per_worker} and --rounds"
            f" {num_rounds} must be at least 0, 1 and 1"
        )
    config = _load(source, overrides)
    data = config.data
    index = build_index(data, data.train_split, read_classes(data.root))
    recipe = ClipRecipe(
        data.decoder,
        data.pixel_format,
        build_train_transform(data),
        data.short_side_range_pixels[1],
        data.num_frames,
        data.stride,
        config.seed,
    )
    num_threads = torch.get_num_threads()
    # As in a worker, so that no workers at all is a fair comparison too.
    torch.set_num_threads(1)
    try:
        jobs, rates = _measure(config, index, recipe, counts, batches_per_worker, num_rounds)
        profile = profile_worker(jobs, recipe)
    finally:
        torch.set_num_threads(num_threads)
    method = (
        f"clips of {data.num_frames} frames at stride {data.stride}, crop {data.crop_pixels},"
        f" {config.training.clips_per_batch} a batch, from {len(index)} videos of {data.root};"
        f" {batches_per_worker} batches for each worker, {num_rounds} rounds in turn, wall time on"
        f" {num_cores} cores"
    )
    publish(_make_report(method, rates, profile, num_cores), json_path)


def _load(source: Path, overrides: Sequence[str]) -> RunConfig:
    if not source.is_dir():
        return load_config(RunConfig, source, overrides)
    values = {"output": "not written", "data": {"root": str(source)}}
    return make_config(RunConfig, values, overrides, source=str(source))


def _choose_worker_counts(num_cores: int) -> list[int]:
    powers = [2**power for power in range(num_cores.bit_length())]
    return sorted({0, *powers, num_cores})


def _count_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _measure(
    config: RunConfig,
    index: VideoIndex,
    recipe: ClipRecipe,
    counts: Sequence[int],
    batches_per_worker: int,
    num_rounds: int,
) -> tuple[list[ClipJob], dict[int, list[tuple[float, float]]]]:
    """Returns some of the clips, and (loader's, bare) clips a second by workers and round."""
    place_of_id = {index.video_id(place): place for place in range(len(index))}

    def make_jobs(names: Sequence[_ClipName]) -> list[ClipJob]:
        places = [place_of_id[video_id] for video_id, _ in names]
        return [
            ClipJob(index.path(place), index.num_frames(place), video_id, epoch)
            for place, (video_id, epoch) in zip(places, names, strict=True)
        ]

    rates: dict[int, list[tuple[float, float]]] = {count: [] for count in counts}
    jobs: list[ClipJob] = []
    with ExitStack() as stack:
        bare = {
            processes: stack.enter_context(BareWorkers(processes, recipe))
            for processes in {max(1, count) for count in counts}
        }
        for turn in track(range(num_rounds), "timing", transient=True):
            for count in counts:
                timed = _time_loader(config, index, count, batches_per_worker)
                if turn == 0:
                    _check_clips(timed.first_clips_NCTHW, make_jobs(timed.first_names), recipe)
                jobs = make_jobs(timed.names)
                bare_rate = bare[max(1, count)].measure_clips_per_second(jobs)
                rates[count].append((len(jobs) / timed.seconds, bare_rate))
    return jobs, rates


def _time_loader(
    config: RunConfig, index: VideoIndex, num_workers: int, batches_per_worker: int
) -> _TimedBatches:
    workers = max(1, num_workers)
    num_warmup = _WARMUP_BATCHES_PER_WORKER * workers
    num_timed = batches_per_worker * workers
    num_batches = num_warmup + num_timed + _DRAIN_BATCHES_PER_WORKER * workers
    data = config.data.model_copy(update={"num_workers": num_workers})
    loader = build_train_loader(
        config.model_copy(update={"data": data}),
        index,
        start_position=0,
        stop_position=num_batches * config.training.clips_per_batch,
    )
    batches = iter(loader)
    first = next(batches)
    checked = (first.clips_NCTHW.clone(), _list_names(first))
    for _ in range(num_warmup - 1):
        next(batches)
    names: list[_ClipName] = []
    start = time.perf_counter()
    for _ in range(num_timed):
        names += _list_names(next(batches))
    seconds = time.perf_counter() - start
    # Ends the workers, which would go on beside the next measurement.
    del batches, loader
    return _TimedBatches(*checked, names, seconds)


def _list_names(batch: ClipBatch) -> list[_ClipName]:
    return list(zip(batch.video_ids, batch.epochs, strict=True))


def _check_clips(clips_NCTHW: torch.Tensor, jobs: Sequence[ClipJob], recipe: ClipRecipe) -> None:
    decoder = make_frame_source(recipe.decoder_name, recipe.pixel_format)
    for clip_CTHW, job in zip(clips_NCTHW, jobs, strict=True):
        if not torch.equal(clip_CTHW, make_clip(job, recipe, decoder)):
            raise WorkFailedError(
                f"the loader's clip of video {job.video_id} in epoch {job.epoch} is not the one"
                " that is made outside of it, so their speeds cannot be compared; report this"
            )


def _make_report(
    method: str,
    rates: Mapping[int, Sequence[tuple[float, float]]],
    profile: WorkerProfile,
    num_cores: int,
) -> BenchReport:
    rows: list[tuple[str, ...]] = []
    results: dict[str, Any] = {"workers": {}}
    shares: dict[int, float] = {}
    for count, pairs in rates.items():
        share = Spread.of([loader / bare for loader, bare in pairs])
        shares[count] = share.median
        rows.append(
            (
                str(count),
                str(Spread.of([loader for loader, _ in pairs])),
                str(Spread.of([bare for _, bare in pairs])),
                str(share),
            )
        )
        results["workers"][str(count)] = {
            "loader_clips_per_second": [loader for loader, _ in pairs],
            "bare_clips_per_second": [bare for _, bare in pairs],
        }
    columns = ("workers", "loader clips/s", "bare clips/s", "share reached")
    scaling = ReportTable("median (range) over the rounds", columns, tuple(rows))
    stages = dict(profile.stage_seconds)
    one_worker = rates.get(1)
    if one_worker:
        # What a worker takes for a clip in the loader, over what it takes outside of it.
        overhead = [1 / loader - 1 / bare for loader, bare in one_worker]
        in_batch = stages["collate"]
        stages["hand over"] = max(0.0, Spread.of(overhead).median - in_batch)
    total = sum(stages.values())
    spent = ReportTable(
        "a worker's time for a clip",
        ("stage", "ms", "share"),
        tuple(
            (stage, f"{1000 * seconds:.2f}", f"{100 * seconds / total:.0f} %")
            for stage, seconds in stages.items()
        ),
    )
    results["stage_milliseconds"] = {name: 1000 * seconds for name, seconds in stages.items()}
    results["decode_milliseconds"] = {
        "original": 1000 * profile.original_decode_seconds,
        "fast-seek copy": 1000 * profile.copy_decode_seconds,
    }
    results["keyframe_interval_frames"] = profile.keyframe_interval_frames
    notes = advise(profile, shares, num_cores)
    return BenchReport("loader", method, (scaling, spent), tuple(notes), results)
