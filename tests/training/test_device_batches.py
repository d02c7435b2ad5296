from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
import torch

from gnvideo.training.device_batches import DeviceBatch, DeviceBatches
from gnvideo.training.speed import SpeedMeter

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)]


def generate_batches(count: int, fetched: list[int] | None = None) -> Iterator[DeviceBatch]:
    for number in range(count):
        if fetched is not None:
            fetched.append(number)
        clips_NTHWC = torch.full((2, 3, 8, 8, 3), number, dtype=torch.uint8)
        yield DeviceBatch(clips_NTHWC.permute(0, 4, 1, 2, 3), torch.tensor([number, -1]))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("prefetches", [0, 1, 2])
def test_batches_come_in_order_as_they_are_and_end(device: str, prefetches: int) -> None:
    batches = DeviceBatches(generate_batches(5), torch.device(device))
    for number in range(5):
        batch = batches.fetch()
        for _ in range(prefetches):
            batches.prefetch()
        assert batch.clips_NCTHW.device.type == batch.labels_N.device.type == device
        assert batch.clips_NCTHW.is_contiguous(memory_format=torch.channels_last_3d)
        assert batch.clips_NCTHW.unique().tolist() == [number]
        assert batch.labels_N.tolist() == [number, -1]
    with pytest.raises(StopIteration):
        batches.fetch()


def test_on_the_cpu_nothing_is_fetched_before_it_is_needed() -> None:
    fetched: list[int] = []
    batches = DeviceBatches(generate_batches(5, fetched), torch.device("cpu"))
    batches.prefetch()
    assert fetched == []
    batches.fetch()
    batches.prefetch()
    assert fetched == [0]


@pytest.mark.cuda
def test_on_a_gpu_one_batch_is_fetched_ahead() -> None:
    fetched: list[int] = []
    batches = DeviceBatches(generate_batches(5, fetched), torch.device("cuda"))
    batches.fetch()
    batches.prefetch()
    batches.prefetch()
    assert fetched == [0, 1]


@pytest.mark.parametrize("device", DEVICES)
def test_a_wait_in_which_the_device_has_nothing_to_do_counts(device: str) -> None:
    meter = SpeedMeter(torch.device(device))
    with meter.waiting_for_data():
        time.sleep(0.2)
    time.sleep(0.2)
    assert 0.3 < meter.measure()["data_wait_share"] < 0.6


@pytest.mark.cuda
def test_a_wait_in_which_the_gpu_works_does_not_count() -> None:
    meter = SpeedMeter(torch.device("cuda"))
    # About a second of work at some 2 GHz.
    torch.cuda._sleep(2_000_000_000)
    with meter.waiting_for_data():
        time.sleep(0.2)
    assert meter.measure()["data_wait_share"] == 0
