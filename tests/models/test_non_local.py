from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from gnvideo.layers import normalizer_factory
from gnvideo.models import initialize, make_model
from gnvideo.models.non_local import NonLocalBlock


def make_block(num_channels: int = 12) -> Any:
    """A block of random parameters, its normalizer's too."""
    block = NonLocalBlock(num_channels, normalizer_factory("group", num_groups=3))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.normal_(0, 0.5, generator=generator)
    return block


def random_map(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def compute_by_definition(block: Any, x: torch.Tensor) -> torch.Tensor:
    """The block with every pair of positions written out."""

    def project(layer: nn.Conv3d, features_NCP: torch.Tensor) -> torch.Tensor:
        assert layer.bias is not None
        return (
            torch.einsum("oc,ncp->nop", layer.weight[:, :, 0, 0, 0], features_NCP)
            + layer.bias[:, None]
        )

    T, H, W = x.shape[2:]
    step_h, step_w = min(2, H), min(2, W)
    pooled = torch.stack(
        [
            x[:, :, t, h : h + step_h, w : w + step_w].amax((2, 3))
            for t in range(T)
            for h in range(0, H - step_h + 1, step_h)
            for w in range(0, W - step_w + 1, step_w)
        ],
        dim=2,
    )
    theta = project(block.theta, x.flatten(2))
    products = torch.einsum("ncq,nck->nqk", theta, project(block.phi, pooled))
    powers = (products / (x.shape[1] // 2) ** 0.5).exp()
    weights = powers / powers.sum(2, keepdim=True)
    y = torch.einsum("nqk,nck->ncq", weights, project(block.g, pooled))
    out = torch.einsum("oc,ncp->nop", block.out.weight[:, :, 0, 0, 0], y).unflatten(2, (T, H, W))
    norm = block.norm
    return x + nn.functional.group_norm(out, norm.num_groups, norm.weight, norm.bias, norm.eps)


@pytest.mark.parametrize(
    "shape",
    [(2, 12, 3, 4, 6), (1, 12, 2, 5, 7), (2, 12, 4, 1, 1), (1, 12, 1, 1, 4)],
    ids="N{0[0]}-T{0[2]}-H{0[3]}-W{0[4]}".format,
)
def test_output_and_gradients_are_those_of_the_definition(shape):
    block, x = make_block().double(), random_map(*shape).double().requires_grad_()
    upstream = random_map(*shape).double().flip(0)

    output, expected = block(x), compute_by_definition(block, x)
    torch.testing.assert_close(output, expected)
    inputs = [x, *block.parameters()]
    gradients = torch.autograd.grad(output, inputs, upstream)
    torch.testing.assert_close(gradients, torch.autograd.grad(expected, inputs, upstream))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d])
def test_output_has_the_layout_of_the_input(layout):
    block, x = make_block(), random_map(2, 12, 3, 4, 6).contiguous(memory_format=layout)
    output = block.to(memory_format=layout)(x)
    assert output.is_contiguous(memory_format=layout)
    torch.testing.assert_close(output, block.to(memory_format=torch.contiguous_format)(x))


def test_clips_do_not_see_each_other():
    block, x = make_block(), random_map(3, 12, 3, 4, 6)
    torch.testing.assert_close(block(x)[1:2], block(x[1:2]))


def test_weights_are_drawn_small_as_in_the_published_code():
    model: Any = make_model("i3d_r50_8x8", 5, normalizer_factory("group"), non_local=True)
    initialize(model, 0)
    block = model.layer3.non_local5
    for layer in (block.theta, block.phi, block.g, block.out):
        # 524288 draws: the sample deviation is within 1 % by far.
        assert layer.weight.std().item() == pytest.approx(0.01, rel=0.01)
        assert layer.bias is None or layer.bias.eq(0).all()


def test_network_starts_as_the_one_without_blocks():
    settings = {"width": 8, "train_crop_pixels": 64, "num_frames": 4}
    plain, with_blocks = (
        make_model(
            "i3d_r50_8x8", 5, normalizer_factory("group"), non_local=non_local, **settings
        ).eval()
        for non_local in (False, True)
    )
    for model in (plain, with_blocks):
        initialize(model, 3)

    clips = random_map(1, 3, 4, 64, 64)
    with torch.no_grad():
        assert torch.equal(plain(clips), with_blocks(clips))


@pytest.mark.parametrize(
    ("name", "layer2", "layer3"),
    [("i3d_r50", [1, 3], [1, 3, 5]), ("i3d_r101", [1, 3], [6, 13, 20])],
)
def test_blocks_stand_where_the_published_code_has_them(name, layer2, layer3):
    with torch.device("meta"):
        model: Any = make_model(name, 400, normalizer_factory("batch"), non_local=True)
        plain: Any = make_model(name, 400, normalizer_factory("batch"))

    for stage, expected in ((model.layer2, layer2), (model.layer3, layer3)):
        # Each follows the block that it is named after.
        names = list(stage._modules)
        assert [n for n in names if "non_local" in n] == [f"non_local{i}" for i in expected]
        assert all(names[names.index(f"non_local{i}") - 1] == str(i) for i in expected)
    left_out = plain.state_dict().keys() - model.state_dict().keys()
    added = model.state_dict().keys() - plain.state_dict().keys()
    assert not left_out
    assert all(".non_local" in key for key in added)
