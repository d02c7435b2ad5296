from __future__ import annotations

import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn

from gnvideo.errors import NormalizerError
from gnvideo.layers import GroupNorm3d, compute_precise_statistics


def make_batches(sizes: list[int], *, mean: float = 0.0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    # Each batch has its own mean and deviation, so that a mean of batch variances is not enough.
    return [
        torch.randn(n, 4, 2, 3, 5, generator=generator) * (index + 1) + mean + 3 * index
        for index, n in enumerate(sizes)
    ]


def get_statistics(norm: nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
    assert isinstance(norm, nn.BatchNorm3d)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    return norm.running_mean, norm.running_var


@pytest.mark.parametrize("mean", [0.0, 1000.0], ids=["small-mean", "large-mean"])
def test_statistics_are_those_of_all_clips_together(mean):
    batches = make_batches([3, 1, 4], mean=mean)
    model = nn.Sequential(nn.BatchNorm3d(4))

    assert compute_precise_statistics(model, batches, 10) == 3

    everything = torch.cat(batches).double()
    var, expected_mean = torch.var_mean(everything, (0, 2, 3, 4), correction=0)
    running_mean, running_var = get_statistics(model[0])
    torch.testing.assert_close(running_mean.double(), expected_mean, rtol=1e-6, atol=1e-6)
    # A batch's mean is rounded to float32, by up to `mean` * 2^-24, and the batches' means lie up
    # to 6 apart: what lies between them enters the variance (about 12) with that error.
    torch.testing.assert_close(
        running_var.double(), var, rtol=1e-6, atol=1e-5 + 12 * mean * 2.0**-24
    )


def test_later_layers_see_clips_normalized_by_their_batch():
    batches = make_batches([2, 5])
    model = nn.Sequential(nn.BatchNorm3d(4), nn.Conv3d(4, 3, 1), nn.BatchNorm3d(3)).double()
    batches = [batch.double() for batch in batches]
    with torch.no_grad():
        inner = torch.cat([model[1](model[0].train()(batch)) for batch in batches])

    compute_precise_statistics(model, batches, 2)

    var, mean = torch.var_mean(inner, (0, 2, 3, 4), correction=0)
    torch.testing.assert_close(get_statistics(model[2]), (mean, var))


def test_only_the_asked_number_of_batches_is_used():
    batches = make_batches([2, 3, 4])
    first, limited = nn.BatchNorm3d(4), nn.BatchNorm3d(4)
    compute_precise_statistics(first, batches[:2], 2)
    assert compute_precise_statistics(limited, iter(batches), 2) == 2
    for ours, expected in zip(get_statistics(limited), get_statistics(first), strict=True):
        assert torch.equal(ours, expected)


def test_modes_and_counters_are_left_as_they_were():
    model = nn.Sequential(nn.BatchNorm3d(4), nn.Dropout(0.5), nn.BatchNorm3d(4))
    model.train()
    model[2].eval()

    compute_precise_statistics(model, make_batches([2, 2]), 2)

    assert [module.training for module in model] == [True, True, False]
    assert model[0].track_running_stats
    assert model[0].num_batches_tracked == 0
    assert not model[0]._forward_pre_hooks


def test_dropout_is_off():
    model = nn.Sequential(nn.Dropout(0.9), nn.BatchNorm3d(4)).train()
    (batch,) = make_batches([4])
    compute_precise_statistics(model, [batch], 1)
    torch.testing.assert_close(get_statistics(model[1])[0], batch.mean((0, 2, 3, 4)))


def test_failure_keeps_the_old_statistics():
    def fail_after_one():
        yield make_batches([2])[0]
        raise OSError("disk gone")

    model = nn.Sequential(nn.BatchNorm3d(4)).eval()
    with pytest.raises(OSError, match="disk gone"):
        compute_precise_statistics(model, fail_after_one(), 2)

    running_mean, running_var = get_statistics(model[0])
    assert torch.equal(running_mean, torch.zeros(4))
    assert torch.equal(running_var, torch.ones(4))
    assert model[0].track_running_stats
    assert not model[0].training


@pytest.mark.parametrize(
    "norm",
    [GroupNorm3d(4, 2), nn.BatchNorm3d(4, track_running_stats=False)],
    ids=["group", "batch-without-running-statistics"],
)
def test_nothing_is_read_where_no_layer_has_running_statistics(norm):
    def fail():
        raise AssertionError("a batch was read")
        yield

    assert compute_precise_statistics(nn.Sequential(norm), fail(), 5) == 0


@pytest.mark.parametrize(
    ("num_batches", "message"), [(5, "got none"), (0, "num_batches must be at least 1")]
)
def test_no_batches_are_an_error(num_batches, message):
    with pytest.raises(NormalizerError, match=message):
        compute_precise_statistics(nn.BatchNorm3d(4), [], num_batches)


OTHER_PROCESS = """
import sys
from datetime import timedelta

import torch
import torch.distributed as dist

from gnvideo.layers import compute_precise_statistics

folder = sys.argv[1]
torch.set_num_threads(1)
dist.init_process_group(
    "gloo", f"file://{folder}/store", timedelta(seconds=120), rank=1, world_size=2
)
results = []
for batches in torch.load(f"{folder}/shares.pt"):
    norm = torch.nn.BatchNorm3d(4)
    compute_precise_statistics(norm, batches, 10)
    results.append((norm.running_mean, norm.running_var))
torch.save(results, f"{folder}/results.pt")
dist.destroy_process_group()
"""


def test_two_processes_end_with_the_statistics_of_all_clips(tmp_path: Path):
    batches = make_batches([1, 4, 2])
    # Unequal shares, then a process without any clip; this process is rank 0.
    shares = [(batches[:1], batches[1:]), ([], batches)]
    torch.save([share for _, share in shares], tmp_path / "shares.pt")
    other = subprocess.Popen([sys.executable, "-c", OTHER_PROCESS, str(tmp_path)])
    results: list[tuple[torch.Tensor, torch.Tensor]] = []
    try:
        dist.init_process_group(
            "gloo", f"file://{tmp_path}/store", timedelta(seconds=120), rank=0, world_size=2
        )
        for share, _ in shares:
            norm = nn.BatchNorm3d(4)
            compute_precise_statistics(norm, share, 10)
            results.append(get_statistics(norm))
        assert other.wait(timeout=60) == 0
    finally:
        other.kill()
        if dist.is_initialized():
            dist.destroy_process_group()

    var, mean = torch.var_mean(torch.cat(batches).double(), (0, 2, 3, 4), correction=0)
    results += torch.load(tmp_path / "results.pt")
    assert len(results) == 4
    for running_mean, running_var in results:
        torch.testing.assert_close(running_mean.double(), mean, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(running_var.double(), var, rtol=1e-5, atol=0.0)
