from __future__ import annotations

import torch
from torchvision.models.video import r3d_18

from gnvideo.layers import normalizer_factory
from gnvideo.models import make_model


def test_resnet3d_18_is_torchvisions_network_under_its_names():
    theirs = r3d_18(num_classes=7)
    ours = make_model("resnet3d_18", 7, normalizer_factory("batch"))
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.load_state_dict(theirs.state_dict())

    clips = torch.randn(2, 3, 4, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        # Training first: it moves the running statistics, which evaluation then uses.
        torch.testing.assert_close(ours.train()(clips), theirs.train()(clips))
        torch.testing.assert_close(ours.eval()(clips), theirs.eval()(clips))
