"""Which normalizations `bench norm` measures: those of networks, recorded, and a sweep of sizes.

Axes: N clips, C channels, G groups, T frames, H height, W width.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from gnvideo.build import build_model
from gnvideo.config import ComparisonConfig, RunConfig, load_config, make_config
from gnvideo.errors import ConfigError
from gnvideo.layers import GroupNorm3d, normalizer_factory
from gnvideo.models import make_model

Kind = Literal["relu", "plain", "add"]
"""ReLU follows; nothing follows; a residual is added and ReLU follows."""

# No weight depends on it.
_NUM_CLASSES = 2
_I3D_PIXELS = 224
_SWEEP_CLIPS = 2
_SWEEP_CHANNELS = (8, 16, 64, 256)
_SWEEP_GROUP_WIDTHS = (1, 2, 4, 8)
_SWEEP_SIZES = ((2, 4, 4), (4, 28, 28))


@dataclasses.dataclass(frozen=True, slots=True)
class NormLayer:
    """A normalization, and how often it stands in a network.

    Attributes:
        num_channels: C.
        size: T, H, W.
        num_groups: G.
        kind: What follows the normalization.
        memory_format: Of its input.
        residual_format: Of what is added; None where nothing is.
        count: How often.
    """

    num_channels: int
    size: tuple[int, int, int]
    num_groups: int
    kind: Kind
    memory_format: torch.memory_format = torch.channels_last_3d
    residual_format: torch.memory_format | None = None
    count: int = 1

    @property
    def name(self) -> str:
        """`64x16x112x112:G32:relu`: C, T, H, W, then G, the kind, and layouts out of the usual."""
        name = f"{'x'.join(map(str, (self.num_channels, *self.size)))}:G{self.num_groups}"
        name += f":{self.kind}"
        if self.memory_format != torch.channels_last_3d:
            name += ":contiguous"
        if self.residual_format not in (None, self.memory_format):
            name += ":mixed"
        return name

    @property
    def num_elements(self) -> int:
        """Of one clip."""
        frames, height, width = self.size
        return self.num_channels * frames * height * width


@dataclasses.dataclass(frozen=True, slots=True)
class LayerTable:
    """The normalizations of a network at one number of clips.

    Attributes:
        network: Its name and its clip's size.
        num_clips: N.
        layers: Distinct, in the order in which they run first.
    """

    network: str
    num_clips: int
    layers: tuple[NormLayer, ...]

    @property
    def name(self) -> str:
        """The network and the clips, for people."""
        return f"{self.network}, {self.num_clips} clip{'s' if self.num_clips > 1 else ''}"

    def select(self, words: Sequence[str]) -> LayerTable:
        """Returns the table of the layers whose names hold one of the words.

        Raises:
            ConfigError: a word is in no name.
        """
        for word in words:
            if not any(word in layer.name for layer in self.layers):
                raise ConfigError(
                    f"no layer of {self.network} has {word!r} in its name; they are "
                    f"{', '.join(layer.name for layer in self.layers)}"
                )
        chosen = (layer for layer in self.layers if any(word in layer.name for word in words))
        return dataclasses.replace(self, layers=tuple(chosen))


def make_i3d_table(num_frames: int, num_clips: int, name: str = "i3d_r50") -> LayerTable:
    """Returns the normalizations of the GroupNorm paper's network, all in channels_last_3d.

    That is what cuDNN's convolutions give, which compute in it.

    Args:
        num_frames: T of a clip of 224 x 224 pixels.
        num_clips: N.
        name: Another network of `MODELS`.

    Raises:
        ModelError: the clip is too short.
    """
    with torch.device("meta"):
        model = make_model(
            name,
            _NUM_CLASSES,
            normalizer_factory("group"),
            num_frames=num_frames,
            train_crop_pixels=_I3D_PIXELS,
        )
    clips_NCTHW = torch.empty(num_clips, 3, num_frames, _I3D_PIXELS, _I3D_PIXELS, device="meta")
    layers = record_layers(model, clips_NCTHW)
    # The meta device computes no layouts.
    layers = tuple(
        dataclasses.replace(
            layer,
            memory_format=torch.channels_last_3d,
            residual_format=torch.channels_last_3d if layer.kind == "add" else None,
        )
        for layer in layers
    )
    return LayerTable(f"{name} of {num_frames} frames", num_clips, layers)


def make_comparison_tables(path: Path) -> list[LayerTable]:
    """Returns the normalizations of a comparison's GroupNorm runs, a table for each of its batches.

    Layouts are those of a forward pass on the CPU, which differ between one clip and several.

    Args:
        path: Its configuration; of its grid, the clips per batch alone count.

    Raises:
        InputFileError: the file is missing or unreadable.
        ConfigError: it is not the configuration of a comparison.
        ModelError: the network does not take its clips.
    """
    comparison = load_config(ComparisonConfig, path)
    # Of a run, all that its network depends on.
    run = make_config(RunConfig, {"output": "not written", **comparison.base}, source=str(path))
    normalizer = run.normalizer.model_copy(update={"name": "group"})
    model = build_model(run.model, normalizer, run.data, _NUM_CLASSES)
    size = (run.data.num_frames, run.data.crop_pixels, run.data.crop_pixels)
    network = f"{run.model.name} of {path.stem}"
    return [
        LayerTable(network, clips, record_layers(model, torch.zeros(clips, 3, *size)))
        for clips in comparison.grid.clips_per_batch
    ]


def make_sweep_table() -> LayerTable:
    """Returns a layer of each of many C, C / G, sizes and layouts."""
    layers = [
        NormLayer(channels, size, channels // width, "relu", memory_format)
        for size in _SWEEP_SIZES
        for channels in _SWEEP_CHANNELS
        for width in sorted({*_SWEEP_GROUP_WIDTHS, channels})
        for memory_format in (torch.contiguous_format, torch.channels_last_3d)
    ]
    return LayerTable("sweep", _SWEEP_CLIPS, tuple(layers))


@torch.no_grad()
def record_layers(model: nn.Module, clips_NCTHW: torch.Tensor) -> tuple[NormLayer, ...]:
    """Returns the distinct normalizations of a forward pass in training, in order.

    Args:
        model: With GroupNorm3d as normalizers. It is changed to training and to channels_last_3d
            weights, as the training loop has it.
        clips_NCTHW: On the model's device.
    """
    seen: Counter[NormLayer] = Counter()

    def remember(module: nn.Module, args: tuple[Any, ...]) -> None:
        assert isinstance(module, GroupNorm3d)
        x, *residual = args
        seen[
            NormLayer(
                num_channels=module.num_channels,
                size=tuple(x.shape[2:]),
                num_groups=module.num_groups,
                kind="add" if residual else "relu" if module.activation == "relu" else "plain",
                memory_format=_find_memory_format(x),
                residual_format=_find_memory_format(residual[0]) if residual else None,
            )
        ] += 1

    model.train().to(memory_format=torch.channels_last_3d)
    hooks = [
        module.register_forward_pre_hook(remember)
        for module in model.modules()
        if isinstance(module, GroupNorm3d)
    ]
    model(clips_NCTHW.contiguous(memory_format=torch.channels_last_3d))
    for hook in hooks:
        hook.remove()
    return tuple(dataclasses.replace(layer, count=count) for layer, count in seen.items())


def _find_memory_format(x: torch.Tensor) -> torch.memory_format:
    if x.is_contiguous(memory_format=torch.channels_last_3d):
        return torch.channels_last_3d
    return torch.contiguous_format
