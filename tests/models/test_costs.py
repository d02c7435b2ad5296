"""What networks cost: against a golden table, published figures, and counts by other ways."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torchvision.models.video
from model_costs import compute_figures, find_own_clip, read_rows
from torch import nn

from gnvideo.errors import ModelError
from gnvideo.layers import NORMALIZERS, is_normalizer, normalizer_factory
from gnvideo.models import MODELS, make_model
from gnvideo.models.costs import compute_costs
from gnvideo.models.residual import ResidualBlock

ROWS = read_rows()
FLOAT_BYTES = 4


def name_row(row: dict[str, str]) -> str:
    return f"{row['model']}-{row['frames']}x{row['pixels']}"


def make_small(normalizer: str) -> Any:
    return make_model(
        "resnet3d_10", 5, normalizer_factory(normalizer), width=8, dropout_rate=0.5, stem_pool=True
    )


def count_normalized_values(model: nn.Module, clip: torch.Tensor) -> int:
    num_values = 0

    def add(module: nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
        nonlocal num_values
        num_values += output.numel()

    for module in model.modules():
        if is_normalizer(module):
            module.register_forward_hook(add)
    model(clip)
    return num_values


@pytest.mark.parametrize("row", ROWS, ids=name_row)
def test_costs_are_those_of_the_golden_table(row):
    figures = compute_figures(row["model"], row["frames"], row["pixels"])
    assert figures == {column: row[column] for column in figures}


def test_golden_table_has_every_model_at_its_own_clip_and_no_other_model():
    assert {row["model"] for row in ROWS} == set(MODELS)
    listed = {(row["model"], row["frames"], row["pixels"]) for row in ROWS}
    assert {(model, *find_own_clip(model)) for model in MODELS} <= listed


@pytest.mark.parametrize(
    "row", [row for row in ROWS if row["published_parameters_millions"]], ids=name_row
)
def test_published_figures_hold_to_their_last_digit(row):
    frames, pixels = int(row["frames"]), int(row["pixels"])
    with torch.device("meta"):
        model = make_model(row["model"], 400, normalizer_factory("batch"))
    costs = compute_costs(model, (frames, pixels, pixels))
    num_operations = costs.num_macs
    if row["published_normalizer_operations"]:
        clip = torch.empty(1, 3, frames, pixels, pixels, device="meta")
        operations = int(row["published_normalizer_operations"])
        num_operations += operations * count_normalized_values(model, clip)
    for column, value in (
        ("published_parameters_millions", costs.num_parameters / 1e6),
        ("published_gmac", num_operations / 1e9),
    ):
        digits = len(row[column].partition(".")[2])
        assert f"{value:.{digits}f}" == row[column], column


# Ours and the weights of torchvision whose metadata states the costs of the same network.
@pytest.mark.parametrize(
    ("name", "weights"),
    [("resnet3d_18", "R3D_18_Weights"), ("r2plus1d_18", "R2Plus1D_18_Weights")],
)
def test_costs_are_those_that_torchvision_states(name, weights):
    stated = getattr(torchvision.models.video, weights).DEFAULT.meta
    with torch.device("meta"):
        model = make_model(name, 400, normalizer_factory("batch"))
    costs = compute_costs(model, (16, 112, 112))
    assert costs.num_parameters == stated["num_params"]
    assert round(costs.num_macs / 1e9, 3) == stated["_ops"]


def test_batch_norm_keeps_the_clip_and_each_map_before_and_after_a_normalizer():
    """BatchNorm's gradient needs its input, a ReLU's its output, a convolution's its input."""
    with torch.device("meta"):
        model = make_small("batch")
        clip = torch.empty(1, 3, 16, 112, 112)
    costs = compute_costs(model, (16, 112, 112))
    kept = clip.numel() * FLOAT_BYTES

    def add(module: nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
        nonlocal kept
        # A pooling also keeps where its maxima were, as int64.
        kept += output.numel() * (FLOAT_BYTES + 8 * isinstance(module, nn.MaxPool3d))

    for module in model.modules():
        is_activated = is_normalizer(module) and module.activation is not None
        if is_activated or isinstance(module, nn.Conv3d | nn.MaxPool3d | ResidualBlock):
            module.register_forward_hook(add)
    model(clip)

    # Dropout keeps its mask and the linear layer its input.
    features = model.fc.in_features * FLOAT_BYTES
    assert features < costs.activation_bytes - kept <= 2 * features


@pytest.mark.parametrize("normalizer", NORMALIZERS)
def test_meta_device_counts_what_a_real_training_step_keeps(normalizer):
    with torch.device("meta"):
        costs = compute_costs(make_small(normalizer), (8, 32, 32))

    model = make_small(normalizer).train()
    kept_bytes = []
    for num_clips in (2, 4):
        memory: dict[int, torch.UntypedStorage] = {}

        def remember(tensor: torch.Tensor, memory: dict[int, Any] = memory) -> torch.Tensor:
            storage = tensor.untyped_storage()
            memory[storage.data_ptr()] = storage
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(remember, lambda tensor: tensor):
            model(torch.randn(num_clips, 3, 8, 32, 32))
        kept_bytes.append(sum(storage.nbytes() for storage in memory.values()))
    assert costs.activation_bytes == (kept_bytes[1] - kept_bytes[0]) // 2


def test_multiply_accumulates_count_groups_and_do_not_depend_on_the_normalizer():
    with torch.device("meta"):
        group, batch = (compute_costs(make_small(name), (8, 32, 32)) for name in ("group", "batch"))
        grouped = make_small("group")
        conv = grouped.layer1[0].conv1[0]
        grouped.layer1[0].conv1[0] = nn.Conv3d(8, 8, 3, padding=1, groups=4, bias=False)
    assert group.num_macs == batch.num_macs
    assert group.num_parameters == batch.num_parameters

    # 8 frames, and 32 pixels after stem and pooling.
    positions = 8 * 8 * 8
    fewer = group.num_macs - compute_costs(grouped, (8, 32, 32)).num_macs
    assert fewer == positions * (conv.weight.numel() - conv.weight.numel() // 4)


def test_too_small_clip_is_an_error():
    with torch.device("meta"):
        model = make_model("i3d_r50", 400, normalizer_factory("group"))
    with pytest.raises(ModelError, match="give at least 7 frames"):
        compute_costs(model, (2, 64, 64))
