"""A folder for the hub: gnvideo and the hub's own package read it, and its card states facts."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from trained_networks import make_trained

from gnvideo.errors import OutputError, SaveFailedError
from gnvideo.export import MeasuredAccuracy, save_huggingface_folder
from gnvideo.export import huggingface as module
from gnvideo.training.checkpoint import ModelDescription, load_weights

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from huggingface_hub import ModelCard

DESCRIPTION = ModelDescription(
    classes=("archery", "été", "a|b"),
    input_recipe={
        "num_frames": 16,
        "stride": 3,
        "short_side_range_pixels": [70, 80],
        "crop_pixels": 64,
        "test_short_side_pixels": 72,
        "flip_probability": 0.5,
        "mean": [0.4, 0.5, 0.6],
        "std": [0.2, 0.225, 0.25],
    },
    model={"name": "resnet3d_10", "width": 8},
    normalizer={"name": "batch", "num_groups": 4},
)
EVALUATION = {
    "protocol": "gn-10",
    "views": 10,
    "split": "val|1",
    "step": 7,
    "statistics": "running",
    "clip_top1": 61.25,
    "clip_top5": 80.0,
    "video_top1": 70.125,
    "video_top5": 90.5,
    "mean_class_accuracy": 69.0,
    "video_top1_of_all": 68.75,
    "video_top5_of_all": 88.0,
}


def save(folder: Path, *accuracies: MeasuredAccuracy) -> Any:
    model, _ = make_trained("resnet3d_10", "batch", num_classes=3)
    save_huggingface_folder(model, DESCRIPTION, 7, accuracies, folder)
    return model


def test_weights_are_those_of_the_network_with_their_description(tmp_path):
    model = save(tmp_path / "hub")
    weights = load_weights(tmp_path / "hub")

    assert (weights.description, weights.step) == (DESCRIPTION, 7)
    state = model.state_dict()
    assert weights.tensors.keys() == state.keys()
    assert all(torch.equal(tensor, state[name]) for name, tensor in weights.tensors.items())


def test_config_and_preprocessor_have_the_hubs_names(tmp_path):
    save(tmp_path / "hub")
    config = json.loads((tmp_path / "hub" / "config.json").read_text(encoding="utf-8"))
    preprocessor = json.loads((tmp_path / "hub" / "preprocessor_config.json").read_text())

    assert config["architecture"] == "resnet3d_10"
    assert config["id2label"] == {"0": "archery", "1": "été", "2": "a|b"}
    assert config["label2id"] == {"archery": 0, "été": 1, "a|b": 2}
    assert (config["num_frames"], config["frame_sample_rate"], config["image_size"]) == (16, 3, 64)
    assert (config["model"], config["normalizer"]) == (DESCRIPTION.model, DESCRIPTION.normalizer)
    assert preprocessor["size"] == {"shortest_edge": 72}
    assert preprocessor["crop_size"] == {"height": 64, "width": 64}
    assert preprocessor["image_mean"] == [0.4, 0.5, 0.6]
    assert preprocessor["image_std"] == [0.2, 0.225, 0.25]
    assert 255 * preprocessor["rescale_factor"] == 1


def test_card_without_evaluation_says_so_and_states_no_figure(tmp_path):
    save(tmp_path / "hub")
    card = ModelCard.load(tmp_path / "hub" / "README.md")

    assert card.data.to_dict() == {
        "library_name": "gnvideo",
        "pipeline_tag": "video-classification",
        "tags": ["video-classification", "resnet3d_10"],
    }
    assert "No license is stated. Add `license:`" in card.text
    accuracy = card.text.split("## Accuracy")[1]
    assert accuracy.strip().startswith("Not measured: no evaluation of these weights was found")
    assert not any(character.isdigit() for character in accuracy)


def test_card_states_protocol_accuracy_and_coverage_of_each_evaluation(tmp_path):
    precise = EVALUATION | {"statistics": "precise", "video_top1": 71.5}
    unlabelled = {key: None for key in EVALUATION if "top" in key or key.endswith("accuracy")}
    save(
        tmp_path / "hub",
        MeasuredAccuracy(EVALUATION, "val|1 98 of 100 (98.0 %), fingerprint ab12"),
        MeasuredAccuracy(precise, "val|1 98 of 100 (98.0 %), fingerprint ab12"),
        MeasuredAccuracy(EVALUATION | unlabelled, "test 5 of 5 (100.0 %), fingerprint cd34"),
    )
    lines = (tmp_path / "hub" / "README.md").read_text(encoding="utf-8").splitlines()
    head, _, *rows = [line for line in lines if line.startswith("|")]

    assert [name.strip() for name in head.strip("|").split("|")] == [
        *("protocol", "views", "video top-1", "video top-5", "of all asked, top-1", "clip top-1"),
        *("mean class accuracy", "batch statistics", "videos"),
    ]
    videos = r"val\|1 98 of 100 (98.0 %), fingerprint ab12"
    assert rows == [
        "| gn-10 | 10 | 70.12 | 90.50 | 68.75 | 61.25 | 69.00 | running, those of the file"
        f" | {videos} |",
        f"| gn-10 | 10 | 71.50 | 90.50 | 68.75 | 61.25 | 69.00 | recomputed | {videos} |",
        "| gn-10 | 10 |" + " no labels |" * 5 + " running, those of the file"
        " | test 5 of 5 (100.0 %), fingerprint cd34 |",
    ]


def test_folder_that_exists_is_left_as_it_is(tmp_path):
    with pytest.raises(OutputError, match=r"exists; choose another output folder or remove it"):
        save(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_folder_is_there_whole_or_not_at_all(tmp_path, monkeypatch):
    def fail(*arguments: object) -> None:
        assert len(list(tmp_path.iterdir())) == 1
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "write_text_atomic", fail)
    with pytest.raises(SaveFailedError, match="no space left"):
        save(tmp_path / "hub")
    assert list(tmp_path.iterdir()) == []
