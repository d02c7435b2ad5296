from __future__ import annotations

import math
from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gnvideo.comparison.statistics import compare_paired, compute_t_quantile, summarize

# Two-sided 95 %; NIST/SEMATECH e-Handbook of Statistical Methods, 1.3.6.7.2.
T_QUANTILES = {
    1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262,
    10: 2.228, 11: 2.201, 12: 2.179, 13: 2.160, 14: 2.145, 15: 2.131, 16: 2.120, 17: 2.110,
    18: 2.101, 19: 2.093, 20: 2.086, 21: 2.080, 22: 2.074, 23: 2.069, 24: 2.064, 25: 2.060,
    26: 2.056, 27: 2.052, 28: 2.048, 29: 2.045, 30: 2.042, 100: 1.984,
}  # fmt: skip

accuracies = st.floats(min_value=0, max_value=100)


@pytest.mark.parametrize(("degrees", "quantile"), T_QUANTILES.items())
def test_t_quantile_equals_the_published_table(degrees, quantile):
    assert compute_t_quantile(0.95, degrees) == pytest.approx(quantile, abs=5e-4)


def test_t_quantile_has_the_closed_forms_of_one_and_two_degrees():
    for confidence in (0.01, 0.5, 0.9, 0.999):
        one = math.tan(math.pi * confidence / 2)
        assert compute_t_quantile(confidence, 1) == pytest.approx(one, rel=1e-9)
        two = confidence * math.sqrt(2 / (1 - confidence**2))
        assert compute_t_quantile(confidence, 2) == pytest.approx(two, rel=1e-9)


def test_t_quantile_approaches_the_normal_one():
    assert compute_t_quantile(0.95, 10_000) == pytest.approx(1.959964, abs=1e-3)


@pytest.mark.parametrize(("confidence", "degrees"), [(0.0, 3), (1.0, 3), (0.95, 0)])
def test_t_quantile_refuses_what_has_none(confidence, degrees):
    with pytest.raises(ValueError, match="must"):
        compute_t_quantile(confidence, degrees)


def test_summary_of_known_values():
    summary = summarize([70.0, 72.0, 74.0])
    assert summary is not None
    assert summary.mean == 72
    # 4.303 * 2 / sqrt(3)
    assert summary.margin == pytest.approx(4.9683, abs=1e-3)
    assert summary.low == pytest.approx(67.0317, abs=1e-3)
    assert summary.high == pytest.approx(76.9683, abs=1e-3)


@pytest.mark.parametrize("values", [[70.0], [70.0, 71.0]])
def test_fewer_than_three_values_have_a_mean_and_no_interval(values):
    summary = summarize(values)
    assert summary is not None
    assert summary.mean == fmean(values)
    assert summary.margin is summary.low is summary.high is None


def test_no_values_have_no_summary():
    assert summarize([]) is None


@given(st.lists(accuracies, min_size=3, max_size=8), st.floats(min_value=-50, max_value=50))
def test_a_shift_of_all_values_moves_the_interval_and_keeps_its_width(values, shift):
    summary = summarize(values)
    moved = summarize([value + shift for value in values])
    assert summary is not None
    assert moved is not None
    assert moved.mean == pytest.approx(summary.mean + shift, abs=1e-9)
    assert moved.margin == pytest.approx(summary.margin, abs=1e-6)


@given(st.lists(st.tuples(accuracies, accuracies), min_size=3, max_size=8))
def test_exchanging_the_two_sides_mirrors_the_difference(pairs):
    first = {seed: pair[0] for seed, pair in enumerate(pairs)}
    second = {seed: pair[1] for seed, pair in enumerate(pairs)}
    forward = compare_paired(first, second, len(pairs))
    backward = compare_paired(second, first, len(pairs))
    assert forward.summary is not None
    assert backward.summary is not None
    assert backward.summary.mean == pytest.approx(-forward.summary.mean, abs=1e-9)
    mirror = {"higher": "lower", "lower": "higher"}
    assert backward.verdict == mirror.get(forward.verdict, forward.verdict)


@pytest.mark.parametrize(
    ("differences", "verdict"),
    [
        ([4.0, 5.0, 6.0], "higher"),
        ([-4.0, -5.0, -6.0], "lower"),
        # 4.303 * 2 / sqrt(3) = 4.97 > 4
        ([2.0, 4.0, 6.0], "no difference shown"),
        ([0.0, 1.0, -1.0], "no difference shown"),
        ([5.0, 5.0, 5.0], "undecided: the same difference at every seed"),
        ([0.0, 0.0, 0.0], "undecided: the same difference at every seed"),
        ([9.0, 9.5], "not enough seeds: 2 of 3"),
        ([9.0], "not enough seeds: 1 of 3"),
    ],
)
def test_the_verdict_says_on_which_side_of_zero_the_interval_lies(differences, verdict):
    second = {seed: 60.0 + seed for seed in range(len(differences))}
    first = {seed: second[seed] + value for seed, value in enumerate(differences)}
    compared = compare_paired(first, second, 3)
    assert compared.verdict == verdict
    assert compared.is_decided == (verdict in ("higher", "lower"))


def test_only_seeds_of_both_sides_are_paired():
    compared = compare_paired({0: 70.0, 1: 71.0, 2: 90.0}, {0: 69.0, 1: 69.0, 3: 10.0}, 4)
    assert compared.summary is not None
    assert compared.summary.mean == 1.5
    assert compared.summary.num_seeds == 2
    assert compared.verdict == "not enough seeds: 2 of 3"


def test_pairing_finds_a_difference_that_the_spread_between_seeds_hides():
    second = {0: 50.0, 1: 65.0, 2: 80.0}
    first = {0: 52.0, 1: 67.1, 2: 81.9}
    compared = compare_paired(first, second, 3)
    assert compared.verdict == "higher"
    alone = summarize(list(second.values()))
    assert alone is not None
    assert alone.high is not None
    assert alone.high > max(first.values())


def test_without_a_common_seed_there_is_nothing_to_say():
    compared = compare_paired({0: 70.0}, {1: 70.0}, 1)
    assert compared.summary is None
    assert compared.verdict == "not enough seeds: 0 of 3"
