"""Networks of pytorchvideo: equal to the hub's, with the factory's convolutions and normalizers."""

from __future__ import annotations

import dataclasses
import sys
import warnings
from typing import Any

import pytest
import torch
from torch import nn

from gnvideo.errors import ModelError
from gnvideo.layers import NORMALIZERS, NormalizerFactory, NormalizerSettings, normalizer_factory
from gnvideo.layers.adjusted_conv import AdjustedConv3d
from gnvideo.models import initialize, make_model, make_pytorchvideo_network
from gnvideo.models.pytorchvideo_adapter import PYTORCHVIDEO_NETWORKS
from gnvideo.models.pytorchvideo_networks import pick_slow_frames
from gnvideo.models.pytorchvideo_normalizers import NormalizerSlot, place_normalizers

with warnings.catch_warnings():
    # pytorchvideo calls torch.jit functions that torch has deprecated.
    warnings.simplefilter("ignore")
    from pytorchvideo.layers.swish import Swish
    from pytorchvideo.models import hub

# Clips as small as the network allows, and the hub's settings that make its head fit them.
SMALL_CLIPS: dict[str, tuple[int, int, dict[str, Any]]] = {
    "slow_r50": (4, 64, {}),
    "i3d_r50": (8, 64, {}),
    "c2d_r50": (4, 64, {}),
    "r2plus1d_r50": (8, 64, {}),
    "csn_r101": (8, 64, {}),
    "slowfast_r50": (8, 64, {"head_pool_kernel_sizes": ((2, 2, 2), (8, 2, 2))}),
    "x3d_xs": (4, 64, {}),
}
HEAD_POOLS = {
    "slow_r50": (4, 2, 2),
    "i3d_r50": (4, 2, 2),
    "c2d_r50": (2, 2, 2),
    "r2plus1d_r50": (2, 2, 2),
    "csn_r101": (1, 2, 2),
    "x3d_xs": (4, 2, 2),
}
SLOWFAST_NAMES = [name for name in PYTORCHVIDEO_NETWORKS if name.startswith("slowfast")]


def make_theirs(name: str, **settings: Any) -> Any:
    """Returns the hub's network for 5 classes, with logits as outputs."""
    return getattr(hub, name)(model_num_class=5, head_activation=None, **settings)


def make_small_pair(name: str, **settings: Any) -> tuple[Any, Any]:
    """Returns ours and the hub's with equal weights, none at a value that hides its effect."""
    frames, pixels, hub_settings = SMALL_CLIPS[name]
    theirs = make_theirs(name, **hub_settings, **settings)
    if name in HEAD_POOLS:
        head = theirs.blocks[-1]
        pooling = head.pool if name.startswith("x3d") else head
        pooling.pool = nn.AvgPool3d(HEAD_POOLS[name], stride=1)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for key, value in theirs.state_dict().items():
            if value.ndim == 1 and value.is_floating_point():
                # Scales of 0.2 and more: branches add up over up to 33 blocks.
                low, high = (0.2, 0.8) if key.endswith("weight") else (-0.1, 0.1)
                low, high = (0.5, 2.0) if key.endswith("running_var") else (low, high)
                value.uniform_(low, high, generator=generator)
    ours = make_model(
        f"pytorchvideo_{name}",
        5,
        normalizer_factory("batch"),
        train_crop_pixels=pixels,
        num_frames=frames,
    )
    ours.load_state_dict(theirs.state_dict())
    return ours.eval(), theirs.eval()


