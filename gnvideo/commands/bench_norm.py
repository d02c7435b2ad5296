"""`bench norm`: normalization, residual sum and ReLU, forward and backward, beside the peers.

Every contestant is held to exact values in float64 first. Those that are right take turns,
A B A B, on the same inputs with a random upstream gradient.
"""

from __future__ import annotations

import logging
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from gnvideo.atomic_file import write_text_atomic
from gnvideo.build import build_device_name
from gnvideo.commands.bench_report import BenchReport, Spread, publish, save
from gnvideo.commands.norm_contestants import Contestant, choose_contestants
from gnvideo.commands.norm_layers import (
    LayerTable,
    NormLayer,
    make_comparison_tables,
    make_i3d_table,
    make_sweep_table,
)
from gnvideo.commands.norm_measuring import measure_table
from gnvideo.commands.norm_report import draw_outcome, make_report
from gnvideo.commands.norm_results import TableOutcome
from gnvideo.commands.norm_targets import judge_cpu, judge_cuda
from gnvideo.commands.norm_timing import CpuTimer, CudaTimer, StepTimer
from gnvideo.errors import ConfigError

_DEFAULT_FRAMES = (32, 64)
_DEFAULT_CLIPS = (1, 2, 4, 8, 16)
_DEFAULT_CONFIG = Path("configs/comparisons/quickstart.yaml")
# Compiling a layer takes seconds, so unasked it is done for the first clip length and two batches.
_COMPILED_CLIPS = (4, 8)
# A profile takes much longer than what it counts, which does not depend on the batch.
_COUNTED_CLIPS = 4


@dataclass(frozen=True, slots=True)
class NormChoices:
    """What of `bench norm` a user chose; None is the default.

    Attributes:
        frames: Clip lengths of the I3D; on a GPU.
        clips: Clips per batch; on a GPU.
        config: The comparison whose networks are measured; on a CPU.
        sweep: Whether a sweep of sizes is measured instead; on a CPU.
        layers: Words in the names of the layers to measure.
        contestants: Their names.
    """

    frames: Sequence[int] | None = None
    clips: Sequence[int] | None = None
    config: Path | None = None
    sweep: bool = False
    layers: Sequence[str] | None = None
    contestants: Sequence[str] | None = None


def run_bench_norm(
    choices: NormChoices,
    *,
    device: str,
    num_threads: int,
    num_rounds: int,
    json_path: Path | None,
    plot_path: Path | None,
) -> None:
    """Prints, and saves if asked, who normalizes how fast, and which targets are met.

    Args:
        choices: What is measured.
        device: auto, cpu, cuda or cuda:<n>.
        num_threads: Of torch, on a CPU.
        num_rounds: How often each is timed.
        json_path: Where to save; None: nowhere.
        plot_path: Where to draw a roofline; None: nowhere.

    Raises:
        ConfigError: a number is below 1, there is no such device, contestant or layer, or a choice
            is not one of this device.
        InputFileError: the comparison's configuration cannot be read.
        WorkFailedError: one of gnvideo's own computes something wrong.
        OutputError: a file cannot be written.
    """
    for name, value in {"threads": num_threads, "rounds": num_rounds}.items():
        if value < 1:
            raise ConfigError(f"--{name} is {value}; it must be at least 1")
    device = build_device_name(device)
    contestants = choose_contestants(torch.device(device).type, choices.contestants)
    tables = list_tables(choices, torch.device(device).type)
    # Events are recorded on the current device's stream.
    current = nullcontext() if device == "cpu" else torch.cuda.device(device)
    with _set_threads(num_threads), current:
        timer = CpuTimer() if device == "cpu" else CudaTimer(device)
        # The first one also sets up.
        timer.time_copy()
        copies = Spread.of([timer.time_copy() for _ in range(num_rounds)])
        method = (
            f"normalization, sum and ReLU, forward and backward with a random upstream gradient, on"
            f" {_describe_machine(device)}; equality with float64 first, then {num_rounds} rounds"
            f" in turn"
        )
        outcomes: list[TableOutcome] = []
        for outcome in _measure(choices, tables, contestants, timer, device, num_rounds):
            outcomes.append(outcome)
            if json_path is not None:
                # What took minutes outlives what comes after it.
                save(_report(method, outcomes, contestants, timer, copies), json_path)
    publish(_report(method, outcomes, contestants, timer, copies), json_path)
    if plot_path is not None:
        write_text_atomic(plot_path, draw_outcome(outcomes, copies))
        print(f"saved {plot_path}")


