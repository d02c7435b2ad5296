"""SyncBatchNorm3d on two processes against BatchNorm3d on one process with all their clips."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from sync_batch_norm_processes import SHARES, make_clips, make_network, run_steps
from torch import nn
from two_processes import run_two_processes

from gnvideo.layers import BatchNorm3d, SyncBatchNorm3d, compute_precise_statistics


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What sync_batch_norm_processes.py leaves, by process."""
    folder = tmp_path_factory.mktemp("sync")
    script = Path(__file__).with_name("sync_batch_norm_processes.py")
    run_two_processes(script, folder)
    return [torch.load(folder / f"sync_{rank}.pt", weights_only=True) for rank in range(2)]


def test_unequal_batches_train_as_one_batch_of_all_clips(results):
    alone = make_network(BatchNorm3d)
    # The wrapped model averages gradients over the processes.
    expected = run_steps(alone, alone, None, scale=1 / 2)
    for step, whole in enumerate(expected):
        first, second = (result["steps"][step] for result in results)
        assert len(first["y"]) == SHARES[0][step]
        assert len(second["y"]) == SHARES[1][step]
        for name, value in whole.items():
            if name == "y":
                torch.testing.assert_close(torch.cat([first[name], second[name]]), value)
            elif name == "dx":
                torch.testing.assert_close(torch.cat([first[name], second[name]]) / 2, value)
            else:
                torch.testing.assert_close(first[name], value)
                assert torch.equal(first[name], second[name])


def test_precise_statistics_are_those_of_one_process_with_all_clips(results):
    network = make_network(BatchNorm3d)
    compute_precise_statistics(network, [make_clips(step) for step in range(2)], 10)
    for name, value in network.named_buffers():
        first, second = (result["precise"][name] for result in results)
        torch.testing.assert_close(first, value)
        assert torch.equal(first, second)


def test_unequal_numbers_of_batches_are_an_error_in_every_process(results):
    for result in results:
        assert "1 of 2 processes have another batch" in result["unequal"]
        assert "equal shares" in result["unequal"]


def test_half_precision_is_that_of_one_process(results):
    expected = nn.BatchNorm3d(3)(make_clips(0).bfloat16().float())
    half = torch.cat([result["half"] for result in results]).float()
    # One rounding to bfloat16.
    torch.testing.assert_close(half, expected, rtol=1.01 * 2.0**-8, atol=1e-5)


def test_large_means_cost_no_more_than_their_digits(results):
    x = make_clips(0, 1e4).float()
    exact = nn.BatchNorm3d(3).double()
    y = torch.cat([result["large_mean"] for result in results]).double()
    # The deviation is about 2: 1e4 / 2 of the digits are the mean's.
    torch.testing.assert_close(y, exact(x.double()), rtol=0, atol=4 * 1e4 / 2 * 2.0**-24)
    # A clip's mean is rounded by up to 1e4 * 2^-24, and the clips' means lie up to 2.5 apart: the
    # square of what lies between them enters the variance with that error, a tenth of it here.
    allowed = 0.1 * 2 * 2.5 * 1e4 * 2.0**-24
    for result in results:
        torch.testing.assert_close(
            result["large_mean_var"].double(), exact.running_var, rtol=1e-5, atol=allowed
        )


def test_one_process_is_batch_norm_to_the_bit():
    x, upstream = make_clips(0).float(), make_clips(0).float()
    outcomes: list[list[torch.Tensor]] = []
    for norm in (SyncBatchNorm3d(3, activation="relu"), BatchNorm3d(3, activation="relu")):
        inputs = x.clone().requires_grad_()
        y = norm(inputs)
        y.backward(upstream)
        assert inputs.grad is not None
        outcomes.append([y.detach(), inputs.grad, *norm.buffers()])
    for ours, expected in zip(*outcomes, strict=True):
        assert torch.equal(ours, expected)
