"""`bench memory`: what a training step keeps of a clip, counted, for each way of keeping less."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import nn

from gnvideo.commands.bench_report import BenchReport, ReportTable, publish
from gnvideo.errors import ConfigError
from gnvideo.layers import (
    NormalizerFactory,
    NormalizerSettings,
    NormalizerSpec,
    normalizer_factory,
)
from gnvideo.layers.groups import find_num_groups
from gnvideo.models import VideoClassifier, list_settings, make_model
from gnvideo.models.activation_memory import ACTIVATION_MEMORY, ActivationMemory
from gnvideo.models.classifier import Size3
from gnvideo.models.costs import count_activation_bytes
from gnvideo.ops.activation import Activation

_NUM_CLASSES = 400
_NUM_CLIPS = 2
_NUM_GROUPS = 32

_METHOD = (
    "What autograd keeps of a clip for the backward pass of a training step, each storage counted"
    " once; MB are 10^6 bytes. Nothing is computed: the tensors have sizes and no content, those of"
    " CUDA included. bfloat16 is torch.autocast on CUDA, with float32 parameters, as in training."
)


@dataclass(frozen=True, slots=True)
class KeptMemory:
    """What one network keeps.

    Attributes:
        network: Who normalizes, and how: `gnvideo` or `torch`, and the normalizer.
        mode: In `ACTIVATION_MEMORY`.
        num_frames: Of a clip.
        bytes_per_clip: That are kept.
        repeated_macs: Multiply-accumulates per clip of the forward pass that the backward pass
            does again.
        forward_macs: All of the forward pass.
    """

    network: str
    mode: str
    num_frames: int
    bytes_per_clip: int
    repeated_macs: int
    forward_macs: int


def run_bench_memory(
    model_name: str, *, frame_counts: Sequence[int], crop_pixels: int, json_path: Path | None
) -> None:
    """Counts and prints; `launch.py bench memory`.

    Args:
        model_name: In `gnvideo.models.MODELS`.
        frame_counts: Frames of a clip, one or more numbers.
        crop_pixels: Height and width of a clip.
        json_path: Where to save the figures; None is nowhere.

    Raises:
        ConfigError: A size is below 1.
        ModelError: No model has that name, or the clip is too small for it.
        OutputError: The file cannot be written.
        SaveFailedError: Writing failed half-way.
    """
    for option, value in (("--pixels", crop_pixels), *(("--frames", n) for n in frame_counts)):
        if value < 1:
            raise ConfigError(f"{option} is {value}; it must be at least 1")
    list_settings(model_name)
    # How many groups each width gets matters to a run, not to the memory.
    logging.disable(logging.INFO)
    try:
        rows = [
            row
            for num_frames in frame_counts
            for row in count_kept_memory(model_name, (num_frames, crop_pixels, crop_pixels))
        ]
    finally:
        logging.disable(logging.NOTSET)
    publish(_make_report(model_name, crop_pixels, rows), json_path)


def count_kept_memory(model_name: str, clip: Size3) -> list[KeptMemory]:
    """Returns the rows for one size of clips (frames, height, width), torch's modules first."""
    # Imports of torch that take seconds.
    from torch._subclasses.fake_tensor import FakeTensorMode

    def make(make_normalizer: NormalizerFactory, device: str) -> VideoClassifier:
        with torch.device(device):
            model = make_model(
                model_name,
                _NUM_CLASSES,
                make_normalizer,
                num_frames=clip[0],
                train_crop_pixels=clip[1],
            )
        return model.train()

    # A backward pass needs a GPU to be on one, so operations are counted on the meta device.
    model = make(normalizer_factory("group"), "meta")
    macs = {mode: _count_macs(model, clip, mode) for mode in ACTIVATION_MEMORY}
    forward_macs, backward_macs = macs["keep"]

    networks: dict[str, tuple[NormalizerFactory, Sequence[str]]] = {}
    for name, spec in _TORCH_MODULES.items():
        networks[f"torch {name}"] = NormalizerFactory(spec, NormalizerSettings()), ("keep",)
    for name in _TORCH_MODULES:
        own = normalizer_factory(name, implementation="native")
        networks[f"gnvideo {name}"] = own, ACTIVATION_MEMORY
    rows: list[KeptMemory] = []
    # Tensors without content that say that they are on a GPU: autocast treats them as it would.
    with FakeTensorMode():
        for network, (make_normalizer, modes) in networks.items():
            model = make(make_normalizer, "cuda")
            for mode in modes:
                kept_bytes = count_activation_bytes(model, clip, mode, _run_under_autocast)
                repeated_macs = macs[mode][1] - backward_macs
                rows.append(
                    KeptMemory(network, mode, clip[0], kept_bytes, repeated_macs, forward_macs)
                )
    return rows


