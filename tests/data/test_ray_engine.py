"""The engine on a real cluster: two nodes on this machine."""

from __future__ import annotations

import shutil
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from gnvideo.data.encoding import encode_video
from gnvideo.data.manifest import read_manifest
from gnvideo.data.ray_engine import run_on_ray
from gnvideo.errors import EngineUnavailableError

ON_RAY = Path(__file__).with_name("prepare_on_ray.py")
TOOL = Path(__file__).parents[2] / "data_tools" / "preprocess_kinetics.py"
NUM_VIDEOS = 16


@pytest.fixture
def arguments(tmp_path: Path) -> list[str]:
    """Of the tool: videos that take a good part of a second each, an empty and a too large one."""
    folder = tmp_path / "mine" / "a class"
    base = np.random.default_rng(0).integers(0, 64, (480, 640, 3), np.uint8)
    first = folder / "0.mp4"
    encode_video(first, (np.roll(base, 3 * t, axis=1) for t in range(50)), fps=Fraction(25))
    for i in range(1, NUM_VIDEOS):
        shutil.copy(first, folder / f"{i}.mp4")
    (folder / "empty.mp4").touch()
    large = (np.full((4320, 7680, 3), t, np.uint8) for t in range(2))
    encode_video(folder / "1 large.mp4", large, fps=Fraction(25))
    words = ["--videos", str(tmp_path / "mine"), "--split", "train", "--memory-limit-mb", "64"]
    return [*words, "--output"]


def read_folder(root: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file() and path.name not in (".progress.jsonl", ".lock")
    }


def test_a_cluster_that_loses_a_node_ends_as_one_machine(
    arguments: list[str], tmp_path: Path
) -> None:
    local, ray = tmp_path / "local", tmp_path / "ray"
    command = [sys.executable, str(TOOL), *arguments, str(local), "--workers", "2"]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    log = str(ray / ".progress.jsonl")
    done = subprocess.run(
        [sys.executable, str(ON_RAY), log, "4", *arguments, str(ray)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{NUM_VIDEOS} videos prepared now, 0 before" in done.stdout
    reasons = sorted(row.reason or "" for row in read_manifest(ray) if row.status != "ok")
    assert reasons == [
        "a class/1 large.mp4 needed more than 64 MiB of memory",
        "a class/empty.mp4 is empty",
    ]
    assert read_folder(ray) == read_folder(local)


@pytest.mark.parametrize("address", ["127.0.0.1:1", "127.0.0.1", "ray://127.0.0.1:1", "x:y"])
def test_without_a_cluster_one_line_says_what_to_do(address: str) -> None:
    with pytest.raises(EngineUnavailableError, match="ray start --head") as error:
        list(run_on_ray(abs, [-1], address=address))
    assert "\n" not in str(error.value)


def test_without_ray_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(EngineUnavailableError, match=r"pip install gnvideo\[cluster\]"):
        list(run_on_ray(abs, [-1]))


def test_without_work_no_cluster_is_asked_for() -> None:
    assert list(run_on_ray(abs, [], address="127.0.0.1:1")) == []
