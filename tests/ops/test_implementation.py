"""Which implementation runs: as asked for, as the device allows, and never another in silence."""

from __future__ import annotations

import logging

import pytest

from gnvideo.errors import NormalizerError
from gnvideo.ops.implementation import choose_implementation, explain_choice


def obstacle() -> str | None:
    return "the input is float64"


def nothing() -> str | None:
    return None


def never() -> str | None:
    raise AssertionError("looked for an obstacle that does not matter")


@pytest.mark.parametrize("wanted", ["reference", "native"])
@pytest.mark.parametrize("device_type", ["cpu", "cuda", "meta"])
def test_what_is_asked_for_runs(wanted, device_type):
    assert choose_implementation("op", wanted, device_type, never) == wanted


def test_auto_takes_tritons_kernels_on_a_gpu_and_torchs_elsewhere():
    assert choose_implementation("op", "auto", "cuda", nothing) == "triton"
    assert choose_implementation("op", "auto", "cpu", never) == "native"
    assert choose_implementation("op", "auto", "meta", never) == "native"


def test_auto_logs_once_why_a_gpu_runs_torchs_kernels(caplog):
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert choose_implementation("op_a", "auto", "cuda", obstacle) == "native"
    assert [record.getMessage() for record in caplog.records] == [
        "op_a runs by torch's kernels instead of Triton's: the input is float64"
    ]


def test_triton_by_name_is_an_error_where_it_cannot_run():
    with pytest.raises(NormalizerError, match="op cannot run: the input is float64; choose auto"):
        choose_implementation("op", "triton", "cpu", obstacle)
    assert choose_implementation("op", "triton", "cpu", nothing) == "triton"


@pytest.mark.parametrize("choose", [choose_implementation, explain_choice])
@pytest.mark.parametrize("device_type", ["cpu", "cuda"])
def test_unknown_name_lists_the_known_ones(choose, device_type):
    message = "unknown implementation 'fast' of op; choose one of auto, reference, native, triton"
    with pytest.raises(NormalizerError, match=message):
        choose("op", "fast", device_type, never)


@pytest.mark.parametrize(
    ("wanted", "device_type", "find_obstacle", "expected"),
    [
        ("native", "cuda", never, ("native", "as configured")),
        ("triton", "cuda", nothing, ("triton", "as configured")),
        ("auto", "cuda", nothing, ("triton", "the device is a GPU that they run on")),
        ("auto", "cuda", obstacle, ("native", "the input is float64")),
        ("auto", "cpu", never, ("native", "Triton's are for GPUs, and the device is cpu")),
    ],
)
def test_choice_has_a_reason(wanted, device_type, find_obstacle, expected):
    chosen, reason = explain_choice("op", wanted, device_type, find_obstacle)
    assert chosen == expected[0]
    assert reason.endswith(expected[1])
