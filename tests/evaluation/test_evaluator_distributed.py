"""Two processes over gloo give what one gives.

The test's own process is rank 0; it starts this file as a script for rank 1.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from gnvideo.errors import GnvideoError, VideoError
from gnvideo.evaluation import EvaluationResult, Protocol, evaluate

NUM_VIDEOS = 7
WORLD_SIZE = 2
PROTOCOL = Protocol(
    name="three", num_clips=3, sampling="nonlocal", crop="full", description="for tests"
)


@dataclass(frozen=True)
class Video:
    views_VCTHW: Tensor
    label: int
    video_id: str
    position: int


class MeanColourClassifier(nn.Module):
    """Six classes from the mean colour; one position."""

    def __init__(self):
        super().__init__()
        weight_KC = torch.randn(6, 3, generator=torch.Generator().manual_seed(5))
        self.weight_KC = nn.Parameter(weight_KC)

    def compute_position_logits(self, clips_NCTHW: Tensor) -> Tensor:
        return (clips_NCTHW.mean((2, 3, 4)) @ self.weight_KC.T)[..., None]

    def compute_whole_logits(self, clips_NCTHW: Tensor) -> Tensor:
        return self.compute_position_logits(clips_NCTHW)


def iterate_share(rank: int, world_size: int, unreadable: int | None = None) -> Iterator[Video]:
    """Yields every `world_size`-th video from `rank` on; raises at position `unreadable`."""
    for position in range(rank, NUM_VIDEOS, world_size):
        if position == unreadable:
            raise VideoError(f"cannot decode video{position}")
        generator = torch.Generator().manual_seed(position)
        views = torch.randint(0, 256, (3, 3, 1, 2, 2), generator=generator, dtype=torch.uint8)
        yield Video(views, position % 3, f"video{position}", position)


def run(videos: Iterator[Video]) -> EvaluationResult:
    return evaluate(
        MeanColourClassifier(),
        videos,
        prepare=lambda views: views.float() / 32,
        device="cpu",
        class_names=tuple("abcdef"),
        protocol=PROTOCOL,
        num_videos=NUM_VIDEOS,
        views_per_forward=2,
    )


def describe(result: EvaluationResult) -> dict[str, Any]:
    assert result.metrics is not None
    return {
        "metrics": [
            result.metrics.clip_top1,
            result.metrics.clip_top5,
            result.metrics.video_top1,
            result.metrics.video_top5,
            result.metrics.mean_class_accuracy,
        ],
        "videos": [[p.video_id, p.label, p.num_top1_views] for p in result.predictions],
    }


def describe_failure(videos: Iterator[Video]) -> str:
    try:
        run(videos)
    except GnvideoError as error:
        return f"{type(error).__name__}: {error}"
    return "no error"


def run_as_rank(rank: int, store: Path) -> dict[str, Any]:
    dist.init_process_group(
        "gloo",
        init_method=store.as_uri(),
        rank=rank,
        world_size=WORLD_SIZE,
        timeout=timedelta(seconds=120),
    )
    try:
        return {
            "result": describe(run(iterate_share(rank, WORLD_SIZE))),
            "unreadable": describe_failure(iterate_share(rank, WORLD_SIZE, unreadable=3)),
            "same share": describe_failure(iterate_share(0, WORLD_SIZE)),
        }
    finally:
        dist.destroy_process_group()


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    store = tmp_path_factory.mktemp("distributed") / "store"
    with subprocess.Popen(
        [sys.executable, __file__, str(store)], stdout=subprocess.PIPE, text=True
    ) as other:
        try:
            first = run_as_rank(0, store)
            output, _ = other.communicate(timeout=60)
        finally:
            other.kill()
    assert other.returncode == 0
    # Through JSON as well, so that both have its types.
    return [json.loads(json.dumps(first)), json.loads(output)]


def test_an_odd_number_of_videos_on_two_processes_gives_the_result_of_one(outcomes):
    expected = describe(run(iterate_share(0, 1)))
    assert 0 < expected["metrics"][0] < 100
    assert [outcome["result"] for outcome in outcomes] == [expected, expected]


def test_an_error_of_one_process_is_raised_in_all(outcomes):
    assert {outcome["unreadable"] for outcome in outcomes} == {"VideoError: cannot decode video3"}


def test_processes_that_read_the_same_share_are_refused(outcomes):
    for outcome in outcomes:
        assert outcome["same share"].startswith("WorkFailedError: 8 predictions")
        assert "4 repeated, 3 missing" in outcome["same share"]


if __name__ == "__main__":
    print(json.dumps(run_as_rank(1, Path(sys.argv[1]))))
