from __future__ import annotations

import contextlib
import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from rich.console import Console

from gnvideo.comparison import PlannedRun, Slot, make_runs, make_slots, read_results, run_comparison
from gnvideo.comparison.folder_lock import FolderLock
from gnvideo.comparison.progress import Estimate
from gnvideo.config import dump_config
from gnvideo.errors import OutputError, WorkFailedError

HERE = Path(__file__).parent
ONE_SLOT = [Slot({})]


def make_command(action: str, *arguments: str) -> Callable[[PlannedRun], list[str]]:
    script = str(HERE / "fake_train.py")
    return lambda run: [sys.executable, "-S", script, str(run.folder), action, *arguments]


@pytest.fixture(autouse=True)
def _threads_are_the_slots(monkeypatch: pytest.MonkeyPatch) -> None:
    """A slot sets the threads of its run, or leaves those of the shell, of which there are none."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)


@pytest.fixture
def config(make_comparison):
    """Two runs of one seed."""
    return make_comparison("grid.normalizers=[group]", "grid.seeds=[0]")


@pytest.fixture
def console():
    return Console(file=io.StringIO(), width=200)


def read_starts(run: PlannedRun) -> list[int]:
    path = run.folder / "starts.txt"
    return [int(line) for line in path.read_text().split()] if path.exists() else []


def test_all_runs_are_carried_out_and_their_output_is_kept(config, console):
    runs = make_runs(config)
    statuses = run_comparison(config, runs, make_command("finish"), ONE_SLOT, console)
    assert statuses == {run.name: "finished" for run in runs}
    for run in runs:
        assert (run.folder / "output.txt").read_text() == "threads None\n"
        assert (run.folder / "config.yaml").read_text() == dump_config(run.config)
    assert [run.is_finished for run in read_results(config.output).runs] == [True, True]


def test_finished_runs_are_kept_and_interrupted_ones_go_on(config, console, write_run):
    first, second = runs = make_runs(config)
    write_run(first)
    write_run(second, num_epochs=2, is_done=False)
    statuses = run_comparison(config, runs, make_command("finish"), ONE_SLOT, console)
    assert set(statuses.values()) == {"finished"}
    assert read_starts(first) == []
    assert len(read_starts(second)) == 1


def test_a_failed_run_keeps_its_reason_and_the_others_go_on(config, console):
    first, second = runs = make_runs(config)
    commands = {first.name: make_command("fail"), second.name: make_command("finish")}
    statuses = run_comparison(config, runs, lambda run: commands[run.name](run), ONE_SLOT, console)
    expected = {first.name: "failed: the loss is nan at step 2", second.name: "finished"}
    assert statuses == expected
    assert {run.name: run.status for run in read_results(config.output).runs} == expected


def test_a_failed_run_is_tried_again(config, console):
    runs = make_runs(config)
    run_comparison(config, runs, make_command("fail"), ONE_SLOT, console)
    statuses = run_comparison(config, runs, make_command("finish"), ONE_SLOT, console)
    assert set(statuses.values()) == {"finished"}
    assert all(run.is_finished for run in read_results(config.output).runs)


def test_a_failure_is_given_the_reason_of_the_last_attempt(config, console, write_run):
    run = make_runs(config)[0]
    write_run(run, num_epochs=2, is_done=False)
    with (run.folder / "log.jsonl").open("a") as log:
        log.write('{"event": "failed", "reason": "the disk is full"}\n')
    statuses = run_comparison(config, [run], make_command("fail"), ONE_SLOT, console)
    assert statuses == {run.name: "failed: the loss is nan at step 2"}


def test_a_run_that_leaves_no_evaluation_has_failed(config, console):
    runs = make_runs(config)
    statuses = run_comparison(config, runs, make_command("leave nothing"), ONE_SLOT, console)
    reason = "failed: ended with exit code 0, but interrupted: the final evaluation is missing"
    assert set(statuses.values()) == {reason}


def test_a_killed_run_has_failed_by_the_signal(config, console):
    runs = make_runs(config)
    statuses = run_comparison(config, runs, make_command("die"), ONE_SLOT, console)
    assert set(statuses.values()) == {"failed: killed (Killed) after: threads None"}


def test_a_run_folder_of_another_run_is_refused_before_anything_starts(
    config, console, make_comparison, write_run
):
    first, second = runs = make_runs(config)
    changed = make_comparison("base.training.epochs=20", "grid.normalizers=[group]")
    write_run(make_runs(changed)[1])
    with pytest.raises(OutputError, match=r"training\.epochs 20\.0, and now it is 10"):
        run_comparison(config, runs, make_command("finish"), ONE_SLOT, console)
    assert read_starts(first) == read_starts(second) == []


def test_runs_go_on_side_by_side(config, console):
    first, second = runs = make_runs(config)
    # Each ends only once the other has started.
    partners = {first.name: second.folder, second.name: first.folder}
    statuses = run_comparison(
        config,
        runs,
        lambda run: make_command("finish with", f"{partners[run.name]}/starts.txt")(run),
        [Slot({"OMP_NUM_THREADS": "3"}), Slot({"OMP_NUM_THREADS": "5"})],
        console,
    )
    assert set(statuses.values()) == {"finished"}
    outputs = [(run.folder / "output.txt").read_text() for run in runs]
    assert outputs == ["threads 3\n", "threads 5\n"]


def test_a_command_that_cannot_start_is_an_error(config, console):
    with pytest.raises(WorkFailedError, match="cannot start '/no/such/python'"):
        run_comparison(
            config, make_runs(config), lambda run: ["/no/such/python"], ONE_SLOT, console
        )


def test_plain_progress_says_what_started_ended_and_is_left(config):
    output = io.StringIO()
    console = Console(file=output, width=200)
    run_comparison(config, make_runs(config), make_command("finish"), ONE_SLOT, console)
    assert output.getvalue().splitlines() == [
        "2 runs, 0 of them finished before",
        "group_8f2_1clips_seed0 started",
        "group_8f2_1clips_seed0 finished: video top-1 61.2 % (1 of 2; under a minute left)",
        "group_8f2_8clips_seed0 started",
        "group_8f2_8clips_seed0 finished: video top-1 61.2 % (2 of 2; under a minute left)",
    ]


def test_live_progress_shows_the_runs_that_go_on(config):
    output = io.StringIO()
    console = Console(file=output, force_terminal=True, width=120)
    run_comparison(config, make_runs(config), make_command("finish"), ONE_SLOT, console)
    shown = output.getvalue()
    assert "epoch 0.0 of 10" in shown
    assert "group_8f2_8clips_seed0 finished: video top-1 61.2 %" in shown
    assert "2 of 2 runs done" in shown


def test_the_estimate_follows_the_epochs_done_since_the_start(config, write_run):
    first, second = runs = make_runs(config)
    now = [100.0]
    write_run(first, num_epochs=2, is_done=False)
    estimate = Estimate(runs, set(), lambda: now[0])
    assert estimate.compute_minutes_left() is None
    write_run(first, num_epochs=6, is_done=False)
    now[0] += 240
    # 4 of 20 epochs took 4 minutes; 4 + 10 are left.
    assert estimate.compute_minutes_left() == pytest.approx(14)
    estimate.finish(first)
    estimate.finish(second)
    assert estimate.compute_minutes_left() == 0


@pytest.mark.parametrize(
    ("num_runs", "parallel_runs", "gpus", "num_cores", "expected"),
    [
        (12, None, (), 4, [{"OMP_NUM_THREADS": "1"}] * 4),
        (12, 2, (), 8, [{"OMP_NUM_THREADS": "4"}] * 2),
        (1, None, (), 8, [{"OMP_NUM_THREADS": "8"}]),
        (
            12,
            None,
            ("4", "7"),
            16,
            [
                {"OMP_NUM_THREADS": "8", "CUDA_VISIBLE_DEVICES": "4"},
                {"OMP_NUM_THREADS": "8", "CUDA_VISIBLE_DEVICES": "7"},
            ],
        ),
        (12, 2, ("0",), 1, [{"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "0"}] * 2),
        (0, None, (), 4, [{"OMP_NUM_THREADS": "4"}]),
    ],
)
def test_slots_divide_the_machine(num_runs, parallel_runs, gpus, num_cores, expected):
    slots = make_slots(num_runs, parallel_runs, gpus, num_cores)
    assert [dict(slot.environment) for slot in slots] == expected


def test_a_second_comparison_of_the_folder_is_refused(config, console):
    config.output.mkdir()
    with (
        FolderLock(config.output),
        pytest.raises(OutputError, match=rf"still write .*\(processes {os.getpid()}\)"),
    ):
        run_comparison(config, make_runs(config), make_command("finish"), ONE_SLOT, console)
    run_comparison(config, make_runs(config), make_command("finish"), ONE_SLOT, console)


@pytest.fixture
def comparison_process(config) -> Iterator[tuple[subprocess.Popen[str], list[int]]]:
    """A comparison in a process of its own whose two runs hang, and the ids of these runs."""
    path = config.output.with_suffix(".yaml")
    path.write_text(dump_config(config))
    command = [sys.executable, str(HERE / "compare_process.py"), str(path), "hang"]
    runs = make_runs(config)
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        try:
            wait_until(lambda: all((run.folder / "log.jsonl").exists() for run in runs))
            yield process, [read_starts(run)[0] for run in runs]
        finally:
            process.kill()
            for run in runs:
                for process_id in read_starts(run):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(process_id, signal.SIGKILL)


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def is_alive(process_id: int) -> bool:
    """A zombie, whose parent was killed and which nobody reaps, counts as dead."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")


