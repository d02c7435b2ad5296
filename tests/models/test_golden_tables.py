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


def test_i3d_feature_maps_after_each_stage():
    sizes: dict[str, list[int]] = {}

    def remember(name: str):
        return lambda module, inputs, output: sizes.update({name: list(output.shape[1:])})

    with torch.device("meta"):
        model = make_model("i3d_r50", 400, normalizer_factory("group"))
        table = read_table("i3d_r50_feature_maps.csv")
        for row in table:
            model.get_submodule(row["module"]).register_forward_hook(remember(row["module"]))
        model(torch.empty(1, 3, 32, 224, 224))

    for row in table:
        expected = [int(row[column]) for column in ("channels", "frames", "height", "width")]
        assert sizes[row["module"]] == expected, row["module"]


def test_i3d_inflates_the_first_convolution_of_every_block_of_the_pattern():
    with torch.device("meta"):
        model: Any = make_model("i3d_r50", 400, normalizer_factory("batch"))
    patterns = [
        "".join(str(int(block.conv1.kernel_size == (3, 1, 1))) for block in stage)
        for stage in (model.layer1, model.layer2, model.layer3, model.layer4)
    ]
    assert patterns == ["111", "1010", "101010", "010"]
    assert all(block.conv2.kernel_size == (1, 3, 3) for block in model.layer3)
    assert model.layer3[0].conv2.stride == (1, 2, 2)
