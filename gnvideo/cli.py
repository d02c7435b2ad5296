"""The command line: reads the words, runs the command, turns errors into one line and a code."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import gnvideo
from gnvideo.commands.bench import add_bench_command, run_bench
from gnvideo.errors import GnvideoError

_EXIT_INTERRUPTED = 130
_OVERRIDES_HELP = "settings over those of the file, such as training.epochs=10"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns the exit code.

    0 done, 1 the work failed, 2 the input was wrong, 130 interrupted.
    """
    options = _parse(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        return _run(options)
    except GnvideoError as error:
        if options.debug:
            raise
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from the last checkpoint", file=sys.stderr)
        return _EXIT_INTERRUPTED


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = _make_parser()
    options, rest = parser.parse_known_args(arguments)
    # Python 3.11's argparse takes no more overrides once an option stood between them and the rest.
    if rest and (not hasattr(options, "overrides") or any(word.startswith("-") for word in rest)):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        options.overrides += rest
    return options


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="gnvideo", description="Video classification when only a few clips fit on a GPU."
    )
    parser.add_argument("--version", action="version", version=gnvideo.__version__)
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    train = commands.add_parser("train", help="train one run, or go on with it, and evaluate it")
    train.add_argument("config", type=Path, metavar="CONFIG.yaml")
    train.add_argument("overrides", nargs="*", metavar="key.sub=value", help=_OVERRIDES_HELP)

    evaluate = commands.add_parser("eval", help="measure the accuracy of trained weights")
    evaluate.add_argument("weights", type=Path, metavar="RUN_OR_CHECKPOINT")
    evaluate.add_argument("overrides", nargs="*", metavar="key.sub=value", help=_OVERRIDES_HELP)
    evaluate.add_argument("--protocol", help="which views are scored; default: the run's own")
    evaluate.add_argument("--split", help="default: the run's validation split")
    evaluate.add_argument("--output", type=Path, help="default: the run's folder evaluation")

    compare = commands.add_parser("compare", help="train a grid of runs and write a report")
    compare.add_argument("config", type=Path, metavar="CONFIG.yaml")
    compare.add_argument("overrides", nargs="*", metavar="key.sub=value", help=_OVERRIDES_HELP)

    report = commands.add_parser("report", help="write the report of a comparison again")
    report.add_argument("folder", type=Path, metavar="FOLDER")

    predict = commands.add_parser("predict", help="name the most likely classes of video files")
    predict.add_argument("weights", type=Path, metavar="RUN_OR_CHECKPOINT")
    predict.add_argument("videos", type=Path, nargs="+", metavar="VIDEO")
    predict.add_argument("--protocol", default="gn-10", help="default: %(default)s")
    predict.add_argument("--top", type=int, default=5, help="classes shown; default: %(default)s")
    predict.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:<n>")
    predict.add_argument("--decoder", default="pyav", choices=("pyav", "decord", "torchcodec"))

    convert = commands.add_parser(
        "convert-weights", help="weights of another project to a gnvideo file, or back"
    )
    convert.add_argument("source", type=Path, metavar="SOURCE")
    convert.add_argument("overrides", nargs="*", metavar="key.sub=value", help=_OVERRIDES_HELP)
    convert.add_argument("--output", type=Path, required=True, metavar="FILE")
    convert.add_argument("--model", metavar="NAME", help="the network that the weights are of")
    convert.add_argument(
        "--normalizer",
        metavar="NAME",
        help="default: batch if SOURCE has running statistics, or else group",
    )
    convert.add_argument(
        "--classes", type=Path, metavar="FILE", help="one a line, in the order of the outputs"
    )
    convert.add_argument(
        "--layout",
        metavar="NAME",
        help="instead of --model: write a gnvideo SOURCE for pytorchvideo, pyslowfast, mmaction2 or"
        " torchvision",
    )

    export = commands.add_parser("export", help="write trained weights in another format")
    export.add_argument("weights", type=Path, metavar="RUN_OR_CHECKPOINT")
    export.add_argument(
        "--format",
        required=True,
        choices=("torch", "onnx", "huggingface"),
        help="a torch.export program (.pt2), an ONNX file (.onnx) or a folder for the hub",
    )
    export.add_argument("--output", type=Path, required=True, metavar="FILE_OR_FOLDER")

    models = commands.add_parser("models", help="list the networks with their costs")
    models.add_argument("--normalizer", default="group", help="default: %(default)s")
    models.add_argument("--frames", type=int, help="of a clip; default: each network's own")
    models.add_argument("--pixels", type=int, help="height and width; default: each network's own")
    models.add_argument("--json", type=Path, metavar="FILE", help="save the figures here, too")

    add_bench_command(commands)

    doctor = commands.add_parser(
        "doctor", help="say what works on this machine and what to do about it"
    )
    doctor.add_argument(
        "videos",
        type=Path,
        nargs="*",
        metavar="VIDEO_OR_FOLDER",
        help="also say whether all decoders give the same frames of these",
    )
    doctor.add_argument(
        "--files", type=int, default=20, help="at most so many of them; default: %(default)s"
    )
    return parser


def _run(options: argparse.Namespace) -> int:
    # Commands are imported when they run: importing torch takes seconds, and help needs none.
    if options.command == "train":
        from gnvideo.commands.train import run_train
        from gnvideo.config import RunConfig, load_config

        run_train(load_config(RunConfig, options.config, options.overrides))
    elif options.command == "eval":
        from gnvideo.commands.eval import run_eval

        run_eval(
            options.weights,
            protocol=options.protocol,
            split=options.split,
            output=options.output,
            overrides=options.overrides,
        )
    elif options.command == "compare":
        from gnvideo.commands.compare import run_compare

        run_compare(options.config, options.overrides)
    elif options.command == "report":
        from gnvideo.commands.compare import run_report

        run_report(options.folder)
    elif options.command == "predict":
        from gnvideo.commands.predict import run_predict

        run_predict(
            options.weights,
            options.videos,
            protocol_name=options.protocol,
            num_classes_shown=options.top,
            device_name=options.device,
            decoder_name=options.decoder,
        )
    elif options.command == "convert-weights":
        from gnvideo.commands.convert_weights import run_convert_weights

        run_convert_weights(
            options.source,
            output=options.output,
            model_name=options.model,
            normalizer_name=options.normalizer,
            class_file=options.classes,
            layout=options.layout,
            overrides=options.overrides,
        )
    elif options.command == "export":
        from gnvideo.commands.export import run_export

        run_export(options.weights, format=options.format, output=options.output)
    elif options.command == "models":
        from gnvideo.commands.models import run_models

        run_models(
            normalizer=options.normalizer,
            num_frames=options.frames,
            crop_pixels=options.pixels,
            json_path=options.json,
        )
    elif options.command == "bench":
        run_bench(options)
    else:
        from gnvideo.commands.doctor import run_doctor

        return run_doctor(options.videos, max_files=options.files)
    return 0
