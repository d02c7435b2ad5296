"""`export` from a run and from weights alone, and what other commands make of the result."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
import yaml

from gnvideo.build import build_described_model, build_recipe
from gnvideo.cli import main
from gnvideo.training.checkpoint import find_last_checkpoint, load_weights


@pytest.fixture(scope="module")
def run(tiny_run_config: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with BatchNorm; tests only read it."""
    folder = tmp_path_factory.mktemp("export") / "run"
    training = {**tiny_run_config["training"], "clips_per_batch": 2}
    values = {
        **tiny_run_config,
        "output": str(folder),
        "training": training,
        "normalizer": {"name": "batch"},
    }
    path = folder.with_suffix(".yaml")
    path.write_text(yaml.safe_dump(values))
    assert main(["train", str(path)]) == 0
    return folder


@pytest.fixture(scope="module")
def hub_folder(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run as a Hugging Face folder; tests only read it."""
    folder = tmp_path_factory.mktemp("hub") / "exported"
    words = ["export", str(run), "--format", "huggingface", "--output", str(folder)]
    assert main(words) == 0
    return folder


def compute_expected_logits(run: Path, clips: torch.Tensor) -> torch.Tensor:
    weights = load_weights(run)
    model = build_described_model(weights, build_recipe(weights, {"root": Path()})).eval()
    with torch.no_grad():
        return model(clips)


def make_clips() -> torch.Tensor:
    return torch.randn(3, 3, 4, 32, 32, generator=torch.Generator().manual_seed(3))


def read_evaluation(run: Path, stem: str) -> dict[str, Any]:
    return json.loads((run / "evaluation" / f"{stem}.json").read_text())


def test_onnx_file_of_a_run_has_its_logits_classes_and_input_recipe(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "new" / "network.onnx"
    assert main(["export", str(run), "--format", "onnx", "--output", str(path)]) == 0

    captured = capsys.readouterr()
    (line,) = captured.out.splitlines()
    assert line.startswith(f"saved {path}: opset 20, its logits equal the network's to ")
    assert captured.err == ""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    clips = make_clips()
    (logits,) = session.run(None, {"clips": clips.numpy()})
    expected = compute_expected_logits(run, clips).numpy()
    assert np.abs(logits - expected).max() <= 1e-4 * np.abs(expected).max()
    stored = session.get_modelmeta().custom_metadata_map
    description = load_weights(run).description
    assert tuple(json.loads(stored["classes"])) == description.classes
    assert json.loads(stored["input_recipe"]) == description.input_recipe


def test_program_of_weights_alone_has_their_logits(run: Path, tmp_path: Path) -> None:
    checkpoint = find_last_checkpoint(run)
    assert checkpoint is not None
    weights = Path(shutil.copy(checkpoint / "model.safetensors", tmp_path))
    path = tmp_path / "network.pt2"
    assert main(["export", str(weights), "--format", "torch", "--output", str(path)]) == 0

    clips = make_clips()
    with torch.no_grad():
        logits = torch.export.load(path).module()(clips)
    torch.testing.assert_close(logits, compute_expected_logits(run, clips), rtol=1e-4, atol=1e-6)


def test_card_has_both_evaluations_of_the_run(run: Path, hub_folder: Path) -> None:
    card = (hub_folder / "README.md").read_text(encoding="utf-8")
    rows = [line for line in card.splitlines() if line.startswith("| gn-10 ")]
    for stem, statistics, row in zip(
        ("gn-10", "gn-10_precise"), ("running", "recomputed"), rows, strict=True
    ):
        evaluation = read_evaluation(run, stem)
        coverage = evaluation["coverage"]
        assert f"| {evaluation['video_top1']:.2f} |" in row
        assert f"| {evaluation['video_top1_of_all']:.2f} |" in row
        assert statistics in row
        assert f"val {coverage['present']} of {coverage['asked']} (" in row
        assert f"fingerprint {coverage['fingerprint']}" in row


def test_eval_and_predict_take_the_folder(
    run: Path,
    hub_folder: Path,
    prepared_kinetics: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ["eval", str(hub_folder), f"data.root={prepared_kinetics}", "data.num_workers=0"]
    assert main([*words, "training.device=cpu", "--output", str(tmp_path)]) == 0
    assert json.loads((tmp_path / "gn-10.json").read_text()) == read_evaluation(run, "gn-10")

    video = next((prepared_kinetics / "videos" / "val").rglob("*.mp4"))
    tables: list[str] = []
    for source in (run, hub_folder):
        capsys.readouterr()
        assert main(["predict", str(source), str(video), "--device", "cpu"]) == 0
        tables.append(capsys.readouterr().out)
    assert tables[0] == tables[1]
    assert "%" in tables[0]


def test_exported_folder_can_be_exported_again(hub_folder: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    words = ["export", str(hub_folder), "--format", "huggingface", "--output", str(again)]
    assert main(words) == 0
    for name in ("config.json", "preprocessor_config.json"):
        assert (again / name).read_bytes() == (hub_folder / name).read_bytes()
    first, second = load_weights(hub_folder), load_weights(again)
    assert (second.description, second.step) == (first.description, first.step)
    assert all(torch.equal(second.tensors[key], first.tensors[key]) for key in first.tensors)
    # The folder stands in no run, so nothing is known of its accuracy.
    assert "Not measured" in (again / "README.md").read_text(encoding="utf-8")


def test_evaluations_of_other_weights_are_left_out_and_counted(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    for name, step in (("gn-10", 1), ("gn-10_precise", None)):
        path = copy / "evaluation" / f"{name}.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"step": step}))
    output = tmp_path / "hub"
    words = ["export", str(copy), "--format", "huggingface", "--output", str(output)]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert "with 0 evaluations" in out
    assert "2 evaluations are of another step than the weights'" in out
    assert "Not measured" in (output / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("{run} --format onnx --output {tmp}/network.bin", "in the format onnx ends in .onnx"),
        ("{run} --format torch --output {tmp}/network", "in the format torch ends in .pt2"),
        ("{run} --format huggingface --output {tmp}", "{tmp} exists; remove it, or choose another"),
        ("{run} --format onnx --output {tmp}/old.onnx", "{tmp}/old.onnx exists; remove it"),
        ("{tmp} --format onnx --output {tmp}/a.onnx", "no checkpoint at {tmp}"),
        ("{run} --format torch --output {tmp}/old.onnx/a.pt2", "cannot write {tmp}/old.onnx"),
    ],
)
def test_wrong_words_are_one_line(
    words: str, message: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "old.onnx").write_text("kept")
    names = {"run": run, "tmp": tmp_path}
    assert main(["export", *words.format(**names).split()]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert message.format(**names) in line
    assert (tmp_path / "old.onnx").read_text() == "kept"
    assert len(list(tmp_path.iterdir())) == 1


def test_file_among_the_evaluations_that_is_none_is_named(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    (copy / "evaluation" / "notes.json").write_text("{}")
    output = tmp_path / "hub"
    words = ["export", str(copy), "--format", "huggingface", "--output", str(output)]
    assert main(words) == 2
    assert "notes.json is no evaluation" in capsys.readouterr().err
    assert not output.exists()
