"""`bench norm`: the layers it measures, what it refuses, what it reports.

Axes: N clips, C channels, G groups, T frames, H height, W width.
"""

from __future__ import annotations

import dataclasses
import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest
import torch

from gnvideo.cli import main
from gnvideo.commands import bench_norm
from gnvideo.commands.bench_norm import NormChoices, list_tables
from gnvideo.commands.bench_report import Spread
from gnvideo.commands.norm_contestants import (
    CPU_CONTESTANTS,
    CUDA_CONTESTANTS,
    Contestant,
    choose_contestants,
)
from gnvideo.commands.norm_layers import LayerTable, NormLayer, make_i3d_table, make_sweep_table
from gnvideo.commands.norm_measuring import measure_table
from gnvideo.commands.norm_plot import Mark, draw_roofline
from gnvideo.commands.norm_report import draw_outcome, make_report
from gnvideo.commands.norm_results import LayerOutcome, Outcome, TableOutcome
from gnvideo.commands.norm_step import find_complaint
from gnvideo.commands.norm_targets import judge_cpu, judge_cuda
from gnvideo.commands.norm_timing import CpuTimer
from gnvideo.errors import ConfigError, WorkFailedError

LAST = torch.channels_last_3d
TINY = LayerTable(
    "tiny",
    2,
    (
        NormLayer(8, (2, 3, 5), 4, "relu"),
        NormLayer(6, (1, 3, 3), 3, "plain", torch.contiguous_format, count=2),
        NormLayer(8, (2, 3, 5), 8, "add", residual_format=LAST, count=3),
    ),
)

# The layer list of the paper's I3D-R50 at 32 x 224 x 224: C, T, H = W, kind, count.
PUBLISHED = {
    (64, 16, 112, "relu"): 1,
    (64, 8, 56, "relu"): 6,
    (256, 8, 56, "plain"): 1,
    (256, 8, 56, "add"): 3,
    (128, 4, 56, "relu"): 1,
    (128, 4, 28, "relu"): 7,
    (512, 4, 28, "plain"): 1,
    (512, 4, 28, "add"): 4,
    (256, 4, 28, "relu"): 1,
    (256, 4, 14, "relu"): 11,
    (1024, 4, 14, "plain"): 1,
    (1024, 4, 14, "add"): 6,
    (512, 4, 14, "relu"): 1,
    (512, 4, 7, "relu"): 5,
    (2048, 4, 7, "plain"): 1,
    (2048, 4, 7, "add"): 3,
}


def list_counts(table: LayerTable) -> dict[tuple[int, int, int, str], int]:
    assert all(layer.size[1] == layer.size[2] for layer in table.layers)
    assert all(layer.num_groups == 32 for layer in table.layers)
    return {
        (layer.num_channels, layer.size[0], layer.size[1], layer.kind): layer.count
        for layer in table.layers
    }


def test_layers_of_the_network_are_the_published_ones():
    # The published list is of a network that pads its first pooling. Without padding, as in the
    # code that was published with the network, 112 becomes 55 instead of 56.
    assert list_counts(make_i3d_table(32, 1, "i3d_r50_mmaction2")) == PUBLISHED
    unpadded = {
        (channels, frames, 55 if size == 56 else size, kind): count
        for (channels, frames, size, kind), count in PUBLISHED.items()
    }
    assert list_counts(make_i3d_table(32, 1)) == unpadded
    doubled = {
        (channels, 2 * frames, size, kind): count
        for (channels, frames, size, kind), count in unpadded.items()
    }
    assert list_counts(make_i3d_table(64, 4)) == doubled


def test_all_layers_of_the_network_have_the_layout_of_its_convolutions_on_a_gpu():
    for layer in make_i3d_table(32, 2).layers:
        assert layer.memory_format == LAST
        assert layer.residual_format == (LAST if layer.kind == "add" else None)


def test_layers_of_a_comparison_are_those_of_its_network_and_batches():
    tables = list_tables(NormChoices(), "cpu")
    assert [table.num_clips for table in tables] == [8, 2, 1]
    for table in tables:
        # A stem, four blocks of two normalizers and three shortcuts.
        assert sum(layer.count for layer in table.layers) == 1 + 4 * 2 + 3
        assert {layer.num_groups for layer in table.layers} == {4}
        assert table.layers[0].name == "8x8x16x16:G4:relu"


