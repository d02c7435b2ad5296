"""Training from a file of weights, by `train`."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from gnvideo.build import build_initialized_model
from gnvideo.cli import main
from gnvideo.config import RunConfig, make_config
from gnvideo.data.class_list import read_classes
from gnvideo.training.checkpoint import find_last_checkpoint, load_weights
from gnvideo.weights import export_layout

# So low that weights move by 1e-12 or so.
NO_LEARNING = 1e-12


@pytest.fixture
def config(tiny_run_config: dict[str, Any], tmp_path: Path) -> Path:
    values = copy.deepcopy(tiny_run_config)
    values["output"] = str(tmp_path / "run")
    values["training"] |= {"clips_per_batch": 2, "epochs": 0.3, "learning_rate": NO_LEARNING}
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def save_source(config: Path, path: Path, num_classes: int, normalizer: str) -> Any:
    """Writes torchvision-like weights of another seed and returns the model that they are of."""
    overrides = ["seed=5", f"normalizer.name={normalizer}", "model.zero_final_gamma=false"]
    values = yaml.safe_load(config.read_text())
    model = build_initialized_model(make_config(RunConfig, values, overrides), num_classes)
    torch.save({"model": export_layout(model, "torchvision"), "epoch": 9}, path)
    return model


def test_a_run_starts_from_the_file_and_says_what_it_took(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    source_path = tmp_path / "source.pth"
    source = save_source(config, source_path, 11, "batch")
    words = ["train", str(config), "normalizer.name=group"]
    assert main([*words, f"training.initial_weights={source_path}"]) == 0
    out = capsys.readouterr().out
    lines = [line for line in out.splitlines() if line.startswith("weights ")]
    assert "layout torchvision" in lines[0]
    assert lines[1].endswith("reshaped 2")
    assert any("head fc renewed: the file's has 11 outputs and the model 6" in x for x in lines)
    assert any("running_mean" in line for line in lines)
    assert any("the weights expect data.mean=[0.43216" in line for line in lines)

    trained = load_weights(tmp_path / "run").tensors
    for name, tensor in source.state_dict().items():
        if name in trained and not name.startswith("fc."):
            torch.testing.assert_close(trained[name], tensor, rtol=0, atol=1e-9, msg=name)

    # The run goes on from its own checkpoint and needs the file no more.
    source_path.unlink()
    (tmp_path / "run" / "evaluation" / "gn-10.json").unlink()
    assert main([*words, f"training.initial_weights={source_path}"]) == 0
    assert "weights " not in capsys.readouterr().out


def test_a_run_of_ones_own_is_a_source_and_its_head_stays_for_equal_classes(
    config: Path, tmp_path: Path, prepared_kinetics: Path, capsys: pytest.CaptureFixture[str]
):
    assert main(["train", str(config), "seed=7"]) == 0
    first = load_weights(tmp_path / "run")
    assert first.description.classes == read_classes(prepared_kinetics)
    for source in (tmp_path / "run", find_last_checkpoint(tmp_path / "run")):
        output = tmp_path / f"from_{source.name if source else None}"
        capsys.readouterr()
        words = ["train", str(config), f"output={output}", f"training.initial_weights={source}"]
        assert main(words) == 0
        out = capsys.readouterr().out
        assert "trained with normalizer group" in out
        assert "renewed" not in out
        torch.testing.assert_close(
            load_weights(output).tensors["fc.weight"],
            first.tensors["fc.weight"],
            rtol=0,
            atol=1e-9,
        )


def test_a_wrong_file_is_one_line_and_leaves_no_run_folder(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    torch.save({"a.weight": torch.ones(2)}, tmp_path / "a.pth")
    for name, named in (("a.pth", "is of no known network"), ("b.pth", "no checkpoint at")):
        capsys.readouterr()
        assert main(["train", str(config), f"training.initial_weights={tmp_path / name}"]) == 2
        err = capsys.readouterr().err
        assert named in err
        assert err.count("\n") == 1
        assert not (tmp_path / "run").exists()
