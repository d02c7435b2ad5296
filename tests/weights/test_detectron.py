from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from named_values import make_uniform
from test_caffe2_pickle import make_python2_pickle
from torch import nn

from gnvideo.layers import normalizer_factory
from gnvideo.models import make_model
from gnvideo.weights import read_weights_file, transfer_weights

BLOCKS = (3, 4, 6, 3)
NUM_CLASSES = 5
MEAN_BGR = (102.9801, 115.9465, 122.7717)


def make_blobs() -> dict[str, np.ndarray[Any, Any]]:
    """All of R-50-GN.pkl by its own names, an eighth as wide."""
    shapes: dict[str, tuple[int, ...]] = {"conv1_w": (8, 3, 7, 7)}
    norms = {"conv1_gn": 8}
    c_in = 8
    for stage, num_blocks in enumerate(BLOCKS):
        inner = 8 * 2**stage
        for block in range(num_blocks):
            name = f"res{stage + 2}_{block}"
            kernels = {
                "branch2a": (inner, c_in, 1, 1),
                "branch2b": (inner, inner, 3, 3),
                "branch2c": (inner * 4, inner, 1, 1),
            }
            if block == 0:
                kernels["branch1"] = (inner * 4, c_in, 1, 1)
            for branch, shape in kernels.items():
                shapes[f"{name}_{branch}_w"] = shape
                norms[f"{name}_{branch}_gn"] = shape[0]
            c_in = inner * 4
    shapes |= {"pred_w": (NUM_CLASSES, c_in), "pred_b": (NUM_CLASSES,)}
    blobs: dict[str, np.ndarray[Any, Any]] = {
        name: make_uniform(name, shape).numpy() * np.float32(np.prod(shape[1:]) ** -0.5)
        for name, shape in shapes.items()
    }
    for name, channels in norms.items():
        blobs[f"{name}_s"] = 1 + make_uniform(f"{name}_s", (channels,)).numpy() / 2
        blobs[f"{name}_b"] = make_uniform(f"{name}_b", (channels,)).numpy() / 5
    return blobs


def compute_detectron(blobs: dict[str, np.ndarray[Any, Any]], x: torch.Tensor) -> torch.Tensor:
    """Returns the logits of BGR pixels in 0..255, minus the mean, from the blobs themselves."""
    tensors = {name: torch.from_numpy(blob) for name, blob in blobs.items()}

    def conv_gn(x: torch.Tensor, name: str, stride: int = 1) -> torch.Tensor:
        weight = tensors[f"{name}_w"]
        x = nn.functional.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)
        scale, offset = tensors[f"{name}_gn_s"], tensors[f"{name}_gn_b"]
        return nn.functional.group_norm(x, 4, scale, offset, eps=1e-5)

    x = x - torch.tensor(MEAN_BGR).view(3, 1, 1)
    x = nn.functional.max_pool2d(conv_gn(x, "conv1", 2).relu(), 3, 2, 1)
    for stage, num_blocks in enumerate(BLOCKS):
        for block in range(num_blocks):
            name = f"res{stage + 2}_{block}"
            stride = 2 if block == 0 and stage > 0 else 1
            y = conv_gn(x, f"{name}_branch2a").relu()
            y = conv_gn(y, f"{name}_branch2b", stride).relu()
            y = conv_gn(y, f"{name}_branch2c")
            shortcut = conv_gn(x, f"{name}_branch1", stride) if block == 0 else x
            x = (y + shortcut).relu()
    return x.mean((2, 3)) @ tensors["pred_w"].T + tensors["pred_b"]


def test_a_pickle_of_detectrons_is_the_same_function_of_rgb_pixels(tmp_path: Path):
    blobs = make_blobs()
    momentum = {"conv1_w_momentum": np.zeros((8, 3, 7, 7), np.float32)}
    path = tmp_path / "R-50-GN.pkl"
    path.write_bytes(make_python2_pickle(blobs | momentum))
    file = read_weights_file(path)
    assert file.ignored == ("conv1_w_momentum",)
    assert file.pixels is not None

    model = make_model(
        *("resnet3d_50", NUM_CLASSES, normalizer_factory("group", num_groups=4, eps=1e-5)),
        width=8,
        stem_pool=True,
        temporal_strides=(1, 1, 1, 1),
        num_frames=1,
        train_crop_pixels=64,
    )
    report = transfer_weights(model, file)
    assert report.layout == "detectron"
    assert report.num_taken == report.num_tensors == len(blobs)
    image_rgb = (make_uniform("image", (1, 3, 64, 64)) + 1) * 127.5
    expected = compute_detectron(blobs, image_rgb.flip(1))
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (file.pixels.mean, file.pixels.std))
    # A clip of one frame sees but the middle one of a kernel's three frames.
    for module in model.modules():
        if isinstance(module, nn.Conv3d) and module.kernel_size[0] == 3:
            module.weight.data *= 3
    with torch.no_grad():
        logits = model.eval()(((image_rgb / 255 - mean) / std).unsqueeze(2))
    assert expected.std() > 0.01 * expected.abs().max()
    assert (logits - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_the_first_convolution_gives_the_same_values_before_a_normalizer_hides_their_scale(
    tmp_path: Path,
):
    blobs = make_blobs()
    path = tmp_path / "R-50-GN.pkl"
    path.write_bytes(make_python2_pickle(blobs))
    file = read_weights_file(path)
    assert file.pixels is not None
    image_rgb = (make_uniform("image", (1, 3, 16, 16)) + 1) * 127.5
    bgr = image_rgb.flip(1) - torch.tensor(MEAN_BGR).view(3, 1, 1)
    expected = nn.functional.conv2d(bgr, torch.from_numpy(blobs["conv1_w"]))
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (file.pixels.mean, file.pixels.std))
    values = nn.functional.conv2d((image_rgb / 255 - mean) / std, file.tensors["conv1.weight"])
    assert (values - expected).abs().max() <= 1e-5 * expected.abs().max()
