"""`bench decode`: random clips from the user's own files, by gnvideo's decoder and by its peers.

All read the same clips in turn, A B A B, in CPU time of this process, where torch has one thread as
in a loader's worker. A peer's time counts only on the clips of which it gives gnvideo's frames.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from rich.progress import track

from gnvideo.commands.bench_clips import BenchClip, draw_clips, find_videos
from gnvideo.commands.bench_report import BenchReport, ReportTable, Spread, publish
from gnvideo.commands.decode_peers import OWN_NAME, Reader, make_readers
from gnvideo.data.decoding import make_decoder
from gnvideo.errors import ConfigError

Verdict = Literal["equal", "other frames", "failed"]


@dataclass(slots=True)
class ReaderRecord:
    """What one reader did.

    Attributes:
        verdicts: For each clip.
        first_complaint: On the first clip that was not read alike; empty if there is none.
        seconds: (rounds, clips) CPU seconds; NaN where the clip was not read alike.
    """

    verdicts: list[Verdict] = field(default_factory=list[Verdict])
    first_complaint: str = ""
    seconds: npt.NDArray[np.float64] = field(default_factory=lambda: np.empty((0, 0)))


def run_bench_decode(
    paths: Sequence[Path],
    *,
    num_frames: int,
    stride: int,
    num_clips: int,
    num_rounds: int,
    json_path: Path | None,
) -> None:
    """Prints, and saves if asked, what a random clip costs with each decoder.

    Args:
        paths: Videos, or folders of videos.
        num_frames: T, of a clip.
        stride: Frames of the video from one frame of a clip to the next.
        num_clips: How many different clips.
        num_rounds: How often each is read and timed.
        json_path: Where to save; None: nowhere.

    Raises:
        ConfigError: a number is below 1.
        InputFileError: there is no video that can be read.
    """
    for name, value in {
        "frames": num_frames,
        "stride": stride,
        "clips": num_clips,
        "rounds": num_rounds,
    }.items():
        if value < 1:
            raise ConfigError(f"--{name} is {value}; it must be at least 1")
    videos = find_videos(paths)
    clips, complaints = draw_clips(
        videos, make_decoder("pyav"), num_clips=num_clips, num_frames=num_frames, stride=stride
    )
    readers, absent = make_readers()
    num_threads = torch.get_num_threads()
    # Idle threads of torch spin, and their CPU time would be the peers'.
    torch.set_num_threads(1)
    try:
        records = compare_frames(readers, clips)
        time_readers(readers, clips, records, num_rounds)
    finally:
        torch.set_num_threads(num_threads)
    num_videos = len({clip.path for clip in clips})
    method = (
        f"{len(clips)} random clips of {num_frames} frames at stride {stride} from"
        f" {num_videos} videos, {num_rounds} rounds in turn, CPU time of the process"
    )
    notes = [f"left out: {complaint}" for complaint in complaints]
    notes += [f"{name} {reason}" for name, reason in absent.items()]
    publish(_make_report(method, records, readers, notes), json_path)


def compare_frames(
    readers: Mapping[str, Reader], clips: Sequence[BenchClip]
) -> dict[str, ReaderRecord]:
    """Returns for each reader which clips it reads as gnvideo does.

    Raises:
        VideoError: gnvideo's own decoder fails on a clip.
    """
    records = {name: ReaderRecord() for name in readers}
    for clip in track(clips, "comparing frames", transient=True):
        own = readers[OWN_NAME]
        expected = own.convert(own.read(clip))
        for name, reader in readers.items():
            verdict, complaint = _judge(reader, clip, expected)
            record = records[name]
            record.verdicts.append(verdict)
            if verdict != "equal" and not record.first_complaint:
                record.first_complaint = f"{clip.path}: {complaint}"
    return records


def time_readers(
    readers: Mapping[str, Reader],
    clips: Sequence[BenchClip],
    records: Mapping[str, ReaderRecord],
    num_rounds: int,
) -> None:
    """Fills in the records' seconds: each clip by all readers in turn, and so for all rounds."""
    for record in records.values():
        record.seconds = np.full((num_rounds, len(clips)), np.nan)
    for turn in track(range(num_rounds), "timing", transient=True):
        for number, clip in enumerate(clips):
            gc.collect()
            for name, reader in readers.items():
                if records[name].verdicts[number] != "equal":
                    continue
                start = time.process_time()
                reader.read(clip)
                records[name].seconds[turn, number] = time.process_time() - start