def _describe_machine(device: str) -> str:
    if device == "cpu":
        return f"{torch.get_num_threads()} threads of the CPU, float32"
    return f"{torch.cuda.get_device_name(device)}, bfloat16, cold L2"


def _report(
    method: str,
    outcomes: Sequence[TableOutcome],
    contestants: Sequence[Contestant],
    timer: StepTimer,
    copies: Spread,
) -> BenchReport:
    if not isinstance(timer, CudaTimer):
        return make_report(method, outcomes, contestants, list(judge_cpu(outcomes)), copies)
    targets = list(judge_cuda(outcomes, copies.median))
    report = make_report(method, outcomes, contestants, targets, copies)
    if timer.num_late == 0:
        return report
    late = f"the GPU waited for the host in {timer.num_late} passes: their times are too long"
    return replace(report, notes=(*report.notes, late))


def list_tables(choices: NormChoices, device_type: str) -> list[LayerTable]:
    """Returns what is measured on a device.

    Raises:
        ConfigError: a choice is not one of this device, or names no layer, or is below 1.
        InputFileError: the comparison's configuration cannot be read.
    """
    _check_device(choices, device_type)
    frames, clips = choices.frames or _DEFAULT_FRAMES, choices.clips or _DEFAULT_CLIPS
    for name, values in {"frames": frames, "clips": clips}.items():
        if min(values) < 1:
            raise ConfigError(f"--{name} has {min(values)}; they must be at least 1")
    with _quiet_about_groups():
        if device_type == "cuda":
            tables = [make_i3d_table(length, batch) for length in frames for batch in clips]
        elif choices.sweep:
            tables = [make_sweep_table()]
        else:
            tables = make_comparison_tables(choices.config or _DEFAULT_CONFIG)
    if choices.layers is None:
        return tables
    return [table.select(choices.layers) for table in tables]


def _check_device(choices: NormChoices, device_type: str) -> None:
    belongs = {
        "--frames": ("cuda", choices.frames),
        "--clips": ("cuda", choices.clips),
        "--config": ("cpu", choices.config),
        "--sweep": ("cpu", choices.sweep),
    }
    for option, (its_type, value) in belongs.items():
        if value and device_type != its_type:
            raise ConfigError(
                f"{option} is for --device {its_type}, and this is {device_type}; leave it out, or"
                f" name the device"
            )
    if choices.sweep and choices.config is not None:
        raise ConfigError("--sweep and --config both say what is measured; give one of them")


def _measure(
    choices: NormChoices,
    tables: Sequence[LayerTable],
    contestants: Sequence[Contestant],
    timer: StepTimer,
    device: str,
    num_rounds: int,
) -> Iterator[TableOutcome]:
    is_cuda = isinstance(timer, CudaTimer)
    counted = next((t for t in tables if t.num_clips == _COUNTED_CLIPS), tables[0])
    for table in tables:
        holds_back = is_cuda and choices.contestants is None and not _is_compiled(table, tables)
        yield measure_table(
            table,
            _hold_compiler_back(contestants) if holds_back else contestants,
            timer,
            dtype=torch.bfloat16 if is_cuda else torch.float32,
            device=device,
            num_rounds=num_rounds,
            counts_launches=is_cuda and table is counted,
        )


def _is_compiled(table: LayerTable, tables: Sequence[LayerTable]) -> bool:
    return table.network == tables[0].network and table.num_clips in _COMPILED_CLIPS


def _hold_compiler_back(contestants: Sequence[Contestant]) -> list[Contestant]:
    """Returns the contestants, of which `compile` takes no layer."""

    def explain(layer: NormLayer) -> str:
        return "compiling would take minutes; --contestants compile asks for it"

    return [
        replace(contestant, find_obstacle=explain) if contestant.name == "compile" else contestant
        for contestant in contestants
    ]


@contextmanager
def _set_threads(num_threads: int) -> Generator[None]:
    earlier = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        yield
    finally:
        torch.set_num_threads(earlier)


@contextmanager
def _quiet_about_groups() -> Generator[None]:
    """How many groups each width gets is said by the layers' names."""
    logging.disable(logging.INFO)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
