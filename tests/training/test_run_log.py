from __future__ import annotations

import json
from pathlib import Path

import pytest

from gnvideo.errors import OutputError
from gnvideo.training.run_log import NoopRunLog, RunLog, read_log


def write_run(folder: Path, last_step: int) -> None:
    with RunLog(folder, tensorboard=False) as log:
        log.write("start", step=0)
        for step in range(1, last_step + 1):
            log.write("train", step=step, loss=1 / step)
            log.write("save", step=step)


def test_every_line_is_on_disk_before_the_next_and_floats_keep_every_digit(tmp_path: Path) -> None:
    with RunLog(tmp_path, tensorboard=False) as log:
        for loss in (0.1 + 0.2, 1e-300, 2.0):
            log.write("train", step=1, loss=loss)
            last = (tmp_path / "log.jsonl").read_text().splitlines()[-1]
            assert json.loads(last) == {"event": "train", "step": 1, "loss": loss}


def test_numbers_that_are_not_finite_stay_valid_json(tmp_path: Path) -> None:
    with RunLog(tmp_path, tensorboard=False) as log:
        log.write("train", step=1, loss=float("nan"), other=float("inf"))
    assert read_log(tmp_path) == [{"event": "train", "step": 1, "loss": None, "other": None}]


def test_truncation_removes_later_steps_endings_and_the_save_itself(tmp_path: Path) -> None:
    write_run(tmp_path, last_step=4)
    with RunLog(tmp_path, tensorboard=False) as log:
        log.write("failed", reason="no space")
        log.write("end", step=2)
        log.truncate_after(2)
        log.write("train", step=3, loss=0.5)
    kept = [(event["event"], event.get("step")) for event in read_log(tmp_path)]
    assert kept == [("start", 0), ("train", 1), ("save", 1), ("train", 2), ("train", 3)]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log.jsonl"]


def test_kept_lines_are_unchanged_to_the_byte(tmp_path: Path) -> None:
    write_run(tmp_path, last_step=3)
    before = (tmp_path / "log.jsonl").read_bytes()
    with RunLog(tmp_path, tensorboard=False) as log:
        log.truncate_after(4)
    assert (tmp_path / "log.jsonl").read_bytes() == before


@pytest.mark.parametrize("tail", ['{"event": "tra', '{"event": "train", "step": 2}'])
def test_a_half_written_last_line_is_dropped(tmp_path: Path, tail: str) -> None:
    write_run(tmp_path, last_step=1)
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write(tail)
    assert len(read_log(tmp_path)) == 3
    with RunLog(tmp_path, tensorboard=False) as log:
        log.truncate_after(5)
        log.write("train", step=2)
    assert [event["event"] for event in read_log(tmp_path)] == ["start", "train", "save", "train"]


def test_a_damaged_line_in_the_middle_is_named(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text('{"event": "start"}\n\0\0\n{"event": "end", "step": 1}\n')
    with pytest.raises(OutputError, match=r"line 2 of .*log\.jsonl"):
        read_log(tmp_path)


def test_a_folder_that_is_not_there_is_an_output_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"log\.jsonl: No such file"):
        RunLog(tmp_path / "missing", tensorboard=False)


def test_numbers_reach_tensorboard(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with RunLog(tmp_path) as log:
        log.write("start", step=0, host="a")
        log.write("train", step=2, loss=1.5)
        log.write("evaluate", step=2, protocol="gn-10", video_top1=50.0)
    accumulator = EventAccumulator(str(tmp_path / "tensorboard"))
    accumulator.Reload()
    assert accumulator.Tags()["scalars"] == ["train/loss", "evaluate/gn-10/video_top1"]
    assert [(e.step, e.value) for e in accumulator.Scalars("train/loss")] == [(2, 1.5)]


def test_other_processes_write_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with NoopRunLog() as log:
        log.write("train", step=1, loss=1.0)
        log.sync()
        log.truncate_after(0)
    assert list(tmp_path.iterdir()) == []
