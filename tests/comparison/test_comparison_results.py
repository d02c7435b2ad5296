from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from gnvideo.comparison import make_runs, read_results, save_results
from gnvideo.comparison.plan import PlannedRun
from gnvideo.comparison.run_folder import STATUS_FILE, check_same_config, read_events, read_status
from gnvideo.config import dump_config
from gnvideo.errors import InputFileError, OutputError


def read_rows(folder: Path) -> dict[str, dict[str, str]]:
    with (folder / "results.csv").open(newline="") as file:
        return {row["run"]: row for row in csv.DictReader(file)}


def test_results_csv_has_exactly_the_agreed_columns(make_comparison, write_comparison):
    config = make_comparison()
    write_comparison(config)
    save_results(read_results(config.output))
    header = (config.output / "results.csv").read_text().splitlines()[0]
    assert header == (
        "normalizer,frames,stride,clips_per_batch,seed,status,clip_top1,clip_top5,video_top1,"
        "video_top5,precise_video_top1,train_clips_per_second,peak_memory_mib,steps,run"
    )


def test_a_row_holds_what_its_run_folder_holds(make_comparison, write_comparison, write_run):
    config = make_comparison()
    runs = {run.name: run for run in write_comparison(config)}
    write_run(runs["batch_8f2_8clips_seed1"], accuracy=70.25)
    save_results(read_results(config.output))
    row = read_rows(config.output)["batch_8f2_8clips_seed1"]
    assert row == {
        "normalizer": "batch",
        "frames": "8",
        "stride": "2",
        "clips_per_batch": "8",
        "seed": "1",
        "status": "finished",
        "clip_top1": "64.25",
        "clip_top5": "82.25",
        "video_top1": "70.25",
        "video_top5": "89.25",
        "precise_video_top1": "70.5",
        # The median of 28 + epoch % 3 over ten epochs.
        "train_clips_per_second": "29.0",
        "peak_memory_mib": "3380.0",
        "steps": "400",
        "run": "batch_8f2_8clips_seed1",
    }


def test_a_normalizer_without_batch_statistics_has_no_precise_accuracy(
    make_comparison, write_comparison
):
    config = make_comparison()
    write_comparison(config)
    save_results(read_results(config.output))
    for name, row in read_rows(config.output).items():
        assert (row["precise_video_top1"] == "") == name.startswith("group")


