"""Sizes of the networks' maps against published tables, on the meta device."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import torch

from gnvideo.layers import normalizer_factory
from gnvideo.models import make_model

GOLDEN = Path(__file__).parents[1] / "golden"


def read_table(name: str) -> list[dict[str, str]]:
    with (GOLDEN / name).open(newline="") as file:
        return list(csv.DictReader(file))


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
