"""Holds each contestant of `bench norm` to exact values, then times those that are right in turn.

Axes: N clips, C channels, T frames, H height, W width.
"""

from __future__ import annotations

import gc
from collections.abc import Sequence

import torch
from rich.progress import track

from gnvideo.commands.norm_contestants import Contestant
from gnvideo.commands.norm_layers import LayerTable
from gnvideo.commands.norm_results import LayerOutcome, Outcome, TableOutcome
from gnvideo.commands.norm_step import (
    Exact,
    NormInputs,
    NormStep,
    compute_exact,
    find_complaint,
    make_inputs,
    measure_errors,
)
from gnvideo.commands.norm_timing import StepTimer
from gnvideo.errors import WorkFailedError

_NUM_WARMUPS = 2


def measure_table(
    table: LayerTable,
    contestants: Sequence[Contestant],
    timer: StepTimer,
    *,
    dtype: torch.dtype,
    device: str,
    num_rounds: int,
    counts_launches: bool,
) -> TableOutcome:
    """Returns what all contestants did on all layers of a table.

    Args:
        table: Which layers.
        contestants: Those that take part.
        timer: Of the device.
        dtype: Of the activations.
        device: Where they are.
        num_rounds: How often each is timed, in turn.
        counts_launches: Whether launches are counted, too.

    Raises:
        WorkFailedError: one of gnvideo's own is wrong.
    """
    rows: list[LayerOutcome] = []
    for layer in track(table.layers, table.name, transient=True):
        inputs = make_inputs(layer, table.num_clips, dtype, device)
        rows.append(_measure_layer(inputs, contestants, timer, num_rounds, counts_launches))
        gc.collect()
    return TableOutcome(table, dtype.itemsize, tuple(rows))


def _measure_layer(
    inputs: NormInputs,
    contestants: Sequence[Contestant],
    timer: StepTimer,
    num_rounds: int,
    counts_launches: bool,
) -> LayerOutcome:
    outcomes: dict[str, Outcome] = {}
    steps: dict[str, NormStep] = {}
    for family in ("group", "batch"):
        members = [contestant for contestant in contestants if contestant.family == family]
        exact = compute_exact(inputs, family) if members else None
        for contestant in members:
            assert exact is not None
            outcome, step = _examine(contestant, inputs, exact)
            outcomes[contestant.name] = outcome
            if step is not None:
                steps[contestant.name] = step
        # The largest tensors here, of which there need not be two sets.
        del exact
    for name, step in steps.items():
        launches = timer.count_launches(step) if counts_launches else None
        errors = outcomes[name].errors
        outcomes[name] = Outcome("right", "", errors, [], [], launches)
        for _ in range(_NUM_WARMUPS):
            timer.time_step(step)
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in steps}
    for _ in range(num_rounds):
        for name, step in steps.items():
            seconds[name].append(timer.time_step(step))
    for name, pairs in seconds.items():
        forward, backward = zip(*pairs, strict=True)
        right = outcomes[name]
        outcomes[name] = Outcome("right", "", right.errors, forward, backward, right.launches)
    in_order = {contestant.name: outcomes[contestant.name] for contestant in contestants}
    return LayerOutcome(inputs.layer, in_order)


def _examine(
    contestant: Contestant, inputs: NormInputs, exact: Exact
) -> tuple[Outcome, NormStep | None]:
    """Returns what is to be said of a contestant before it is timed, and its step if it is right.

    Raises:
        WorkFailedError: it is gnvideo's own and wrong.
    """
    obstacle = contestant.find_obstacle(inputs.layer)
    if obstacle is not None:
        return Outcome("left out", obstacle), None
    try:
        step = contestant.make_step(inputs)
        errors = measure_errors(step, exact)
    # Whatever a peer raises is its outcome.
    except Exception as error:
        if contestant.is_own:
            raise
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        return Outcome("failed", reason), None
    complaint = find_complaint(errors, contestant.tolerance, _count_products(inputs))
    if complaint is None:
        return Outcome("right", "", errors), step
    if contestant.is_own:
        raise WorkFailedError(
            f"{contestant.name} ({contestant.meaning}) is wrong on layer {inputs.layer.name} of"
            f" {len(inputs.x)} clips: {complaint}; nothing is timed; report this"
        )
    return Outcome("wrong", complaint, errors), None


def _count_products(inputs: NormInputs) -> int:
    return inputs.x.numel() // inputs.layer.num_channels
