from __future__ import annotations

from pathlib import Path

import pytest
import torch

from gnvideo.build import build_model, check_normalizer
from gnvideo.comparison import make_runs
from gnvideo.config import ComparisonConfig, RunConfig, load_config
from gnvideo.evaluation import get_protocol
from gnvideo.layers import NORMALIZERS

FOLDER = Path(__file__).parents[1] / "configs"
PATHS = sorted(FOLDER.rglob("*.yaml"))
NUM_KINETICS_CLASSES = 400

each_config = pytest.mark.parametrize("path", PATHS, ids=lambda path: str(path.relative_to(FOLDER)))


def load_runs(path: Path) -> list[RunConfig]:
    kind = path.relative_to(FOLDER).parts[0]
    if kind == "comparisons":
        return [run.config for run in make_runs(load_config(ComparisonConfig, path))]
    assert kind == "runs"
    return [load_config(RunConfig, path)]


@each_config
def test_a_configuration_opens_with_source_command_cost_and_expected_result(path: Path) -> None:
    head: list[str] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        head.append(line.removeprefix("#").strip())
    words = ("Source:", "Command:", "Cost:", "Expected:")
    found = [next((line for line in head if line.startswith(word)), "") for word in words]
    assert [line.partition(":")[0] + ":" for line in found] == list(words)
    assert all(line.partition(":")[2].strip() for line in found)
    assert f"configs/{path.relative_to(FOLDER)}" in " ".join(head)


def test_all_normalizers_are_in_the_comparison_of_all() -> None:
    path = FOLDER / "comparisons" / "all_normalizers_quick.yaml"
    entries = load_config(ComparisonConfig, path).grid.normalizers
    assert {entry.name for entry in entries} >= set(NORMALIZERS)


@each_config
def test_every_run_of_a_configuration_can_be_built(path: Path) -> None:
    # Runs of a comparison that differ in seed or batch have the same network.
    networks = {
        (config.model, config.normalizer, config.data): config for config in load_runs(path)
    }
    assert networks
    for config in networks.values():
        check_normalizer(config.normalizer.name)
        get_protocol(config.evaluation.protocol)
        get_protocol(config.evaluation.monitor_protocol)
        with torch.device("meta"):
            model = build_model(config.model, config.normalizer, config.data, NUM_KINETICS_CLASSES)
        assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
        shapes = {tuple(parameter.shape) for parameter in model.parameters()}
        assert (NUM_KINETICS_CLASSES,) in shapes
