"""Writes a prepared folder's videos as the lists or annotations that other tools read.

    python data_tools/export_lists.py --data PREPARED --format pyslowfast --separator tab \\
        --output LISTS

pyslowfast     train.csv ...: '<path> <index>'; also for pytorchvideo, VideoMAE and V-JEPA 2
mmaction2      train_list_videos.txt ...: '<path> <index>'
3d-resnets     annotations.json for all splits
kinetics-csv   train.csv ... with Kinetics' columns
deepmind-json  train.json, validate.json, test.json

label_map.txt, one class a line in the order of the indices, stands beside them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from gnvideo.data.list_export import FORMATS, SEPARATORS, export_lists
from gnvideo.data.manifest import SPLITS
from gnvideo.errors import GnvideoError


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the tool and returns its exit code: 0 done, 1 the work failed, 2 the input was wrong."""
    options = _make_parser().parse_args(arguments)
    try:
        export = export_lists(
            options.data,
            options.format,
            options.output,
            split=options.split,
            separator=SEPARATORS[options.separator],
        )
    except GnvideoError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    counts = ", ".join(f"{count} of {split}" for split, count in export.num_written.items())
    print(f"wrote {counts} to {options.output}: {', '.join(export.files)}")
    if export.num_left_out:
        print(f"{export.num_left_out} videos are not readable and left out")
    if options.format in ("pyslowfast", "mmaction2"):
        print(f"paths are relative to {options.data}: give it as the tool's path prefix")
    return 0


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--data", type=Path, required=True, metavar="DIR", help="the prepared folder")
    add("--format", choices=FORMATS, required=True, help="whose")
    add("--output", type=Path, required=True, metavar="DIR", help="folder of the lists")
    add("--split", choices=SPLITS, help="only this split")
    add(
        "--separator",
        choices=SEPARATORS,
        default="space",
        help="between path and index; a space does where no class name has one (%(default)s)",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
