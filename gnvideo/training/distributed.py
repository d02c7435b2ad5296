"""Many processes: torchrun's environment, torch.distributed, DistributedDataParallel.

Every function also works without a process group, as the only process of one.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from gnvideo.errors import ConfigError

Value = TypeVar("Value")


@contextmanager
def process_group(device: str) -> Generator[torch.device]:
    """Yields this process's device, inside a process group if torchrun started the process.

    Args:
        device: "cpu", "cuda" or "cuda:<n>". Under torchrun "cuda" is the GPU of LOCAL_RANK, and
            the processes talk through NCCL; on the CPU through gloo.

    Raises:
        ConfigError: torchrun started more processes on this machine than it has GPUs, or all of
            them were given one and the same GPU.
    """
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        yield torch.device(device)
        return
    chosen = _choose_gpu(device) if device.startswith("cuda") else torch.device(device)
    dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
    try:
        yield chosen
    finally:
        dist.destroy_process_group()


def _choose_gpu(device: str) -> torch.device:
    if device != "cuda" and int(os.environ["WORLD_SIZE"]) > 1:
        raise ConfigError(
            f"the device is {device} in every process; set it to cuda or auto, and each process"
            " takes its own GPU"
        )
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    num_gpus = torch.cuda.device_count()
    if local_rank >= num_gpus:
        raise ConfigError(
            f"torchrun started process {local_rank} of this machine, which has {num_gpus} GPUs;"
            f" use --nproc-per-node {num_gpus} or fewer, or the CPU"
        )
    chosen = torch.device("cuda", local_rank) if device == "cuda" else torch.device(device)
    torch.cuda.set_device(chosen)
    return chosen


def get_rank() -> int:
    """Returns this process's number in [0, get_world_size())."""
    return dist.get_rank() if _in_group() else 0


def get_world_size() -> int:
    """Returns the number of processes of the run."""
    return dist.get_world_size() if _in_group() else 1


def is_main_process() -> bool:
    """Returns whether this process writes the run folder."""
    return get_rank() == 0


def wait_for_all() -> None:
    """Returns when every process has called it."""
    if _in_group():
        dist.barrier()


def gather_objects(value: Value) -> list[Value]:
    """Returns every process's `value`, in the order of ranks, on every process."""
    if not _in_group():
        return [value]
    values: list[object] = [None] * get_world_size()
    dist.all_gather_object(values, value)
    return cast(list[Value], values)


def sum_over_processes(tensor: torch.Tensor) -> torch.Tensor:
    """Returns the sum of every process's `tensor`, the same on all; `tensor` stays as it is."""
    total = tensor.clone()
    if _in_group():
        dist.all_reduce(total)
    return total


def wrap_model(model: nn.Module) -> nn.Module:
    """Returns the module to call in a step: gradients come out averaged over the processes.

    Each process normalizes its own clips, but for synchronized batch norms: batch statistics see
    the clips of one device, and running statistics go their own way on each until
    `broadcast_buffers`.
    """
    if not _in_group() or get_world_size() == 1:
        return model
    # torch 2.15 renamed the option and warns at the earlier name.
    parameters = inspect.signature(DistributedDataParallel.__init__).parameters
    renamed = "forward_sync_buffers" in parameters
    options: dict[str, Any] = {"forward_sync_buffers" if renamed else "broadcast_buffers": False}
    return DistributedDataParallel(model, gradient_as_bucket_view=True, **options)


def broadcast_buffers(model: nn.Module) -> None:
    """Copies the first process's buffers, such as running statistics, to all processes.

    Done before each evaluation and each save, so that all processes evaluate the model that is
    saved, and a resumed run goes on from what a run never stopped would have.
    """
    if _in_group():
        for buffer in model.buffers():
            dist.broadcast(buffer, src=0)


def _in_group() -> bool:
    return dist.is_available() and dist.is_initialized()
