from __future__ import annotations

import csv
import os
import runpy
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from gnvideo.data.class_list import read_classes
from gnvideo.data.coverage import read_coverage
from gnvideo.data.encoding import encode_video
from gnvideo.data.manifest import read_manifest
from gnvideo.data.video_index import load_video_index

SCRIPT = Path(__file__).parents[2] / "data_tools" / "preprocess_kinetics.py"
HEADER = "label,youtube_id,time_start,time_end,split"

Tool = Callable[..., int]


def write_video(path: Path, seed: int, num_frames: int = 12, fps: int = 12) -> None:
    rng = np.random.default_rng(seed)
    base = rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)
    frames = (np.roll(base, t, axis=1) for t in range(num_frames))
    encode_video(path, frames, fps=Fraction(fps))


@pytest.fixture(scope="session")
def twelve_videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six clips of each of two classes, in one folder, named as downloads of cut clips are."""
    folder = tmp_path_factory.mktemp("downloads")
    lines = [HEADER]
    for i in range(12):
        write_video(folder / "clips" / f"-id_{i:07d}_000005_000006.mp4", seed=i)
        lines.append(f"{'ab'[i % 2]},-id_{i:07d},5,6,{'val' if i < 4 else 'train'}")
    (folder / "all.csv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture
def videos(twelve_videos: Path, tmp_path: Path) -> Path:
    """A copy of the clips, times of change included, that a test may change."""
    return Path(shutil.copytree(twelve_videos, tmp_path / "downloads"))


@pytest.fixture(scope="session")
def clean(twelve_videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The twelve clips, prepared in one run."""
    root = tmp_path_factory.mktemp("prepared") / "clean"
    command = [sys.executable, str(SCRIPT), "--annotations", str(twelve_videos / "all.csv")]
    command += ["--videos", str(twelve_videos), "--output", str(root), "--workers", "1"]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    return root


@pytest.fixture
def tool(tmp_path: Path) -> Tool:
    """Runs the script in this process, its workers in theirs, into `tmp_path / "out"`."""
    main = runpy.run_path(str(SCRIPT))["main"]

    def run(*arguments: str | Path) -> int:
        options = ["--output", tmp_path / "out", "--workers", "1", *arguments]
        return main([str(option) for option in options])

    return run


def read_state(root: Path) -> dict[str, object]:
    """Returns all that a prepared folder says about itself."""
    return {
        "rows": read_manifest(root),
        "classes": read_classes(root),
        "coverage": read_coverage(root),
        "quarantine": (root / "quarantine.csv").read_text(),
    }


