from __future__ import annotations

import shutil
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from gnvideo.cli import main
from gnvideo.commands import doctor_decoding
from gnvideo.commands.doctor_decoding import check_videos
from gnvideo.data.decoding import DECODER_NAMES, DecodedFrames, VideoDecoder, make_decoder
from gnvideo.data.encoding import encode_video
from gnvideo.errors import VideoError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three readable videos, one cut short and one that is a text."""
    frames_THWC = np.random.default_rng(0).integers(0, 256, (30, 64, 64, 3), np.uint8)
    for number in range(3):
        encode_video(tmp_path / f"{number}.mp4", np.roll(frames_THWC, number, 0), fps=Fraction(25))
    content = (tmp_path / "0.mp4").read_bytes()
    (tmp_path / "3.mp4").write_bytes(content[: len(content) // 3])
    (tmp_path / "4.mp4").write_text("no video")
    return tmp_path


def test_all_decoders_are_compared_on_the_users_files(folder: Path) -> None:
    found = {finding.subject: finding for finding in check_videos([folder], max_files=20)}
    assert found["your videos"].state == "note"
    assert found["your videos"].text.startswith("pyav reads 3 of 5; the first that fails: ")
    for name in DECODER_NAMES[1:]:
        finding = found[f"your videos, {name}"]
        assert (finding.state, finding.text) == ("ok", "same frames as pyav in 3 of 3")


def test_only_the_first_files_are_looked_at(folder: Path) -> None:
    first, *_ = check_videos([folder], max_files=2)
    assert (first.state, first.text) == ("ok", "pyav reads 2 of 2")


class MisreadingDecoder:
    """Reads as PyAV does, but one video a frame late, and refuses another."""

    name = "misreading"

    def __init__(self) -> None:
        self._decoder = make_decoder("pyav")
        self.read_metadata = self._decoder.read_metadata

    def decode_frames(
        self, path: Path, indices: Sequence[int] | npt.NDArray[np.integer]
    ) -> DecodedFrames:
        if path.name == "0.mp4":
            raise VideoError(f"{path}: refused")
        shift = int(path.name == "1.mp4")
        return self._decoder.decode_frames(path, np.maximum(np.subtract(indices, shift), 0))


def test_a_decoder_that_gives_other_frames_is_broken(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def make(name: str) -> VideoDecoder:
        return make_decoder("pyav") if name == "pyav" else MisreadingDecoder()

    monkeypatch.setattr(doctor_decoding, "make_decoder", make)
    monkeypatch.setattr(doctor_decoding, "DECODER_NAMES", ("pyav", "misreading"))
    findings = list(check_videos([folder], max_files=20))
    assert findings[1].state == "broken"
    assert findings[1].text.startswith("other frames than pyav in 1 of 3, the first is ")
    assert "1.mp4" in findings[1].text
    (folder / "1.mp4").unlink()
    findings = list(check_videos([folder], max_files=20))
    assert findings[1].state == "note"
    assert findings[1].text.startswith("same frames as pyav in 1 of 2; it refuses the others")


def test_the_command_fails_only_where_something_is_broken(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["doctor", str(folder)]) == 0
    assert "your videos" in capsys.readouterr().out
    assert main(["doctor", str(folder / "4.mp4")]) == 1
    assert main(["doctor", str(folder), "--files", "0"]) == 2
    shutil.rmtree(folder)
    assert main(["doctor", str(folder)]) == 2
