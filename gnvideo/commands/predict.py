"""`predict`: the most likely classes of any video files, decoded and scored as `eval` does it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from gnvideo.build import (
    build_described_model,
    build_device_name,
    build_prepare,
    build_recipe,
)
from gnvideo.build.loaders import build_test_transform, build_view_sampler
from gnvideo.config import DataConfig
from gnvideo.data.decoding import make_decoder
from gnvideo.data.loader import VideoViews, read_views
from gnvideo.errors import ConfigError, VideoError
from gnvideo.evaluation import Protocol, get_protocol, predict_videos, rank_classes
from gnvideo.training.checkpoint import load_weights

# Each thread holds a frame more in memory, and the reader of the file cannot feed many.
_MAX_DECODER_THREADS = 16


def run_predict(
    checkpoint: Path,
    videos: Sequence[Path],
    *,
    protocol_name: str,
    num_classes_shown: int,
    device_name: str,
    decoder_name: str,
) -> None:
    """Prints a table of the most likely classes of each video, with their probabilities.

    Args:
        checkpoint: A run folder, a checkpoint's folder or a .safetensors file.
        videos: Video files of any size, rate and container that FFmpeg reads.
        protocol_name: Which views are scored.
        num_classes_shown: Rows of each table.
        device_name: "auto", "cpu", "cuda" or "cuda:<n>".
        decoder_name: "pyav", "decord" or "torchcodec".
    """
    if num_classes_shown < 1:
        raise ConfigError(f"--top is {num_classes_shown}; it must be at least 1")
    weights = load_weights(checkpoint)
    protocol = get_protocol(protocol_name)
    data = build_recipe(weights, {"root": Path(), "decoder": decoder_name})
    device = build_device_name(device_name)
    model = build_described_model(weights, data).to(device)
    classes = weights.description.classes
    predictions = predict_videos(
        model,
        _read_videos(videos, data, protocol),
        prepare=build_prepare(data),
        device=device,
        class_names=classes,
        protocol=protocol,
    )
    # The video's own name is data, not markup.
    console = Console(markup=False)
    for prediction in predictions:
        table = Table("probability", "class", title=prediction.video_id, title_justify="left")
        ranked = rank_classes(prediction.probabilities[None])[0]
        for index in ranked[:num_classes_shown]:
            table.add_row(f"{100 * prediction.probabilities[index]:.2f} %", classes[index])
        console.print(table)


def _read_videos(
    videos: Sequence[Path], data: DataConfig, protocol: Protocol
) -> Iterator[VideoViews]:
    # One video is read at a time, and it may be long.
    decoder = make_decoder(data.decoder, num_threads=min(os.cpu_count() or 1, _MAX_DECODER_THREADS))
    transform = build_test_transform(data, protocol)
    sampler = build_view_sampler(data, protocol)
    for position, path in enumerate(videos):
        metadata = decoder.read_metadata(path)
        if metadata.num_missing_frames:
            print(
                f"{path}: the file is cut short, the last {metadata.num_missing_frames} frames are"
                " missing",
                file=sys.stderr,
            )
        try:
            indices_VT = sampler(metadata.num_frames, float(metadata.fps))
        except VideoError as error:
            raise VideoError(f"{path}: {error}") from None
        views = read_views(decoder, path, transform, indices_VT)
        yield VideoViews(views, label=-1, video_id=str(path), position=position)
