from __future__ import annotations

import gc
import multiprocessing
from pathlib import Path

import torch

from gnvideo.data.shared_slots import SharedSlots


def fill(slots: SharedSlots, slot: int, value: int) -> None:
    slots.open(slot)[:] = value


def test_another_process_writes_slots_that_did_not_exist_when_it_started() -> None:
    slots = SharedSlots(5000)
    process = multiprocessing.get_context("spawn").Process(target=fill, args=(slots, 3, 7))
    process.start()
    for _ in range(4):
        slot = slots.take()
        slots.open(slot)[:] = slot
    process.join()
    assert process.exitcode == 0
    assert [set(slots.open(slot).tolist()) for slot in range(4)] == [{0}, {1}, {2}, {7}]


def test_a_slot_is_free_when_the_last_tensor_in_it_is_gone() -> None:
    slots = SharedSlots(24)
    slot = slots.take()
    tensor = torch.from_numpy(slots.lend(slot).reshape(2, 3, 4)).permute(2, 0, 1)
    part = tensor[1, :, 2:]
    del tensor
    gc.collect()
    assert slots.take() != slot
    part.fill_(9)
    del part
    assert slots.take() == slot
    assert slots.open(slot).max() == 9


def test_memory_outlives_the_object_and_then_leaves_nothing_behind() -> None:
    def count_descriptors() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    before = count_descriptors()
    slots = SharedSlots(100)
    content = slots.lend(slots.take())
    content[:] = 5
    del slots
    assert int(content.sum()) == 500
    del content
    gc.collect()
    assert count_descriptors() == before
    assert "gnvideo" not in Path("/proc/self/maps").read_text()
