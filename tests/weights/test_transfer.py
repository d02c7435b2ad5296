from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from named_values import fill_by_name
from torch import nn
from torchvision.models import ResNet, resnet18
from torchvision.models.resnet import BasicBlock

from gnvideo.errors import CheckpointError
from gnvideo.layers import NORMALIZERS, convert_normalizer, normalizer_factory
from gnvideo.models import VideoClassifier, initialize, make_model
from gnvideo.weights import LAYOUTS, PixelScale, WeightsFile, transfer_weights

PATH = Path("weights.pth")
IMAGENET = LAYOUTS["torchvision-image"].pixels


def make_small(normalizer: str = "batch", num_classes: int = 6, seed: int = 0, **settings: Any):
    model = make_model(
        "resnet3d_10", num_classes, normalizer_factory(normalizer), width=64, **settings
    )
    initialize(model, seed)
    return model


def make_image_file(num_classes: int = 1000) -> WeightsFile:
    network = ResNet(BasicBlock, [1, 1, 1, 1], num_classes=num_classes)
    fill_by_name(network)
    return WeightsFile(PATH, network.state_dict(), pixels=IMAGENET)


def copy_state(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def test_a_head_of_another_size_stays_at_its_initialization_and_is_named():
    model = make_small()
    before = copy_state(model)
    file = make_image_file()
    report = transfer_weights(model, file)
    after = model.state_dict()
    for name in ("fc.weight", "fc.bias"):
        assert torch.equal(after[name], before[name])
    assert report.num_taken == len(after) - 2 == report.num_tensors - 2
    lines = report.format_lines(IMAGENET.mean, IMAGENET.std)
    assert "head fc renewed: the file's has 1000 outputs and the model 6" in lines
    assert "reshaped, kept at their start: 1 bias, 1 weight, such as fc.weight" in lines
    assert torch.equal(after["stem.1.running_var"], file.tensors["bn1.running_var"])
    assert len(report.inflated) == 9


def test_a_file_without_head_leaves_the_models():
    file = make_image_file(6)
    tensors = {name: t for name, t in file.tensors.items() if not name.startswith("fc.")}
    report = transfer_weights(make_small(), dataclasses.replace(file, tensors=tensors))
    assert report.head_renewal == "the file has none"


@pytest.mark.parametrize(
    ("classes", "renewal"),
    [
        (("a", "b", "c", "d", "e", "f"), None),
        (("b", "a", "c", "d", "e", "f"), "the file's is of other classes"),
        (None, None),
    ],
)
def test_a_head_of_gnvideos_is_taken_only_for_its_classes_in_its_order(
    classes: tuple[str, ...] | None, renewal: str | None
):
    source, model = make_small(seed=1), make_small(seed=2)
    file = WeightsFile(PATH, copy_state(source), classes=("a", "b", "c", "d", "e", "f"))
    report = transfer_weights(model, file, classes)
    assert report.head_renewal == renewal
    is_taken = torch.equal(model.state_dict()["fc.weight"], file.tensors["fc.weight"])
    assert is_taken == (renewal is None)


@pytest.mark.parametrize("normalizer", ["group", "rms_group", "frozen_batch", "switchable"])
def test_batch_norm_weights_in_another_normalizer_are_those_of_the_converted_network(normalizer):
    file = make_image_file(6)
    expected, model = make_small("batch"), make_small(normalizer)
    transfer_weights(expected, file)
    if normalizer != "switchable":
        convert_normalizer(expected, normalizer)
    transfer_weights(model, file)
    tensors = model.state_dict()
    for name, tensor in expected.state_dict().items():
        torch.testing.assert_close(tensors[name], tensor)


def test_scales_are_copied_where_computed_weights_give_other_statistics():
    model = make_small("group_ws")
    file = make_image_file(6)
    report = transfer_weights(model, file)
    assert torch.equal(model.state_dict()["stem.1.weight"], file.tensors["bn1.weight"])
    assert "scales and offsets were copied and running statistics left out" in report.notes[0]


def test_frozen_batch_norm_takes_all_of_a_batch_norm_without_a_note():
    report = transfer_weights(make_small("frozen_batch"), make_image_file(6))
    assert report.num_taken == report.num_tensors
    assert not report.notes


def test_running_statistics_without_a_place_are_counted_and_said_to_be_folded():
    model = make_small("group")
    report = transfer_weights(model, make_image_file(6))
    lines = report.format_lines(IMAGENET.mean, IMAGENET.std)
    num = len(report.unexpected) // 3
    assert lines[1].endswith(f"missing 0, unexpected {3 * num}, reshaped 0")
    assert (
        f"unexpected, left out: {num} num_batches_tracked, {num} running_mean, {num} running_var,"
        " such as stem.1.running_mean" in lines
    )
    assert (
        f"note: the file is of BatchNorm and the model is not: {num} running statistics were folded"
        " into scales and offsets; outputs are not the source's until the model is trained" in lines
    )


def test_weights_without_statistics_in_batch_norm_say_that_it_cannot_evaluate_yet():
    source, model = make_small("group"), make_small("batch")
    report = transfer_weights(model, WeightsFile(PATH, copy_state(source), normalizer="group"))
    lines = report.format_lines((0, 0, 0), (1, 1, 1))
    assert "trained with normalizer group" in lines[0]
    assert lines[2].startswith("missing, kept at their start: ")
    assert "running_var" in lines[2]
    assert any("they stay at mean 0 and variance 1" in line for line in lines)


@pytest.mark.parametrize("normalizer", NORMALIZERS)
@pytest.mark.parametrize("source", ["batch", "group"])
def test_every_normalizer_takes_the_same_convolutions(normalizer: str, source: str):
    file = WeightsFile(PATH, copy_state(make_small(source, seed=1)))
    model = make_small(normalizer, seed=2)
    transfer_weights(model, file)
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv3d | nn.Linear):
            assert torch.equal(module.weight, file.tensors[f"{name}.weight"])


