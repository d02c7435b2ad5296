"""Puts normalizers, and the convolutions in front of them, into a network of pytorchvideo."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import nn

from gnvideo.layers import NormalizerFactory
from gnvideo.models.classifier import Size3
from gnvideo.ops.activation import Activation


class NormalizerSlot(nn.Module):
    """The place of a normalizer. pytorchvideo builds with it, since it passes no activation.

    Attributes:
        num_channels: C of the normalizer.
    """

    def __init__(self, num_features: int, eps: float = 0.0, momentum: float = 0.0) -> None:
        """Takes the keywords of pytorchvideo; eps and momentum are those of the factory."""
        super().__init__()
        self.num_channels = num_features


class _Place(NamedTuple):
    """A convolution, the normalizer after it and the activation after that, by attribute."""

    conv: str
    normalizer: str
    activation: str | None


_PLACES = (
    # Stems.
    _Place("conv", "norm", "activation"),
    # Bottleneck blocks and their shortcuts.
    _Place("conv_a", "norm_a", "act_a"),
    _Place("conv_b", "norm_b", "act_b"),
    _Place("conv_c", "norm_c", None),
    _Place("branch1_conv", "branch1_norm", None),
    # Within R(2+1)D's pair of convolutions.
    _Place("conv_t", "norm", "activation"),
    # From SlowFast's fast pathway to its slow one.
    _Place("conv_fast_to_slow", "norm", "activation"),
    # X3D's head.
    _Place("pre_conv", "pre_norm", "pre_act"),
)


def place_normalizers(
    network: nn.Module, make_normalizer: NormalizerFactory, plain_convs: Sequence[str]
) -> None:
    """Fills each slot of the network, and replaces the convolution in front of it.

    A plain ReLU directly after a slot becomes the normalizer's; an identity takes its place.

    Args:
        network: A network of pytorchvideo built with `NormalizerSlot`, changed in place.
        make_normalizer: Makes the normalizers and the convolutions.
        plain_convs: Names of all convolutions without bias that no normalizer follows.

    Raises:
        AssertionError: The network is not built as this file knows: a slot is left, or
            `plain_convs` are not the convolutions that are left.
    """
    made: set[nn.Module] = set()
    for module in list(network.modules()):
        for place in _PLACES:
            slot = _find_slot(module, place)
            if slot is not None:
                made.add(_replace_conv(module, place, make_normalizer))
                _replace_slot(module, place, slot, make_normalizer)

    left = [name for name, m in network.named_modules() if isinstance(m, NormalizerSlot)]
    assert not left, f"no normalizer was placed at {left}"
    plain = [
        name
        for name, m in network.named_modules()
        if isinstance(m, nn.Conv3d) and m.bias is None and m not in made
    ]
    assert plain == list(plain_convs), f"convolutions {plain} were left, not {list(plain_convs)}"


def _find_slot(module: nn.Module, place: _Place) -> NormalizerSlot | None:
    """Returns the slot at a place of the module; None if there is none."""
    if getattr(module, place.conv, None) is None:
        return None
    found = getattr(module, place.normalizer, None)
    if isinstance(found, nn.Sequential):
        # In X3D's blocks squeeze-and-excitation, or an identity, follows in the same attribute.
        found = found[0]
    return found if isinstance(found, NormalizerSlot) else None


def _replace_conv(module: Any, place: _Place, make_normalizer: NormalizerFactory) -> nn.Conv3d:
    """Puts the factory's convolution at a place of the module; returns it."""
    conv = getattr(module, place.conv)
    if isinstance(conv, nn.Conv3d):
        made = _remake(conv, make_normalizer)
        setattr(module, place.conv, made)
    else:
        # R(2+1)D's blocks and X3D's stem: two convolutions, of which this is the second.
        assert not conv.conv_xy_first
        made = conv.conv_xy = _remake(conv.conv_xy, make_normalizer)
    return made


def _replace_slot(
    module: Any, place: _Place, slot: NormalizerSlot, make_normalizer: NormalizerFactory
) -> None:
    """Puts the factory's normalizer in the slot's place, with the ReLU that follows it."""
    found = getattr(module, place.normalizer)
    if isinstance(found, nn.Sequential):
        found[0] = make_normalizer(slot.num_channels)
        return
    activation: Activation = None
    if place.activation is not None and type(getattr(module, place.activation)) is nn.ReLU:
        activation = "relu"
        setattr(module, place.activation, nn.Identity())
    setattr(module, place.normalizer, make_normalizer(slot.num_channels, activation))


def _remake(conv: nn.Conv3d, make_normalizer: NormalizerFactory) -> nn.Conv3d:
    """Returns the factory's convolution of the same sizes."""
    assert conv.bias is None
    assert conv.dilation == (1, 1, 1)
    assert conv.padding_mode == "zeros"
    return make_normalizer.make_conv(
        conv.in_channels,
        conv.out_channels,
        _to_size(conv.kernel_size),
        _to_size(conv.stride),
        _to_size(conv.padding),
        groups=conv.groups,
    )


def _to_size(size: Any) -> Size3:
    # pytorchvideo computes some strides with numpy.
    T, H, W = map(int, size)
    return T, H, W
