"""Decides what may be said from a few seeds: means, paired differences, intervals and verdicts.

All intervals are two-sided 95 % confidence intervals from Student's t distribution over seeds.
Fewer than three seeds give a mean and nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

CONFIDENCE = 0.95
MIN_SEEDS = 3
NO_DIFFERENCE = "no difference shown"


@dataclass(frozen=True, slots=True)
class Summary:
    """A mean over seeds with its confidence interval.

    Attributes:
        mean: Of the values.
        margin: Half the width of the interval around the mean; None for fewer than `MIN_SEEDS`.
        num_seeds: Values behind the mean.
    """

    mean: float
    margin: float | None
    num_seeds: int

    @property
    def low(self) -> float | None:
        """The lower end of the interval."""
        return None if self.margin is None else self.mean - self.margin

    @property
    def high(self) -> float | None:
        """The upper end of the interval."""
        return None if self.margin is None else self.mean + self.margin


@dataclass(frozen=True, slots=True)
class PairedDifference:
    """The mean difference between two conditions at equal seeds, and what it allows to say.

    Attributes:
        summary: Of the differences; None when no seed has both conditions.
        num_planned: Seeds that were planned; failed runs lower `summary.num_seeds` below it.
        verdict: "higher", "lower", "no difference shown", or why there is no verdict.
    """

    summary: Summary | None
    num_planned: int
    verdict: str

    @property
    def is_decided(self) -> bool:
        """Whether the interval lies on one side of zero."""
        return self.verdict in ("higher", "lower")


def compute_t_quantile(confidence: float, degrees_of_freedom: int) -> float:
    """Returns the t that |T| stays below with probability `confidence`.

    The distribution function is the finite series for whole degrees of freedom, exact but for
    rounding, inverted by bisection over the angle atan(t / sqrt(degrees of freedom)).

    Args:
        confidence: Two-sided, within (0, 1).
        degrees_of_freedom: 1 or more.

    Raises:
        ValueError: an argument is out of its range.

    Source: Abramowitz and Stegun, "Handbook of Mathematical Functions", 26.7.3 and 26.7.4.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}; it must lie between 0 and 1")
    if degrees_of_freedom < 1:
        raise ValueError(f"degrees_of_freedom is {degrees_of_freedom}; it must be 1 or more")
    low, high = 0.0, math.pi / 2
    middle = (low + high) / 2
    while low < middle < high:
        if _compute_two_sided_probability(middle, degrees_of_freedom) < confidence:
            low = middle
        else:
            high = middle
        middle = (low + high) / 2
    return math.sqrt(degrees_of_freedom) * math.tan(middle)


def _compute_two_sided_probability(angle: float, degrees_of_freedom: int) -> float:
    """Returns P(|T| <= sqrt(degrees of freedom) * tan(angle))."""
    sine, cosine = math.sin(angle), math.cos(angle)
    is_odd = degrees_of_freedom % 2
    # Odd: cos + (2/3) cos^3 + (2 * 4)/(3 * 5) cos^5 ...; even: 1 + (1/2) cos^2 + ...
    term = cosine if is_odd else 1.0
    total = 0.0
    for k in range(is_odd, degrees_of_freedom - 1, 2):
        total += term
        term *= cosine * cosine * (k + 1) / (k + 2)
    return 2 / math.pi * (angle + sine * total) if is_odd else sine * total


def summarize(values: Sequence[float]) -> Summary | None:
    """Returns the mean of `values` with its confidence interval; None for no values."""
    if not values:
        return None
    if len(values) < MIN_SEEDS:
        return Summary(fmean(values), None, len(values))
    quantile = compute_t_quantile(CONFIDENCE, len(values) - 1)
    return Summary(fmean(values), quantile * stdev(values) / math.sqrt(len(values)), len(values))


def compare_paired(
    first: Mapping[int, float], second: Mapping[int, float], num_planned: int
) -> PairedDifference:
    """Returns the mean of `first` - `second` over the seeds that both have, with a verdict.

    A verdict needs `MIN_SEEDS` pairs and some spread between them: equal differences at every seed
    come from a coarse metric (few videos), and would give an interval without a width.

    Args:
        first: Value by seed.
        second: Value by seed.
        num_planned: Seeds that were planned for both.
    """
    differences = [first[seed] - second[seed] for seed in sorted(first.keys() & second.keys())]
    summary = summarize(differences)
    if summary is None or summary.margin is None:
        verdict = f"not enough seeds: {len(differences)} of {MIN_SEEDS}"
    elif math.isclose(max(differences), min(differences), abs_tol=1e-9):
        verdict = "undecided: the same difference at every seed"
    elif summary.mean > summary.margin:
        verdict = "higher"
    elif summary.mean < -summary.margin:
        verdict = "lower"
    else:
        verdict = NO_DIFFERENCE
    return PairedDifference(summary, num_planned, verdict)