def test_a_file_in_half_precision_leaves_the_models_dtype_and_layout():
    model = make_small().to(memory_format=torch.channels_last_3d)
    file = make_image_file(6)
    half = {name: t.half() if t.is_floating_point() else t for name, t in file.tensors.items()}
    transfer_weights(model, dataclasses.replace(file, tensors=half))
    weight = model.get_parameter("layer1.0.conv1.0.weight")
    assert weight.dtype == torch.float32
    assert weight.is_contiguous(memory_format=torch.channels_last_3d)


WRONG = {
    "other depth": (resnet18(num_classes=6), "unexpected.*layer1.1.conv1"),
    "other names": (
        nn.Sequential(nn.Conv3d(3, 64, 3), nn.Linear(64, 6)),
        "is of no known network: its 4 names are like 0.weight, 0.bias, 1.weight; known are",
    ),
}


@pytest.mark.parametrize(("network", "named"), WRONG.values(), ids=WRONG)
def test_another_network_is_refused_with_counts_and_the_model_is_as_it_was(
    network: nn.Module, named: str
):
    model = make_small()
    before = copy_state(model)
    with pytest.raises(CheckpointError, match=named) as caught:
        transfer_weights(model, WeightsFile(PATH, network.state_dict()))
    assert "\n" not in str(caught.value)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_missing_and_reshaped_names_are_counted():
    file = make_image_file(6)
    tensors = dict(file.tensors)
    del tensors["layer2.0.conv2.weight"]
    tensors["conv1.weight"] = torch.ones(64, 1, 7, 7)
    tensors["layer1.0.bn1.weight"] = torch.ones(3)
    with pytest.raises(CheckpointError, match=r"1 missing .*, 1 of another shape") as caught:
        transfer_weights(make_small(), dataclasses.replace(file, tensors=tensors))
    assert "(layer2.0.conv2.0.weight), 1 of another shape (stem.0.weight)" in str(caught.value)


def test_parts_beyond_a_plain_resnet_stay_at_their_start():
    settings = {"width": 8, "num_frames": 8, "train_crop_pixels": 64}
    factory = normalizer_factory("batch")
    plain = make_model("i3d_r50", 6, factory, **settings)
    model = make_model("i3d_r50", 6, factory, **settings, non_local=True)
    initialize(plain, 0)
    initialize(model, 1)
    report = transfer_weights(model, WeightsFile(PATH, copy_state(plain)))
    assert len(report.missing) == len(model.state_dict()) - len(plain.state_dict())
    assert all("non_local" in name for name in report.missing)
    # A non-local block starts as the identity.
    clips = torch.randn(1, 3, 8, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(clips), plain.eval()(clips))


def test_a_kernel_of_one_frame_is_inflated_too():
    factory = normalizer_factory("batch")
    source = make_model("pytorchvideo_c2d_r50", 6, factory)
    fill_by_name(source)
    model = make_model("i3d_r50", 6, factory)
    report = transfer_weights(model, WeightsFile(PATH, source.state_dict()))
    weight = model.state_dict()["conv1.weight"]
    assert torch.equal(weight[:, :, 4], source.state_dict()["blocks.0.conv.weight"][:, :, 0] / 5)
    # The stem and the nine blocks that are 3x1x1.
    assert len(report.inflated) == 10
    assert any("poolings and strides are its own" in note for note in report.notes)


def test_a_last_layer_written_as_a_convolution_fits_a_linear_one():
    factory = normalizer_factory("batch")
    source, model = (make_model("inception_i3d", 6, factory) for _ in range(2))
    tensors = dict(source.state_dict())
    weight = tensors["logits.conv3d.weight"]
    tensors["logits.conv3d.weight"] = weight[..., None, None, None]
    report = transfer_weights(model, WeightsFile(PATH, tensors))
    assert report.num_taken == report.num_tensors
    assert report.layout == "pytorch-i3d"
    assert torch.equal(model.state_dict()["logits.conv3d.weight"], weight)


def make_report(pixels: PixelScale | None):
    model: VideoClassifier = make_small()
    return transfer_weights(model, WeightsFile(PATH, copy_state(model), pixels=pixels))


def test_another_input_scale_is_printed_and_an_equal_one_is_not():
    lines = make_report(IMAGENET).format_lines((0.45, 0.45, 0.45), (0.225, 0.225, 0.225))
    assert lines[-1] == (
        "note: the weights expect data.mean=[0.485,0.456,0.406] data.std=[0.229,0.224,0.225], and"
        " here they are [0.45,0.45,0.45] and [0.225,0.225,0.225]"
    )
    for report in (make_report(IMAGENET), make_report(None)):
        lines = report.format_lines(IMAGENET.mean, IMAGENET.std)
        assert not any("data.mean" in line for line in lines)
