"""A video of equal frames: the inflated network against the network of images.

Temporal borders are padded by their own frames instead of zeros; with zeros the equality holds
only away from the first and last frames, and with GroupNorm nowhere, since its statistics see them.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from named_values import fill_by_name, make_uniform
from torch import nn
from torchvision.models import resnet18, resnet50

from gnvideo.layers import normalizer_factory
from gnvideo.models import make_model
from gnvideo.weights import inflate_kernel, read_weights_file, transfer_weights

NUM_CLASSES = 7


def make_group_norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(32, channels)


def make_image_i3d(norm_layer: Callable[..., nn.Module]) -> nn.Module:
    """The ResNet-50 of images that I3D is on still videos: its first pooling has no padding."""
    network = resnet50(num_classes=NUM_CLASSES, norm_layer=norm_layer)
    network.maxpool = nn.MaxPool2d(3, 2)
    return network


def make_timm_group(norm_layer: Callable[..., nn.Module]) -> nn.Module:
    return timm.create_model("resnet50_gn", pretrained=False, num_classes=NUM_CLASSES)


# Image network, video network, and its settings; both pool and stride alike in space.
STILL = {"stem_pool": True, "temporal_strides": (1, 1, 1, 1)}
PAIRS: dict[str, tuple[Callable[..., nn.Module], str, dict[str, Any]]] = {
    "resnet18": (resnet18, "resnet3d_18", STILL),
    "resnet50": (resnet50, "resnet3d_50", STILL),
    "resnet50 of timm": (make_timm_group, "resnet3d_50", STILL),
    "resnet50 to i3d": (make_image_i3d, "i3d_r50", {}),
    "resnet50 to pytorchvideo": (resnet50, "pytorchvideo_i3d_r50", {}),
}


def repeat_borders(model: nn.Module) -> None:
    """Makes every convolution pad in time by the border frames."""

    def make_hook(frames: int) -> Callable[..., torch.Tensor]:
        def pad(module: nn.Module, inputs: tuple[torch.Tensor]) -> torch.Tensor:
            return nn.functional.pad(inputs[0], (0, 0, 0, 0, frames, frames), mode="replicate")

        return pad

    for module in model.modules():
        if isinstance(module, nn.Conv3d) and int(module.padding[0]) > 0:
            frames, *space = map(int, module.padding)
            module.padding = (0, *space)
            module.register_forward_pre_hook(make_hook(frames))


@pytest.mark.parametrize(
    ("normalizer", "pair"),
    [p for p in itertools.product(("batch", "group"), PAIRS) if p != ("batch", "resnet50 of timm")],
)
def test_a_still_video_gives_the_logits_of_its_image(normalizer: str, pair: str, tmp_path: Path):
    make_image_network, name, settings = PAIRS[pair]
    norm_layer = nn.BatchNorm2d if normalizer == "batch" else make_group_norm
    if make_image_network in (resnet18, resnet50):
        image_network = make_image_network(num_classes=NUM_CLASSES, norm_layer=norm_layer)
    else:
        image_network = make_image_network(norm_layer)
    fill_by_name(image_network)
    model = make_model(
        name,
        NUM_CLASSES,
        normalizer_factory(normalizer),
        train_crop_pixels=64,
        num_frames=8,
        **settings,
    )
    # As GroupNorm's authors publish theirs, from a network in DataParallel.
    state = {f"module.{name}": tensor for name, tensor in image_network.state_dict().items()}
    torch.save({"state_dict": state, "epoch": 100}, tmp_path / "ImageNet-ResNet50-GN.pth")
    report = transfer_weights(model, read_weights_file(tmp_path / "ImageNet-ResNet50-GN.pth"))
    assert report.num_taken == report.num_tensors
    assert report.inflated
    repeat_borders(model)
    image = make_uniform("image", (1, 3, 64, 64))
    with torch.no_grad():
        expected = image_network.eval()(image)
        logits = model.eval()(image.unsqueeze(2).repeat(1, 1, 8, 1, 1))
    # The largest deviation allowed, as a share of the largest logit.
    assert (logits - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_an_inflated_kernel_sums_to_the_image_kernel_and_is_even_in_time():
    kernel = make_uniform("kernel", (5, 4, 3, 3))
    inflated = inflate_kernel(kernel, 3)
    assert inflated.shape == (5, 4, 3, 3, 3)
    assert torch.equal(inflated[:, :, 0], inflated[:, :, 2])
    torch.testing.assert_close(inflated.sum(2), kernel)
    assert torch.equal(inflate_kernel(kernel.unsqueeze(2), 3), inflated)
