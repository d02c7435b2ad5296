"""What is left of a trained BatchNorm network's accuracy in another normalizer, before training.

    python benchmarks/conversion.py RUN [RUN ...] [--normalizers group layer rms_group]

For each run of BatchNorm: its accuracy under its own protocol, and that of the same weights with
another normalizer, once converted by `convert_normalizer` and once with scales and offsets copied.
Data is read where the run's configuration says, from the folder that this is started in.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

from gnvideo.build import build_class_match, build_described_model, build_index
from gnvideo.commands.evaluation import Evaluator
from gnvideo.config import RunConfig, load_config
from gnvideo.layers import convert_normalizer
from gnvideo.models import VideoClassifier
from gnvideo.training.checkpoint import load_weights


def main() -> int:
    """Prints a line for each run and normalizer; returns 0."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    parser.add_argument("--normalizers", nargs="+", default=["group", "layer", "rms_group"])
    options = parser.parse_args()
    torch.set_num_threads(1)
    for run in options.runs:
        weights = load_weights(run)
        config = load_config(RunConfig, run / "config.yaml")
        classes = build_class_match(config.data, weights)
        index = build_index(config.data, config.data.val_split, classes.names)
        evaluator = Evaluator(
            config, index, weights.description.classes, config.evaluation.protocol
        )

        def measure(model: VideoClassifier, evaluator: Evaluator = evaluator) -> str:
            metrics = evaluator.evaluate(model, torch.device("cpu")).metrics
            assert metrics is not None
            return f"{metrics.video_top1:.1f} %"

        source = build_described_model(weights, config.data)
        print(f"{run}: {measure(source)}")
        for name in options.normalizers:
            accuracies: list[str] = []
            for copies in (False, True):
                model = build_described_model(weights, config.data)
                convert_normalizer(model, name, num_groups=config.normalizer.num_groups)
                if copies:
                    model.load_state_dict(source.state_dict(), strict=False)
                accuracies.append(measure(model))
            print(f"  {name}: {accuracies[0]} converted, {accuracies[1]} copied")
    return 0


if __name__ == "__main__":
    sys.exit(main())
