"""Every way of keeping activations gives the same training, bit for bit, and keeps what it says."""

from __future__ import annotations

import copy
from contextlib import ExitStack
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from gnvideo.errors import ModelError
from gnvideo.layers import NORMALIZERS, normalizer_factory
from gnvideo.models import VideoClassifier, initialize, make_model
from gnvideo.models.activation_memory import ACTIVATION_MEMORY, ActivationMemory
from gnvideo.models.costs import count_activation_bytes

RECOMPUTING = [mode for mode in ACTIVATION_MEMORY if mode != "keep"]
MODES = pytest.mark.parametrize("mode", RECOMPUTING)

# Name, settings, (frames, pixels): each family once, small.
NETWORKS: dict[str, tuple[str, dict[str, Any], int, int]] = {
    "i3d": ("i3d_r50", {"width": 8}, 8, 64),
    "non-local": ("i3d_r50", {"width": 8, "non_local": True}, 8, 64),
    "basic": ("resnet3d_10", {"width": 8, "stem_pool": True}, 4, 32),
    "bottleneck": ("resnet3d_50", {"width": 8}, 4, 32),
    "r2plus1d": ("r2plus1d_18", {"width": 8}, 4, 32),
    "inception": ("inception_i3d", {"width": 8}, 16, 64),
    "x3d": ("pytorchvideo_x3d_xs", {}, 4, 96),
    "slow": ("pytorchvideo_c2d_r50", {}, 4, 32),
}


def make(
    network: str, normalizer: str, **normalizer_settings: Any
) -> tuple[VideoClassifier, torch.Tensor]:
    """The network in training, every scale off its start, and two clips."""
    name, settings, num_frames, pixels = NETWORKS[network]
    model = make_model(
        name,
        5,
        normalizer_factory(normalizer, num_groups=4, **normalizer_settings),
        num_frames=num_frames,
        train_crop_pixels=pixels,
        **settings,
    )
    initialize(model, 3, zero_final_gamma=False)
    model.to(memory_format=torch.channels_last_3d)
    generator = torch.Generator().manual_seed(1)
    clips = torch.randn(2, 3, num_frames, pixels, pixels, generator=generator)
    return model.train(), clips.contiguous(memory_format=torch.channels_last_3d)


def train_step(
    model: VideoClassifier, clips: torch.Tensor, mode: str, precision: str = "float32"
) -> list[torch.Tensor]:
    """Two forward and backward passes; the losses, the gradients and the buffers after them."""
    torch.manual_seed(5)
    memory = ActivationMemory(model, mode)
    losses: list[torch.Tensor] = []
    for scale in (1.0, 0.5):
        autocast = torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16")
        with autocast, memory.forward_pass():
            logits = model(clips * scale)
        loss = functional.cross_entropy(logits.float(), torch.tensor([1, 3]))
        loss.backward()
        losses.append(loss.detach())
    return [*losses, *list_gradients(model), *model.buffers()]


def assert_equal_to_keep(
    network: str, normalizer: str, mode: str, precision: str, **normalizer_settings: Any
) -> None:
    model, clips = make(network, normalizer, **normalizer_settings)
    again = copy.deepcopy(model)

    kept = train_step(model, clips, "keep", precision)
    recomputed = train_step(again, clips, mode, precision)

    assert len(kept) == len(recomputed)
    assert all(torch.isfinite(value).all() for value in kept)
    for actual, expected in zip(recomputed, kept, strict=True):
        assert torch.equal(actual, expected)


@MODES
@pytest.mark.parametrize("normalizer", ["batch", "group"])
@pytest.mark.parametrize("network", NETWORKS)
def test_losses_gradients_and_running_statistics_are_equal(network, normalizer, mode):
    assert_equal_to_keep(network, normalizer, mode, "float32")


@MODES
@pytest.mark.parametrize(
    "normalizer", [name for name in NORMALIZERS if name not in ("batch", "group")]
)
def test_every_normalizer_trains_the_same(normalizer, mode):
    if mode == "recompute-block" and NORMALIZERS[normalizer].reads_past_batches:
        # Refused by the configuration.
        with pytest.raises(AssertionError):
            assert_equal_to_keep("basic", normalizer, mode, "float32")
    else:
        assert_equal_to_keep("basic", normalizer, mode, "float32")


@MODES
@pytest.mark.parametrize(
    ("normalizer", "settings"),
    [
        ("group", {"per_frame": True}),
        ("rms_group", {"per_frame": True}),
        ("group", {"implementation": "reference"}),
        ("batch", {"implementation": "reference"}),
        ("sub_batch", {"sub_batch_clips": 1}),
    ],
)
def test_settings_train_the_same(normalizer, settings, mode):
    assert_equal_to_keep("i3d", normalizer, mode, "float32", **settings)


@pytest.fixture
def plain_convolutions():
    """oneDNN's bfloat16 convolutions give other gradients each time, whatever is kept."""
    torch._C._set_mkldnn_enabled(False)
    yield
    torch._C._set_mkldnn_enabled(True)