def _count_macs(model: VideoClassifier, clip: Size3, mode: str) -> tuple[int, int]:
    """Returns multiply-accumulates per clip of the forward and of the backward pass."""
    # It imports Triton where that is installed.
    from torch.utils.flop_counter import FlopCounterMode

    clips = torch.empty(_NUM_CLIPS, 3, *clip, device="meta")
    with FlopCounterMode(display=False) as forward, ActivationMemory(model, mode).forward_pass():
        logits = model(clips)
    with FlopCounterMode(display=False) as backward:
        logits.sum().backward()
    # A multiply-accumulate is two operations.
    forward_macs, backward_macs = (
        count.get_total_flops() // 2 // _NUM_CLIPS for count in (forward, backward)
    )
    return forward_macs, backward_macs


def _run_under_autocast(model: VideoClassifier, num_clips: int, clip: Size3) -> torch.Tensor:
    clips = torch.empty(num_clips, 3, *clip, device="cuda")
    with _cuda_autocast():
        return model(clips.contiguous(memory_format=torch.channels_last_3d))


@contextmanager
def _cuda_autocast() -> Generator[None]:
    """`torch.autocast` of bfloat16, which refuses to begin on a machine without a GPU."""
    was_enabled, dtype = torch.is_autocast_enabled("cuda"), torch.get_autocast_dtype("cuda")
    torch.set_autocast_enabled("cuda", True)
    torch.set_autocast_dtype("cuda", torch.bfloat16)
    try:
        yield
    finally:
        torch.clear_autocast_cache()
        torch.set_autocast_enabled("cuda", was_enabled)
        torch.set_autocast_dtype("cuda", dtype)


def _make_torch_spec(name: str, make: Callable[[int], nn.Module]) -> NormalizerSpec:
    """Returns torch's normalizer and its ReLU as the modules that they are."""

    def build(channels: int, settings: NormalizerSettings, activation: Activation) -> nn.Module:
        del settings
        return nn.Sequential(make(channels), *([nn.ReLU(inplace=True)] if activation else []))

    return NormalizerSpec(name=name, build=build, settings=())


_TORCH_MODULES = {
    "batch": _make_torch_spec("batch", nn.BatchNorm3d),
    "group": _make_torch_spec(
        "group",
        lambda channels: nn.GroupNorm(find_num_groups(channels, _NUM_GROUPS), channels),
    ),
}


def _make_report(model_name: str, crop_pixels: int, rows: Sequence[KeptMemory]) -> BenchReport:
    tables: list[ReportTable] = []
    for num_frames in dict.fromkeys(row.num_frames for row in rows):
        chosen = [row for row in rows if row.num_frames == num_frames]
        base = next(row for row in chosen if row.network == "torch group")
        tables.append(
            ReportTable(
                f"{model_name}, {num_frames} frames of {crop_pixels} x {crop_pixels}",
                ("network", "activation memory", "MB per clip", "of torch group", "forward again"),
                tuple(_format_row(row, base) for row in chosen),
            )
        )
    notes = (
        "torch: nn.BatchNorm3d or nn.GroupNorm, then nn.ReLU(inplace=True). Autocast computes"
        " nn.GroupNorm in float32 and casts there and back.",
        "forward again: multiply-accumulates of the forward pass that the backward pass repeats."
        " Normalizing is none of them: each activation is normalized again, once for the gradient"
        " of the convolution behind it and, by torch's kernels, once for its own.",
    )
    return BenchReport("memory", _METHOD, tuple(tables), notes, {"rows": [asdict(r) for r in rows]})


def _format_row(row: KeptMemory, base: KeptMemory) -> tuple[str, ...]:
    return (
        row.network,
        row.mode,
        f"{row.bytes_per_clip / 1e6:.1f}",
        f"{row.bytes_per_clip / base.bytes_per_clip:.2f}",
        f"{100 * row.repeated_macs / row.forward_macs:.1f} %",
    )
