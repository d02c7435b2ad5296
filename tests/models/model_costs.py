"""The table of all models' costs, `tests/golden/model_costs.csv`; run as a script, it renews it.

Each model has a row for its own training clip, and more for clips of which figures are published.
Columns that begin with `published` and `source` are kept; all others are computed. A published
figure stands there if it holds to its last digit; `source` tells of others. Some count BatchNorm as
well, with `published_normalizer_operations` for each value that is normalized; empty is 0.
"""

from __future__ import annotations

import csv
import io
from pathlib import Path

from gnvideo.commands.models import compute_model_costs
from gnvideo.models import MODELS, list_settings

PATH = Path(__file__).parents[1] / "golden" / "model_costs.csv"
COLUMNS = (
    *("model", "frames", "pixels", "parameters_millions", "gmac", "memory_mib"),
    *("published_parameters_millions", "published_gmac", "published_normalizer_operations"),
    "source",
)


def read_rows() -> list[dict[str, str]]:
    with PATH.open(newline="") as file:
        return list(csv.DictReader(file))


def find_own_clip(model: str) -> tuple[str, str]:
    settings = list_settings(model)
    return str(settings["num_frames"]), str(settings["train_crop_pixels"])


def compute_figures(model: str, frames: str, pixels: str) -> dict[str, str]:
    """Returns the computed columns, for 400 classes and group normalization."""
    row = compute_model_costs(model, "group", int(frames), int(pixels))
    assert row.costs is not None, row.problem
    return {
        "parameters_millions": f"{row.costs.num_parameters / 1e6:.2f}",
        "gmac": f"{row.costs.num_macs / 1e9:.2f}",
        "memory_mib": f"{row.costs.activation_bytes / 2**20:.1f}",
    }


def renew() -> None:
    """Writes the file for the models that there are, in their order."""
    kept = {(row["model"], row["frames"], row["pixels"]): row for row in read_rows()}
    table = io.StringIO()
    writer = csv.DictWriter(table, COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    for model in MODELS:
        clips = {find_own_clip(model), *(key[1:] for key in kept if key[0] == model)}
        for frames, pixels in sorted(clips, key=lambda clip: [int(size) for size in clip]):
            row = kept.get((model, frames, pixels), {})
            row = row | {"model": model, "frames": frames, "pixels": pixels}
            writer.writerow(row | compute_figures(model, frames, pixels))
    PATH.write_text(table.getvalue())


if __name__ == "__main__":
    renew()
