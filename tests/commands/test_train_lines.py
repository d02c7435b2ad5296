from __future__ import annotations

import pytest

from gnvideo.commands.train import describe_statistics
from gnvideo.config import RunConfig, make_config


@pytest.mark.parametrize(
    ("normalizer", "stated"),
    [
        ("batch", " (batch statistics see 6)"),
        ("sync_batch", " (batch statistics see 18)"),
        ("sub_batch", " (batch statistics see 4)"),
        ("batch_channel", " (batch statistics see 6 and earlier batches)"),
        ("group", ""),
        ("frozen_batch", ""),
    ],
)
def test_a_run_says_how_many_clips_its_batch_statistics_see(normalizer, stated, monkeypatch):
    monkeypatch.setattr("gnvideo.training.distributed.get_world_size", lambda: 3)
    values = {
        "output": "run",
        "data": {"root": "data"},
        "normalizer": {"name": normalizer, "sub_batch_clips": 4},
        "training": {"clips_per_batch": 6},
    }
    assert describe_statistics(make_config(RunConfig, values, source="test")) == stated
