"""Networks of other projects, filled by name, against gnvideo's after their weights were taken."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from named_values import fill_by_name, make_named_state, make_uniform
from pyslowfast_network import PySlowFastResNet
from torch import nn
from torchvision.models.video import r2plus1d_18, r3d_18

from gnvideo.layers import normalizer_factory
from gnvideo.models import VideoClassifier, make_model
from gnvideo.weights import WeightsFile, export_layout, read_weights_file, transfer_weights

with warnings.catch_warnings():
    # pytorchvideo calls torch.jit functions that torch has deprecated.
    warnings.simplefilter("ignore")
    from pytorchvideo.models.hub import resnet as hub

NUM_CLASSES = 7
# The largest deviation allowed, as a share of the largest logit.
TOLERANCE = 1e-5
GOLDEN = Path(__file__).parents[1] / "golden" / "mmaction2_i3d.json"


def assert_logits_equal(logits: torch.Tensor, expected: torch.Tensor) -> None:
    # Not equal by being zero or one class's.
    assert expected.std() > 0.01 * expected.abs().max()
    assert (logits - expected).abs().max() <= TOLERANCE * expected.abs().max()


def as_file(tensors: dict[str, torch.Tensor]) -> WeightsFile:
    return WeightsFile(Path("weights.pth"), tensors)


def compute_logits(model: nn.Module, clips: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(clips)


@pytest.mark.parametrize("name", ["slow_r50", "i3d_r50", "c2d_r50"])
def test_pytorchvideo_zoo_file_gives_the_networks_logits(name: str, tmp_path: Path):
    frames = 8 if name == "slow_r50" else 4
    theirs = getattr(hub, name)(model_num_class=NUM_CLASSES)
    theirs.blocks[-1].pool = nn.AvgPool3d((frames, 2, 2), 1)
    fill_by_name(theirs)
    torch.save({"model_state": theirs.state_dict()}, tmp_path / "zoo.pyth")
    ours = make_model(
        f"pytorchvideo_{name}", NUM_CLASSES, normalizer_factory("batch"), train_crop_pixels=64
    )
    report = transfer_weights(ours, read_weights_file(tmp_path / "zoo.pyth"))
    assert report.num_taken == report.num_tensors == len(theirs.state_dict())
    assert not report.notes
    clips = make_uniform("clip", (1, 3, 8, 64, 64))
    assert_logits_equal(compute_logits(ours, clips), compute_logits(theirs, clips))


@pytest.mark.parametrize("kind", ["slow", "i3d", "c2d"])
def test_pyslowfast_weights_give_the_networks_logits_in_pytorchvideos(kind: str):
    theirs = PySlowFastResNet(kind, 64, NUM_CLASSES)
    fill_by_name(theirs)
    ours = make_model(
        f"pytorchvideo_{kind}_r50", NUM_CLASSES, normalizer_factory("batch"), train_crop_pixels=64
    )
    report = transfer_weights(ours, as_file(theirs.state_dict()))
    assert report.layout == "pyslowfast"
    assert report.num_taken == report.num_tensors == len(theirs.state_dict())
    assert not report.notes
    clips = make_uniform("clip", (1, 3, 8, 64, 64))
    assert_logits_equal(compute_logits(ours, clips), compute_logits(theirs, clips))


@pytest.mark.parametrize(
    ("make_theirs", "name"), [(r3d_18, "resnet3d_18"), (r2plus1d_18, "r2plus1d_18")]
)
def test_torchvision_training_file_gives_the_networks_logits(
    make_theirs: Callable[..., nn.Module], name: str, tmp_path: Path
):
    theirs = make_theirs(num_classes=NUM_CLASSES)
    fill_by_name(theirs)
    # As its references save it, but for the arguments, which are no tensors.
    path = tmp_path / "checkpoint.pth"
    torch.save({"model": theirs.state_dict(), "optimizer": {}, "epoch": 3}, path)
    ours = make_model(name, NUM_CLASSES, normalizer_factory("batch"))
    report = transfer_weights(ours, read_weights_file(path))
    assert report.num_taken == report.num_tensors == len(theirs.state_dict())
    assert report.ignored == ("optimizer", "epoch")
    clips = make_uniform("clip", (2, 3, 4, 32, 48))
    assert_logits_equal(compute_logits(ours, clips), compute_logits(theirs, clips))


@pytest.fixture(scope="module")
def mmaction2() -> dict[str, Any]:
    """What mmaction2's own network has and computes; see the script that wrote it."""
    return json.loads(GOLDEN.read_text(encoding="utf-8"))


def make_small_i3d(name: str) -> VideoClassifier:
    return make_model(
        *(name, NUM_CLASSES, normalizer_factory("batch")),
        width=8,
        num_frames=16,
        train_crop_pixels=64,
    )


def test_mmaction2_weights_give_its_logits_in_the_network_that_pools_as_its_own(
    mmaction2: dict[str, Any], tmp_path: Path
):
    shapes = {name: tuple(shape) for name, shape in mmaction2["shapes"].items()}
    path = tmp_path / "epoch_100.pth"
    torch.save({"meta": {"epoch": 100}, "state_dict": make_named_state(shapes)}, path)
    ours = make_small_i3d("i3d_r50_mmaction2")
    report = transfer_weights(ours, read_weights_file(path))
    assert report.layout == "mmaction2"
    assert report.num_taken == report.num_tensors == len(shapes)
    clips = make_uniform("clip", tuple(mmaction2["clip"]))
    assert_logits_equal(compute_logits(ours, clips), torch.tensor(mmaction2["logits"]))


def test_i3d_is_written_under_mmaction2s_names_and_shapes(mmaction2: dict[str, Any]):
    tensors = export_layout(make_small_i3d("i3d_r50"), "mmaction2")
    assert {name: list(t.shape) for name, t in tensors.items()} == mmaction2["shapes"]


@pytest.mark.parametrize("kind", ["slow", "i3d", "c2d"])
def test_pytorchvideos_networks_are_written_under_pyslowfasts_names(kind: str):
    with torch.device("meta"):
        ours = make_model(f"pytorchvideo_{kind}_r50", NUM_CLASSES, normalizer_factory("batch"))
        theirs = PySlowFastResNet(kind, 64, NUM_CLASSES)
    tensors = export_layout(ours.to_empty(device="cpu"), "pyslowfast")
    assert {name: t.shape for name, t in tensors.items()} == {
        name: t.shape for name, t in theirs.state_dict().items()
    }