def test_a_sweep_has_every_combination_once():
    layers = make_sweep_table().layers
    assert len(set(layers)) == len(layers) == len({layer.name for layer in layers})
    widths = {(layer.num_channels, layer.num_channels // layer.num_groups) for layer in layers}
    assert {width for channels, width in widths if channels == 256} == {1, 2, 4, 8, 256}
    assert {layer.memory_format for layer in layers} == {torch.contiguous_format, LAST}


def measure(*contestants: Contestant, dtype: torch.dtype = torch.float32) -> TableOutcome:
    return measure_table(
        TINY,
        contestants,
        CpuTimer(),
        dtype=dtype,
        device="cpu",
        num_rounds=2,
        counts_launches=False,
    )


def test_all_that_take_part_on_a_cpu_are_right_and_have_times():
    outcome = measure(*choose_contestants("cpu", None))
    assert [row.layer for row in outcome.rows] == list(TINY.layers)
    for row in outcome.rows:
        assert list(row.outcomes) == ["ours", "eager", "batch", "torch-batch"]
        for result in row.outcomes.values():
            assert result.verdict == "right", result.reason
            assert len(result.seconds) == 2
            assert min(*result.forward_seconds, *result.backward_seconds) > 0


def pick(*names: str) -> list[Contestant]:
    return [contestant for contestant in CUDA_CONTESTANTS if contestant.name in names]


@pytest.mark.parametrize(
    ("names", "dtype"),
    [
        (("eager", "autocast", "torch-batch"), torch.bfloat16),
        # In float32, since Triton's interpreter does not round to bfloat16.
        (("ours", "one-read", "batch"), torch.float32),
    ],
    ids=["peers", "own"],
)
def test_those_that_take_part_on_a_gpu_are_right_on_a_cpu_too(names, dtype):
    if torch.cuda.is_available():
        pytest.skip("Triton's interpreter is off where there is a GPU")
    for row in measure(*pick(*names), dtype=dtype).rows:
        for name, result in row.outcomes.items():
            assert result.verdict == "right", (name, row.layer.name, result.reason)


def spoil(contestant: Contestant, name: str, result: str, **changes: Any) -> Contestant:
    """Returns a contestant that computes one thing wrongly, by one part in a thousand."""

    def make_forward(inputs, leaves):
        run = contestant.make_forward(inputs, leaves)

        def run_wrongly() -> torch.Tensor:
            y = run()
            if result == "y":
                return y + 1e-3 * y.detach()
            if result == "dx":
                return y + 1e-3 * (leaves.x - leaves.x.detach())
            return y + 1e-2 * (leaves.weight - leaves.weight.detach())[:, None, None, None]

        return run_wrongly

    return dataclasses.replace(contestant, name=name, make_forward=make_forward, **changes)


@pytest.mark.parametrize("result", ["y", "dx", "dweight"])
def test_a_peer_that_is_wrong_has_no_time(result):
    ours, eager = choose_contestants("cpu", ["eager"])
    outcome = measure(ours, eager, spoil(eager, "wrong", result))
    for row in outcome.rows:
        wrong = row.outcomes["wrong"]
        assert wrong.verdict == "wrong"
        assert wrong.reason.startswith(f"{result} by ")
        assert not wrong.seconds
        assert row.outcomes["eager"].verdict == "right"
    assert outcome.compute_seconds("wrong") is None
    assert outcome.compute_ratio("wrong", "ours") is None
    report = make_report("", [outcome], (ours, spoil(eager, "wrong", result)), [], Spread(1, 1, 1))
    assert any(f"wrong wrong, and has no time: {TINY.layers[0].name}" in n for n in report.notes)


def test_a_peer_that_fails_is_reported_with_its_words():
    ours, eager = choose_contestants("cpu", ["eager"])

    def fail(inputs, leaves):
        raise RuntimeError("no such\nkernel")

    outcome = measure(ours, dataclasses.replace(eager, make_forward=fail))
    for row in outcome.rows:
        assert row.outcomes["eager"].verdict == "failed"
        assert row.outcomes["eager"].reason == "RuntimeError: no such kernel"


def test_nothing_is_timed_where_ours_is_wrong():
    ours, eager = choose_contestants("cpu", ["eager"])
    with pytest.raises(WorkFailedError, match=r"ours .* is wrong on layer 8x2x3x5:G4:relu of 2"):
        measure(spoil(ours, "ours", "y"), eager)


def test_an_error_that_is_no_number_is_an_error():
    tolerance = CPU_CONTESTANTS[0].tolerance
    assert find_complaint({"y": float("nan")}, tolerance, 1) is not None
    assert find_complaint({"y": 0.0, "dweight": 0.0}, tolerance, 1) is None


def make_outcome(num_clips: int, **seconds: float) -> TableOutcome:
    """Returns the outcome of two layers, each taking a contestant so long, once of three times."""
    layers = (NormLayer(64, (4, 8, 8), 32, "relu"), NormLayer(64, (4, 8, 8), 32, "add", count=3))
    rows = [
        LayerOutcome(
            layer,
            {
                name: Outcome("right", "", {}, [value / 4] * 3, [value / 4 * 3] * 3)
                for name, value in seconds.items()
            },
        )
        for layer in layers
    ]
    return TableOutcome(LayerTable("net", num_clips, layers), 2, tuple(rows))


def test_bytes_are_those_of_the_two_read_form():
    # 16384 elements in each of four clips; 16 bytes for each, and 22 in three layers with a sum.
    assert make_outcome(4).count_bytes() == 4 * 16384 * (16 + 3 * 22)


def test_targets_on_a_gpu_are_judged_by_given_numbers():
    floor = 4 * 16384 * (16 + 3 * 20.25) / 1e12
    ours = floor / 4 / 0.9
    fast = make_outcome(
        4,
        **{"one-read": ours / 1.2, "torch-batch": ours / 1.04},
        ours=ours,
        eager=3 * ours,
        autocast=5 * ours,
        batch=ours / 1.1,
    )
    verdicts = {
        target.text.partition(": ")[2].partition(",")[0]: target.is_met
        for target in judge_cuda([fast], 1e12)
    }
    assert verdicts == {
        "our time over that of our BatchNorm": False,
        "our time over that of torch's BatchNorm": True,
        "share of the two-read floor": True,
        "time of two reads over that of one": True,
        "time of torch under autocast over ours": True,
        "time of torch in bfloat16 over ours": True,
        "the same on 64x4x8x8:G32:relu": False,
    }
    (share,) = (t for t in judge_cuda([fast], 1e12) if "floor" in t.text)
    assert share.value == pytest.approx(0.9)
    assert str(share).startswith("met: net, 4 clips: share of the two-read floor, at the bandwidth")


def test_a_target_without_its_figures_is_neither_met_nor_missed():
    targets = list(judge_cuda([make_outcome(4, ours=1e-3)], 1e12))
    unmeasured = [target for target in targets if target.is_met is None]
    assert len(unmeasured) == len(targets) - 1
    assert all(str(target).startswith("not measured: ") for target in unmeasured)
    # Of few clips, BatchNorm's time alone is a bound.
    assert len(list(judge_cuda([make_outcome(2, ours=1e-3)], 1e12))) == 2


def test_targets_on_a_cpu_weigh_clips_alike_and_name_the_worst_layer():
    many = make_outcome(8, ours=8.0, eager=16.0)
    one = make_outcome(1, ours=1.0, eager=0.5)
    overall, worst = judge_cpu([many, one])
    assert overall.value == pytest.approx((2 + 0.5) / (1 + 1))
    assert not overall.is_met
    assert worst.value == pytest.approx(0.5)
    assert not worst.is_met
    assert "64x4x8x8:G32:relu, net, 1 clip" in worst.text
    assert all(target.is_met for target in judge_cpu([many]))


def count_marks(picture: str, kind: str = "mark") -> int:
    tree = ElementTree.fromstring(picture)
    return sum(element.get("class") == kind for element in tree.iter())


def test_the_picture_has_a_mark_for_each_layer_and_contestant():
    outcome = make_outcome(4, ours=1e-6, eager=2e-6, batch=1e-6)
    picture = draw_outcome([make_outcome(1, ours=1e-6), outcome], Spread(3e12, 3e12, 3e12))
    assert count_marks(picture) == 2 * 3
    assert count_marks(picture, "key") == 3
    assert "net, 4 clips" in picture
    assert "copy: 3000 GB/s" in picture


def test_marks_lie_where_their_values_are():
    marks = [Mark("a", "small & <odd>", 1e6, 1e12), Mark("b", "large", 1e8, 2e12)]
    tree = ElementTree.fromstring(draw_roofline("t", marks, 4e12))
    places = [
        tuple(map(float, str(element.get("transform"))[10:-1].split()))
        for element in tree.iter()
        if element.get("class") == "mark"
    ]
    (small_x, small_y), (large_x, large_y) = places
    # The ends of the axis are powers of ten; the value axis starts at 0 and ends above the roof.
    assert (small_x, large_x) == (80, 700)
    assert 450 - large_y == pytest.approx(2 * (450 - small_y), abs=0.2)
    assert 60 < large_y < small_y < 450


def test_the_benchmark_ends_in_tables_values_and_a_picture(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    json_path, plot_path = tmp_path / "norm.json", tmp_path / "norm.svg"
    words = ["bench", "norm", "--device", "cpu", "--rounds", 2, "--layers", "64x", "8x8x8x8"]
    words += ["--contestants", "eager", "--json", json_path, "--plot", plot_path]
    assert main([str(word) for word in words]) == 0
    out = capsys.readouterr().out
    saved: dict[str, Any] = json.loads(json_path.read_text())
    results = saved["results"]
    assert set(results) == {"copy_bytes_per_second", "tables", "totals", "targets"}
    assert [table["clips"] for table in results["tables"]] == [8, 2, 1]
    for table in results["tables"]:
        assert len(table["layers"]) == 5
        for layer in table["layers"]:
            assert set(layer["outcomes"]) == {"ours", "eager"}
            median, lowest, highest = layer["outcomes"]["ours"]["backward_seconds"]
            assert 0 < lowest <= median <= highest
            assert layer["outcomes"]["eager"]["errors"].keys() >= {"y", "dx", "dweight", "dbias"}
    for total in results["totals"]:
        assert total["contestants"]["ours"]["time_over_ours"] == [1, 1, 1]
        assert len(total["contestants"]["eager"]["seconds"]) == 2
    assert len(results["targets"]) == 2
    assert all(target["is_met"] in (True, False) for target in results["targets"])
    assert "time of torch's modules over ours" in out
    page = json_path.with_suffix(".md").read_text()
    assert "| 64x2x1x1:G4:add | 1 |" in page
    assert count_marks(plot_path.read_text()) == 2 * 5


def test_tables_that_were_measured_outlive_one_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    measure_as_ever = bench_norm.measure_table

    def fail_on_two_clips(table, *arguments, **options):
        if table.num_clips == 2:
            raise WorkFailedError("ours is wrong")
        return measure_as_ever(table, *arguments, **options)

    monkeypatch.setattr(bench_norm, "measure_table", fail_on_two_clips)
    path = tmp_path / "norm.json"
    words = ["bench", "norm", "--device", "cpu", "--rounds", "1", "--layers", "64x"]
    assert main([*words, "--contestants", "eager", "--json", str(path)]) == 1
    results = json.loads(path.read_text())["results"]
    assert [table["clips"] for table in results["tables"]] == [8]


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--rounds", "0"], "--rounds is 0"),
        (["--contestants", "fast"], "--contestants has 'fast'; on cpu there are ours, eager"),
        (["--layers", "9999x"], "no layer of resnet3d_10 of quickstart has '9999x' in its name"),
        (["--clips", "4"], "--clips is for --device cuda"),
        (["--sweep", "--config", "a.yaml"], "--sweep and --config both"),
        (["--config", "absent.yaml"], "no configuration file absent.yaml"),
    ],
)
def test_wrong_input_is_one_line(words: list[str], named: str, capsys: pytest.CaptureFixture[str]):
    assert main(["bench", "norm", "--device", "cpu", *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert named in line


def test_without_a_gpu_that_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["bench", "norm", "--device", "cuda"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "the device is cuda and torch sees 0 GPUs here" in line


def test_numbers_of_a_gpus_tables_are_checked():
    with pytest.raises(ConfigError, match="--clips has 0"):
        list_tables(NormChoices(clips=[4, 0]), "cuda")
    with pytest.raises(ConfigError, match="--sweep is for --device cpu"):
        list_tables(NormChoices(sweep=True), "cuda")
    tables = list_tables(NormChoices(frames=[32], clips=[1, 4], layers=["2048x"]), "cuda")
    assert [len(table.layers) for table in tables] == [2, 2]


@pytest.mark.slow
def test_the_compiler_takes_part_on_a_cpu():
    (compiled,) = (c for c in CPU_CONTESTANTS if c.name == "compile")
    for row in measure(CPU_CONTESTANTS[0], compiled).rows:
        assert row.outcomes["compile"].verdict == "right", row.outcomes["compile"].reason


@pytest.mark.cuda
def test_the_benchmark_runs_on_a_gpu(tmp_path: Path):
    json_path = tmp_path / "norm.json"
    words = ["bench", "norm", "--device", "cuda", "--frames", 32, "--clips", 4, "--rounds", 2]
    words += ["--layers", "2048x", "--json", json_path, "--plot", tmp_path / "norm.svg"]
    assert main([str(word) for word in words]) == 0
    for layer in json.loads(json_path.read_text())["results"]["tables"][0]["layers"]:
        for name, outcome in layer["outcomes"].items():
            assert outcome["verdict"] == ("left out" if name == "apex" else "right"), outcome
            if name in ("ours", "batch"):
                assert max(outcome["launches"]) <= 3
