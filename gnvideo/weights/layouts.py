"""Under which names each project keeps the parts of a ResNet, and how its input is normalized.

A network's parts are called `stem.conv`, `stem.norm`, `<stage>.<block>.conv<i>`,
`<stage>.<block>.norm<i>`, `<stage>.<block>.shortcut.conv`, `<stage>.<block>.shortcut.norm` and
`head`, with stages from 1 and blocks from 0, whatever the layout.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

# ResNet-152 has 36 blocks in its third stage, and no published ResNet has more.
_MAX_BLOCKS = 36

Rgb = tuple[float, float, float]
Pair = tuple[str, str]


@dataclass(frozen=True, slots=True)
class PixelScale:
    """What a network's input is made with: (x - mean) / std, of RGB pixels in 0..1."""

    mean: Rgb
    std: Rgb


@dataclass(frozen=True, slots=True)
class Layout:
    """The names of one project's ResNets.

    Attributes:
        name: The name in options and reports.
        stem: The first convolution and its normalizer.
        stages: The four stages.
        block: A block below its stage, `{block}` being its number from 0.
        branch: The convolutions of a block's branch, each with its normalizer, below the block; a
            basic block has the first two.
        shortcut: The shortcut's convolution and normalizer, below the block.
        head: The last layer.
        pixels: The input of the weights that the project publishes.
    """

    name: str
    stem: Pair
    stages: tuple[str, str, str, str]
    block: str
    branch: tuple[Pair, Pair, Pair]
    shortcut: Pair
    head: str
    pixels: PixelScale


