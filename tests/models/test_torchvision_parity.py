from __future__ import annotations

from typing import Any

import pytest
import torch
from torchvision.models.video import r2plus1d_18, r3d_18
from torchvision.models.video.resnet import BasicBlock, Conv2Plus1D, R2Plus1dStem, VideoResNet

from gnvideo.layers import normalizer_factory
from gnvideo.models import make_model


def make_published_r2plus1d_34(num_classes: int) -> VideoResNet:
    """As https://github.com/moabitcoin/ig65m-pytorch makes it, whose weights it holds."""
    model: Any = VideoResNet(
        BasicBlock, [Conv2Plus1D] * 4, [3, 4, 6, 3], R2Plus1dStem, num_classes=num_classes
    )
    for layer, channels, middle in (
        ("layer2", 128, 288),
        ("layer3", 256, 576),
        ("layer4", 512, 1152),
    ):
        getattr(model, layer)[0].conv2[0] = Conv2Plus1D(channels, channels, middle)
    return model


@pytest.mark.parametrize(
    ("name", "make_theirs"),
    [
        ("resnet3d_18", r3d_18),
        ("r2plus1d_18", r2plus1d_18),
        ("r2plus1d_34", make_published_r2plus1d_34),
    ],
)
def test_network_is_the_published_one_under_its_names(name, make_theirs):
    theirs = make_theirs(num_classes=7)
    ours = make_model(name, 7, normalizer_factory("batch"))
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.load_state_dict(theirs.state_dict())

    clips = torch.randn(2, 3, 4, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        # Training first: it moves the running statistics, which evaluation then uses.
        torch.testing.assert_close(ours.train()(clips), theirs.train()(clips))
        torch.testing.assert_close(ours.eval()(clips), theirs.eval()(clips))