@needs_proc
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_the_runs_and_says_how_to_go_on(comparison_process, number, config, console):
    process, run_ids = comparison_process
    process.send_signal(number)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 1
    assert output == ("stopped with 0 of 2 runs finished; the same command goes on from here\n")
    assert not any(is_alive(run_id) for run_id in run_ids)
    runs = make_runs(config)
    assert {run.status for run in read_results(config.output).runs} == {"interrupted"}
    statuses = run_comparison(config, runs, make_command("finish"), ONE_SLOT, console)
    assert set(statuses.values()) == {"finished"}


@needs_proc
def test_runs_left_by_a_killed_comparison_keep_the_folder_until_they_end(
    comparison_process, config, console
):
    process, run_ids = comparison_process
    process.kill()
    process.wait(timeout=30)
    assert all(is_alive(run_id) for run_id in run_ids)
    with pytest.raises(OutputError, match=rf"still write .*\(processes .*{run_ids[0]}") as caught:
        run_comparison(config, make_runs(config), make_command("finish"), ONE_SLOT, console)
    assert str(run_ids[1]) in str(caught.value)
    for run_id in run_ids:
        os.kill(run_id, signal.SIGKILL)
    wait_until(lambda: not any(is_alive(run_id) for run_id in run_ids))
    statuses = run_comparison(config, make_runs(config), make_command("finish"), ONE_SLOT, console)
    assert set(statuses.values()) == {"finished"}
