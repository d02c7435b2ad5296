"""Decides what a run folder says about its run: how far it is, and whether it is done.

It only reads. What the runner knows beyond the run's own files, how its process ended, stands in
`status.txt`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from gnvideo.config import RunConfig, StrictConfig, load_config
from gnvideo.errors import InputFileError, OutputError

STATUS_FILE = "status.txt"
_TAIL_BYTES = 1 << 16


def read_events(folder: Path, tail: bool = False) -> list[dict[str, Any]]:
    """Returns the events of `folder`'s log.jsonl in order; none where there is no log yet.

    A last line without its end, as a killed process leaves it, is not an event.

    Args:
        folder: The run folder.
        tail: Read only the last 64 KiB: enough to see how far a run is.

    Raises:
        InputFileError: another line than the last is not a JSON object.
    """
    path = folder / "log.jsonl"
    try:
        with path.open("rb") as file:
            start = max(0, path.stat().st_size - _TAIL_BYTES) if tail else 0
            file.seek(start)
            lines = file.read().split(b"\n")
    except (FileNotFoundError, NotADirectoryError):
        return []
    # The first line of a tail is cut; what follows the last line end is empty or half-written.
    complete = lines[1 if start else 0 : -1]
    events: list[dict[str, Any]] = []
    for number, line in enumerate(complete, start=1):
        try:
            event = json.loads(line)
        except ValueError:
            event = None
        if not isinstance(event, dict):
            raise InputFileError(
                f"{path} is damaged: line {number} is not a JSON object; remove the run folder"
                " and compare again"
            )
        events.append(cast(dict[str, Any], event))
    return events


def read_json(path: Path) -> dict[str, Any] | None:
    """Returns the JSON object in the file at `path`, or None where there is no such file.

    Raises:
        InputFileError: the file holds something else.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise InputFileError(
            f"{path} is damaged ({error}); remove it and evaluate the run again"
        ) from None
    if not isinstance(value, dict):
        raise InputFileError(f"{path} holds no JSON object; remove it and evaluate the run again")
    return cast(dict[str, Any], value)


def read_evaluation(
    folder: Path, config: RunConfig, precise: bool = False
) -> dict[str, Any] | None:
    """Returns the final evaluation under the run's protocol, or None where there is none yet.

    Args:
        folder: The run folder.
        config: The run's configuration; names the protocol.
        precise: The evaluation with recomputed batch statistics.
    """
    stem = config.evaluation.protocol + ("_precise" if precise else "")
    return read_json(folder / "evaluation" / f"{stem}.json")


def read_status(folder: Path, config: RunConfig) -> str:
    """Returns "finished", "failed: <reason>", "interrupted" or "not started".

    A run is finished when its log ends with the event "end" and its final evaluation is there;
    with batch statistics that means both evaluations, running and precise. That counts before how
    its process ended, which counts before the reason in its log: a run that the runner stopped logs
    a failure, too.
    """
    events = read_events(folder)
    last_event = events[-1].get("event") if events else None
    if last_event == "end" and _has_evaluations(folder, config):
        return "finished"
    status_path = folder / STATUS_FILE
    if status_path.exists():
        return status_path.read_text(encoding="utf-8").strip()
    if last_event == "failed":
        return f"failed: {events[-1].get('reason', 'unknown')}"
    return "interrupted" if events else "not started"


def _has_evaluations(folder: Path, config: RunConfig) -> bool:
    evaluation = read_evaluation(folder, config)
    if evaluation is None:
        return False
    has_batch_statistics = evaluation.get("statistics") == "running"
    return not has_batch_statistics or read_evaluation(folder, config, precise=True) is not None


def check_same_config(folder: Path, config: RunConfig) -> None:
    """Checks that a run folder that exists is one of the run `config`.

    `output` may differ: the folder may have been moved. So may `training.activation_memory`: it
    changes no result, and a run that ran out of memory can go on with less.

    Raises:
        OutputError: the folder's config.yaml is of another run; names the first differing key.
    """
    path = folder / "config.yaml"
    if not path.exists():
        return
    found, planned = flatten(load_config(RunConfig, path)), flatten(config)
    for key, value in planned.items():
        if key not in ("output", "training.activation_memory") and found[key] != value:
            raise OutputError(
                f"{folder} holds a run with {key} {found[key]!r}, and now it is {value!r}; pass"
                " another output folder or remove this run"
            )


def flatten(config: StrictConfig) -> dict[str, Any]:
    """Returns the settings of `config` as plain values by dotted key, in order."""
    return dict(_flatten(config.model_dump(mode="json"), ""))


def _flatten(values: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flatten(cast(Mapping[str, Any], value), f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
