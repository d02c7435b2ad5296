from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import tiny_training
import torch
from tiny_training import SETTINGS, make_tiny_state, train_tiny

from gnvideo.errors import (
    CheckpointError,
    NonFiniteLossError,
    SaveFailedError,
    VideoError,
    WorkFailedError,
)
from gnvideo.training.checkpoint import find_last_checkpoint, load_training_state, load_weights
from gnvideo.training.run_log import read_log

NORMALIZERS = ("batch", "group")
CLIPS_PER_STEP = SETTINGS.compute_clips_per_step(world_size=1)


def read_comparable(run_folder: Path) -> list[str]:
    """Returns the log's lines that must not depend on interruptions, as they stand."""
    lines = (run_folder / "log.jsonl").read_text().splitlines()
    return [line for line in lines if not line.startswith(('{"event": "start"', '{"event": "spe'))]


def assert_equal(first: Any, second: Any) -> None:
    if isinstance(first, torch.Tensor):
        assert torch.equal(first, second)
    elif isinstance(first, dict):
        assert first.keys() == second.keys()
        for key in first:
            assert_equal(first[key], second[key])
    elif isinstance(first, list):
        assert len(first) == len(second)
        for one, other in zip(first, second, strict=True):
            assert_equal(one, other)
    else:
        assert first == second


def assert_same_run(folder: Path, expected: Path) -> None:
    assert read_comparable(folder) == read_comparable(expected)
    last, expected_last = find_last_checkpoint(folder), find_last_checkpoint(expected)
    assert last is not None
    assert expected_last is not None
    assert last.name == expected_last.name
    assert_equal(load_weights(last).tensors, load_weights(expected_last).tensors)
    assert_equal(load_training_state(last), load_training_state(expected_last))


@pytest.fixture(scope="module")
def unbroken_runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    torch.set_num_threads(1)
    folders = {name: tmp_path_factory.mktemp(name) for name in NORMALIZERS}
    for name, folder in folders.items():
        train_tiny(folder, name)
    return folders


def test_a_run_logs_what_happened_in_order(unbroken_runs: dict[str, Path]) -> None:
    events = read_log(unbroken_runs["batch"])
    steps = {
        kind: [event["step"] for event in events if event["event"] == kind]
        for kind in ("start", "train", "speed", "evaluate", "save", "end")
    }
    assert steps == {
        "start": [0],
        "train": list(range(2, 21, 2)),
        "speed": list(range(2, 21, 2)),
        "evaluate": [6, 12, 18, 20],
        "save": [3, 6, 9, 12, 15, 18, 20],
        "end": [20],
    }
    at_6 = [event["event"] for event in events if event["step"] == 6]
    assert at_6 == ["train", "speed", "evaluate", "save"]
    train_event = next(event for event in events if event["event"] == "train")
    assert train_event["clips"] == 2 * CLIPS_PER_STEP
    assert train_event["epoch"] == 2 * CLIPS_PER_STEP / SETTINGS.num_videos
    assert 0 <= train_event["clip_top1"] <= 100
    speed = next(event for event in events if event["event"] == "speed")
    assert speed["clips_per_second"] > 0
    assert 0 <= speed["data_wait_share"] <= 1
    assert speed["peak_memory_mib"] > 10


def test_waiting_for_data_is_logged_and_what_to_do_about_it_is_said_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train_tiny(tmp_path, on_fetch=lambda position: time.sleep(0.05), show_progress=True)
    lines = capsys.readouterr().err.splitlines()
    shares = [e["data_wait_share"] for e in read_log(tmp_path) if e["event"] == "speed"]
    steps = [line for line in lines if "% waiting for data" in line]
    for line, share in zip(steps, shares, strict=True):
        assert share > 0.5
        assert f"  {100 * share:.0f} % waiting for data" in line
    assert len([line for line in lines if "raise data.num_workers" in line]) == 1