def test_every_planned_run_has_a_row_whatever_became_of_it(
    make_comparison, write_comparison, write_run
):
    config = make_comparison("grid.seeds=[0]")
    failed, interrupted, crashed, missing = write_comparison(config)
    write_run(failed, num_epochs=3, is_done=False)
    (failed.folder / STATUS_FILE).write_text("failed: no space left on device\n")
    write_run(interrupted, num_epochs=3, is_done=False)
    write_run(crashed, num_epochs=3, is_done=False)
    with (crashed.folder / "log.jsonl").open("a") as log:
        log.write('{"event": "failed", "reason": "the loss is nan at step 7"}\n')
    for path in sorted(missing.folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    missing.folder.rmdir()
    save_results(read_results(config.output))
    rows = read_rows(config.output)
    assert {name: row["status"] for name, row in rows.items()} == {
        failed.name: "failed: no space left on device",
        interrupted.name: "interrupted",
        crashed.name: "failed: the loss is nan at step 7",
        missing.name: "not started",
    }
    assert {row["video_top1"] for row in rows.values()} == {""}


def test_results_json_holds_configurations_curves_and_environments(
    make_comparison, write_comparison
):
    config = make_comparison()
    write_comparison(config)
    save_results(read_results(config.output))
    everything = json.loads((config.output / "results.json").read_text())
    assert everything["config"]["grid"]["seeds"] == [0, 1, 2]
    assert everything["config_differences"] == everything["data_differences"] == {}
    run = everything["runs"][0]
    assert len(run["curve"]) == 10
    assert run["environment"]["torch"] == "2.11.0"
    assert run["config"]["training"]["epochs"] == 10
    assert run["evaluation"]["coverage"]["fingerprint"] == "0f3a5c7e9b1d"


def test_a_run_is_finished_only_with_all_its_evaluations(make_comparison, write_comparison):
    config = make_comparison()
    runs = {run.name: run for run in write_comparison(config)}
    batch = runs["batch_8f2_1clips_seed0"]
    group = runs["group_8f2_1clips_seed0"]
    assert read_status(batch.folder, batch.config) == "finished"
    (batch.folder / "evaluation" / "gn-10_precise.json").unlink()
    assert read_status(batch.folder, batch.config) == "interrupted"
    assert read_status(group.folder, group.config) == "finished"
    (group.folder / "evaluation" / "gn-10.json").unlink()
    assert read_status(group.folder, group.config) == "interrupted"


def test_what_a_run_left_counts_before_how_its_process_ended(make_comparison, write_comparison):
    run = write_comparison(make_comparison("grid.seeds=[0]"))[0]
    (run.folder / STATUS_FILE).write_text("failed: no space left on device\n")
    assert read_status(run.folder, run.config) == "finished"


def test_runs_of_another_plan_in_the_folder_are_kept_and_their_differences_found(
    make_comparison, write_comparison, write_run
):
    config = make_comparison("grid.seeds=[0]")
    write_comparison(config)
    other = make_runs(make_comparison("grid.seeds=[7]", "base.training.weight_decay=0.1"))[0]
    write_run(other)
    results = read_results(config.output)
    assert results.runs[-1].name == other.name
    assert results.find_config_differences() == {"training.weight_decay": [0.0001, 0.1]}


SWEEP = "grid.normalizers=[batch, {name: group, num_groups: 8}, {name: group, num_groups: 32}]"


def test_a_row_is_labelled_by_what_the_grid_sets(make_comparison, write_comparison):
    config = make_comparison(SWEEP, "grid.seeds=[0]", "grid.clips_per_batch=[2]")
    write_comparison(config)
    results = read_results(config.output)
    save_results(results)
    labels = {name: row["normalizer"] for name, row in read_rows(config.output).items()}
    assert labels == {
        "batch_8f2_2clips_seed0": "batch",
        "group-num_groups=8_8f2_2clips_seed0": "group[num_groups=8]",
        "group-num_groups=32_8f2_2clips_seed0": "group[num_groups=32]",
    }
    assert results.find_config_differences() == {}
    everything = json.loads((config.output / "results.json").read_text())
    assert everything["config"]["grid"]["normalizers"] == [
        "batch",
        {"name": "group", "num_groups": 8},
        {"name": "group", "num_groups": 32},
    ]


def test_runs_of_another_sweep_are_labelled_by_what_differs_from_base(
    make_comparison, write_comparison, write_run
):
    config = make_comparison(SWEEP, "grid.seeds=[0]", "grid.clips_per_batch=[2]")
    write_comparison(config)
    names = "group, {name: group, num_groups: 8}, {name: group, num_groups: 2, eps: 0.001}"
    other = make_comparison(
        f"grid.normalizers=[{names}]", "grid.seeds=[1]", "grid.clips_per_batch=[2]"
    )
    for run in make_runs(other):
        write_run(run)
    results = read_results(config.output)
    # The planned label, where the settings are those of a planned run.
    assert [run.label for run in results.runs[3:]] == [
        "group[num_groups=2,eps=0.001]",
        "group[num_groups=8]",
        "group[num_groups=32]",
    ]
    assert results.find_config_differences() == {"normalizer.eps": [1e-5, 1e-3]}


def test_a_difference_in_coverage_is_found(make_comparison, write_comparison, write_run):
    config = make_comparison("grid.seeds=[0]")
    runs = write_comparison(config)
    write_run(runs[1], coverage={"fingerprint": "ffffffffffff"})
    differences = read_results(config.output).find_data_differences()
    assert list(differences) == ["coverage"]
    assert {"fingerprint": "ffffffffffff"} in differences["coverage"]


def test_a_half_written_last_line_is_no_event(tmp_path):
    (tmp_path / "log.jsonl").write_text('{"event": "start"}\n{"event": "tra')
    assert read_events(tmp_path) == [{"event": "start"}]


def test_a_damaged_line_within_the_log_is_an_error(tmp_path):
    (tmp_path / "log.jsonl").write_text('{"event": "start"}\nnonsense\n{"event": "end"}\n')
    with pytest.raises(InputFileError, match=r"log\.jsonl is damaged: line 2"):
        read_events(tmp_path)


def test_the_tail_of_a_long_log_ends_as_the_log_does(tmp_path):
    lines = [json.dumps({"event": "train", "step": step}) for step in range(5000)]
    (tmp_path / "log.jsonl").write_text("\n".join(lines) + "\n")
    tail = read_events(tmp_path, tail=True)
    assert 0 < len(tail) < 5000
    assert tail == read_events(tmp_path)[-len(tail) :]


def test_another_configuration_in_the_run_folder_names_the_first_differing_key(
    make_comparison, write_run
):
    run = make_runs(make_comparison())[0]
    write_run(run)
    check_same_config(run.folder, run.config)
    other = make_runs(make_comparison("base.training.epochs=20", "base.training.momentum=0.5"))[0]
    message = r"training\.epochs 10\.0, and now it is 20\.0"
    with pytest.raises(OutputError, match=message):
        check_same_config(other.folder, other.config)


def test_a_moved_comparison_folder_is_read_as_before(make_comparison, write_comparison, tmp_path):
    config = make_comparison("grid.seeds=[0]")
    runs = write_comparison(config)
    moved = config.output.rename(tmp_path / "moved")
    results = read_results(moved)
    assert [run.status for run in results.runs] == ["finished"] * len(runs)
    planned = make_runs(config.model_copy(update={"output": moved}))
    for run in planned:
        check_same_config(run.folder, run.config)


def test_another_folder_is_no_comparison(tmp_path):
    with pytest.raises(InputFileError, match="is no comparison folder"):
        read_results(tmp_path)


def test_a_damaged_evaluation_is_named(make_comparison, write_comparison):
    config = make_comparison("grid.seeds=[0]")
    run: PlannedRun = write_comparison(config)[0]
    (run.folder / "evaluation" / "gn-10.json").write_text("{")
    with pytest.raises(InputFileError, match=r"gn-10\.json is damaged"):
        read_results(config.output)


def test_results_that_cannot_be_written_are_an_error_of_one_line(make_comparison, write_comparison):
    config = make_comparison("grid.seeds=[0]")
    write_comparison(config)
    results = read_results(config.output)
    (config.output / "results.csv").mkdir()
    with pytest.raises(OutputError, match=r"cannot write .*results\.csv") as caught:
        save_results(results)
    assert "\n" not in str(caught.value)
    assert dump_config(config) == (config.output / "config.yaml").read_text()
    assert not list(config.output.glob(".*.tmp"))
