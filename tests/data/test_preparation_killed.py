"""Preparation that is killed at random moments and started again."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from gnvideo.data.manifest import read_manifest

SCRIPT = Path(__file__).parents[2] / "data_tools" / "preprocess_kinetics.py"


def kill_group(process: subprocess.Popen[bytes]) -> None:
    os.killpg(process.pid, signal.SIGKILL)


def kill_parent(process: subprocess.Popen[bytes]) -> None:
    """Leaves its workers alone in the world."""
    process.send_signal(signal.SIGKILL)


def make_command(sample: Path, output: Path) -> list[str]:
    command = [sys.executable, str(SCRIPT), "--videos", str(sample / "videos")]
    for split in ("train", "val"):
        command += ["--annotations", str(sample / "annotations" / f"{split}.csv")]
    return [*command, "--output", str(output), "--short-side", "40", "--workers", "2"]


def read_folder(root: Path) -> dict[str, bytes]:
    """Returns the content of all files but the notes that a run makes for the next one."""
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file() and path.name not in (".progress.jsonl", ".lock")
    }


def count_lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def kill_after(
    command: list[str],
    log: Path,
    num_lines: int,
    delay_seconds: float,
    kill: Callable[[subprocess.Popen[bytes]], None],
) -> None:
    """Runs the command and kills it a moment after its log has so many lines."""
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, process_group=0
    ) as process:
        deadline = time.monotonic() + 300
        while count_lines(log) < num_lines:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.001)
        time.sleep(delay_seconds)
        kill(process)
        # All have closed it.
        process.communicate(timeout=10)
    assert process.returncode == -signal.SIGKILL


def check_kills(
    sample: Path,
    folder: Path,
    kill: Callable[[subprocess.Popen[bytes]], None],
    generator: random.Random,
) -> None:
    whole, killed = folder / "whole", folder / "killed"
    subprocess.run(make_command(sample, whole), check=True, capture_output=True, timeout=600)
    num_prepared = sum(row.status == "ok" for row in read_manifest(whole))

    command, log = make_command(sample, killed), killed / ".progress.jsonl"
    for _ in range(2):
        before = count_lines(log)
        num_lines = generator.randrange(before + 1, before + num_prepared // 3)
        kill_after(command, log, num_lines, generator.uniform(0, 0.05), kill)
        assert not (killed / "manifest.parquet").exists()
        # What has its name is whole, logged or not; what is logged has its name.
        whole_files = read_folder(whole)
        files = {name: content for name, content in read_folder(killed).items() if "/." not in name}
        assert num_lines <= count_lines(log) <= len(files)
        assert all(whole_files[name] == content for name, content in files.items())

    num_kept = count_lines(log)
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=600)
    assert f"{num_prepared - num_kept} videos prepared now, {num_kept} before" in done.stdout
    assert read_folder(killed) == read_folder(whole)


@pytest.mark.parametrize("kill", [kill_group, kill_parent])
def test_a_run_killed_twice_ends_as_an_uninterrupted_one(
    sample_kinetics: Path, tmp_path: Path, kill: Callable[[subprocess.Popen[bytes]], None]
) -> None:
    check_kills(sample_kinetics, tmp_path, kill, random.Random(0))


@pytest.fixture(scope="module")
def two_thousand_videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of which 5 % are broken."""
    folder = tmp_path_factory.mktemp("sample")
    tool = SCRIPT.with_name("make_sample_kinetics.py")
    words = ["--train", "253", "--val", "64", "--test", "0", "--broken-share", "0.05"]
    command = [sys.executable, str(tool), "--output", str(folder), *words]
    subprocess.run(command, check=True, capture_output=True, timeout=600)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("kill", [kill_group, kill_parent])
def test_two_thousand_videos_survive_two_kills(
    two_thousand_videos: Path, tmp_path: Path, kill: Callable[[subprocess.Popen[bytes]], None]
) -> None:
    num_videos = len(list((two_thousand_videos / "videos").rglob("*.mp4")))
    assert 2000 <= num_videos <= 2010
    seed = time.time_ns()
    print("seed", seed)
    check_kills(two_thousand_videos, tmp_path, kill, random.Random(seed))
