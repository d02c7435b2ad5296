"""Recomputes BatchNorm's evaluation statistics with the weights held fixed ("precise BN").

Running statistics are a moving average over weights that were still changing. The recomputed ones
are those of the population that the given batches make up.

Axes: C channels; L = sum of C over the model's batch norms.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.modules.batchnorm import (
    _BatchNorm,  # pyright: ignore[reportPrivateUsage] (torch's only common base of its batch norms)
)

from gnvideo.errors import NormalizerError
from gnvideo.layers.normalizer import has_running_statistics
from gnvideo.layers.sync_batch_norm import SyncBatchNorm3d
from gnvideo.ops.moments import compute_batch_moments


def compute_precise_statistics(model: nn.Module, batches: Iterable[Any], num_batches: int) -> int:
    """Sets the running statistics of every batch norm to those of the given batches.

    Runs `model(batch)` without gradients, each batch norm normalizing by its batch as in training
    and everything else (dropout) as in evaluation. Then, for each channel over all elements of all
    batches of all processes: running_mean = E[x], running_var = E[(x - E[x])^2]. Batches may differ
    in size; an element counts once wherever it is. If anything fails on the way, the model keeps
    its statistics. Modes and `num_batches_tracked` are left as they were.

    Under torch.distributed every process has to call this; each brings its own batches, and all end
    with the same statistics. With synchronized batch norms all have to bring as many batches, since
    each of these normalizes by the clips of all processes, as in training.

    What the kinds of batch norm normalize by meanwhile is what they train with: sub-batches their
    own, batch renormalization its batch with r and d towards the statistics to be replaced.

    Args:
        model: The model, on the batches' device.
        batches: Inputs of `model`.
        num_batches: At most so many are taken from `batches`.

    Returns:
        The number of batches used by this process; 0, with nothing read, where the model has no
        batch norm with running statistics.

    Raises:
        NormalizerError: There was no batch, num_batches is not positive, or a model with
            synchronized batch norms got different numbers of batches in different processes.

    Source: Wu and Johnson, "Rethinking 'Batch' in BatchNorm", 2021, sec. 3, arXiv:2105.07576. The
        statistics are pooled as in Chan, Golub and LeVeque, "Updating formulae and a pairwise
        algorithm for computing sample variances", 1979.
    """
    if num_batches < 1:
        raise NormalizerError(
            f"precise statistics from {num_batches} batches; num_batches must be at least 1"
        )
    layers = [m for m in model.modules() if isinstance(m, _BatchNorm) and has_running_statistics(m)]
    if not layers:
        return 0

    moments = [_Moments(layer) for layer in layers]
    num_used = 0
    with contextlib.ExitStack() as stack:
        stack.enter_context(_batch_statistics_in_use(model, layers))
        stack.enter_context(torch.no_grad())
        for layer, layer_moments in zip(layers, moments, strict=True):
            handle = layer.register_forward_pre_hook(_make_hook(layer_moments))
            stack.callback(handle.remove)
        for batch in _take_in_step(itertools.islice(batches, num_batches), layers):
            model(batch)
            num_used += 1

    _combine_processes(moments)
    if all(layer_moments.count == 0 for layer_moments in moments):
        raise NormalizerError(
            "precise statistics need at least one batch and got none; give more clips"
        )
    for layer_moments in moments:
        layer_moments.store()
    return num_used


class _Moments:
    """Count, mean (C,) and squared deviations' sum (C,) of one batch norm's inputs, in float64."""

    def __init__(self, layer: _BatchNorm) -> None:
        assert layer.running_mean is not None
        self.layer = layer
        self.count = 0
        self.mean = torch.zeros_like(layer.running_mean, dtype=torch.float64)
        self.deviations = torch.zeros_like(self.mean)

    def add(self, x: torch.Tensor) -> None:
        """Adds all elements of x (N, C, *)."""
        count = x.numel() // x.shape[1]
        if count == 0:
            return
        mean, var = compute_batch_moments(x)
        total = self.count + count
        step = mean.double() - self.mean
        self.mean += step * (count / total)
        self.deviations += var.double() * count + step.square() * (self.count * count / total)
        self.count = total

    def store(self) -> None:
        """Writes the population's mean and variance to the layer, if it was run at all."""
        if self.count == 0:
            return
        assert self.layer.running_mean is not None
        assert self.layer.running_var is not None
        self.layer.running_mean.copy_(self.mean)
        self.layer.running_var.copy_(self.deviations / self.count)


def _take_in_step(batches: Iterator[Any], layers: list[_BatchNorm]) -> Generator[Any]:
    """Yields the batches; where layers wait for other processes, all go on together or none."""
    in_step = _in_group() and any(isinstance(m, SyncBatchNorm3d | nn.SyncBatchNorm) for m in layers)
    for batch in batches:
        if in_step:
            _agree_to_go_on(layers[0], has_batch=True)
        yield batch
    if in_step:
        _agree_to_go_on(layers[0], has_batch=False)


def _agree_to_go_on(layer: _BatchNorm, *, has_batch: bool) -> None:
    assert layer.running_mean is not None
    num_ready = layer.running_mean.new_tensor([float(has_batch)])
    dist.all_reduce(num_ready)
    if int(num_ready.item()) not in (0, dist.get_world_size()):
        raise NormalizerError(
            f"{int(num_ready.item())} of {dist.get_world_size()} processes have another batch for "
            f"precise statistics; synchronized batch norms need as many batches in each: give all "
            f"processes equal shares"
        )


def _in_group() -> bool:
    return dist.is_available() and dist.is_initialized()


def _make_hook(moments: _Moments) -> Callable[[nn.Module, tuple[torch.Tensor, ...]], None]:
    def add_input(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        moments.add(inputs[0])

    return add_input


@contextlib.contextmanager
def _batch_statistics_in_use(model: nn.Module, layers: list[_BatchNorm]) -> Generator[None]:
    """Within it, the layers use their batch and touch no buffer; all else is in evaluation mode."""
    was_training = [(module, module.training) for module in model.modules()]
    model.eval()
    for layer in layers:
        layer.train()
        layer.track_running_stats = False
    try:
        yield
    finally:
        for layer in layers:
            layer.track_running_stats = True
        for module, training in was_training:
            module.training = training


def _combine_processes(moments: list[_Moments]) -> None:
    """Pools the moments over all processes of torch.distributed: each then has those of all."""
    if not _in_group():
        return
    sizes = [layer_moments.mean.numel() for layer_moments in moments]
    mean_L = torch.cat([layer_moments.mean for layer_moments in moments])
    deviations_L = torch.cat([layer_moments.deviations for layer_moments in moments])
    count_L = torch.cat(
        [torch.full_like(layer_moments.mean, layer_moments.count) for layer_moments in moments]
    )

    total_L = count_L.clone()
    sum_L = mean_L * count_L
    dist.all_reduce(total_L)
    dist.all_reduce(sum_L)
    pooled_mean_L = sum_L / total_L.clamp(min=1)
    deviations_L += count_L * (mean_L - pooled_mean_L).square()
    dist.all_reduce(deviations_L)

    for layer_moments, total, mean, deviations in zip(
        moments,
        total_L.split(sizes),
        pooled_mean_L.split(sizes),
        deviations_L.split(sizes),
        strict=True,
    ):
        layer_moments.count = int(total[0].item())
        layer_moments.mean = mean
        layer_moments.deviations = deviations
