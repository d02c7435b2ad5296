from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from weights.named_values import make_named_state, make_uniform

from gnvideo.build import build_described_model, build_recipe
from gnvideo.cli import main
from gnvideo.training.checkpoint import load_weights
from gnvideo.weights import read_weights_file

GOLDEN: dict[str, Any] = json.loads(
    (Path(__file__).parents[1] / "golden" / "mmaction2_i3d.json").read_text()
)
CLASSES = [f"class {index}" for index in range(7)]

Convert = Callable[..., tuple[int, str, str]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkpoint of mmaction2's and its classes."""
    shapes = {name: tuple(shape) for name, shape in GOLDEN["shapes"].items()}
    torch.save({"meta": {}, "state_dict": make_named_state(shapes)}, tmp_path / "epoch_100.pth")
    (tmp_path / "label_map.txt").write_text("\n".join(CLASSES) + "\n")
    return tmp_path


@pytest.fixture
def convert(folder: Path, capsys: pytest.CaptureFixture[str]) -> Convert:
    """Runs the command with `{0}` in its words standing for the folder."""

    def run(words: str) -> tuple[int, str, str]:
        code = main(["convert-weights", *words.format(folder).split()])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


READ = (
    "{0}/epoch_100.pth --model i3d_r50_mmaction2 --classes {0}/label_map.txt"
    " --output {0}/model.safetensors model.width=8 data.num_frames=16 data.crop_pixels=64"
)


def test_a_converted_file_holds_all_that_its_network_needs_and_gives_the_logits(
    convert: Convert, folder: Path
):
    code, out, _ = convert(READ)
    assert code == 0
    assert "layout mmaction2" in out
    assert "16 frames, stride 2, crop 64" in out
    assert "the weights expect" not in out
    weights = load_weights(folder / "model.safetensors")
    assert weights.description.classes == tuple(CLASSES)
    assert weights.description.normalizer["name"] == "batch"
    assert weights.description.input_recipe["mean"][0] == pytest.approx(123.675 / 255)
    data = build_recipe(weights, {"root": ""})
    model = build_described_model(weights, data).eval()
    with torch.no_grad():
        logits = model(make_uniform("clip", tuple(GOLDEN["clip"])))
    expected = torch.tensor(GOLDEN["logits"])
    assert (logits - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_there_and_back_gives_the_file_again(convert: Convert, folder: Path):
    assert convert(READ)[0] == 0
    code, out, _ = convert("{0}/model.safetensors --layout mmaction2 --output {0}/back.pth")
    assert code == 0
    assert "under the names of mmaction2" in out
    first, back = (read_weights_file(folder / name) for name in ("epoch_100.pth", "back.pth"))
    assert first.tensors.keys() == back.tensors.keys()
    assert all(torch.equal(back.tensors[name], t) for name, t in first.tensors.items())
    assert convert("{0}/model.safetensors --layout pyslowfast --output {0}/x.safetensors")[0] == 0
    assert "s1.pathway0_stem.conv.weight" in read_weights_file(folder / "x.safetensors").tensors


def test_a_normalizer_can_be_chosen_and_a_recipe_given(convert: Convert, folder: Path):
    code, out, _ = convert(f"{READ} --normalizer group data.mean=[0.5,0.5,0.5]")
    assert code == 0
    assert "outputs are not the source's until the model is trained" in out
    assert "the weights expect data.mean=[0.485,0.456,0.406]" in out
    assert load_weights(folder / "model.safetensors").description.normalizer["name"] == "group"


WRONG = {
    "neither": ("{0}/epoch_100.pth --output {0}/x.safetensors", "give --model NAME"),
    "both": (f"{READ} --layout mmaction2", "give --model NAME"),
    "no classes": (READ.replace("--classes {0}/label_map.txt", ""), "give --classes FILE"),
    "unknown model": (READ.replace("i3d_r50_mmaction2", "i3d"), "unknown model 'i3d'"),
    "another model": (READ.replace("i3d_r50_mmaction2", "resnet3d_50"), "is of another network"),
    "another output": (READ.replace("model.safetensors", "model.pth"), "end in .safetensors"),
    "output that exists": (READ.replace("model.safetensors", "label_map.txt"), "label_map.txt exi"),
    "missing source": (READ.replace("epoch_100", "epoch_99"), "epoch_99.pth"),
    "unknown normalizer": (f"{READ} --normalizer grup", "the normalizer is 'grup'"),
    "unknown setting": (f"{READ} data.num_frame=8", "did you mean 'data.num_frames'?"),
    "foreign file to a layout": (
        "{0}/epoch_100.pth --layout mmaction2 --output {0}/x.pth",
        "epoch_100.pth",
    ),
    "layout with classes": (
        "{0} --layout mmaction2 --classes {0}/label_map.txt --output {0}/x.pth",
        "remove --normalizer, --classes",
    ),
}


@pytest.mark.parametrize(("words", "named"), WRONG.values(), ids=WRONG)
def test_wrong_input_is_one_line_and_leaves_no_file(
    convert: Convert, folder: Path, words: str, named: str
):
    before = sorted(folder.iterdir())
    code, _, err = convert(words)
    assert code == 2
    assert named in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert sorted(folder.iterdir()) == before


def test_a_head_of_another_number_of_classes_is_not_written_untrained(
    convert: Convert, folder: Path
):
    (folder / "label_map.txt").write_text("a\nb\n")
    code, _, err = convert(READ)
    assert code == 2
    assert "7 outputs and the model 2" in err
    assert "training.initial_weights" in err


def test_an_unknown_layout_is_named(convert: Convert, folder: Path):
    assert convert(READ)[0] == 0
    code, _, err = convert("{0}/model.safetensors --layout gluon --output {0}/x.pth")
    assert code == 2
    assert "unknown layout 'gluon'" in err
