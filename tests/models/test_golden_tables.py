"""Sizes and costs of the networks against published tables, counted on the meta device."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from gnvideo.layers import is_normalizer, normalizer_factory
from gnvideo.models import VideoClassifier, make_model

GOLDEN = Path(__file__).parents[1] / "golden"


def read_table(name: str) -> list[dict[str, str]]:
    with (GOLDEN / name).open(newline="") as file:
        return list(csv.DictReader(file))


def count_macs(
    model: VideoClassifier, clips: torch.Tensor, operations_per_normalized_value: int = 0
) -> int:
    """Multiply-accumulates of convolutions and linear layers, and operations of normalizers."""
    macs = 0

    def count(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        nonlocal macs
        if is_normalizer(module):
            macs += output.numel() * operations_per_normalized_value
        else:
            assert isinstance(module.weight, torch.Tensor)
            macs += output.numel() * module.weight[0].numel()

    for module in model.modules():
        if isinstance(module, nn.Conv3d | nn.Linear) or is_normalizer(module):
            module.register_forward_hook(count)
    model(clips)
    return macs


@pytest.mark.parametrize("row", read_table("model_costs.csv"), ids=lambda row: row["model"])
def test_parameters_and_costs(row):
    with torch.device("meta"):
        model = make_model(row["model"], int(row["classes"]), normalizer_factory("group"))
        clips = torch.empty(1, 3, int(row["frames"]), int(row["pixels"]), int(row["pixels"]))

    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    assert f"{num_parameters / 1e6:.2f}" == row["parameters_millions"]
    assert f"{count_macs(model, clips) / 1e9:.2f}" == row["gmac"]


@pytest.mark.parametrize(
    "row", read_table("pytorchvideo_model_zoo.csv"), ids=lambda row: row["model"]
)
def test_parameters_and_costs_are_those_of_pytorchvideos_model_zoo(row):
    with torch.device("meta"):
        model = make_model(row["model"], 400, normalizer_factory("batch"))
        clips = torch.empty(1, 3, int(row["frames"]), int(row["pixels"]), int(row["pixels"]))

    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    assert f"{num_parameters / 1e6:.2f}" == row["parameters_millions"]
    # Most rows of the zoo count BatchNorm too, with fvcore's 5 operations for each value.
    gmac = count_macs(model, clips, int(row["operations_per_normalized_value"])) / 1e9
    assert f"{gmac:.2f}" == row["gflops"]


@pytest.mark.parametrize(
    ("name", "frames", "pixels"),
    [
        ("i3d_r50", 32, 224),
        ("i3d_r50_8x8", 8, 224),
        ("inception_i3d", 64, 224),
        ("r2plus1d_18", 16, 112),
    ],
)
def test_feature_maps_after_each_layer_of_the_table(name, frames, pixels):
    sizes: dict[str, list[int]] = {}

    def remember(name: str):
        return lambda module, inputs, output: sizes.update({name: list(output.shape[1:])})

    with torch.device("meta"):
        model = make_model(name, 400, normalizer_factory("group"))
        table = read_table(f"{name}_feature_maps.csv")
        for row in table:
            model.get_submodule(row["module"]).register_forward_hook(remember(row["module"]))
        model(torch.empty(1, 3, frames, pixels, pixels))

    for row in table:
        expected = [int(row[column]) for column in ("channels", "frames", "height", "width")]
        assert sizes[row["module"]] == expected, row["module"]


@pytest.mark.parametrize(
    ("name", "layer3"),
    [("i3d_r50", "101010"), ("i3d_r50_8x8", "101010"), ("i3d_r101", "10" * 11 + "1")],
)
def test_i3d_inflates_the_first_convolution_of_every_block_of_the_pattern(name, layer3):
    with torch.device("meta"):
        model: Any = make_model(name, 400, normalizer_factory("batch"))
    patterns = [
        "".join(str(int(block.conv1.kernel_size == (3, 1, 1))) for block in stage)
        for stage in (model.layer1, model.layer2, model.layer3, model.layer4)
    ]
    assert patterns == ["111", "1010", layer3, "010"]
    assert all(block.conv2.kernel_size == (1, 3, 3) for block in model.layer3)
    assert model.layer3[0].conv2.stride == (1, 2, 2)


def test_forms_for_few_frames_take_the_weights_of_those_for_many():
    with torch.device("meta"):
        for depth in (50, 101):
            sparse, dense = (
                make_model(f"i3d_r{depth}{form}", 400, normalizer_factory("batch")).state_dict()
                for form in ("_8x8", "")
            )
            assert {k: v.shape for k, v in sparse.items()} == {k: v.shape for k, v in dense.items()}


@pytest.mark.parametrize(
    ("name", "settings", "num_parameters"),
    [
        # torchvision's metadata of R2Plus1D_18_Weights.
        ("r2plus1d_18", {}, 31_505_325),
        # By hand: each of a block's layers with bias and scale, twice C = 512 and thrice 1024.
        (
            "i3d_r50",
            {"non_local": True},
            28_043_472 + sum(2 * c * c + 7 * c // 2 for c in (512, 512, 1024, 1024, 1024)),
        ),
    ],
)
def test_parameters_are_as_many_as_published(name, settings, num_parameters):
    with torch.device("meta"):
        model = make_model(name, 400, normalizer_factory("group"), **settings)
    assert sum(parameter.numel() for parameter in model.parameters()) == num_parameters
