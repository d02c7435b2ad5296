"""The options of the data section, from the command line to the end of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from gnvideo.cli import main
from gnvideo.training.run_log import read_log


def train(config: dict[str, Any], folder: Path, *words: str) -> list[dict[str, Any]]:
    """Runs a training of two clips a batch and returns the events of its log."""
    values = {**config, "output": "unset"}
    values["training"] = {**config["training"], "clips_per_batch": 2}
    folder.mkdir()
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(values))
    assert main(["train", str(path), f"output={folder / 'run'}", *words]) == 0
    return read_log(folder / "run")


def list_losses(events: list[dict[str, Any]]) -> list[float]:
    return [event["loss"] for event in events if event["event"] == "train"]


@pytest.mark.parametrize("options", [(), ("data.clips_per_open=2", "data.pixel_format=yuv420")])
def test_a_run_does_not_depend_on_how_its_clips_are_loaded(
    options: tuple[str, ...], tiny_run_config: dict[str, Any], tmp_path: Path
) -> None:
    here = train(tiny_run_config, tmp_path / "here", *options)
    workers = ("data.num_workers=2", "data.prefetch_batches=1", "data.start_method=forkserver")
    there = train(tiny_run_config, tmp_path / "there", *workers, *options)
    assert list_losses(here) == list_losses(there)
    curves = [
        [event for event in events if event["event"] == "evaluate"] for events in (here, there)
    ]
    assert curves[0] == curves[1]


def test_several_clips_an_opened_video_are_another_stream_of_clips(
    tiny_run_config: dict[str, Any], tmp_path: Path
) -> None:
    one = train(tiny_run_config, tmp_path / "one")
    two = train(tiny_run_config, tmp_path / "two", "data.clips_per_open=2")
    assert list_losses(one) != list_losses(two)
