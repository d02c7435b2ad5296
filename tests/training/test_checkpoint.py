from __future__ import annotations

import errno
import os
import resource
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from tiny_training import DESCRIPTION, make_tiny_model

from gnvideo.errors import CheckpointError, OutputError, SaveFailedError
from gnvideo.training.checkpoint import (
    CheckpointFolder,
    find_last_checkpoint,
    load_into_model,
    load_training_state,
    load_weights,
)

TRAINING_STATE = {
    "step": 7,
    "buffers": [torch.arange(3), {"momentum": torch.ones(2)}],
    "none": None,
}


@contextmanager
def limit_file_size(num_bytes: int) -> Generator[None]:
    """Lets no file grow beyond `num_bytes`: a write fails as on a full disk."""
    earlier = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, earlier[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, earlier)


def list_files(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


@pytest.fixture
def run_with_checkpoint(tmp_path: Path) -> Path:
    CheckpointFolder(tmp_path, DESCRIPTION).save(make_tiny_model("batch"), TRAINING_STATE, 7)
    return tmp_path


@pytest.mark.parametrize("channels_last", [False, True])
def test_saved_weights_and_description_come_back_equal(tmp_path: Path, channels_last: bool) -> None:
    model = make_tiny_model("batch")
    if channels_last:
        model.to(memory_format=torch.channels_last_3d)
    with torch.no_grad():
        model(torch.randn(2, 3, 2, 6, 6))  # moves the running statistics
    folder = CheckpointFolder(tmp_path, DESCRIPTION).save(model, TRAINING_STATE, 12)
    assert folder == tmp_path / "checkpoints" / "step_00000012"
    for path in (tmp_path, folder, folder / "model.safetensors"):
        weights = load_weights(path)
        assert weights.path == folder / "model.safetensors"
        assert (weights.step, weights.description) == (12, DESCRIPTION)
        assert weights.tensors.keys() == model.state_dict().keys()
        for name, tensor in model.state_dict().items():
            assert torch.equal(weights.tensors[name], tensor)
    other = make_tiny_model("batch").to(memory_format=torch.channels_last_3d)
    load_into_model(other, load_weights(tmp_path))
    conv_weight = other.get_parameter("0.weight")
    assert torch.equal(conv_weight, model.get_parameter("0.weight"))
    assert conv_weight.is_contiguous(memory_format=torch.channels_last_3d)


def test_training_state_comes_back_equal(run_with_checkpoint: Path) -> None:
    folder = find_last_checkpoint(run_with_checkpoint)
    assert folder is not None
    state = load_training_state(folder)
    assert state["step"] == 7
    assert torch.equal(state["buffers"][1]["momentum"], torch.ones(2))


def test_only_the_last_checkpoint_is_kept(tmp_path: Path) -> None:
    checkpoints = CheckpointFolder(tmp_path, DESCRIPTION)
    assert checkpoints.find_last() is None
    for step in (9, 10, 100_000_000):
        folder = checkpoints.save(make_tiny_model("group"), {}, step)
        assert checkpoints.find_last() == folder
        assert list(folder.parent.iterdir()) == [folder]


def test_incomplete_and_partial_folders_are_no_checkpoints(run_with_checkpoint: Path) -> None:
    folder = run_with_checkpoint / "checkpoints"
    for name in ("step_00000099", ".partial_step_00000100", "step_x"):
        (folder / name).mkdir()
        (folder / name / "model.safetensors").touch()
    last = find_last_checkpoint(run_with_checkpoint)
    assert last == folder / "step_00000007"
    CheckpointFolder(run_with_checkpoint, DESCRIPTION).remove_partial()
    assert not (folder / ".partial_step_00000100").exists()
    saved = CheckpointFolder(run_with_checkpoint, DESCRIPTION).save(
        make_tiny_model("group"), {}, 99
    )
    assert find_last_checkpoint(run_with_checkpoint) == saved


def test_a_full_disk_leaves_the_earlier_checkpoint_and_nothing_else(
    run_with_checkpoint: Path,
) -> None:
    before = list_files(run_with_checkpoint)
    checkpoints = CheckpointFolder(run_with_checkpoint, DESCRIPTION)
    # The weights fit and the training state does not, or neither does.
    big_state = {"momentum": torch.zeros(50_000)}
    for limit, state in ((100_000, big_state), (1_000, TRAINING_STATE)):
        with (
            limit_file_size(limit),
            pytest.raises(SaveFailedError, match=r"step_00000008: File too large; free space") as e,
        ):
            checkpoints.save(make_tiny_model("batch", width=64), state, 8)
        assert e.value.exit_code == 1
        assert list_files(run_with_checkpoint) == before
    assert load_weights(run_with_checkpoint).step == 7


def test_earlier_checkpoints_stand_until_the_new_one_has_its_name(
    run_with_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    earlier = find_last_checkpoint(run_with_checkpoint)

    def fail_rename(self: Path, target: Path) -> Path:
        assert find_last_checkpoint(run_with_checkpoint) == earlier
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(Path, "rename", fail_rename)
    with pytest.raises(SaveFailedError, match="Input/output error"):
        CheckpointFolder(run_with_checkpoint, DESCRIPTION).save(make_tiny_model("batch"), {}, 8)
    assert find_last_checkpoint(run_with_checkpoint) == earlier


def test_a_place_that_cannot_hold_checkpoints_is_the_users_error(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").touch()
    with pytest.raises(OutputError, match="choose another run folder") as caught:
        CheckpointFolder(tmp_path, DESCRIPTION).save(make_tiny_model("batch"), {}, 1)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_a_truncated_file_is_named_as_damaged(run_with_checkpoint: Path, share: float) -> None:
    folder = run_with_checkpoint / "checkpoints" / "step_00000007"
    for name in ("model.safetensors", "training_state.pt"):
        os.truncate(folder / name, int(share * (folder / name).stat().st_size))
    with pytest.raises(CheckpointError, match=r"model\.safetensors.*damaged") as caught:
        load_weights(run_with_checkpoint)
    assert "\n" not in str(caught.value)
    with pytest.raises(CheckpointError, match=r"training_state\.pt.*damaged") as caught:
        load_training_state(folder)
    assert "\n" not in str(caught.value)


def test_a_path_without_checkpoint_says_what_to_pass(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing"):
        with pytest.raises(CheckpointError, match="pass a run folder"):
            load_weights(path)


def test_a_foreign_safetensors_file_is_refused(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"a": torch.ones(1)}, tmp_path / "foreign.safetensors")
    with pytest.raises(CheckpointError, match="no gnvideo description"):
        load_weights(tmp_path / "foreign.safetensors")


def test_another_model_is_refused_with_counts_and_names(run_with_checkpoint: Path) -> None:
    weights = load_weights(run_with_checkpoint)
    model = make_tiny_model("group", width=6)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(CheckpointError) as caught:
        load_into_model(model, weights)
    message = str(caught.value)
    assert "3 unexpected (1.num_batches_tracked, 1.running_mean, 1.running_var)" in message
    assert "4 of another shape (0.weight (4, 3, 1, 3, 3) for (6, 3, 1, 3, 3), " in message
    assert "missing" not in message
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])
