"""Run by torchrun: synchronized batch norms on all processes; results in FOLDER."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import nn

from gnvideo.errors import NormalizerError
from gnvideo.layers import BatchNorm3d, SyncBatchNorm3d, compute_precise_statistics
from gnvideo.training import distributed

# Clips of each process, in each of the steps.
SHARES = ((3, 1), (1, 2))


def make_network(norm_type: type[BatchNorm3d]) -> nn.Sequential:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv3d(3, 5, 1, bias=False),
        norm_type(5, activation="relu"),
        nn.Conv3d(5, 4, (1, 3, 3), bias=False),
        norm_type(4, momentum=0.3),
    )
    for name, parameter in network.named_parameters():
        if not name.startswith(("0", "2")):
            nn.init.normal_(parameter, 1.0, 0.3)
    return network.double()


def make_clips(step: int, mean: float = 0.0) -> torch.Tensor:
    """The clips of all processes in a step; each clip has a scale and a mean of its own."""
    generator = torch.Generator().manual_seed(step)
    num_clips = sum(share[step] for share in SHARES)
    scales = torch.linspace(0.5, 3, num_clips).reshape(-1, 1, 1, 1, 1)
    x = torch.randn(num_clips, 3, 2, 5, 4, generator=generator, dtype=torch.float64)
    return x * scales + scales + mean


def make_upstream(step: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(100 + step)
    num_clips = sum(share[step] for share in SHARES)
    return torch.randn(num_clips, 4, 2, 3, 2, generator=generator, dtype=torch.float64)


def take_share(whole: torch.Tensor, step: int, rank: int) -> torch.Tensor:
    return whole.split([share[step] for share in SHARES])[rank]


def run_steps(
    network: nn.Module, called: nn.Module, rank: int | None, scale: float = 1.0
) -> list[dict[str, torch.Tensor]]:
    """Two steps of descent; returns y, dx, gradients and buffers of each."""
    results: list[dict[str, torch.Tensor]] = []
    for step in range(len(SHARES[0])):
        x, upstream = make_clips(step), make_upstream(step)
        if rank is not None:
            x, upstream = take_share(x, step, rank), take_share(upstream, step, rank)
        x.requires_grad_()
        network.zero_grad()
        y = called(x)
        y.backward(upstream * scale)
        result = {"y": y.detach(), "dx": _get_gradient(x)}
        for name, parameter in network.named_parameters():
            result[name] = _get_gradient(parameter).clone()
            parameter.data -= 0.1 * _get_gradient(parameter)
        for name, buffer in network.named_buffers():
            result[name] = buffer.clone()
        results.append(result)
    return results


def _get_gradient(tensor: torch.Tensor) -> torch.Tensor:
    assert tensor.grad is not None
    return tensor.grad


def compute_precise(network: nn.Module, rank: int) -> dict[str, torch.Tensor]:
    batches = [take_share(make_clips(step), step, rank) for step in range(2)]
    assert compute_precise_statistics(network, batches, 10) == 2
    return {name: buffer.clone() for name, buffer in network.named_buffers()}


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    with distributed.process_group("cpu"):
        rank = distributed.get_rank()
        results: dict[str, object] = {}
        network = make_network(SyncBatchNorm3d)
        results["steps"] = run_steps(network, distributed.wrap_model(network), rank)
        results["precise"] = compute_precise(make_network(SyncBatchNorm3d), rank)
        try:
            compute_precise_statistics(network, [make_clips(0)] * (1 + rank), 10)
        except NormalizerError as error:
            results["unequal"] = str(error)

        # Evaluation waits for nobody.
        if rank == 0:
            network.eval()(make_clips(0))

        norm = SyncBatchNorm3d(3)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            x = take_share(make_clips(0), 0, rank).bfloat16().requires_grad_()
            x = x.contiguous(memory_format=torch.channels_last_3d)
            y = norm(x)
        assert y.dtype == torch.bfloat16
        assert y.is_contiguous(memory_format=torch.channels_last_3d)
        results["half"] = y.detach()

        norm = SyncBatchNorm3d(3)
        results["large_mean"] = norm(take_share(make_clips(0, 1e4), 0, rank).float()).detach()
        results["large_mean_var"] = norm.running_var
        torch.save(results, folder / f"sync_{rank}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
