"""`bench memory`: the paper's network keeps what it is said to keep."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gnvideo.cli import main
from gnvideo.commands.bench_memory import KeptMemory, count_kept_memory


@pytest.fixture(scope="module")
def papers_network() -> dict[tuple[str, str], KeptMemory]:
    rows = count_kept_memory("i3d_r50", (32, 224, 224))
    return {(row.network, row.mode): row for row in rows}


@pytest.mark.parametrize("name", ["batch", "group"])
def test_each_way_keeps_less_than_the_one_before(papers_network, name):
    megabytes = {
        mode: row.bytes_per_clip / 1e6
        for (network, mode), row in papers_network.items()
        if network == f"gnvideo {name}"
    }
    assert list(megabytes) == ["keep", "recompute-norm", "recompute-pointwise", "recompute-block"]
    assert megabytes["keep"] == pytest.approx(319.9, abs=0.1)
    assert megabytes["recompute-norm"] <= 226
    assert megabytes["recompute-pointwise"] <= 150
    assert megabytes["recompute-block"] < megabytes["recompute-pointwise"]


def test_autocast_more_than_doubles_what_torchs_group_norm_keeps(papers_network):
    batch, group = (
        papers_network[f"torch {name}", "keep"].bytes_per_clip for name in ("batch", "group")
    )
    own = papers_network["gnvideo group", "keep"].bytes_per_clip
    assert group > 2.1 * batch
    # Equal but for mean and rstd: of each clip's groups, and of the whole batch's channels.
    assert 0 <= own - batch < 0.001 * batch


def test_channels_that_32_groups_do_not_divide_have_fewer_groups():
    kept = {
        row.network: row.bytes_per_clip
        for row in count_kept_memory("r2plus1d_18", (4, 32, 32))
        if row.mode == "keep"
    }
    assert kept["gnvideo group"] == pytest.approx(kept["gnvideo batch"], rel=0.01)
    assert kept["torch group"] > 1.5 * kept["torch batch"]


def test_work_done_again_is_that_of_the_convolutions(papers_network):
    repeated = {
        mode: row.repeated_macs / row.forward_macs
        for (network, mode), row in papers_network.items()
        if network == "gnvideo group"
    }
    assert repeated["keep"] == repeated["recompute-norm"] == 0
    # The last convolutions of blocks and those of shortcuts, and all but the first convolution and
    # the classifier.
    assert repeated["recompute-pointwise"] == pytest.approx(0.168, abs=0.002)
    assert repeated["recompute-block"] == pytest.approx(1 - 0.285, abs=0.005)


def test_figures_of_the_page_are_those_counted(papers_network):
    page = (Path(__file__).parents[2] / "docs" / "activation_memory.md").read_text()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in page.splitlines()]
    stated = {(row[0], row[1]): row[2] for row in rows if len(row) == 5}

    def count(network: str, mode: str = "keep") -> str:
        return f"{papers_network[network, mode].bytes_per_clip / 1e6:.1f}"

    assert stated["torch's modules, BatchNorm", ""] == count("torch batch")
    assert stated["torch's modules, GroupNorm", ""] == count("torch group")
    for name in ("batch", "group"):
        own = f"gnvideo {name}"
        assert stated["gnvideo, BatchNorm or GroupNorm", "`keep`"] == count(own)
        for mode in ("recompute-norm", "recompute-pointwise", "recompute-block"):
            assert stated["", f"`{mode}`"] == count(own, mode)


def test_command_prints_the_table_and_saves_the_figures(tmp_path: Path, capsys):
    path = tmp_path / "memory.json"
    words = ["--model", "resnet3d_10", "--frames", "4", "8", "--pixels", "32", "--json", str(path)]

    assert main(["bench", "memory", *words]) == 0

    output = capsys.readouterr().out
    assert "resnet3d_10, 8 frames of 32 x 32" in output
    rows = json.loads(path.read_text())["results"]["rows"]
    assert len(rows) == 2 * (2 + 2 * 4)
    assert {row["num_frames"] for row in rows} == {4, 8}
    assert path.with_suffix(".md").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--frames", "0"], "--frames is 0; it must be at least 1"),
        (["--pixels", "-3"], "--pixels is -3; it must be at least 1"),
        (["--model", "i4d"], "unknown model 'i4d'"),
        (["--frames", "1"], "too small for I3DResNet"),
    ],
)
def test_wrong_words_are_named(words, message, capsys):
    assert main(["bench", "memory", *words]) == 2
    assert message in capsys.readouterr().err
