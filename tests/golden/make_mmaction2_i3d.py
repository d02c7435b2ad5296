"""Writes mmaction2_i3d.json: names, shapes and logits of mmaction2's own I3D.

mmaction2 1.2.0 cannot stand among the development dependencies (its wheel lacks files that its
`models` package imports). In an environment of its own:

    pip install mmaction2==1.2.0 mmcv-lite==2.1.0 mmengine torch
    python tests/golden/make_mmaction2_i3d.py tests/golden/mmaction2_i3d.json
"""

from __future__ import annotations

import importlib
import json
import sys
import types
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from weights.named_values import make_named_state, make_uniform

# The settings of mmaction2's configs/_base_/models/i3d_r50.py, with an eighth of the channels.
BASE_CHANNELS, NUM_CLASSES = 8, 7
CLIP = (2, 3, 16, 64, 96)
SETTINGS: dict[str, Any] = {
    "pretrained": None,
    "depth": 50,
    "base_channels": BASE_CHANNELS,
    "conv1_kernel": (5, 7, 7),
    "conv1_stride_t": 2,
    "pool1_stride_t": 2,
    "conv_cfg": {"type": "Conv3d"},
    "norm_eval": False,
    "inflate": ((1, 1, 1), (1, 0, 1, 0), (1, 0, 1, 0, 1, 0), (0, 1, 0)),
    "zero_init_residual": False,
}


def import_piece(name: str) -> Any:
    """Imports a module below mmaction.models without that package's own, broken __init__."""
    package = importlib.import_module("mmaction")
    folder = Path(package.__file__ or "").parent
    for parent in ("models", "models.backbones", "models.heads"):
        stub = types.ModuleType(f"mmaction.{parent}")
        stub.__path__ = [str(folder.joinpath(*parent.split(".")))]
        sys.modules.setdefault(stub.__name__, stub)
    return importlib.import_module(f"mmaction.models.{name}")


def main() -> None:
    importlib.import_module("mmengine.registry").init_default_scope("mmaction")
    backbone = import_piece("backbones.resnet3d").ResNet3d(**SETTINGS)
    import_piece("losses.cross_entropy_loss")
    head = import_piece("heads.i3d_head").I3DHead(
        num_classes=NUM_CLASSES, in_channels=BASE_CHANNELS * 32, spatial_type="avg"
    )
    model = torch.nn.ModuleDict({"backbone": backbone, "cls_head": head}).eval()
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    model.load_state_dict(make_named_state(shapes))
    with torch.no_grad():
        logits = head(backbone(make_uniform("clip", CLIP)))
    content = {
        "mmaction2": importlib.import_module("mmaction").__version__,
        "torch": torch.__version__,
        "clip": CLIP,
        "logits": logits.tolist(),
        "shapes": shapes,
    }
    Path(sys.argv[1]).write_text(json.dumps(content) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
