"""ONNX files and torch.export programs compute what the network does, for any number of clips."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch
from trained_networks import compute_relative_error, make_clips, make_trained

from gnvideo.errors import ExportError, MissingPackageError, OutputError
from gnvideo.export import OPSET, save_onnx_file, save_torch_program
from gnvideo.export.agreement import check_agreement
from gnvideo.layers import NORMALIZERS
from gnvideo.models import MODELS, VideoClassifier
from gnvideo.models.classifier import Size3

# What is promised of an exported network's logits.
MAX_RELATIVE_ERROR = 1e-4
METADATA = {"classes": json.dumps(["archery", "été", "zumba"], ensure_ascii=False), "step": "7"}

Save = Callable[[VideoClassifier, Size3, Mapping[str, str], Path], float]
SAVERS: Mapping[str, Save] = {"onnx": save_onnx_file, "pt2": save_torch_program}


def open_network(path: Path) -> Callable[[torch.Tensor], torch.Tensor]:
    if path.suffix == ".pt2":
        return torch.export.load(path).module()
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda clips: torch.from_numpy(session.run(["logits"], {"clips": clips.numpy()})[0])


def assert_file_computes_the_networks_logits(
    save: Save, name: str, normalizer: str, path: Path
) -> None:
    model, clip = make_trained(name, normalizer)
    reported = save(model, clip, METADATA, path)
    assert 0 <= reported <= MAX_RELATIVE_ERROR

    compute_logits = open_network(path)
    for num_clips in (1, 2, 3):
        clips = make_clips(num_clips, clip)
        with torch.no_grad():
            error = compute_relative_error(compute_logits(clips), model(clips))
        assert error <= MAX_RELATIVE_ERROR, num_clips


@pytest.mark.parametrize("suffix", SAVERS)
@pytest.mark.parametrize(
    ("name", "normalizer"),
    [("resnet3d_10", "group"), ("resnet3d_10", "batch"), ("i3d_r50", "group")],
)
def test_file_computes_the_networks_logits(name, normalizer, suffix, tmp_path):
    path = tmp_path / f"network.{suffix}"
    assert_file_computes_the_networks_logits(SAVERS[suffix], name, normalizer, path)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


@pytest.mark.slow
@pytest.mark.parametrize("suffix", SAVERS)
@pytest.mark.parametrize("name", MODELS)
def test_every_network_can_be_exported(name, suffix, tmp_path):
    path = tmp_path / f"network.{suffix}"
    assert_file_computes_the_networks_logits(SAVERS[suffix], name, "group", path)


@pytest.mark.slow
@pytest.mark.parametrize("suffix", SAVERS)
@pytest.mark.parametrize("normalizer", NORMALIZERS)
def test_every_normalizer_can_be_exported(normalizer, suffix, tmp_path):
    path = tmp_path / f"network.{suffix}"
    assert_file_computes_the_networks_logits(SAVERS[suffix], "resnet3d_10", normalizer, path)


def test_onnx_file_is_valid_and_says_what_it_takes_and_who_its_classes_are(tmp_path, caplog):
    model, clip = make_trained("resnet3d_10", "group")
    path = tmp_path / "network.onnx"
    caplog.set_level("INFO")
    save_onnx_file(model, clip, METADATA, path)
    assert caplog.messages == []

    proto = onnx.load(path)
    onnx.checker.check_model(proto, full_check=True)
    assert [(entry.domain, entry.version) for entry in proto.opset_import] == [("", OPSET)]
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (clips,), (logits,) = session.get_inputs(), session.get_outputs()
    assert (clips.name, clips.type, clips.shape[1:]) == ("clips", "tensor(float)", [3, *clip])
    assert (logits.name, logits.shape[1:]) == ("logits", [5])
    assert isinstance(clips.shape[0], str)
    assert clips.shape[0] == logits.shape[0]
    stored = session.get_modelmeta().custom_metadata_map
    assert {key: stored[key] for key in METADATA} == METADATA


def test_program_gives_back_what_was_stored_beside_it(tmp_path):
    model, clip = make_trained("resnet3d_10", "group")
    path = tmp_path / "network.pt2"
    save_torch_program(model, clip, METADATA, path)

    stored = dict.fromkeys(METADATA, "")
    torch.export.load(path, extra_files=stored)
    assert stored == METADATA


@pytest.mark.parametrize("suffix", SAVERS)
def test_network_whose_logits_are_not_numbers_leaves_no_file(suffix, tmp_path):
    model, clip = make_trained("resnet3d_10", "group")
    model.get_classifier().weight.data[0, 0] = torch.nan
    with pytest.raises(
        ExportError, match=rf"network\.{suffix}: the logits of 1 clips differ .*nan"
    ):
        SAVERS[suffix](model, clip, METADATA, tmp_path / f"network.{suffix}")
    assert list(tmp_path.iterdir()) == []


def test_difference_is_relative_to_the_largest_logit_and_bounded():
    model, clip = make_trained("resnet3d_10", "group")

    def compute_shifted(share: float) -> Callable[[torch.Tensor], torch.Tensor]:
        def compute(clips: torch.Tensor) -> torch.Tensor:
            logits = model(clips).clone()
            logits[-1, 2] += share * logits.abs().max()
            return logits

        return compute

    assert check_agreement(model, model, clip, "copy") == 0
    error = check_agreement(model, compute_shifted(0.9e-4), clip, "copy")
    assert error == pytest.approx(0.9e-4, rel=0.01)
    message = r"copy: the logits of 1 clips differ from the network's own by 1\.\de-04 of the"
    with pytest.raises(ExportError, match=message):
        check_agreement(model, compute_shifted(1.1e-4), clip, "copy")


def test_difference_for_two_clips_alone_is_found():
    model, clip = make_trained("resnet3d_10", "group")

    def repeat_first(clips: torch.Tensor) -> torch.Tensor:
        return model(clips)[:1].expand(len(clips), -1)

    with pytest.raises(ExportError, match="the logits of 2 clips differ"):
        check_agreement(model, repeat_first, clip, "copy")


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_missing_package_is_named_with_what_installs_it(
    package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, clip = make_trained("resnet3d_10", "group")
    monkeypatch.setitem(sys.modules, package, None)
    message = rf'^{package} does not import here .*pip install "gnvideo\[export\]"$'
    with pytest.raises(MissingPackageError, match=message):
        save_onnx_file(model, clip, METADATA, tmp_path / "network.onnx")


def test_place_that_cannot_be_written_is_an_error_of_one_line(tmp_path):
    model, clip = make_trained("resnet3d_10", "group")
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="choose an output folder"):
        save_torch_program(model, clip, METADATA, tmp_path / "file" / "network.pt2")