@pytest.fixture(scope="module")
def killed_runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Runs of another process each, both at once, that SIGKILL ended somewhere in mid-step."""
    draw = random.Random(os.getpid())
    folders: dict[str, Path] = {}
    processes: list[subprocess.Popen[bytes]] = []
    for name in NORMALIZERS:
        kill_at = draw.randrange(3 * CLIPS_PER_STEP, SETTINGS.total_steps * CLIPS_PER_STEP - 2)
        print(f"{name} is killed at clip {kill_at}")
        folders[name] = tmp_path_factory.mktemp(f"killed_{name}")
        command = [sys.executable, tiny_training.__file__, str(folders[name]), name, str(kill_at)]
        processes.append(subprocess.Popen(command))
    assert [process.wait(timeout=120) for process in processes] == [-signal.SIGKILL] * 2
    return folders


@pytest.mark.parametrize("normalizer", NORMALIZERS)
def test_a_killed_and_resumed_run_equals_one_never_stopped(
    killed_runs: dict[str, Path], unbroken_runs: dict[str, Path], normalizer: str
) -> None:
    folder = killed_runs[normalizer]
    assert read_comparable(folder) != read_comparable(unbroken_runs[normalizer])
    train_tiny(folder, normalizer)
    assert_same_run(folder, unbroken_runs[normalizer])


class Broken(Exception):  # noqa: N818 (stands for whatever may happen)
    pass


@pytest.mark.parametrize("normalizer", NORMALIZERS)
@pytest.mark.parametrize("positions", [(2,), (14,), (30, 50), (78,)])
def test_a_run_that_broke_anywhere_equals_one_never_stopped(
    tmp_path: Path, unbroken_runs: dict[str, Path], normalizer: str, positions: tuple[int, ...]
) -> None:
    for break_at in positions:

        def break_run(position: int, break_at: int = break_at) -> None:
            if position == break_at:
                raise Broken

        with pytest.raises(Broken):
            train_tiny(tmp_path, normalizer, on_fetch=break_run)
    train_tiny(tmp_path, normalizer)
    assert_same_run(tmp_path, unbroken_runs[normalizer])


def test_a_finished_run_stays_as_it_is(tmp_path: Path) -> None:
    train_tiny(tmp_path, total_steps=4)
    before = read_comparable(tmp_path)
    positions: list[int] = []
    train_tiny(tmp_path, total_steps=4, on_fetch=positions.append)
    assert positions == []
    assert read_comparable(tmp_path) == before


def test_sigterm_finishes_the_step_saves_and_can_be_resumed(
    tmp_path: Path, unbroken_runs: dict[str, Path]
) -> None:
    def ask_to_stop(position: int) -> None:
        if position == 7 * CLIPS_PER_STEP:
            os.kill(os.getpid(), signal.SIGTERM)

    handler = signal.getsignal(signal.SIGTERM)
    with pytest.raises(WorkFailedError, match="SIGTERM at step 8 of 20; run the same") as caught:
        train_tiny(tmp_path, "batch", on_fetch=ask_to_stop)
    assert caught.value.exit_code == 1
    assert signal.getsignal(signal.SIGTERM) is handler
    last = find_last_checkpoint(tmp_path)
    assert last is not None
    assert last.name == "step_00000008"
    assert "SIGTERM" in read_log(tmp_path)[-1]["reason"]
    train_tiny(tmp_path, "batch")
    assert_same_run(tmp_path, unbroken_runs["batch"])


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_good_checkpoint(
    tmp_path: Path,
) -> None:
    state = make_tiny_state("group")

    def spoil_weights(position: int) -> None:
        if position == 4 * CLIPS_PER_STEP:
            with torch.no_grad():
                state.model.get_parameter("6.weight").fill_(float("inf"))

    with pytest.raises(NonFiniteLossError) as caught:
        train_tiny(tmp_path, state=state, on_fetch=spoil_weights, log_every_steps=100)
    message = str(caught.value)
    assert "step 5 " in message
    assert "learning rate 0.09" in message
    assert str(tmp_path / "checkpoints" / "step_00000003") in message
    failed = read_log(tmp_path)[-1]
    assert failed == {"event": "failed", "reason": message}
    assert all(tensor.isfinite().all() for tensor in load_weights(tmp_path).tensors.values())


def test_weights_that_are_not_finite_are_never_saved(tmp_path: Path) -> None:
    # The loss of the first step is finite; its update is not.
    with pytest.raises(NonFiniteLossError, match=r"a weight .* step 1 .* checkpoint is none"):
        train_tiny(tmp_path, learning_rate=float("inf"), total_steps=1)
    assert find_last_checkpoint(tmp_path) is None


def test_an_unreadable_video_is_logged_and_raised_as_it_is(tmp_path: Path) -> None:
    def fail(position: int) -> None:
        raise VideoError("cannot decode a.mp4")

    with pytest.raises(VideoError, match=r"cannot decode a\.mp4"):
        train_tiny(tmp_path, on_fetch=fail)
    assert read_log(tmp_path)[-1] == {"event": "failed", "reason": "cannot decode a.mp4"}


def test_a_failed_save_can_be_resumed(tmp_path: Path, unbroken_runs: dict[str, Path]) -> None:
    in_the_way = tmp_path / "checkpoints" / ".partial_step_00000009" / "model.safetensors"

    def block(position: int) -> None:
        if position == 7 * CLIPS_PER_STEP:
            in_the_way.mkdir(parents=True)

    with pytest.raises(SaveFailedError, match="step_00000009: Is a directory"):
        train_tiny(tmp_path, "group", on_fetch=block)
    assert load_weights(tmp_path).step == 6
    train_tiny(tmp_path, "group")
    assert_same_run(tmp_path, unbroken_runs["group"])


def test_a_checkpoint_of_another_normalizer_is_refused(tmp_path: Path) -> None:
    train_tiny(tmp_path, "batch", total_steps=2)
    with pytest.raises(CheckpointError, match=r"another model: .* 3 unexpected"):
        train_tiny(tmp_path, "group")


def test_accumulated_batches_equal_one_batch_of_their_clips(tmp_path: Path) -> None:
    def train_with(clips_per_batch: int, accumulation_steps: int) -> torch.nn.Module:
        return train_tiny(
            tmp_path / str(accumulation_steps),
            state=make_tiny_state("group", dropout_rate=0.0),
            clips_per_batch=clips_per_batch,
            accumulation_steps=accumulation_steps,
        ).model

    whole, parts = train_with(8, 1), train_with(2, 4)
    for name, parameter in whole.named_parameters():
        torch.testing.assert_close(parts.get_parameter(name), parameter, rtol=1e-4, atol=1e-6)
    losses = [
        [event["loss"] for event in read_log(tmp_path / part) if event["event"] == "train"]
        for part in ("1", "4")
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_training_learns(tmp_path: Path) -> None:
    train_tiny(
        tmp_path,
        state=make_tiny_state("group", dropout_rate=0.0),
        total_steps=60,
        clips_per_batch=8,
        log_every_steps=20,
    )
    losses = [event["loss"] for event in read_log(tmp_path) if event["event"] == "train"]
    assert losses[-1] < 0.8 * losses[0]


def test_bfloat16_keeps_weights_and_layout(tmp_path: Path) -> None:
    state = train_tiny(tmp_path, "group", precision="bfloat16", total_steps=4)
    conv_weight = state.model.get_parameter("0.weight")
    assert conv_weight.dtype == torch.float32
    assert conv_weight.is_contiguous(memory_format=torch.channels_last_3d)
    in_float32 = train_tiny(tmp_path / "float32", "group", total_steps=4)
    # Autocast changed the numbers, by no more than bfloat16's 8 bits of mantissa explain.
    expected = in_float32.model.get_parameter("0.weight")
    assert not torch.equal(conv_weight, expected)
    torch.testing.assert_close(conv_weight, expected, rtol=0.05, atol=0.05)
