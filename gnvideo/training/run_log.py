"""The log of a run: `log.jsonl`, one event a line, and the same numbers for TensorBoard.

What depends on the clock or the machine stands in "start" and "speed" events only. All other
lines of a run that was stopped and resumed equal those of a run never stopped.
"""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from gnvideo.errors import OutputError, SaveFailedError

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

LOG_NAME = "log.jsonl"
TENSORBOARD_FOLDER_NAME = "tensorboard"

# Events that are not true any more once the run goes on.
_ENDINGS = ("end", "failed")


def read_log(run_folder: Path) -> list[dict[str, Any]]:
    """Returns the events of `run_folder`, oldest first; a half-written last line is left out.

    Raises:
        OutputError: the log cannot be read, or a line before the last is not an event.
    """
    return [event for _, event in _read_lines(run_folder / LOG_NAME)]


class RunLog:
    """Appends events to the run folder's log; every line reaches the operating system at once."""

    def __init__(self, run_folder: Path, *, tensorboard: bool = True) -> None:
        """Opens, or creates, `log.jsonl` in `run_folder`, which must exist.

        Args:
            run_folder: Of one run.
            tensorboard: Also write the numbers to `tensorboard/`. Its package is imported at the
                first number: the import takes most of a second.

        Raises:
            OutputError: the log cannot be opened.
        """
        self._path = run_folder / LOG_NAME
        self._tensorboard_folder = run_folder / TENSORBOARD_FOLDER_NAME if tensorboard else None
        self._tensorboard: SummaryWriter | None = None
        self._purge_step: int | None = None
        self._open()

    def write(self, event: str, **fields: Any) -> None:
        """Appends one event. Floats keep every digit; one that is not finite becomes null.

        Raises:
            SaveFailedError: the line could not be written, as on a full disk.
        """
        line = json.dumps({"event": event, **_replace_non_finite(fields)}, allow_nan=False)
        try:
            # Unbuffered: after a failed write nothing waits to be written at closing.
            unwritten = memoryview((line + "\n").encode())
            while unwritten:
                unwritten = unwritten[self._file.write(unwritten) :]
            self._write_to_tensorboard(event, fields)
        except OSError as error:
            raise SaveFailedError(
                f"cannot write to {self._path}: {error.strerror or error}; free space or mend the"
                " disk, then run the same command to go on from the last checkpoint"
            ) from error

    def sync(self) -> None:
        """Returns when all lines are on the disk: they must not be younger than a checkpoint."""
        os.fsync(self._file.fileno())

    def truncate_after(self, step: int) -> None:
        """Removes what a run that resumes from `step` will write again.

        Those are lines of later steps, the line of the save at `step` itself (it may be missing,
        when the run was killed right after saving), earlier ends, and a half-written last line.
        The log is replaced in one operation.

        Raises:
            OutputError: the log cannot be read, or a line before the last is not an event.
            SaveFailedError: the new log could not be written.
        """
        self._purge_step = step + 1
        kept = [
            line
            for line, event in _read_lines(self._path)
            if event["event"] not in _ENDINGS
            and event.get("step", 0) <= step
            and (event["event"], event.get("step")) != ("save", step)
        ]
        text = "".join(line + "\n" for line in kept)
        self._file.close()
        partial = self._path.with_name(f".partial_{LOG_NAME}")
        try:
            with partial.open("w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(self._path)
        except OSError as error:
            partial.unlink(missing_ok=True)
            raise SaveFailedError(
                f"cannot rewrite {self._path}: {error.strerror or error}; free space or mend the"
                " disk and run the same command again"
            ) from error
        finally:
            self._open()

    def close(self) -> None:
        """Closes both files."""
        self._file.close()
        if self._tensorboard is not None:
            self._tensorboard.close()

    def __enter__(self) -> RunLog:
        return self

    def __exit__(self, *unused: object) -> None:
        self.close()

    def _open(self) -> None:
        try:
            self._file = self._path.open("ab", buffering=0)
        except OSError as error:
            raise OutputError(
                f"cannot write {self._path}: {error.strerror or error}; choose another run folder"
                " or mend its permissions"
            ) from error

    def _write_to_tensorboard(self, event: str, fields: dict[str, Any]) -> None:
        step = fields.get("step")
        numbers = {
            key: value
            for key, value in fields.items()
            if isinstance(value, int | float) and not isinstance(value, bool) and key != "step"
        }
        if self._tensorboard_folder is None or step is None or not numbers:
            return
        if self._tensorboard is None:
            from torch.utils.tensorboard import SummaryWriter

            self._tensorboard = SummaryWriter(
                str(self._tensorboard_folder), purge_step=self._purge_step
            )
        prefix = f"{event}/{fields['protocol']}" if "protocol" in fields else event
        for key, value in numbers.items():
            self._tensorboard.add_scalar(f"{prefix}/{key}", value, step)


class NoopRunLog(RunLog):
    """The log of a process that is not the main one: writes nothing."""

    def __init__(self) -> None:
        pass

    def write(self, event: str, **fields: Any) -> None:
        """Does nothing."""

    def sync(self) -> None:
        """Does nothing."""

    def truncate_after(self, step: int) -> None:
        """Does nothing."""

    def close(self) -> None:
        """Does nothing."""


def _read_lines(path: Path) -> list[tuple[str, dict[str, Any]]]:
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise OutputError(f"cannot read {path}: {error.strerror or error}") from error
    *lines, _half_written = text.split("\n")
    parsed: list[tuple[str, dict[str, Any]]] = []
    for number, line in enumerate(lines, start=1):
        try:
            event = json.loads(line)
        except json.JSONDecodeError:
            event = None
        if isinstance(event, dict) and "event" in event:
            parsed.append((line, cast(dict[str, Any], event)))
        elif number < len(lines):
            raise OutputError(
                f"line {number} of {path} is not an event: {line[:60]!r}; remove the line, or start"
                " in a new run folder"
            )
    return parsed


def _replace_non_finite(fields: dict[str, Any]) -> dict[str, Any]:
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in fields.items()
    }