@MODES
@pytest.mark.parametrize("normalizer", ["batch", "group", "group_ws"])
@pytest.mark.parametrize("network", ["i3d", "bottleneck"])
@pytest.mark.usefixtures("plain_convolutions")
def test_autocast_trains_the_same(network, normalizer, mode):
    assert_equal_to_keep(network, normalizer, mode, "bfloat16")


@MODES
@pytest.mark.parametrize("normalizer", ["batch", "group"])
def test_tritons_kernels_train_the_same(normalizer, mode):
    """As `NETWORKS`, but so small that an interpreter of the kernels gets through."""
    make_normalizer = normalizer_factory(normalizer, num_groups=2, implementation="triton")
    model = make_model("resnet3d_10", 5, make_normalizer, width=4, stem_pool=True)
    initialize(model, 3, zero_final_gamma=False)
    again = copy.deepcopy(model.train())
    clips = torch.randn(2, 3, 4, 16, 16, generator=torch.Generator().manual_seed(1))

    kept = train_step(model, clips, "keep")
    recomputed = train_step(again, clips, mode)

    for actual, expected in zip(recomputed, kept, strict=True):
        assert torch.equal(actual, expected)


def enlarge(module: nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor:
    return output * 1.5


def list_gradients(model: VideoClassifier) -> list[torch.Tensor]:
    return [parameter.grad for parameter in model.parameters() if parameter.grad is not None]


@MODES
def test_hooks_of_convolutions_see_and_change_what_they_do_otherwise(mode):
    def train(mode: str) -> list[torch.Tensor]:
        model, clips = make("i3d", "group")
        for module in model.modules():
            if isinstance(module, nn.Conv3d) and module.kernel_size == (1, 1, 1):
                module.register_forward_hook(enlarge)
        return train_step(model, clips, mode)

    for actual, expected in zip(train(mode), train("keep"), strict=True):
        assert torch.equal(actual, expected)


@MODES
def test_a_kept_graph_goes_backward_twice(mode):
    model, clips = make("basic", "batch")
    with ActivationMemory(model, mode).forward_pass():
        loss = model(clips).square().sum()
    loss.backward(retain_graph=True)
    once = [gradient.clone() for gradient in list_gradients(model)]
    loss.backward()

    for gradient, half in zip(list_gradients(model), once, strict=True):
        assert torch.equal(gradient, 2 * half)


@MODES
def test_the_backward_pass_may_run_within_the_context_and_contexts_be_nested(mode):
    def train(*modes: str) -> list[torch.Tensor]:
        model, clips = make("basic", "batch")
        with ExitStack() as stack:
            for entered in modes:
                stack.enter_context(ActivationMemory(model, entered).forward_pass())
            model(clips).square().sum().backward()
        assert all("forward" not in vars(module) for module in model.modules())
        return list_gradients(model)

    for modes in ((mode,), (mode, mode)):
        for actual, expected in zip(train(*modes), train("keep"), strict=True):
            assert torch.equal(actual, expected)


def test_a_forward_of_a_blocks_own_comes_back():
    model, clips = make("basic", "batch")
    block = model.list_blocks()[0]
    own = block.forward
    block.forward = own
    with ActivationMemory(model, "recompute-block").forward_pass():
        model(clips)
    assert vars(block)["forward"] is own


def test_the_model_is_as_before_after_the_forward_pass():
    model, clips = make("basic", "group")
    for mode in ACTIVATION_MEMORY:
        with ActivationMemory(model, mode).forward_pass():
            model(clips)
        for module in model.modules():
            assert not module._forward_hooks
            assert "forward" not in vars(module)


@MODES
def test_evaluation_is_untouched(mode):
    model, clips = make("basic", "batch")
    model.eval()
    expected = model(clips)
    ActivationMemory(model, mode)
    assert torch.equal(model(clips), expected)


def test_unknown_mode_lists_the_known_ones():
    model, _ = make("basic", "group")
    with pytest.raises(ModelError, match="'less'; choose one of keep, recompute-norm, "):
        ActivationMemory(model, "less")


@pytest.mark.parametrize("normalizer", ["batch", "group"])
def test_papers_network_keeps_no_more_than_promised(normalizer):
    with torch.device("meta"):
        model = make_model("i3d_r50", 400, normalizer_factory(normalizer)).to(torch.bfloat16)
    model.train()

    megabytes = {
        mode: count_activation_bytes(model, (32, 224, 224), mode) / 1e6
        for mode in ACTIVATION_MEMORY
    }

    assert megabytes["keep"] <= 326
    assert megabytes["recompute-norm"] <= 226
    assert megabytes["recompute-pointwise"] <= 150
    assert megabytes["recompute-block"] < megabytes["recompute-pointwise"]


@pytest.mark.parametrize("mode", ACTIVATION_MEMORY)
@pytest.mark.parametrize("network", ["i3d", "basic", "inception"])
def test_the_meta_device_counts_what_the_cpu_keeps(network, mode):
    name, settings, num_frames, pixels = NETWORKS[network]
    counts: list[int] = []
    for device in ("meta", "cpu"):
        with torch.device(device):
            model = make_model(name, 5, normalizer_factory("group", num_groups=4), **settings)
        counts.append(count_activation_bytes(model.train(), (num_frames, pixels, pixels), mode))
    assert counts[0] == counts[1]
