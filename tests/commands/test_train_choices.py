"""Choices that change how a run computes, not what: they are said, checked and without effect."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from gnvideo.cli import main
from gnvideo.training.run_log import read_log

ROOT = Path(__file__).parents[2]


def write_config(folder: Path, config: dict[str, Any], normalizer: str, **training: Any) -> Path:
    values = copy.deepcopy(config)
    values["output"] = str(folder / "run")
    values["normalizer"]["name"] = normalizer
    values["training"] |= {"epochs": 1, "clips_per_batch": 2} | training
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def load_weights(folder: Path) -> dict[str, torch.Tensor]:
    (path,) = (folder / "run" / "checkpoints").glob("step_*/model.safetensors")
    return load_file(path)


@pytest.mark.parametrize("normalizer", ["batch", "group"])
def test_weights_are_equal_whatever_is_kept(tiny_run_config, tmp_path, capsys, normalizer):
    modes = ("keep", "recompute-norm", "recompute-pointwise", "recompute-block")
    for mode in modes:
        path = write_config(tmp_path / mode, tiny_run_config, normalizer, activation_memory=mode)
        assert main(["train", str(path)]) == 0
        assert f"memory    {mode}\n" in capsys.readouterr().out
    kept, *others = (load_weights(tmp_path / mode) for mode in modes)
    for weights in others:
        assert weights.keys() == kept.keys()
        assert all(torch.equal(weights[name], kept[name]) for name in kept)


def test_a_run_goes_on_with_less_kept(tiny_run_config, tmp_path):
    path = write_config(tmp_path, tiny_run_config, "group")
    assert main(["train", str(path)]) == 0
    assert main(["train", str(path), "training.activation_memory=recompute-block"]) == 0


def test_whose_kernels_run_and_why_is_printed_and_logged(tiny_run_config, tmp_path, capsys):
    path = write_config(tmp_path, tiny_run_config, "group")
    assert main(["train", str(path)]) == 0
    reason = "Triton's are for GPUs, and the device is cpu"
    assert capsys.readouterr().out.count(f"kernels   native: {reason}\n") == 1
    start = read_log(tmp_path / "run")[0]
    assert (start["implementation"], start["implementation_reason"]) == ("native", reason)


def test_a_normalizer_without_a_choice_says_nothing(tiny_run_config, tmp_path, capsys):
    path = write_config(tmp_path, tiny_run_config, "rms_group")
    assert main(["train", str(path)]) == 0
    assert "kernels " not in capsys.readouterr().out
    assert "implementation" not in read_log(tmp_path / "run")[0]


def test_kernels_that_cannot_run_are_an_error_before_anything_is_written(tiny_run_config, tmp_path):
    path = write_config(tmp_path, tiny_run_config, "group")
    words = ["launch.py", "train", str(path), "normalizer.implementation=triton"]
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}

    done = subprocess.run(
        [sys.executable, *words], cwd=ROOT, env=environment, capture_output=True, text=True
    )

    assert done.returncode == 2
    assert done.stderr == (
        "error: the triton implementation of the normalizer group cannot run: on a CPU they run in"
        " Triton's interpreter alone, with TRITON_INTERPRET=1; choose auto or native\n"
    )
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("normalizer", ["batch_renorm", "moving_average_batch", "batch_channel"])
def test_what_reads_earlier_batches_is_not_run_twice(tiny_run_config, tmp_path, capsys, normalizer):
    path = write_config(tmp_path, tiny_run_config, normalizer, activation_memory="recompute-block")
    assert main(["train", str(path)]) == 2
    assert f"{normalizer} normalizes by earlier batches" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
