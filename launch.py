"""Trains, evaluates and compares video classifiers; `--help` lists the commands."""

import sys

from gnvideo.cli import main

if __name__ == "__main__":
    sys.exit(main())