def compute_cost_ratio(peer: ReaderRecord, own: ReaderRecord) -> Spread | None:
    """Returns how many times as much CPU time the peer takes, over the clips that both read alike.

    One value a round makes the spread. None where there is no such clip.
    """
    is_common = ~np.isnan(peer.seconds).any(axis=0)
    if not is_common.any():
        return None
    ratios = peer.seconds[:, is_common].sum(axis=1) / own.seconds[:, is_common].sum(axis=1)
    return Spread.of(ratios.tolist())


def _judge(
    reader: Reader, clip: BenchClip, expected_THWC: npt.NDArray[np.uint8]
) -> tuple[Verdict, str]:
    """Returns the verdict and, where it is not "equal", a few words on why."""
    try:
        frames_THWC = reader.convert(reader.read(clip))
    # Whatever a peer raises on a user's file is its outcome, to be counted.
    except Exception as error:
        return "failed", f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    if frames_THWC.shape != expected_THWC.shape:
        return "other frames", f"shape {frames_THWC.shape} instead of {expected_THWC.shape}"
    is_equal_T = (frames_THWC == expected_THWC).all(axis=(1, 2, 3))
    if is_equal_T.all():
        return "equal", ""
    difference = np.abs(frames_THWC.astype(np.int16) - expected_THWC).max()
    return (
        "other frames",
        f"{int((~is_equal_T).sum())} of {len(is_equal_T)} frames differ, by up to {difference}",
    )


def _make_report(
    method: str,
    records: Mapping[str, ReaderRecord],
    readers: Mapping[str, Reader],
    notes: Sequence[str],
) -> BenchReport:
    own = records[OWN_NAME]
    rows: list[tuple[str, ...]] = []
    results: dict[str, Any] = {}
    remarks: list[str] = []
    for name, record in records.items():
        counts = {verdict: record.verdicts.count(verdict) for verdict in set(record.verdicts)}
        ratio = compute_cost_ratio(record, own)
        frames = ", ".join(f"{count} {verdict}" for verdict, count in sorted(counts.items()))
        result: dict[str, Any] = {"clips": counts, "first_complaint": record.first_complaint}
        if ratio is None:
            rows.append((name, frames, "-", "-", "-"))
        else:
            is_common = ~np.isnan(record.seconds).any(axis=0)
            seconds = Spread.of(record.seconds[:, is_common].mean(axis=1).tolist())
            result |= {
                "milliseconds_per_clip": (
                    1000 * record.seconds[:, is_common].mean(axis=1)
                ).tolist(),
                "cost_ratio": [ratio.median, ratio.lowest, ratio.highest],
            }
            rows.append(
                (
                    name,
                    frames,
                    f"{1000 * seconds.median:.2f}",
                    f"{1 / seconds.median:.1f}",
                    "1" if name == OWN_NAME else str(ratio),
                )
            )
        results[name] = result
        if record.first_complaint:
            remarks.append(
                f"{name}, the first clip that it does not read alike: {record.first_complaint}"
            )
        if readers[name].remark:
            remarks.append(f"{name} {readers[name].remark}")
    if any("equal" not in record.verdicts or record.first_complaint for record in records.values()):
        remarks.append("a time and a ratio are those of the clips with equal frames alone")
    columns = (
        *("decoder", "clips", "ms of CPU a clip", "clips/s a core"),
        f"cost / {OWN_NAME}'s: median (range)",
    )
    table = ReportTable("random clips, cost of each", columns, tuple(rows))
    return BenchReport("decode", method, (table,), (*notes, *remarks), results)
