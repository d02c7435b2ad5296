"""Run by torchrun: trains the tiny network on all processes, and leaves its results in FOLDER."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import torch
from tiny_training import make_tiny_state, train_tiny

from gnvideo.errors import VideoError, WorkFailedError
from gnvideo.training import distributed


def fail_at_step_5(position: int) -> None:
    if position >= 5 * 8:
        raise VideoError("stands for a lost machine")


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    with distributed.process_group("cpu") as device:
        assert device.type == "cpu"
        rank = distributed.get_rank()
        state = train_tiny(folder / "group", state=make_tiny_state("group", dropout_rate=0.0))
        torch.save(state.model.state_dict(), folder / f"weights_{rank}.pt")

        state = train_tiny(folder / "unbroken", "batch", total_steps=8)
        torch.save(state.model.state_dict(), folder / f"unbroken_{rank}.pt")
        try:
            train_tiny(folder / "broken", "batch", total_steps=8, on_fetch=fail_at_step_5)
        except VideoError:
            distributed.wait_for_all()
        state = train_tiny(folder / "broken", "batch", total_steps=8)
        torch.save(state.model.state_dict(), folder / f"broken_{rank}.pt")

        gathered = distributed.gather_objects({"rank": rank})
        assert gathered == [{"rank": 0}, {"rank": 1}]
        total = distributed.sum_over_processes(torch.tensor([rank + 1.0]))
        assert total.item() == 3
        stop_one_of_two(folder, rank)


def stop_one_of_two(folder: Path, rank: int) -> None:
    """One process gets SIGTERM; both stop at the same step, after a save."""

    def ask_the_second_to_stop(position: int) -> None:
        if rank == 1 and position == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    try:
        train_tiny(folder / "stopped", on_fetch=ask_the_second_to_stop)
    except WorkFailedError as error:
        (folder / f"stopped_{rank}.txt").write_text(str(error))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
