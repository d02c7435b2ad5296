from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_training import make_tiny_state, train_tiny
from two_processes import run_two_processes

from gnvideo.errors import CheckpointError, ConfigError
from gnvideo.training import distributed
from gnvideo.training.checkpoint import load_weights
from gnvideo.training.run_log import read_log


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that distributed_training.py leaves, run by two processes."""
    folder = tmp_path_factory.mktemp("two_processes")
    script = Path(__file__).with_name("distributed_training.py")
    run_two_processes(script, folder)
    return folder


def load_state_dicts(folder: Path, name: str) -> list[dict[str, torch.Tensor]]:
    return [torch.load(folder / f"{name}_{rank}.pt", weights_only=True) for rank in range(2)]


def test_two_processes_train_like_one_with_all_their_clips(
    two_processes: Path, tmp_path: Path
) -> None:
    first, second = load_state_dicts(two_processes, "weights")
    # 2 processes x 2 accumulated batches x 2 clips.
    alone = train_tiny(
        tmp_path,
        state=make_tiny_state("group", dropout_rate=0.0),
        clips_per_batch=8,
        accumulation_steps=1,
    ).model.state_dict()
    for name, tensor in alone.items():
        assert torch.equal(first[name], second[name])
        torch.testing.assert_close(first[name], tensor, rtol=1e-4, atol=1e-6)
    events = [
        [event for event in read_log(folder) if event["event"] in ("train", "evaluate", "save")]
        for folder in (two_processes / "group", tmp_path)
    ]
    assert len(events[0]) == len(events[1])
    for together, single in zip(*events, strict=True):
        assert together.keys() == single.keys()
        for key, value in single.items():
            expected = pytest.approx(value, rel=1e-4) if isinstance(value, float) else value
            assert together[key] == expected


def test_a_resumed_run_of_two_processes_equals_one_never_stopped(two_processes: Path) -> None:
    lines = [
        [
            line
            for line in (two_processes / name / "log.jsonl").read_text().splitlines()
            if '"start"' not in line and '"speed"' not in line
        ]
        for name in ("unbroken", "broken")
    ]
    assert lines[0] == lines[1]
    unbroken, broken = (load_state_dicts(two_processes, n) for n in ("unbroken", "broken"))
    for rank in range(2):
        for name, tensor in unbroken[rank].items():
            assert torch.equal(broken[rank][name], tensor)
    # Dropout's masks, and with them the gradients, were drawn apart; the weights went together.
    for name, tensor in unbroken[0].items():
        assert torch.equal(tensor, unbroken[1][name])


def test_one_stopped_process_stops_all_after_one_save(two_processes: Path) -> None:
    messages = [(two_processes / f"stopped_{rank}.txt").read_text() for rank in range(2)]
    assert messages[0] == messages[1]
    assert "SIGTERM at step 2 of 20" in messages[0]
    assert load_weights(two_processes / "stopped").step == 2


def test_another_number_of_processes_cannot_resume(two_processes: Path) -> None:
    with pytest.raises(CheckpointError, match="written by 2 processes and this run has 1"):
        train_tiny(two_processes / "stopped")


def test_without_torchrun_there_is_one_process() -> None:
    with distributed.process_group("cpu") as device:
        assert device == torch.device("cpu")
        assert (distributed.get_rank(), distributed.get_world_size()) == (0, 1)
        assert distributed.is_main_process()
        assert distributed.gather_objects("a") == ["a"]
        model = torch.nn.Linear(1, 1)
        assert distributed.wrap_model(model) is model


def test_more_processes_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    num_gpus = torch.cuda.device_count()
    for name, value in {"RANK": 99, "WORLD_SIZE": 100, "LOCAL_RANK": 99}.items():
        monkeypatch.setenv(name, str(value))
    with (
        pytest.raises(ConfigError, match=f"process 99 of this machine, which has {num_gpus} GPUs"),
        distributed.process_group("cuda"),
    ):
        pass
    with (
        pytest.raises(ConfigError, match="the device is cuda:0 in every process"),
        distributed.process_group("cuda:0"),
    ):
        pass
