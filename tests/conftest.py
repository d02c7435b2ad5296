"""What the tests of the whole share: a generated data set, prepared, and a run of seconds on it."""

from __future__ import annotations

import importlib
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

# The tools' worker processes import them by name.
sys.path.insert(0, str(Path(__file__).parents[1] / "data_tools"))

# Without a GPU, Triton's kernels are tested in its interpreter. Triton asks for this when it is
# first imported.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

# A shell without job control starts what runs in the background with SIGINT ignored, and every
# process that a test interrupts would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def one_thread_for_all():
    """The tensors here are too small to gain from threads, and lose to their start."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def sample_kinetics(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """18 train, 12 val and 6 test videos of six classes; train and val have six broken more."""
    folder = tmp_path_factory.mktemp("sample")
    counts = ["--train", "3", "--val", "2", "--test", "1"]
    tool = importlib.import_module("make_sample_kinetics")
    assert tool.main(["--output", str(folder), *counts, "--workers", "2"]) == 0
    return folder


@pytest.fixture(scope="session")
def prepared_kinetics(sample_kinetics: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data root that the preparation makes of `sample_kinetics`. Tests only read it."""
    root = tmp_path_factory.mktemp("prepared")
    words = ["--videos", str(sample_kinetics / "videos"), "--output", str(root)]
    for path in sorted((sample_kinetics / "annotations").iterdir()):
        words += ["--annotations", str(path)]
    tool = importlib.import_module("preprocess_kinetics")
    assert tool.main([*words, "--short-side", "40", "--workers", "2"]) == 0
    return root


@pytest.fixture(scope="session")
def tiny_run_config(prepared_kinetics: Path) -> dict[str, Any]:
    """A run of two seconds as plain values, which tests copy before they change them.

    As it stands it is the base of a comparison; a run also has an output and, as the comparison's
    grid sets them, a normalizer and 2 clips per batch.
    """
    return {
        "model": {"name": "resnet3d_10", "width": 4, "stem_pool": True},
        "normalizer": {"num_groups": 2},
        "data": {
            "root": str(prepared_kinetics),
            "num_frames": 4,
            "stride": 2,
            "short_side_range_pixels": [40, 40],
            "crop_pixels": 32,
            "test_short_side_pixels": 40,
            "num_workers": 0,
        },
        "training": {
            "epochs": 2,
            "learning_rate": 0.02,
            "reference_clips_per_step": None,
            "schedule": "cosine",
            "device": "cpu",
            "num_threads": 1,
            "log_every_steps": 2,
        },
        "evaluation": {"precise_batches": 4},
    }
