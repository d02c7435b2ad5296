from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from named_values import fill_by_name
from torchvision.models.video.resnet import BasicBlock, BasicStem, Conv3DSimple, VideoResNet

from gnvideo.errors import CheckpointError
from gnvideo.layers import normalizer_factory
from gnvideo.models import VideoClassifier, make_model
from gnvideo.weights import (
    EXPORT_LAYOUTS,
    WeightsFile,
    export_layout,
    pack_for_project,
    read_weights_file,
    transfer_weights,
)

FACEBOOK_AND_MMACTION2 = ("pytorchvideo", "pyslowfast", "mmaction2")
# Model, settings, normalizer, and the projects that have such a network.
CASES: dict[str, tuple[str, dict[str, Any], str, tuple[str, ...]]] = {
    "i3d batch": ("i3d_r50", {"width": 8}, "batch", FACEBOOK_AND_MMACTION2),
    "i3d group": ("i3d_r50", {"width": 8}, "group", FACEBOOK_AND_MMACTION2),
    "i3d_r101": ("i3d_r101", {"width": 4}, "batch", FACEBOOK_AND_MMACTION2),
    "resnet3d": ("resnet3d_18", {"width": 8}, "batch", ("torchvision",)),
    "r2plus1d": ("r2plus1d_18", {"width": 8}, "batch", ("torchvision",)),
    "slow": ("pytorchvideo_slow_r50", {}, "batch", FACEBOOK_AND_MMACTION2),
}
each_case = pytest.mark.parametrize("case", CASES)


def make_empty(case: str) -> VideoClassifier:
    name, settings, normalizer, _ = CASES[case]
    return make_model(name, 5, normalizer_factory(normalizer), **settings)


def make_filled(case: str) -> VideoClassifier:
    model = make_empty(case)
    fill_by_name(model)
    return model


@each_case
def test_weights_come_back_to_the_bit_from_every_project_and_others_are_refused(case: str):
    source, back = make_filled(case), make_empty(case)
    projects = CASES[case][-1]
    for layout in projects:
        for tensor in back.state_dict().values():
            tensor.zero_()
        file = WeightsFile(Path("x.pth"), export_layout(source, layout))
        report = transfer_weights(back, file)
        assert report.num_taken == report.num_tensors == len(source.state_dict())
        after = back.state_dict()
        for key, tensor in source.state_dict().items():
            assert torch.equal(after[key], tensor)
    for layout in set(EXPORT_LAYOUTS) - set(projects):
        with pytest.raises(CheckpointError, match=", ".join(projects)):
            export_layout(source, layout)


@pytest.mark.parametrize("layout", FACEBOOK_AND_MMACTION2)
def test_what_is_packed_for_a_project_is_read_again(tmp_path: Path, layout: str):
    tensors = export_layout(make_filled("i3d batch"), layout)
    torch.save(pack_for_project(tensors, layout), tmp_path / "x.pth")
    read = read_weights_file(tmp_path / "x.pth").tensors
    assert read.keys() == tensors.keys()
    assert all(torch.equal(read[name], tensor) for name, tensor in tensors.items())


def test_an_unknown_layout_is_named():
    with pytest.raises(CheckpointError, match="unknown layout 'gluon'; choose one of pytorch"):
        export_layout(make_empty("resnet3d"), "gluon")


def test_parts_that_a_project_has_no_names_for_are_named():
    model = make_model("i3d_r50", 5, normalizer_factory("batch"), width=8, non_local=True)
    with pytest.raises(CheckpointError, match=r"mmaction2 has no names for .*non_local"):
        export_layout(model, "mmaction2")


def test_torchvisions_network_loads_what_is_written_for_it():
    ours = make_model("resnet3d_10", 5, normalizer_factory("batch"))
    fill_by_name(ours)
    ours.to(memory_format=torch.channels_last_3d)
    theirs = VideoResNet(BasicBlock, [Conv3DSimple] * 4, [1] * 4, BasicStem, num_classes=5)
    theirs.load_state_dict(pack_for_project(export_layout(ours, "torchvision"), "torchvision"))
    clips = torch.randn(1, 3, 4, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(ours.eval()(clips), theirs.eval()(clips))


def test_exported_tensors_are_contiguous_for_safetensors():
    model = make_filled("i3d batch").to(memory_format=torch.channels_last_3d)
    tensors = export_layout(model, "pyslowfast")
    assert all(tensor.is_contiguous() for tensor in tensors.values())
