from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from gnvideo.cli import main
from gnvideo.commands.bench_clips import BenchClip, draw_clips, find_videos
from gnvideo.commands.bench_decode import (
    ReaderRecord,
    compare_frames,
    compute_cost_ratio,
    time_readers,
)
from gnvideo.commands.decode_peers import OWN_NAME, Reader, make_readers
from gnvideo.data.decoding import make_decoder
from gnvideo.errors import InputFileError

NAMES = {
    *(OWN_NAME, "decord", "torchcodec exact", "torchcodec approximate"),
    *("pytorchvideo", "plain PyAV"),
}


@pytest.fixture(scope="module")
def videos(prepared_kinetics: Path) -> list[Path]:
    return sorted((prepared_kinetics / "videos" / "val").rglob("*.mp4"))[:3]


def draw(videos: Sequence[Path], num_clips: int = 5) -> list[BenchClip]:
    decoder = make_decoder("pyav")
    clips, complaints = draw_clips(videos, decoder, num_clips=num_clips, num_frames=4, stride=2)
    assert not complaints
    return clips


def test_the_benchmark_accounts_for_every_clip_of_every_decoder(
    videos: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "my videos"
    folder.mkdir()
    for video in videos:
        shutil.copy(video, folder)
    (folder / "broken.mp4").write_bytes(videos[0].read_bytes()[:500])
    json_path = tmp_path / "results" / "decode.json"
    words = ["bench", "decode", folder, "--frames", 4, "--clips", 6, "--rounds", 2]
    assert main([str(word) for word in (*words, "--json", json_path)]) == 0
    out = capsys.readouterr().out
    saved: dict[str, Any] = json.loads(json_path.read_text())
    assert saved["environment"]["command"]
    assert "commit" in saved["environment"]
    assert any("broken.mp4" in note for note in saved["notes"])
    absent = {
        name
        for name in NAMES
        if any(note.startswith(f"{name} does not") for note in saved["notes"])
    }
    assert saved["results"].keys() == NAMES - absent
    for name, result in saved["results"].items():
        assert sum(result["clips"].values()) == 6
        num_equal = result["clips"].get("equal", 0)
        assert ("cost_ratio" in result) == (num_equal > 0)
        if num_equal:
            assert len(result["milliseconds_per_clip"]) == 2
            assert min(result["milliseconds_per_clip"]) > 0
        assert bool(result["first_complaint"]) == (num_equal < 6)
        assert name in out
    assert saved["results"][OWN_NAME]["clips"] == {"equal": 6}
    assert saved["results"][OWN_NAME]["cost_ratio"] == [1, 1, 1]
    # Its frames are found by index, and these files have nothing that it cannot read.
    assert saved["results"]["plain PyAV"]["clips"] == {"equal": 6}
    page = json_path.with_suffix(".md").read_text()
    assert f"| {OWN_NAME} | 6 equal |" in page
    assert "Commit " in page


def test_a_peer_that_gives_other_frames_or_fails_has_no_time_on_those_clips(
    videos: list[Path],
) -> None:
    clips = draw(videos)
    readers, _ = make_readers()
    own = readers[OWN_NAME]

    def read_wrongly(clip: BenchClip) -> npt.NDArray[np.uint8]:
        frames_THWC = own.read(clip).copy()
        if clip is clips[1]:
            frames_THWC[2, 0, 0, 0] ^= 1
        if clip is clips[3]:
            raise RuntimeError("no such\nframe")
        return frames_THWC[:2] if clip is clips[4] else frames_THWC

    chosen = {OWN_NAME: own, "wrong": Reader(read_wrongly, np.asarray)}
    records = compare_frames(chosen, clips)
    assert records["wrong"].verdicts == ["equal", "other frames", "equal", "failed", "other frames"]
    assert records["wrong"].first_complaint.startswith(f"{clips[1].path}: 1 of 4 frames differ")
    time_readers(chosen, clips, records, num_rounds=2)
    assert np.isnan(records["wrong"].seconds).any(axis=0).tolist() == [
        False,
        True,
        False,
        True,
        True,
    ]
    assert not np.isnan(records[OWN_NAME].seconds).any()


def make_record(seconds: list[list[float]]) -> ReaderRecord:
    return ReaderRecord(seconds=np.array(seconds))


def test_a_ratio_is_over_the_clips_that_both_read_alike() -> None:
    own = make_record([[1, 1, 4], [2, 1, 4]])
    peer = make_record([[3, 1, np.nan], [3, 3, np.nan]])
    ratio = compute_cost_ratio(peer, own)
    assert ratio is not None
    assert (ratio.lowest, ratio.median, ratio.highest) == (2, 2, 2)
    assert compute_cost_ratio(make_record([[np.nan] * 3] * 2), own) is None


def test_clips_are_spread_over_the_videos_and_the_same_each_time(videos: list[Path]) -> None:
    clips = draw(videos, 6)
    assert [path for path in videos if sum(clip.path == path for clip in clips) == 2] == videos
    for clip, again in zip(clips, draw(videos, 6), strict=True):
        assert clip.path == again.path
        assert np.array_equal(clip.indices, again.indices)


def test_videos_are_found_in_folders_and_named_once(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    for name in ("a/2.MKV", "a/1.mp4", "a/notes.txt", "odd.name"):
        (tmp_path / name).touch()
    assert find_videos([tmp_path, tmp_path / "odd.name", tmp_path / "a" / "1.mp4"]) == [
        tmp_path / "a" / "1.mp4",
        tmp_path / "a" / "2.MKV",
        tmp_path / "odd.name",
    ]
    with pytest.raises(InputFileError, match="no file or folder"):
        find_videos([tmp_path / "absent"])


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["decode", "{tmp}/absent"], "{tmp}/absent"),
        (["decode", "{tmp}"], "no video below {tmp}"),
        (["decode", "{tmp}", "--clips", "0"], "--clips is 0"),
        (["decode", "{tmp}/text.mp4x"], "no video can be read"),
        (["loader", "{tmp}"], "{tmp}/classes.txt"),
        (["loader", "{tmp}/absent.yaml"], "{tmp}/absent.yaml"),
        (["loader", "{tmp}", "data.num_frame=3"], "data.num_frame'"),
        (["loader", "{tmp}", "--rounds", "0"], "--rounds 0"),
    ],
)
def test_wrong_input_is_one_line(
    words: list[str], named: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text.mp4x").write_text("no video")
    assert main(["bench", *(word.format(tmp=tmp_path) for word in words)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert named.format(tmp=tmp_path) in line