def run_theirs(theirs: Any, name: str, clips: torch.Tensor) -> torch.Tensor:
    if name.startswith("slowfast"):
        num_frames = clips.shape[2]
        indices = torch.linspace(0, num_frames - 1, num_frames // 4).long()
        return theirs([clips.index_select(2, indices), clips])
    return theirs(clips)


def random_clips(name: str, width_factor: float = 1.0) -> torch.Tensor:
    frames, pixels, _ = SMALL_CLIPS[name]
    generator = torch.Generator().manual_seed(0)
    return torch.randn(1, 3, frames, pixels, int(pixels * width_factor), generator=generator)


def assert_equal_to_rounding(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    # Same operators on same numbers; pooling and SiLU round in another order.
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5 * theirs.abs().max().item())


@pytest.mark.parametrize("name", PYTORCHVIDEO_NETWORKS)
def test_state_dict_is_the_hubs_key_for_key(name):
    with torch.device("meta"):
        ours = make_model(f"pytorchvideo_{name}", 400, normalizer_factory("batch"))
        theirs = getattr(hub, name)()
    assert [(key, value.shape) for key, value in ours.state_dict().items()] == [
        (key, value.shape) for key, value in theirs.state_dict().items()
    ]


@pytest.mark.parametrize("name", PYTORCHVIDEO_NETWORKS)
def test_training_clip_is_the_one_that_the_hubs_head_pools_whole(name):
    with torch.device("meta"):
        ours = make_model(f"pytorchvideo_{name}", 5, normalizer_factory("group"))
        theirs: Any = make_theirs(name)
    pool = theirs.blocks[-1].pool
    if name in SLOWFAST_NAMES:
        pool = theirs.blocks[-2].pool[0]
    elif name.startswith("x3d"):
        pool = pool.pool
    assert ours.position_pool == tuple(pool.kernel_size)


@pytest.mark.parametrize("name", SMALL_CLIPS)
def test_logits_equal_the_hubs_at_equal_weights(name):
    ours, theirs = make_small_pair(name)
    # The wide clip has several positions, over which the hub averages logits.
    for clips in (random_clips(name), random_clips(name, width_factor=1.6)):
        with torch.no_grad():
            expected = run_theirs(theirs, name, clips)
            assert_equal_to_rounding(ours(clips), expected)
    assert expected.std() > 1e-3, "logits this small would show nothing"


@pytest.mark.parametrize("name", ["c2d_r50", "slowfast_r50", "x3d_xs"])
def test_position_logits_are_the_hubs_before_its_average(name):
    ours, theirs = make_small_pair(name, head_output_with_global_average=False)
    clips = random_clips(name, width_factor=1.6)
    with torch.no_grad():
        expected = run_theirs(theirs, name, clips).flatten(2)
        position_logits = ours.compute_position_logits(clips)
    assert position_logits.shape == expected.shape
    assert expected.shape[2] > 1
    assert_equal_to_rounding(position_logits, expected)


@pytest.mark.parametrize("name", ["r2plus1d_r50", "x3d_xs"])
def test_softmax_of_the_logits_is_the_hubs_output_where_it_ends_with_one(name):
    ours, theirs = make_small_pair(name)
    theirs.blocks[-1].activation = getattr(hub, name)().blocks[-1].activation
    assert isinstance(theirs.blocks[-1].activation, nn.Softmax)
    clips = random_clips(name)
    with torch.no_grad():
        assert_equal_to_rounding(ours(clips).softmax(dim=1), theirs(clips))


def test_x3d_at_its_own_size_is_the_hubs():
    theirs: Any = hub.x3d_xs().eval()
    ours = make_model("pytorchvideo_x3d_xs", 400, normalizer_factory("batch")).eval()
    initialize(ours, 0, zero_final_gamma=False)
    theirs.load_state_dict(ours.state_dict())
    # The hub tests at 182 pixels: four positions, softmax at each, then their mean.
    clips = torch.randn(1, 3, 4, 182, 182, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        position_logits = ours.compute_position_logits(clips)
        expected = theirs(clips)
    assert position_logits.shape == (1, 400, 4)
    assert_equal_to_rounding(position_logits.softmax(dim=1).mean(dim=2), expected)


@pytest.mark.parametrize("name", ["slowfast_r50", "x3d_xs"])
def test_training_and_its_gradients_are_the_hubs(name):
    ours, theirs = make_small_pair(name)
    for module in theirs.modules():
        if isinstance(getattr(module, "act_b", None), Swish):
            # Its backward uses an attribute of autograd that torch has deprecated.
            module.act_b = nn.SiLU()
    for network in (ours, theirs):
        network.double().train()
        network.blocks[-1].dropout.p = 0.0
    clips = random_clips(name).double().repeat(2, 1, 1, 1, 1)
    clips[1] = clips[1].flip(3)
    expected = run_theirs(theirs, name, clips)
    logits = ours(clips)
    torch.testing.assert_close(logits, expected, rtol=1e-9, atol=1e-9)

    logits.square().sum().backward()
    expected.square().sum().backward()
    gradients = {key: parameter.grad for key, parameter in ours.named_parameters()}
    for key, parameter in theirs.named_parameters():
        error = (gradients[key] - parameter.grad).abs().max()
        assert error <= 1e-7 * parameter.grad.abs().max(), key
    state = ours.state_dict()
    for key, buffer in theirs.named_buffers():
        torch.testing.assert_close(state[key], buffer, rtol=1e-9, atol=1e-9)


class MarkedConv(AdjustedConv3d):
    def compute_weight(self) -> torch.Tensor:
        return self.weight


def marked_factory() -> NormalizerFactory:
    spec = dataclasses.replace(NORMALIZERS["batch"], conv_type=MarkedConv)
    return NormalizerFactory(spec, NormalizerSettings())


def find_followers(network: nn.Module, run: Any) -> dict[str, str]:
    """Returns which module takes each convolution's and normalizer's output, as seen in a run."""
    makers: dict[int, str] = {}
    followers: dict[str, str] = {}
    kept: list[torch.Tensor] = []
    names = {module: name for name, module in network.named_modules()}
    watched = (nn.Conv3d, nn.BatchNorm3d, nn.ReLU)

    def before(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        maker = makers.get(id(inputs[0]))
        if maker is not None:
            followers[maker] = names[module]

    def after(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        # Kept, so that no later tensor gets the same id.
        kept.append(output)
        makers[id(output)] = names[module]

    for module in names:
        if isinstance(module, watched):
            module.register_forward_pre_hook(before)
            module.register_forward_hook(after)
    run()
    return followers


@pytest.mark.parametrize("name", PYTORCHVIDEO_NETWORKS)
def test_every_convolution_before_a_normalizer_and_every_relu_after_one_is_the_factorys(name):
    spec = PYTORCHVIDEO_NETWORKS[name]
    with torch.device("meta"):
        theirs: Any = make_theirs(name)
        ours = make_model(f"pytorchvideo_{name}", 5, marked_factory())
        clips = torch.empty(2, 3, spec.num_frames, spec.train_crop_pixels, spec.train_crop_pixels)
        pathways = [clips[:, :, ::4], clips] if name in SLOWFAST_NAMES else clips
        followers = find_followers(theirs, lambda: theirs(pathways))

    modules = dict(theirs.named_modules())
    normalized = {
        conv
        for conv, follower in followers.items()
        if isinstance(modules[follower], nn.BatchNorm3d)
    }
    activated = {
        norm
        for norm, follower in followers.items()
        if isinstance(modules[norm], nn.BatchNorm3d) and isinstance(modules[follower], nn.ReLU)
    }
    our_modules: dict[str, Any] = dict(ours.named_modules())
    marked = {key for key, module in our_modules.items() if isinstance(module, MarkedConv)}
    relu = {key for key, m in our_modules.items() if getattr(m, "activation", None) == "relu"}
    assert marked == normalized
    assert relu == activated
    # X3D's residual sums, and squeeze-and-excitation, have ReLUs of their own.
    assert {key for key, m in our_modules.items() if type(m) is nn.ReLU} == {
        key for key, m in modules.items() if type(m) is nn.ReLU
    } - {followers[norm] for norm in activated}
    for key in marked:
        theirs_conv = modules[key]
        for attribute in ("kernel_size", "stride", "padding", "groups", "bias"):
            assert getattr(our_modules[key], attribute) == getattr(theirs_conv, attribute), key


def test_normalizer_at_an_unknown_place_is_noticed():
    network = nn.ModuleDict({"conv": nn.Conv3d(3, 4, 1, bias=False), "bn": NormalizerSlot(4)})
    with pytest.raises(AssertionError, match=r"no normalizer was placed at \['bn'\]"):
        place_normalizers(network, marked_factory(), plain_convs=())


def test_convolution_without_a_normalizer_is_noticed_unless_it_is_known():
    network = nn.ModuleDict({"fuse": nn.Conv3d(3, 4, 1, bias=False)})
    with pytest.raises(AssertionError, match=r"convolutions \['fuse'\] were left, not \[\]"):
        place_normalizers(network, marked_factory(), plain_convs=())
    place_normalizers(network, marked_factory(), plain_convs=("fuse",))
    assert type(network["fuse"]) is nn.Conv3d


@pytest.mark.parametrize("name", ["r2plus1d_r50", "csn_r101", "slowfast_r50", "x3d_s"])
def test_initialization_sets_every_parameter(name):
    model = make_model(f"pytorchvideo_{name}", 5, normalizer_factory("batch"))
    with torch.no_grad():
        for value in model.state_dict().values():
            value.fill_(float("nan") if value.is_floating_point() else -1)
    initialize(model, 0)

    for key, value in model.state_dict().items():
        assert value.isfinite().all(), key
        assert value.ge(0).all() or value.is_floating_point(), key
        if key.endswith("weight") and value.ndim == 5:
            # Depthwise ones too: of outputs that one input channel reaches. Draws are many.
            fan_out = value[0, 0].numel() * value.shape[0]
            conv: Any = model.get_submodule(key.removesuffix(".weight"))
            std = (2 * conv.groups / fan_out) ** 0.5
            error = 6 / value.numel() ** 0.5
            assert value.std().item() == pytest.approx(std, rel=error), key
        elif key.endswith("bias"):
            assert value.eq(0).all(), key


@pytest.mark.parametrize(
    ("name", "num_blocks"),
    [("c2d_r50", 16), ("csn_r101", 33), ("slowfast_r50", 32), ("x3d_s", 26)],
)
def test_final_normalizers_are_those_that_the_hub_marks(name, num_blocks):
    with torch.device("meta"):
        ours = make_model(f"pytorchvideo_{name}", 5, normalizer_factory("group"))
        theirs = getattr(hub, name)()
    marked = {key for key, m in theirs.named_modules() if getattr(m, "block_final_bn", False)}
    names = {module: key for key, module in ours.named_modules()}
    assert {names[norm] for norm in ours.final_normalizers()} == marked
    assert len(marked) == num_blocks


def test_groups_are_the_factorys():
    with torch.device("meta"):
        model: Any = make_model(
            "pytorchvideo_c2d_r50", 5, normalizer_factory("group", num_groups=16)
        )
    assert model.blocks[0].norm.num_groups == 16


def test_slow_pathway_takes_pyslowfasts_frames():
    for num_frames in range(4, 132, 4):
        expected = torch.linspace(0, num_frames - 1, num_frames // 4).long().tolist()
        assert pick_slow_frames(num_frames) == expected


def test_slowfast_takes_a_longer_clip_in_several_positions():
    ours, _ = make_small_pair("slowfast_r50")
    clips = random_clips("slowfast_r50")
    with torch.no_grad():
        logits = ours.compute_position_logits(torch.cat([clips, clips.flip(2)], dim=2))
    assert logits.shape == (1, 5, 3)


def test_slowfast_keeps_the_layout_of_clips():
    with torch.device("meta"):
        model: Any = make_model(
            "pytorchvideo_slowfast_r50",
            5,
            normalizer_factory("group"),
            train_crop_pixels=64,
            num_frames=8,
        )
        clips = torch.empty(2, 3, 8, 64, 64).contiguous(memory_format=torch.channels_last_3d)
    seen: list[torch.Tensor] = []
    for stem in model.blocks[0].multipathway_blocks:
        stem.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    model(clips)
    assert [tuple(x.shape) for x in seen] == [(2, 3, 2, 64, 64), (2, 3, 8, 64, 64)]
    assert all(x.is_contiguous(memory_format=torch.channels_last_3d) for x in seen)


@pytest.mark.parametrize("num_frames", [30, 33])
def test_slowfast_names_frames_that_do_not_divide_by_4(num_frames):
    with torch.device("meta"), pytest.raises(ModelError, match=f"{num_frames} frames.*multiple of"):
        make_model(
            "pytorchvideo_slowfast_r50",
            5,
            normalizer_factory("group"),
            num_frames=num_frames,
        )


def test_unknown_network_lists_the_known_ones():
    with pytest.raises(ModelError, match="'x3d'; choose one of slow_r50, i3d_r50, c2d_r50, r2plus"):
        make_pytorchvideo_network(
            "x3d",
            5,
            normalizer_factory("group"),
            dropout_rate=0.5,
            train_crop_pixels=64,
            num_frames=8,
        )


def test_missing_pytorchvideo_is_an_error_only_when_a_network_is_made(monkeypatch):
    for name in [module for module in sys.modules if module.split(".")[0] == "pytorchvideo"]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ModelError, match="install pytorchvideo, or choose another model"):
        make_model("pytorchvideo_c2d_r50", 5, normalizer_factory("group"))
