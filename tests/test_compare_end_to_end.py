from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from gnvideo.cli import main
from gnvideo.comparison import PlannedRun
from gnvideo.training.checkpoint import load_weights

COLUMNS = (
    *("normalizer", "frames", "stride", "clips_per_batch", "seed", "status", "clip_top1"),
    *("clip_top5", "video_top1", "video_top5", "precise_video_top1", "train_clips_per_second"),
    *("peak_memory_mib", "steps", "run"),
)


def test_one_command_trains_the_grid_and_writes_the_report(
    tiny_run_config: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "comparison"
    path = tmp_path / "comparison.yaml"
    values = {
        "output": str(folder),
        "parallel_runs": 2,
        "grid": {
            "normalizers": ["batch", "group", {"name": "group", "num_groups": 1}],
            "clips_per_batch": [2],
            "seeds": [0],
        },
        "base": tiny_run_config,
    }
    path.write_text(yaml.safe_dump(values))
    assert main(["compare", str(path)]) == 0
    table = capsys.readouterr().out
    assert "BatchNorm" in table
    assert "GroupNorm" in table

    with (folder / "results.csv").open(newline="") as file:
        reader = csv.DictReader(file)
        rows = list(reader)
    assert tuple(reader.fieldnames or ()) == COLUMNS
    assert [(row["normalizer"], row["run"]) for row in rows] == [
        ("batch", "batch_4f2_2clips_seed0"),
        ("group", "group_4f2_2clips_seed0"),
        ("group[num_groups=1]", "group-num_groups=1_4f2_2clips_seed0"),
    ]
    for row in rows:
        run = folder / "runs" / row["run"]
        evaluation = json.loads((run / "evaluation" / "gn-10.json").read_text())
        assert row["status"] == "finished"
        assert row["steps"] == "18"
        assert float(row["video_top1"]) == evaluation["video_top1"]
        assert float(row["train_clips_per_second"]) > 0
        assert float(row["peak_memory_mib"]) > 0
        assert bool(row["precise_video_top1"]) == (row["normalizer"] == "batch")
    results = json.loads((folder / "results.json").read_text())
    assert results["config_differences"] == results["data_differences"] == {}

    trained = [load_weights(folder / "runs" / row["run"]).description.normalizer for row in rows]
    assert [description["num_groups"] for description in trained] == [2, 2, 1]

    page = folder / "report" / "index.html"
    assert "BatchNorm" in page.read_text()
    assert "GroupNorm" in page.read_text()
    written = {name: (folder / name).read_bytes() for name in ("results.csv", "results.json")}
    page.unlink()

    # Once more: nothing is trained again, and the same is written.
    logs = {log: log.read_bytes() for log in folder.glob("runs/*/log.jsonl")}
    assert main(["compare", str(path)]) == 0
    assert {log: log.read_bytes() for log in logs} == logs
    page.unlink()
    assert main(["report", str(folder)]) == 0
    assert {name: (folder / name).read_bytes() for name in written} == written
    assert "GroupNorm" in page.read_text()


def test_a_comparison_whose_runs_fail_says_so_and_still_reports(
    tiny_run_config: dict[str, Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def make_failing_command(run: PlannedRun) -> list[str]:
        return [sys.executable, "-S", "-c", "import sys; sys.exit('error: no disk is left')"]

    monkeypatch.setattr("gnvideo.commands.compare._make_command", make_failing_command)
    folder, path = tmp_path / "comparison", tmp_path / "comparison.yaml"
    grid = {"normalizers": ["batch", "group"], "clips_per_batch": [2], "seeds": [0]}
    path.write_text(yaml.safe_dump({"output": str(folder), "grid": grid, "base": tiny_run_config}))
    assert main(["compare", str(path)]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    reason = "failed: error: no disk is left"
    assert error.startswith(
        f"error: 2 of 2 runs failed, the first is batch_4f2_2clips_seed0 ({reason}"
    )
    with (folder / "results.csv").open(newline="") as file:
        assert [row["status"] for row in csv.DictReader(file)] == [reason] * 2
    assert reason in (folder / "report" / "index.html").read_text()


def test_unprepared_data_are_refused_before_any_run_starts(
    tiny_run_config: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, path = tmp_path / "comparison", tmp_path / "comparison.yaml"
    base = {**tiny_run_config, "data": {**tiny_run_config["data"], "root": str(tmp_path / "none")}}
    path.write_text(yaml.safe_dump({"output": str(folder), "base": base}))
    assert main(["compare", str(path)]) == 2
    assert str(tmp_path / "none") in capsys.readouterr().err
    assert not folder.exists()
