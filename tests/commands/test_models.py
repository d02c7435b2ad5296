from __future__ import annotations

import json
from pathlib import Path

import pytest

from gnvideo.cli import main
from gnvideo.models import MODELS, list_settings


def test_table_of_80_columns_and_file_have_every_model_with_its_costs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    path = tmp_path / "models.json"
    assert main(["models", "--normalizer", "batch", "--json", str(path)]) == 0

    out = capsys.readouterr().out
    content = json.loads(path.read_text())
    assert [model["name"] for model in content["models"]] == list(MODELS)
    assert (content["num_classes"], content["normalizer"]) == (400, "batch")
    lines = {line.split()[0]: line for line in out.splitlines() if line.strip()}
    for model in content["models"]:
        settings = list_settings(model["name"])
        assert model["num_frames"] == settings["num_frames"]
        assert model["crop_pixels"] == settings["train_crop_pixels"]
        assert f"{model['num_parameters'] / 1e6:.2f}" in lines[model["name"]]
        assert f"{model['num_macs'] / 1e9:.2f}" in lines[model["name"]]
        assert f" {model['activation_bytes'] / 2**20:.0f} " in lines[model["name"]]


def test_model_that_does_not_take_such_clips_stays_in_the_table_with_the_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "models.json"
    assert main(["models", "--frames", "4", "--pixels", "64", "--json", str(path)]) == 0

    out = capsys.readouterr().out
    assert "i3d_r50: a clip of 4 frames of 64 x 64 pixels is too small" in out
    models = {model["name"]: model for model in json.loads(path.read_text())["models"]}
    assert models.keys() == MODELS.keys()
    assert "give at least 7 frames" in models["i3d_r50"]["problem"]
    assert models["resnet3d_18"]["num_frames"] == 4
    assert models["resnet3d_18"]["num_macs"] > 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--frames", "0"], "--frames is 0; it must be at least 1"),
        (["--pixels", "-3"], "--pixels is -3; it must be at least 1"),
        (["--normalizer", "grup"], "the normalizer is 'grup'; allowed are batch"),
    ],
)
def test_wrong_option_is_one_line(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["models", *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {message}")