_IMAGENET = PixelScale((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_KINETICS = PixelScale((0.45, 0.45, 0.45), (0.225, 0.225, 0.225))
_TORCHVISION_VIDEO = PixelScale((0.43216, 0.394666, 0.37645), (0.22803, 0.22145, 0.216989))

# Detectron subtracts the mean (102.9801, 115.9465, 122.7717) of BGR pixels in 0..255 and divides by
# nothing. The division by 0.225 is `detectron.py`'s, which multiplies the first convolution by it.
DETECTRON_STD = 0.225
_DETECTRON = PixelScale(
    (122.7717 / 255, 115.9465 / 255, 102.9801 / 255), (DETECTRON_STD, DETECTRON_STD, DETECTRON_STD)
)

_LAYERS = ("layer1", "layer2", "layer3", "layer4")
_DOWNSAMPLE = ("downsample.0", "downsample.1")
# Of i3d_r50 and c2d_r50, whose block 2 is a pooling.
_PYTORCHVIDEO = Layout(
    name="pytorchvideo",
    stem=("blocks.0.conv", "blocks.0.norm"),
    stages=("blocks.1", "blocks.3", "blocks.4", "blocks.5"),
    block="res_blocks.{block}",
    branch=(
        ("branch2.conv_a", "branch2.norm_a"),
        ("branch2.conv_b", "branch2.norm_b"),
        ("branch2.conv_c", "branch2.norm_c"),
    ),
    shortcut=("branch1_conv", "branch1_norm"),
    head="blocks.6.proj",
    pixels=_KINETICS,
)

_LAYOUTS = (
    Layout(
        name="gnvideo",
        stem=("conv1", "norm1"),
        stages=_LAYERS,
        block="{block}",
        branch=(("conv1", "norm1"), ("conv2", "norm2"), ("conv3", "norm3")),
        shortcut=_DOWNSAMPLE,
        head="fc",
        pixels=_KINETICS,
    ),
    # Image networks of torchvision and timm, and GroupNorm's at bn1 to bn3.
    Layout(
        name="torchvision-image",
        stem=("conv1", "bn1"),
        stages=_LAYERS,
        block="{block}",
        branch=(("conv1", "bn1"), ("conv2", "bn2"), ("conv3", "bn3")),
        shortcut=_DOWNSAMPLE,
        head="fc",
        pixels=_IMAGENET,
    ),
    Layout(
        name="torchvision",
        stem=("stem.0", "stem.1"),
        stages=_LAYERS,
        block="{block}",
        branch=(("conv1.0", "conv1.1"), ("conv2.0", "conv2.1"), ("conv3.0", "conv3.1")),
        shortcut=_DOWNSAMPLE,
        head="fc",
        pixels=_TORCHVISION_VIDEO,
    ),
    _PYTORCHVIDEO,
    replace(
        _PYTORCHVIDEO,
        name="pytorchvideo-slow",
        stages=("blocks.1", "blocks.2", "blocks.3", "blocks.4"),
        head="blocks.5.proj",
    ),
    Layout(
        name="pyslowfast",
        stem=("s1.pathway0_stem.conv", "s1.pathway0_stem.bn"),
        stages=("s2", "s3", "s4", "s5"),
        block="pathway0_res{block}",
        branch=(
            ("branch2.a", "branch2.a_bn"),
            ("branch2.b", "branch2.b_bn"),
            ("branch2.c", "branch2.c_bn"),
        ),
        shortcut=("branch1", "branch1_bn"),
        head="head.projection",
        pixels=_KINETICS,
    ),
    Layout(
        name="mmaction2",
        stem=("backbone.conv1.conv", "backbone.conv1.bn"),
        stages=("backbone.layer1", "backbone.layer2", "backbone.layer3", "backbone.layer4"),
        block="{block}",
        branch=(("conv1.conv", "conv1.bn"), ("conv2.conv", "conv2.bn"), ("conv3.conv", "conv3.bn")),
        shortcut=("downsample.conv", "downsample.bn"),
        head="cls_head.fc_cls",
        pixels=PixelScale(
            (123.675 / 255, 116.28 / 255, 103.53 / 255), (58.395 / 255, 57.12 / 255, 57.375 / 255)
        ),
    ),
    # Of Caffe2's names `detectron.py` makes these.
    Layout(
        name="detectron",
        stem=("conv1", "conv1_gn"),
        stages=("res2", "res3", "res4", "res5"),
        block="{block}",
        branch=(
            ("branch2a", "branch2a_gn"),
            ("branch2b", "branch2b_gn"),
            ("branch2c", "branch2c_gn"),
        ),
        shortcut=("branch1", "branch1_gn"),
        head="pred",
        pixels=_DETECTRON,
    ),
)

LAYOUTS: Mapping[str, Layout] = MappingProxyType({layout.name: layout for layout in _LAYOUTS})


@dataclass(frozen=True, slots=True)
class Project:
    """Whose names a state dict has that is of no plain ResNet: they are taken as they are.

    Attributes:
        name: The name in options and reports.
        start: What a name starts with that no other project has.
        pixels: The input of the weights that the project publishes.
    """

    name: str
    start: str
    pixels: PixelScale


_PROJECTS = (
    Project("pytorchvideo", "blocks.0.", _KINETICS),
    Project("torchvision", "stem.0.", _TORCHVISION_VIDEO),
    # Inception-I3D, whose pixels are in -1..1.
    Project("pytorch-i3d", "Conv3d_1a_7x7.", PixelScale((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))),
)


def find_project(names: Collection[str]) -> Project | None:
    """Returns the project whose names these are, of networks that are no plain ResNets."""
    return next((p for p in _PROJECTS if any(n.startswith(p.start) for n in names)), None)


def find_layout(names: Collection[str]) -> Layout | None:
    """Returns the layout that a state dict's names have, or None.

    It needs the stem, and the first convolution of the first block of each stage.
    """
    for layout in _LAYOUTS:
        firsts = [
            f"{stage}.{layout.block.format(block=0)}.{layout.branch[0][0]}"
            for stage in layout.stages
        ]
        needed = [*layout.stem, *firsts]
        if all(f"{module}.weight" in names for module in needed):
            return layout
    return None


def rename(name: str, source: Layout, target: Layout) -> str | None:
    """Returns what the target layout calls a parameter or buffer of the source layout.

    None if the name is of no part that a ResNet has.
    """
    module, _, leaf = name.rpartition(".")
    part = _parts_by_name(source).get(module)
    return None if part is None else f"{_names_by_part(target)[part]}.{leaf}"


@functools.cache
def _names_by_part(layout: Layout) -> Mapping[str, str]:
    return dict(_list_parts(layout))


@functools.cache
def _parts_by_name(layout: Layout) -> Mapping[str, str]:
    return {name: part for part, name in _list_parts(layout)}


def _list_parts(layout: Layout) -> Iterator[Pair]:
    """Yields (part, module name) for all parts that any ResNet may have."""
    yield "stem.conv", layout.stem[0]
    yield "stem.norm", layout.stem[1]
    yield "head", layout.head
    for stage, stage_name in enumerate(layout.stages, start=1):
        for block in range(_MAX_BLOCKS):
            part = f"{stage}.{block}"
            name = f"{stage_name}.{layout.block.format(block=block)}"
            yield f"{part}.shortcut.conv", f"{name}.{layout.shortcut[0]}"
            yield f"{part}.shortcut.norm", f"{name}.{layout.shortcut[1]}"
            for index, (conv, norm) in enumerate(layout.branch, start=1):
                yield f"{part}.conv{index}", f"{name}.{conv}"
                yield f"{part}.norm{index}", f"{name}.{norm}"
