"""`models`: every network by name, with what it costs to train."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from gnvideo.atomic_file import write_text_atomic
from gnvideo.build import check_normalizer
from gnvideo.errors import ConfigError, ModelError
from gnvideo.layers import normalizer_factory
from gnvideo.models import MODELS, list_settings, make_model
from gnvideo.models.costs import Costs, compute_costs

# Those of Kinetics-400, for which published figures hold.
_NUM_CLASSES = 400


@dataclass(frozen=True, slots=True)
class ModelCosts:
    """A network, the size of its training clip and what it costs, or why that is not known.

    Attributes:
        name: In `MODELS`.
        num_frames: Of a clip.
        crop_pixels: Its height and width.
        costs: None where the network cannot be made for such clips.
        problem: Why not; None where it can.
    """

    name: str
    num_frames: int
    crop_pixels: int
    costs: Costs | None
    problem: str | None


def run_models(
    *,
    normalizer: str,
    num_frames: int | None,
    crop_pixels: int | None,
    json_path: Path | None,
) -> None:
    """Prints the table of all networks, and saves it if asked.

    Args:
        normalizer: Its name.
        num_frames: Of a clip; None is each network's own.
        crop_pixels: Height and width of a clip; None is each network's own.
        json_path: Where to save the figures; None is nowhere.

    Raises:
        ConfigError: no normalizer has that name, or a size is below 1.
        OutputError: the file cannot be written.
        SaveFailedError: writing failed half-way.
    """
    check_normalizer(normalizer)
    for option, value in (("--frames", num_frames), ("--pixels", crop_pixels)):
        if value is not None and value < 1:
            raise ConfigError(f"{option} is {value}; it must be at least 1")
    # How many groups each width gets matters to a run, not to the costs.
    logging.disable(logging.INFO)
    try:
        rows = [compute_model_costs(name, normalizer, num_frames, crop_pixels) for name in MODELS]
    finally:
        logging.disable(logging.NOTSET)
    console = Console(markup=False, highlight=False)
    console.print(
        f"{_NUM_CLASSES} classes, normalizer {normalizer}. Per clip of frames x height x width:"
        " GMAC, billions of multiply-accumulates of a forward pass; MiB, what the backward pass"
        " needs of it in float32.",
        soft_wrap=True,
    )
    console.print(_make_table(rows))
    for row in rows:
        if row.problem is not None:
            console.print(f"{row.name}: {row.problem}", soft_wrap=True)
    if json_path is not None:
        content = {
            "num_classes": _NUM_CLASSES,
            "normalizer": normalizer,
            "models": [_to_plain(row) for row in rows],
        }
        write_text_atomic(json_path, json.dumps(content, indent=2) + "\n")
        console.print(f"saved {json_path}", soft_wrap=True)


def compute_model_costs(
    name: str, normalizer: str, num_frames: int | None = None, crop_pixels: int | None = None
) -> ModelCosts:
    """Returns the costs of the network `name` for 400 classes; arguments as for `run_models`."""
    settings = list_settings(name)
    frames: int = num_frames or settings["num_frames"]
    pixels: int = crop_pixels or settings["train_crop_pixels"]
    try:
        with torch.device("meta"):
            model = make_model(
                name,
                _NUM_CLASSES,
                normalizer_factory(normalizer),
                num_frames=frames,
                train_crop_pixels=pixels,
            )
        costs = compute_costs(model, (frames, pixels, pixels))
    except ModelError as error:
        return ModelCosts(name, frames, pixels, None, str(error))
    return ModelCosts(name, frames, pixels, costs, None)


def _make_table(rows: list[ModelCosts]) -> Table:
    table = Table(show_edge=False)
    # On a narrow terminal names go on in the next line, and figures stay whole.
    table.add_column("model", overflow="fold")
    for column in ("clip", "M params", "GMAC", "MiB"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        clip = f"{row.num_frames}x{row.crop_pixels}x{row.crop_pixels}"
        figures = ("-", "-", "-")
        if row.costs is not None:
            figures = (
                f"{row.costs.num_parameters / 1e6:.2f}",
                f"{row.costs.num_macs / 1e9:.2f}",
                f"{row.costs.activation_bytes / 2**20:.0f}",
            )
        table.add_row(row.name, clip, *figures)
    return table


def _to_plain(row: ModelCosts) -> dict[str, Any]:
    plain: dict[str, Any] = {
        "name": row.name,
        "num_frames": row.num_frames,
        "crop_pixels": row.crop_pixels,
    }
    return plain | ({"problem": row.problem} if row.costs is None else asdict(row.costs))
