from __future__ import annotations

import itertools

import pytest
import torch
from torchvision.models import resnet101

from gnvideo.layers import normalizer_factory
from gnvideo.models import make_model
from gnvideo.weights.layouts import LAYOUTS, find_layout, rename

with torch.device("meta"):
    IMAGE_NAMES = tuple(resnet101(num_classes=3).state_dict())


@pytest.mark.parametrize(("source", "target"), list(itertools.permutations(LAYOUTS, 2)))
def test_names_go_to_any_layout_and_back_one_to_one(source: str, target: str):
    start = LAYOUTS["torchvision-image"]
    names = [rename(name, start, LAYOUTS[source]) for name in IMAGE_NAMES]
    there = [rename(str(name), LAYOUTS[source], LAYOUTS[target]) for name in names]
    assert len(set(there)) == len(IMAGE_NAMES)
    assert [rename(str(name), LAYOUTS[target], LAYOUTS[source]) for name in there] == names
    assert find_layout({str(name) for name in there}) == LAYOUTS[target]


@pytest.mark.parametrize(
    ("model", "layout"),
    [
        ("i3d_r50", "gnvideo"),
        ("i3d_r101_8x8", "gnvideo"),
        ("resnet3d_18", "torchvision"),
        ("resnet3d_50", "torchvision"),
        ("pytorchvideo_i3d_r50", "pytorchvideo"),
        ("pytorchvideo_c2d_r50", "pytorchvideo"),
        ("pytorchvideo_slow_r50", "pytorchvideo-slow"),
        ("r2plus1d_18", None),
        ("inception_i3d", None),
    ],
)
def test_every_plain_resnet_is_known_by_its_names(model: str, layout: str | None):
    with torch.device("meta"):
        names = make_model(model, 3, normalizer_factory("group")).state_dict()
    found = find_layout(names)
    assert (None if found is None else found.name) == layout
    if found is not None:
        assert all(rename(name, found, found) == name for name in names)


def test_names_of_no_part_have_no_translation():
    for name in ("layer1.0.non_local.theta.weight", "layer5.0.conv1.weight", "steps"):
        assert rename(name, LAYOUTS["gnvideo"], LAYOUTS["mmaction2"]) is None