def test_a_folder_with_every_trouble_is_prepared_and_accounted_for(
    tmp_path: Path, tool: Tool, capsys: pytest.CaptureFixture[str]
) -> None:
    downloads = tmp_path / "my 'downloads'"
    write_video(downloads / "val" / "-good_00001_000002_000003.mp4", seed=1)
    write_video(downloads / "whole video.mp4", seed=2, num_frames=48)
    write_video(downloads / "train" / "already_cut.mp4", seed=3)
    write_video(downloads / "nobody asked.mp4", seed=4)
    (downloads / "empty_000000_000010.mp4").touch()
    whole = (downloads / "whole video.mp4").read_bytes()
    (downloads / "cut_off_000000_000010.mkv").write_bytes(whole[: len(whole) // 2])
    write_video(downloads / "replaced_000000_000001.mp4", seed=5)
    (downloads / "a").mkdir()
    (downloads / "a" / "replaced_000000_000001.mp4").write_bytes(b"junk")
    annotations = tmp_path / "list.csv"
    annotations.write_text(
        f"{HEADER}\n"
        "tai chi,-good_00001,2,3,val\n"
        "tai chi,-good_00001,2,3,val\n"
        "a/b,whole video,1,3,train\n"
        "a/b,already_cut,40,41,train\n"
        "a/b,replaced,0,1,train\n"
        "tai chi,empty,0,10,val\n"
        "tai chi,cut_off,0,10,train\n"
        "tai chi,absent,0,10,val\n"
        ",../../unlabelled,0,10,test\n"
    )
    before = {path: path.read_bytes() for path in downloads.rglob("*.*")}
    assert tool("--annotations", annotations, "--videos", downloads) == 0

    root = tmp_path / "out"
    rows = {row.id: row for row in read_manifest(root)}
    assert {name: row.status for name, row in rows.items()} == {
        "-good_00001_000002_000003": "ok",
        "whole video_000001_000003": "ok",
        "already_cut_000040_000041": "ok",
        "replaced_000000_000001": "ok",
        "empty_000000_000010": "unreadable",
        "cut_off_000000_000010": "unreadable",
        "absent_000000_000010": "missing",
        "../../unlabelled_000000_000010": "missing",
    }
    assert rows["whole video_000001_000003"].frames == 24
    assert rows["already_cut_000040_000041"].frames == 12
    good = rows["-good_00001_000002_000003"]
    assert good.path == "videos/val/tai chi/-good_00001_000002_000003.mp4"
    assert (good.frames, good.width, good.height, good.keyframe_interval) == (12, 32, 24, 12)
    assert good.bytes == (root / good.path).stat().st_size
    assert (
        rows["whole video_000001_000003"].path == "videos/train/a%2Fb/whole video_000001_000003.mp4"
    )
    assert read_classes(root) == ("a/b", "tai chi")
    prepared = {path for path in root.rglob("*.mp4")}
    assert prepared == {root / row.path for row in rows.values() if row.path}

    with (root / "quarantine.csv").open(newline="") as file:
        quarantine = list(csv.DictReader(file))
    assert [(entry["id"], entry["split"]) for entry in quarantine] == [
        ("cut_off_000000_000010", "train"),
        ("empty_000000_000010", "val"),
    ]
    assert quarantine[1]["source"] == str(downloads / "empty_000000_000010.mp4")
    assert quarantine[1]["reason"] == "empty_000000_000010.mp4 is empty"
    assert rows["empty_000000_000010"].reason == quarantine[1]["reason"]

    printed = capsys.readouterr().out
    coverage = read_coverage(root)["splits"]
    assert coverage["val"]["asked"] == 3
    assert coverage["val"]["fingerprint"] in printed
    assert str(root / "quarantine.csv") in printed
    assert "1 rows stand twice" in printed
    assert "1 of 8 videos belong to no annotation row" in printed
    assert {path: path.read_bytes() for path in downloads.rglob("*.*")} == before


def test_a_killed_run_goes_on_and_ends_as_an_uninterrupted_one(
    tmp_path: Path, clean: Path, videos: Path
) -> None:
    killed = tmp_path / "killed"
    inputs = ["--annotations", str(videos / "all.csv"), "--videos", str(videos)]
    command = [sys.executable, str(SCRIPT), *inputs, "--output", str(killed), "--workers", "2"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        log = killed / ".progress.jsonl"
        deadline = time.monotonic() + 60
        while not (log.exists() and log.read_bytes().count(b"\n") >= 3):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert not (killed / "manifest.parquet").exists()
    # What a kill in the middle of a write leaves.
    with log.open("ab") as file:
        file.write(b'{"key": "[\\"train')
    (killed / "videos" / ".x.mp4.1.partial").touch()

    finished = {path: path.stat().st_mtime_ns for path in killed.rglob("[!.]*.mp4")}
    logged = log.read_bytes().count(b"\n")
    assert 3 <= logged <= len(finished) < 12
    done = subprocess.run(
        [*command, "--workers", "1"], capture_output=True, text=True, check=True, timeout=60
    )
    assert f"{12 - logged} videos prepared now, {logged} before" in done.stdout
    assert read_state(killed) == read_state(clean)
    for row in read_manifest(clean):
        assert (killed / (row.path or "")).read_bytes() == (clean / (row.path or "")).read_bytes()
    assert not list(killed.rglob("*.partial"))


def test_a_second_run_does_only_what_changed(
    tmp_path: Path, tool: Tool, videos: Path, clean: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    inputs = ["--annotations", videos / "all.csv", "--videos", videos]
    shutil.copytree(clean, tmp_path / "out")
    first = read_state(tmp_path / "out")
    assert tool(*inputs) == 0
    assert "0 videos prepared now, 12 before" in capsys.readouterr().out
    assert read_state(tmp_path / "out") == first

    sources = sorted((videos / "clips").iterdir())
    write_video(sources[0], seed=100)
    os.utime(sources[1], ns=(1, 1))
    next((tmp_path / "out" / "videos" / "train").rglob("*.mp4")).unlink()
    assert tool(*inputs) == 0
    assert "3 videos prepared now, 9 before" in capsys.readouterr().out
    second = read_state(tmp_path / "out")
    assert second["coverage"] != first["coverage"]
    assert tool(*inputs, "--crf", "40") == 0
    assert "12 videos prepared now, 0 before" in capsys.readouterr().out


def snapshot(folder: Path) -> dict[Path, tuple[int, int]]:
    return {
        path: (path.stat().st_mtime_ns, path.stat().st_size)
        for path in (folder, *folder.rglob("*"))
    }


def test_a_dry_run_counts_and_writes_nothing(
    tmp_path: Path, tool: Tool, videos: Path, clean: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    inputs = ["--annotations", videos / "all.csv", "--videos", videos, "--dry-run"]
    # One of the four of val.
    (videos / "clips" / "-id_0000001_000005_000006.mp4").unlink()

    def read_counts() -> dict[str, list[int]]:
        before = snapshot(tmp_path)
        assert tool(*inputs) == 0
        assert snapshot(tmp_path) == before
        out = capsys.readouterr().out
        assert "nothing was written" in out
        lines = [line.split() for line in out.splitlines() if line.startswith(("train", "val"))]
        return {split: [int(count) for count in counts] for split, *counts in lines}

    # To prepare, kept, missing, excluded.
    assert read_counts() == {"train": [8, 0, 0, 0], "val": [3, 0, 1, 0]}
    shutil.copytree(clean, tmp_path / "out")
    assert read_counts() == {"train": [0, 8, 0, 0], "val": [0, 3, 1, 0]}
    next((tmp_path / "out" / "videos" / "train").rglob("*.mp4")).unlink()
    assert read_counts() == {"train": [1, 7, 0, 0], "val": [0, 3, 1, 0]}


def test_splits_prepared_one_by_one_equal_both_at_once(
    tmp_path: Path, tool: Tool, videos: Path, clean: Path
) -> None:
    inputs = ["--annotations", videos / "all.csv", "--videos", videos]
    assert tool(*inputs, "--split", "val") == 0
    assert {row.split for row in read_manifest(tmp_path / "out")} == {"val"}
    assert tool(*inputs, "--split", "train") == 0
    assert read_state(tmp_path / "out") == read_state(clean)


def test_own_videos_in_class_folders_need_no_annotations(
    tmp_path: Path, tool: Tool, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = tmp_path / "mine"
    write_video(mine / "train" / "cats" / "one.mp4", seed=1, num_frames=13)
    write_video(mine / "train" / "dogs" / "one.mp4", seed=2)
    write_video(mine / "val" / "cats" / "same.mp4", seed=1, num_frames=13)
    (mine / "val" / "dogs").mkdir()
    (mine / "val" / "dogs" / "bad.avi").write_bytes(b"junk")
    assert tool("--videos", mine) == 0
    rows = read_manifest(tmp_path / "out")
    assert sorted((row.split, row.label, row.status) for row in rows) == [
        ("train", "cats", "ok"),
        ("train", "dogs", "ok"),
        ("val", "cats", "ok"),
        ("val", "dogs", "unreadable"),
    ]
    assert len({row.id for row in rows}) == 4
    assert sum(row.id.endswith("_000000_000002") for row in rows) == 2
    index = load_video_index(tmp_path / "out", "train", read_classes(tmp_path / "out"))
    assert sorted(index.label(i) for i in range(len(index))) == [0, 1]
    assert all(index.path(i).is_file() for i in range(len(index)))
    assert "warning: 1 videos of val and test have the same frames" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--annotations", "absent.csv", "--videos", "downloads"], "no annotation file"),
        (["--annotations", "downloads/all.csv", "--videos", "absent"], "no folder of videos"),
        (["--annotations", "downloads/all.csv", "--videos", "empty"], "no video below"),
        (["--annotations", "downloads/all.csv", "--videos", "other"], "none of the 1 videos"),
        (
            ["--annotations", "downloads/all.csv", "--videos", "downloads", "--split", "test"],
            "no row of split 'test'",
        ),
        (
            ["--annotations", "downloads/all.csv", "--videos", "downloads", "--output", "file/x"],
            "cannot write",
        ),
        (["--videos", "downloads"], "--val-share"),
        (["--videos", "out/videos", "--split", "val"], "among the prepared ones"),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_2(
    videos: Path,
    tool: Tool,
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(videos.parent)
    Path("empty").mkdir()
    Path("file").touch()
    for name in ("other/b.mp4", "out/videos/a/b.mp4"):
        Path(name).parent.mkdir(parents=True)
        Path(name).touch()
    assert tool(*arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    "option",
    [
        *("--split=dev", "--short-side=255", "--crf=52", "--workers=0"),
        *("--timeout=0", "--timeout=inf", "--memory-limit-mb=0", "--engine=spark"),
        "--ray-address=head:6379",
    ],
)
def test_an_option_out_of_range_is_exit_code_2(
    tool: Tool, option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as error:
        tool("--videos", "x", option)
    assert error.value.code == 2
    assert option.split("=")[0] in capsys.readouterr().err


def test_a_disk_that_fills_up_stops_the_run_with_exit_code_1(tmp_path: Path, videos: Path) -> None:
    # A limit on the size of files, which processes inherit, stands in for the disk.
    limited = f"""
import resource, runpy, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))
sys.argv[0] = {str(SCRIPT)!r}
runpy.run_path(sys.argv[0], run_name="__main__")
"""
    starter = tmp_path / "start.py"
    starter.write_text("if __name__ == '__main__':\n" + limited.replace("\n", "\n    "))
    command = [sys.executable, str(starter), "--annotations", str(videos / "all.csv")]
    command += ["--videos", str(videos), "--output", str(tmp_path / "out"), "--workers", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1, done.stderr
    assert "error: writing" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out" / "manifest.parquet").exists()
    assert not list((tmp_path / "out").rglob("[!.]*.mp4"))


def test_an_interrupt_leaves_with_one_line(tmp_path: Path, videos: Path) -> None:
    command = [sys.executable, str(SCRIPT), "--annotations", str(videos / "all.csv")]
    command += ["--videos", str(videos), "--output", str(tmp_path / "out"), "--workers", "1"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, process_group=0) as process:
        log = tmp_path / "out" / ".progress.jsonl"
        # Its workers are only starting then.
        while not log.exists():
            assert process.poll() is None
            time.sleep(0.002)
        # As the keyboard does: to the tool and its workers.
        os.killpg(process.pid, signal.SIGINT)
        _, error = process.communicate(timeout=30)
    assert process.returncode == 130
    assert error == "interrupted; the same command goes on from here\n"


def test_workers_start_without_torch() -> None:
    code = "import sys, gnvideo.data.preparation; print({'torch', 'decord'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
