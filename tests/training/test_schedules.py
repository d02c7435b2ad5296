from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gnvideo.errors import ConfigError
from gnvideo.training.schedules import (
    WARMUP_START_FRACTION,
    count_steps,
    count_total_steps,
    make_schedule,
    scale_learning_rate,
)

RATES = st.floats(1e-4, 10)


@given(rate=RATES, total=st.integers(2, 5000), warmup_share=st.floats(0, 0.9))
def test_cosine_rises_through_the_warmup_then_falls_to_zero(
    rate: float, total: int, warmup_share: float
) -> None:
    warmup = int(warmup_share * total)
    schedule = make_schedule("cosine", learning_rate=rate, total_steps=total, warmup_steps=warmup)
    rates = [schedule(step) for step in range(total)]
    assert rates[: warmup + 1] == sorted(rates[: warmup + 1])
    assert rates[warmup:] == sorted(rates[warmup:], reverse=True)
    assert rates[warmup] == pytest.approx(rate)
    assert schedule(total) == pytest.approx(0, abs=1e-9 * rate)
    # The last step stands one step's arc above zero: sin^2 of half its angle.
    angle = math.pi / (total - warmup)
    assert rates[-1] == pytest.approx(rate * math.sin(angle / 2) ** 2)


@given(
    rate=RATES,
    name=st.sampled_from(["step", "cosine", "constant"]),
    warmup=st.integers(1, 300),
    drops=st.lists(st.integers(0, 400), max_size=3),
)
def test_warmup_is_linear_and_meets_the_rate_that_follows(
    rate: float, name: str, warmup: int, drops: list[int]
) -> None:
    schedule = make_schedule(
        name,  # pyright: ignore[reportArgumentType] (drawn as a plain string)
        learning_rate=rate,
        total_steps=400,
        warmup_steps=warmup,
        drop_steps=drops,
    )
    rates = [schedule(step) for step in range(warmup + 1)]
    assert rates[0] == pytest.approx(WARMUP_START_FRACTION * rates[-1])
    expected_rise = rates[-1] * (1 - WARMUP_START_FRACTION) / warmup
    for earlier, later in itertools.pairwise(rates):
        assert later - earlier == pytest.approx(expected_rise, rel=1e-6, abs=1e-12)


def test_step_schedule_drops_at_its_steps_and_nowhere_else() -> None:
    schedule = make_schedule(
        "step", learning_rate=0.01, total_steps=400, drop_steps=(150, 300), drop_factor=0.1
    )
    rates = [schedule(step) for step in range(400)]
    assert rates[:150] == [0.01] * 150
    assert rates[150:300] == pytest.approx([0.001] * 150)
    assert rates[300:] == pytest.approx([0.0001] * 100)


@given(rate=RATES, step=st.integers(0, 10**7))
def test_constant_schedule_is_constant(rate: float, step: int) -> None:
    assert make_schedule("constant", learning_rate=rate, total_steps=10)(step) == rate


def test_an_unknown_schedule_is_refused() -> None:
    with pytest.raises(ValueError, match="step, cosine, constant"):
        make_schedule("linear", learning_rate=1, total_steps=1)  # pyright: ignore[reportArgumentType]


@given(rate=RATES, clips=st.integers(1, 1024), reference=st.integers(1, 1024))
def test_the_rate_is_linear_in_the_clips_of_a_step(rate: float, clips: int, reference: int) -> None:
    assert scale_learning_rate(rate, reference, reference) == pytest.approx(rate)
    assert scale_learning_rate(rate, 2 * clips, reference) == pytest.approx(
        2 * scale_learning_rate(rate, clips, reference)
    )
    assert scale_learning_rate(rate, clips, None) == rate


@given(epochs=st.floats(0.1, 200), videos=st.integers(1, 300_000), clips=st.integers(1, 512))
def test_steps_never_take_more_clips_than_the_epochs_hold(
    epochs: float, videos: int, clips: int
) -> None:
    steps = count_steps(epochs, videos, clips)
    assert steps * clips <= epochs * videos * (1 + 1e-12)
    assert (steps + 1) * clips > epochs * videos * (1 - 1e-12)


def test_a_run_shorter_than_one_step_is_refused() -> None:
    assert count_total_steps(1, 8, 8) == 1
    with pytest.raises(ConfigError, match=r"epochs is 1.*7 videos.*the 8 of one step"):
        count_total_steps(1, 7, 8)
