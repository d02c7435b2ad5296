from __future__ import annotations

import argparse
import json
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from gnvideo.errors import CheckpointError
from gnvideo.weights import PixelScale, read_weights_file, strip_prefixes

TENSORS = {"conv1.weight": torch.ones(2, 3), "fc.bias": torch.zeros(2)}


def save(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


@pytest.mark.parametrize("container", ["model_state", "state_dict", "model", "model_state_dict"])
def test_weights_are_found_under_the_name_of_each_training_program(tmp_path: Path, container: str):
    content = {"epoch": 3, container: OrderedDict(TENSORS), "cfg": "SOLVER: {}"}
    file = read_weights_file(save(tmp_path / "last.pyth", content))
    assert file.tensors.keys() == TENSORS.keys()
    assert file.ignored == ("epoch", "cfg")


def test_averaged_weights_beside_the_others_are_named_as_not_read(tmp_path: Path):
    averaged = {f"module.{name}": tensor + 1 for name, tensor in TENSORS.items()}
    content = {"state_dict": TENSORS, "ema_state_dict": averaged}
    file = read_weights_file(save(tmp_path / "last.pth", content))
    assert torch.equal(file.tensors["fc.bias"], TENSORS["fc.bias"])
    assert file.ignored == ("ema_state_dict",)


@pytest.mark.parametrize(
    "prefix", ["", "module.", "model.", "_orig_mod.", "module._orig_mod.", "model.module.model."]
)
def test_prefixes_of_wrappers_are_removed_however_they_are_stacked(tmp_path: Path, prefix: str):
    content = {f"{prefix}{name}": tensor for name, tensor in TENSORS.items()}
    path = save(tmp_path / "plain.pth", content)
    assert read_weights_file(path).tensors.keys() == TENSORS.keys()
    safetensors.torch.save_file(content, tmp_path / "plain.safetensors")
    file = read_weights_file(tmp_path / "plain.safetensors")
    assert file.tensors.keys() == TENSORS.keys()
    assert (file.classes, file.normalizer) == (None, None)


def test_compiled_parts_lose_their_mark_within_names():
    tensors = {
        "backbone._orig_mod.conv1.weight": torch.ones(1),
        "head._orig_mod.bias": torch.ones(1),
    }
    assert list(strip_prefixes(tensors)) == ["backbone.conv1.weight", "head.bias"]


def test_a_prefix_that_not_all_names_share_stays():
    tensors = {"module.conv1.weight": torch.ones(1), "steps": torch.ones(1)}
    assert strip_prefixes(tensors).keys() == tensors.keys()


def test_a_checkpoint_that_asks_for_code_says_what_to_do(tmp_path: Path):
    content = {"model": TENSORS, "args": argparse.Namespace(lr=0.1)}
    path = save(tmp_path / "checkpoint.pth", content)
    with pytest.raises(CheckpointError) as caught:
        read_weights_file(path)
    message = str(caught.value)
    assert "asks for argparse.Namespace, and code of a file is not run" in message
    assert "torch.save(c['model'], 'weights.pth')" in message
    assert "\n" not in message
    # The advice works.
    save(tmp_path / "weights.pth", torch.load(path, weights_only=False)["model"])
    assert read_weights_file(tmp_path / "weights.pth").tensors.keys() == TENSORS.keys()


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ({"epoch": 3, "optimizer": {}}, "holds no weights.*but epoch, optimizer"),
        ({}, "holds no weights"),
        (torch.ones(3), "holds a Tensor"),
        ({"model": {"lr": 0.1}}, "holds no weights"),
    ],
)
def test_a_file_without_weights_is_named(tmp_path: Path, content: Any, named: str):
    with pytest.raises(CheckpointError, match=named):
        read_weights_file(save(tmp_path / "x.pth", content))


@pytest.mark.parametrize("name", ["x.pth", "x.safetensors", "x.pkl"])
@pytest.mark.parametrize("content", [b"", b"<html>not found</html>", None])
def test_a_damaged_or_missing_file_is_one_line(tmp_path: Path, name: str, content: bytes | None):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=name) as caught:
        read_weights_file(tmp_path / name)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


def test_a_truncated_checkpoint_is_one_line(tmp_path: Path):
    path = save(tmp_path / "x.pth", TENSORS)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(CheckpointError, match=r"cannot read .*x\.pth") as caught:
        read_weights_file(path)
    assert "\n" not in str(caught.value)


def test_gnvideos_own_file_brings_classes_normalizer_and_pixels(tmp_path: Path):
    metadata = {
        "classes": json.dumps(["a", "b"]),
        "input_recipe": json.dumps({"mean": [0.1, 0.2, 0.3], "std": [1, 2, 3]}),
        "normalizer": json.dumps({"name": "group"}),
        "gnvideo_version": "1",
    }
    path = tmp_path / "model.safetensors"
    safetensors.torch.save_file(TENSORS, path, metadata)
    file = read_weights_file(path)
    assert (file.classes, file.normalizer) == (("a", "b"), "group")
    assert file.pixels == PixelScale((0.1, 0.2, 0.3), (1, 2, 3))
    safetensors.torch.save_file(TENSORS, path, {"gnvideo_version": "1"})
    with pytest.raises(CheckpointError, match="damaged gnvideo description"):
        read_weights_file(path)
