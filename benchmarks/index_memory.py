"""Start-up time and memory of the index of a large data set, whatever the number of workers.

    python benchmarks/index_memory.py [--videos 650000] [--workers 16] [--json FILE]

Writes a manifest of made-up videos, loads its index, and lets real loader workers read all of it.
Memory is proportional set size (a page that k processes share counts 1/k in each). Of the index it
is summed over this process and all below it; beside it stands by how much the rest of a worker's
memory, in the median, exceeds that of one with an index of 1,000 videos and as many reads. Linux
only.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from gnvideo.commands.environment import describe_environment
from gnvideo.data.clip_stream import ClipStream, make_order
from gnvideo.data.manifest import ManifestRow, write_manifest
from gnvideo.data.video_index import VideoIndex, load_video_index
from gnvideo.data.worker_pool import WorkerSettings, iterate_items

_NUM_CLASSES = 700
_CLASSES = [f"class number {label}" for label in range(_NUM_CLASSES)]
_SMALL_VIDEOS = 1000


def main() -> int:
    """Runs the benchmark and returns 0, or 1 where an entry of the index is wrong."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--videos", type=int, default=650_000)
    parser.add_argument("--workers", type=int, default=16)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    results: dict[str, float] = {"videos": options.videos, "workers": options.workers}
    with tempfile.TemporaryDirectory() as folder:
        for name, count in (("small", _SMALL_VIDEOS), ("large", options.videos)):
            _write_made_up_manifest(Path(folder, name), count)
        root = Path(folder, "large")
        results["seconds_to_write_index"] = _time(lambda: _load(root))
        starts = [_time(lambda: ClipStream(len(_load(root)), 0).locate(0)) for _ in range(5)]
        results["seconds_to_start"] = sorted(starts)[2]
        if not _is_right(_load(root)):
            print("an entry of the index is wrong")
            return 1
        results["index_file_mib"] = (root / "index_train.bin").stat().st_size / 2**20
        for workers in (1, options.workers):
            _, small_rest = _measure_mib(Path(folder, "small"), workers, options.videos)
            index_mib, rest = _measure_mib(root, workers, options.videos)
            results[f"index_mib_with_{workers}_workers"] = index_mib
            results[f"mib_more_in_each_of_{workers}_workers"] = rest - small_rest
        results["mib_of_an_order"] = make_order(0, 0, options.videos).nbytes / 2**20
    for name, value in results.items():
        print(f"{name:32} {value:,.2f}")
    if options.json:
        options.json.write_text(
            json.dumps({"results": results, "environment": describe_environment()}, indent=2)
        )
    return 0


def _write_made_up_manifest(root: Path, num_videos: int) -> None:
    write_manifest(root, (_make_row(number) for number in range(num_videos)))


def _make_row(number: int) -> ManifestRow:
    draws = random.Random(number)
    letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_"
    start = draws.randrange(300)
    name = f"{''.join(draws.choices(letters, k=11))}_{start:06d}_{start + 10:06d}"
    label = _CLASSES[draws.randrange(_NUM_CLASSES)]
    return ManifestRow(
        id=name,
        path=f"videos/train/{label}/{name}.mp4",
        label=label,
        split="train",
        frames=draws.randrange(60, 301),
        fps=30.0,
        width=340,
        height=256,
        duration=10.0,
        keyframe_interval=12,
        bytes=1_000_000,
        content_hash=f"{draws.getrandbits(256):064x}",
        status="ok",
        reason=None,
    )


def _load(root: Path) -> VideoIndex:
    return load_video_index(root, "train", _CLASSES)


def _is_right(index: VideoIndex) -> bool:
    ids = [index.video_id(i) for i in range(0, len(index), 97)]
    return ids == sorted(ids) and all(
        index.path(i).name == f"{index.video_id(i)}.mp4" for i in range(0, len(index), 97)
    )


def _time(act: Callable[[], object]) -> float:
    start = time.perf_counter()
    act()
    return time.perf_counter() - start


def _measure_mib(root: Path, num_workers: int, num_reads: int) -> tuple[float, float]:
    """Returns the memory of the index in all processes, and the rest of a worker's."""
    index = _load(root)
    stream = ClipStream(len(index), 0)
    stream.locate(0)
    # Twice as many requests as workers, so that hardly any worker gets none.
    requests = range(2 * num_workers)
    read = partial(_read_all, index, num_reads)
    items = iterate_items(read, requests, WorkerSettings(num_workers), index.path)
    for _ in requests:
        next(items)
    processes = [_read_pss_kib(process, index.file) for process in _list_processes()]
    workers = [_read_pss_kib(str(w.pid), index.file) for w in multiprocessing.active_children()]
    items.close()  # type: ignore[attr-defined]
    index_mib = sum(of_index for of_index, _ in processes) / 1024
    return index_mib, statistics.median(rest for _, rest in workers) / 1024


def _read_all(
    index: VideoIndex, num_reads: int, request: int, report: Callable[[int], None]
) -> None:
    for i in (number % len(index) for number in range(num_reads)):
        index.num_frames(i)
        index.video_id(i)
        # Their pages hold 1,024 entries each; making a path of each video takes long.
        if i % 100 == 0:
            index.path(i)
            index.label(i)
    time.sleep(0.1)


def _list_processes() -> list[str]:
    """Returns this process and all below it."""
    found = ["self"]
    for process in found:
        for children in Path(f"/proc/{process}/task").glob("*/children"):
            found += children.read_text().split()
    return found


def _read_pss_kib(process: str, index_file: Path) -> tuple[int, int]:
    """Returns the memory of the mapped index file in a process, and of all else."""
    of_index = rest = 0
    is_index = False
    for line in Path(f"/proc/{process}/smaps").read_text().splitlines():
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            is_index = line.endswith(str(index_file))
        elif line.startswith("Pss:"):
            kib = int(line.split()[1])
            of_index, rest = (of_index + kib, rest) if is_index else (of_index, rest + kib)
    return of_index, rest


if __name__ == "__main__":
    sys.exit(main())
