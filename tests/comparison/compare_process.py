"""Carries out a comparison of fake runs in a process of its own, so that a test can end it.

compare_process.py CONFIG ACTION
"""

from __future__ import annotations

import sys
from pathlib import Path

from gnvideo.comparison import make_runs, make_slots, run_comparison
from gnvideo.config import ComparisonConfig, load_config
from gnvideo.errors import GnvideoError


def main() -> None:
    config = load_config(ComparisonConfig, Path(sys.argv[1]))
    fake_train = str(Path(__file__).with_name("fake_train.py"))
    try:
        run_comparison(
            config,
            make_runs(config),
            lambda run: [sys.executable, "-S", fake_train, str(run.folder), sys.argv[2]],
            make_slots(2, 2, (), 2),
        )
    except GnvideoError as error:
        print(error)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
