from __future__ import annotations

import importlib.util
import sys
import warnings
from typing import Any

import pytest
import torch

from gnvideo.errors import ModelError
from gnvideo.layers import normalizer_factory
from gnvideo.models import make_pytorchvideo_resnet, pytorchvideo_adapter

with warnings.catch_warnings():
    # pytorchvideo calls torch.jit functions that torch has deprecated.
    warnings.simplefilter("ignore")
    from pytorchvideo.models.hub import resnet as hub


@pytest.mark.parametrize("name", ["slow_r50", "i3d_r50", "c2d_r50"])
def test_network_with_batch_norm_is_the_hubs(name):
    with torch.device("meta"):
        ours = make_pytorchvideo_resnet(name, 400, normalizer_factory("batch"))
        theirs = getattr(hub, name)()

    assert repr(ours.blocks) == repr(theirs.blocks)
    assert {key: value.shape for key, value in ours.state_dict().items()} == {
        key: value.shape for key, value in theirs.state_dict().items()
    }


def test_logits_equal_the_hubs_at_equal_weights():
    theirs = hub.i3d_r50(model_num_class=7, head_pool_kernel_size=(4, 2, 2)).eval()
    ours = make_pytorchvideo_resnet(
        "i3d_r50", 7, normalizer_factory("batch"), train_crop_pixels=64
    ).eval()
    ours.load_state_dict(theirs.state_dict())

    generator = torch.Generator().manual_seed(0)
    for shape in ((1, 3, 8, 64, 64), (1, 3, 10, 64, 100)):
        clips = torch.randn(shape, generator=generator)
        with torch.no_grad():
            assert torch.equal(ours(clips), theirs(clips))


def test_groups_are_the_factorys():
    with torch.device("meta"):
        model: Any = make_pytorchvideo_resnet(
            "c2d_r50", 5, normalizer_factory("group", num_groups=16)
        )
    assert model.blocks[0].norm.num_groups == 16


def test_unknown_network_lists_the_known_ones():
    with pytest.raises(ModelError, match="'x3d'; choose one of slow_r50, i3d_r50, c2d_r50"):
        make_pytorchvideo_resnet("x3d", 5, normalizer_factory("group"))


def test_missing_pytorchvideo_is_an_error_only_when_a_network_is_made(monkeypatch):
    for name in [module for module in sys.modules if module.split(".")[0] == "pytorchvideo"]:
        monkeypatch.setitem(sys.modules, name, None)
    # A fresh copy of the module, as the first import would run it.
    spec = importlib.util.spec_from_file_location("adapter_copy", pytorchvideo_adapter.__file__)
    assert spec is not None
    assert spec.loader is not None
    adapter = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(adapter)

    with pytest.raises(ModelError, match="install pytorchvideo, or choose another model"):
        adapter.make_pytorchvideo_resnet("c2d_r50", 5, normalizer_factory("group"))
