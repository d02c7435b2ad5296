"""Stands in for training: leaves a run folder as told, in milliseconds and without torch.

fake_train.py FOLDER ACTION [FILE]
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path


def write_log(folder: Path, *events: str) -> None:
    lines = [json.dumps({"event": event, "step": 4, "epoch": 5.0}) + "\n" for event in events]
    (folder / "log.jsonl").write_text("".join(lines))


def finish(folder: Path) -> None:
    evaluation = {"statistics": "none", "video_top1": 61.25, "num_videos": 8}
    (folder / "evaluation").mkdir(exist_ok=True)
    (folder / "evaluation" / "gn-10.json").write_text(json.dumps(evaluation))
    write_log(folder, "start", "train", "end")


def stop(folder: Path) -> None:
    time.sleep(0.3)
    write_log(folder, "start", "train", "save", "failed")
    sys.exit("stopped by SIGTERM at step 4")


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 20
    while not path.exists():
        if time.monotonic() > deadline:
            sys.exit(f"{path} did not appear")
        time.sleep(0.01)


def main() -> None:
    folder, action = Path(sys.argv[1]), sys.argv[2]
    with (folder / "starts.txt").open("a") as starts:
        starts.write(f"{os.getpid()}\n")
    print("threads", os.environ.get("OMP_NUM_THREADS"), flush=True)
    if action == "finish":
        finish(folder)
    elif action == "fail":
        print("step 1\rstep 2\nthe loss is nan at step 2\n", flush=True)
        sys.exit(1)
    elif action == "leave nothing":
        write_log(folder, "start")
    elif action == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    elif action == "finish with":
        wait_for(Path(sys.argv[3]))
        finish(folder)
    elif action == "hang":
        # As training does: a stop is logged as a failure, and ends the process after saving.
        signal.signal(signal.SIGTERM, lambda number, frame: stop(folder))
        write_log(folder, "start", "train")
        time.sleep(60)


if __name__ == "__main__":
    main()
