from __future__ import annotations

import csv
import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import safetensors.torch
import torch
import yaml

import gnvideo
from gnvideo.build import build_run_data
from gnvideo.cli import main
from gnvideo.config import RunConfig, load_config
from gnvideo.data.class_list import read_classes, write_classes
from gnvideo.data.manifest import ManifestRow, read_manifest, write_manifest
from gnvideo.errors import InputFileError
from gnvideo.evaluation import PROTOCOLS, Protocol
from gnvideo.training.checkpoint import find_last_checkpoint, load_weights
from gnvideo.training.run_log import read_log

NORMALIZERS = ("batch", "group")
STEPS_PER_EPOCH, TOTAL_STEPS = 9, 18
EVALUATION_KEYS = (
    *("protocol", "views", "split", "step", "statistics"),
    *("clip_top1", "clip_top5", "video_top1", "video_top5", "mean_class_accuracy"),
    *("video_top1_of_all", "video_top5_of_all"),
    *("num_videos", "num_labelled", "num_failed", "coverage"),
)


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


RunCommand = Callable[..., Outcome]


@pytest.fixture
def run_command(capsys: pytest.CaptureFixture[str]) -> RunCommand:
    """Runs one command in this process."""

    def run(*words: str | Path) -> Outcome:
        capsys.readouterr()
        code = main([str(word) for word in words])
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    return run


@pytest.fixture(scope="session")
def config_path(tiny_run_config: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny run as a file, but for its output and normalizer."""
    training = {**tiny_run_config["training"], "clips_per_batch": 2}
    values = {**tiny_run_config, "output": "unset", "training": training}
    path = tmp_path_factory.mktemp("configs") / "tiny.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.fixture(scope="session")
def trained_runs(config_path: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A finished run of each normalizer. Tests only read them."""
    folders = {name: tmp_path_factory.mktemp("runs") / name for name in NORMALIZERS}
    for name, folder in folders.items():
        words = ["train", str(config_path), f"normalizer.name={name}", f"output={folder}"]
        assert main(words) == 0
    return folders


@pytest.fixture(scope="session")
def val_rows(prepared_kinetics: Path) -> list[ManifestRow]:
    return [row for row in read_manifest(prepared_kinetics) if row.split == "val"]


def read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def read_files(folder: Path) -> dict[Path, tuple[int, bytes]]:
    return {
        path.relative_to(folder): (path.stat().st_mtime_ns, path.read_bytes())
        for path in folder.rglob("*")
        if path.is_file()
    }


def assert_fails_in_one_line(outcome: Outcome, *named: str | Path, before: str = "") -> None:
    """Asserts an exit for wrong input, of which one line tells; `before` it only progress."""
    assert outcome.code == 2
    assert "Traceback" not in outcome.err
    *earlier, line = outcome.err.splitlines()
    assert line.startswith("error: ")
    assert all(before and re.match(before, text) for text in earlier)
    for part in named:
        assert str(part) in line


# Of each: the command, and what its message names.
WRONG_INPUTS = {
    "missing config": ("train {tmp}/absent.yaml", "{tmp}/absent.yaml"),
    "folder as config": ("train {tmp}", "{tmp}"),
    "config that is not YAML": ("train {text}", "{text}"),
    "unknown key": (
        "train {config} training.learning_rat=1",
        "'training.learning_rat'; did you mean 'training.learning_rate'?",
    ),
    "wrong type": ("train {config} training.epochs=many", "training.epochs is 'many'"),
    "override without value": ("train {config} epochs", "'epochs' is not key.sub=value"),
    "unknown normalizer": (
        "train {config} normalizer.name=grup",
        "the normalizer is 'grup'; allowed are batch, ",
    ),
    "unknown model": ("train {config} model.name=resnet", "unknown model 'resnet'"),
    "setting of another model": ("train {config} model.name=i3d_r50", "i3d_r50 does not have"),
    "unknown decoder": ("train {config} data.decoder=opencv", "data.decoder is 'opencv'"),
    "too few clips": ("train {config} training.epochs=0.01", "training.epochs is 0.01"),
    "data root not prepared": (
        "train {config} data.root={tmp}",
        "{tmp}/classes.txt",
        "preprocess_kinetics.py",
    ),
    "missing split": ("train {config} data.val_split=dev", "no videos of split 'dev'"),
    "training without labels": (
        "train {config} data.train_split=test",
        "'test'",
        "without a label",
    ),
    "unknown protocol": ("train {config} evaluation.protocol=gn-30", "'gn-30'", "gn-10"),
    "unknown curve protocol": ("train {config} evaluation.monitor_protocol=x", "'x'", "gn-10"),
    "run folder of another config": (
        "train {config} normalizer.name=group output={run} training.epochs=3",
        "{run} holds a run with training.epochs 2.0",
    ),
    "run folder below a file": ("train {config} output={text}/run", "{text}/run"),
    "eval without checkpoint": ("eval {tmp}", "no checkpoint at {tmp}"),
    "eval of a missing file": ("eval {tmp}/model.safetensors", "{tmp}/model.safetensors"),
    "eval of another file": ("eval {text}", "{text}"),
    "eval of an unknown protocol": ("eval {run} --protocol gn-30", "'gn-30'"),
    "eval of an unknown split": ("eval {run} --split dev", "'dev'"),
    "eval with a wrong override": ("eval {run} data.rot=x", "'data.root'"),
    "eval written below a file": ("eval {run} --output {text}/x", "{text}/x"),
    "predict without checkpoint": ("predict {tmp} {text}", "no checkpoint at {tmp}"),
    "predict a text file": ("predict {run} {text}", "{text}"),
    "predict a missing file": ("predict {run} {tmp}/absent.mp4", "{tmp}/absent.mp4"),
    "predict on an unknown device": ("predict {run} {text} --device tpu", "'tpu'"),
    "predict no classes": ("predict {run} {text} --top 0", "--top is 0"),
    "predict with an unknown protocol": ("predict {run} {text} --protocol x", "'x'"),
    "missing comparison": ("compare {tmp}/absent.yaml", "{tmp}/absent.yaml"),
    "run instead of comparison": ("compare {config}", "unknown key"),
    "comparison of an unknown normalizer": (
        "compare {comparison} grid.normalizers=[grup]",
        "'grup'",
    ),
    "comparison of a setting that the normalizer does not take": (
        'compare {comparison} grid.normalizers=[{{"name":"batch","num_groups":8}}]',
        "the normalizer batch does not take num_groups; it takes eps, momentum",
    ),
    "comparison of a normalizer that cannot be run twice": (
        "compare {comparison} grid.normalizers=[group,batch_channel]"
        " base.training.activation_memory=recompute-block",
        "batch_channel normalizes by earlier batches",
    ),
    "comparison from weights that are not there": (
        "compare {comparison} grid.normalizers=[group]"
        ' grid.initial_weights={{"group":"absent.pth"}}',
        "no checkpoint at absent.pth",
    ),
    "comparison of an unknown setting": (
        'compare {comparison} grid.normalizers=[{{"name":"group","num_group":8}}]',
        "'grid.normalizers.0.num_group'",
        "'grid.normalizers.0.num_groups'",
    ),
    "comparison of a network that cannot be built": (
        "compare {comparison} base.model.name=resnet",
        "unknown model 'resnet'",
    ),
    "comparison folder below a file": ("compare {comparison} output={text}/x", "{text}/x"),
    "comparison folder that is a file": ("compare {comparison} output={text}", "{text}"),
    "report of no comparison": ("report {tmp}", "{tmp} is no comparison folder"),
}


@pytest.mark.parametrize("words_and_named", WRONG_INPUTS.values(), ids=WRONG_INPUTS)
def test_wrong_input_is_one_line_and_exit_code_2(
    run_command: RunCommand,
    tmp_path: Path,
    config_path: Path,
    trained_runs: dict[str, Path],
    words_and_named: tuple[str, ...],
) -> None:
    text = tmp_path / "text.mp4"
    text.write_text("This is: no video, and no YAML: either\n")
    comparison = tmp_path / "comparison.yaml"
    base = yaml.safe_load(config_path.read_text())
    del base["output"], base["training"]["clips_per_batch"]
    comparison.write_text(yaml.safe_dump({"output": str(tmp_path / "comparison"), "base": base}))
    places = {
        "tmp": tmp_path,
        "text": text,
        "config": config_path,
        "comparison": comparison,
        "run": trained_runs["group"],
    }
    words, *named = (part.format_map(places) for part in words_and_named)
    before = read_files(trained_runs["group"])
    options = words.split()
    if options[:2] == ["train", str(config_path)] and "output=" not in words:
        options.append(f"output={tmp_path / 'run'}")
    assert_fails_in_one_line(run_command(*options), *named)
    assert read_files(trained_runs["group"]) == before


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["trian"],
        ["train"],
        ["predict", "run", "video.mp4", "--decoder", "opencv"],
        ["predict", "run", "video.mp4", "--top", "few"],
    ],
    ids=" ".join,
)
def test_a_command_that_does_not_exist_is_exit_code_2(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 2
    assert "error: " in capsys.readouterr().err


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"{gnvideo.__version__}\n"


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    with pytest.raises(InputFileError):
        main(["--debug", "train", str(tmp_path / "absent.yaml")])


def test_an_interrupt_says_how_to_go_on(
    run_command: RunCommand, config_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(config: RunConfig) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("gnvideo.commands.train.run_train", interrupt)
    outcome = run_command("train", config_path)
    assert outcome.code == 130
    assert outcome.err == "interrupted; the same command goes on from the last checkpoint\n"


@pytest.mark.parametrize(("device", "num_gpus"), [("cuda", 0), ("cuda:0", 0), ("cuda:2", 2)])
def test_a_gpu_that_is_not_there_is_named(
    run_command: RunCommand,
    config_path: Path,
    tmp_path: Path,
    trained_runs: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
    device: str,
    num_gpus: int,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: num_gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: num_gpus)
    train = run_command("train", config_path, f"training.device={device}", f"output={tmp_path}")
    assert_fails_in_one_line(train, f"{device} ")
    predict = run_command("predict", trained_runs["group"], "x.mp4", "--device", device)
    assert_fails_in_one_line(predict, f"{device} ")


@pytest.mark.parametrize("normalizer", NORMALIZERS)
def test_a_run_leaves_all_that_is_needed_to_evaluate_resume_and_report(
    trained_runs: dict[str, Path], config_path: Path, normalizer: str
) -> None:
    folder = trained_runs[normalizer]
    stems = ["gn-10", "gn-10_precise"] if normalizer == "batch" else ["gn-10"]
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    (events,) = [file for file in files if file.startswith("tensorboard/")]
    assert files == {
        "config.yaml",
        "environment.json",
        "log.jsonl",
        events,
        f"checkpoints/step_{TOTAL_STEPS:08d}/model.safetensors",
        f"checkpoints/step_{TOTAL_STEPS:08d}/training_state.pt",
        *(f"evaluation/{stem}.json" for stem in stems),
        *(f"evaluation/{stem}_predictions.csv" for stem in stems),
    }
    overrides = [f"normalizer.name={normalizer}", f"output={folder}"]
    assert load_config(RunConfig, folder / "config.yaml") == load_config(
        RunConfig, config_path, overrides
    )
    assert read_json(folder / "environment.json")["gnvideo"] == gnvideo.__version__
    log = read_log(folder)
    curve = [event["step"] for event in log if event["event"] == "evaluate"]
    assert curve == [STEPS_PER_EPOCH, TOTAL_STEPS]
    assert log[-1] == {"event": "end", "step": TOTAL_STEPS}


@pytest.mark.parametrize(
    ("normalizer", "stem", "statistics"),
    [
        ("batch", "gn-10", "running"),
        ("batch", "gn-10_precise", "precise"),
        ("group", "gn-10", "none"),
    ],
)
def test_an_evaluation_is_complete_and_counts_every_video_once(
    trained_runs: dict[str, Path],
    val_rows: list[ManifestRow],
    prepared_kinetics: Path,
    normalizer: str,
    stem: str,
    statistics: str,
) -> None:
    folder = trained_runs[normalizer] / "evaluation"
    evaluation = read_json(folder / f"{stem}.json")
    assert tuple(evaluation) == EVALUATION_KEYS
    readable = {row.id: row.label for row in val_rows if row.status == "ok"}
    expected = {
        "protocol": "gn-10",
        "views": 10,
        "split": "val",
        "step": TOTAL_STEPS,
        "statistics": statistics,
        "num_videos": len(readable),
        "num_labelled": len(readable),
        "num_failed": len(val_rows) - len(readable),
        "coverage": read_json(prepared_kinetics / "coverage.json")["splits"]["val"],
    }
    assert {key: evaluation[key] for key in expected} == expected
    with (folder / f"{stem}_predictions.csv").open(newline="") as file:
        predictions = list(csv.DictReader(file))
    assert len(predictions) == len(readable) == 12
    assert {row["video_id"]: row["label"] for row in predictions} == readable
    num_correct = sum(row["correct"] == "true" for row in predictions)
    assert evaluation["video_top1"] == pytest.approx(100 * num_correct / len(predictions))


@pytest.mark.parametrize("normalizer", NORMALIZERS)
def test_eval_gives_what_training_ended_with(
    run_command: RunCommand, trained_runs: dict[str, Path], tmp_path: Path, normalizer: str
) -> None:
    run = trained_runs[normalizer]
    for weights in (run, find_last_checkpoint(run) or run):
        output = tmp_path / weights.name
        outcome = run_command("eval", weights, "--output", output)
        assert outcome.code == 0
        for name in ("gn-10.json", "gn-10_predictions.csv"):
            assert (output / name).read_bytes() == (run / "evaluation" / name).read_bytes()
    video_top1 = read_json(run / "evaluation" / "gn-10.json")["video_top1"]
    assert f"gn-10: video top-1 {video_top1:.2f} %" in outcome.out


def test_eval_takes_overrides_after_options_and_then_saves_nothing(
    run_command: RunCommand, trained_runs: dict[str, Path], prepared_kinetics: Path
) -> None:
    run = trained_runs["group"]
    before = read_files(run)
    outcome = run_command(
        *("eval", run, "--protocol", "center-1x1", f"data.root={prepared_kinetics}"),
        "data.decoder=pyav",
    )
    assert outcome.code == 0
    assert outcome.out.startswith("center-1x1: video top-1 ")
    assert "not saved" in outcome.out
    assert read_files(run) == before


@pytest.mark.parametrize("protocol", PROTOCOLS.values(), ids=PROTOCOLS)
def test_every_protocol_scores_prepared_and_other_videos(
    run_command: RunCommand,
    trained_runs: dict[str, Path],
    sample_kinetics: Path,
    val_rows: list[ManifestRow],
    tmp_path: Path,
    protocol: Protocol,
) -> None:
    run = trained_runs["group"]
    outcome = run_command(
        *("eval", run, "--protocol", protocol.name, "--output", tmp_path),
        # Worker processes, to which the sampling must travel.
        *(["data.num_workers=1"] if protocol.sampling == "slowfast" else []),
        # Planes, of which the crops can be cut only when they are RGB.
        *(["data.pixel_format=yuv420"] if protocol.sampling == "mmaction2" else []),
    )
    assert outcome.code == 0
    evaluation = read_json(tmp_path / f"{protocol.name}.json")
    assert evaluation["views"] == protocol.num_views
    assert evaluation["num_videos"] == 12
    num_failed = evaluation["num_failed"]
    assert num_failed > 0
    of_all = evaluation["video_top1"] * 12 / (12 + num_failed)
    assert evaluation["video_top1_of_all"] == pytest.approx(of_all)
    line = outcome.out.splitlines()[0]
    assert f"({of_all:.2f} % of all asked)" in line
    assert line.endswith(f"fingerprint {evaluation['coverage']['fingerprint']}")

    video_id = next(row.id for row in val_rows if row.status == "ok")
    video = sample_kinetics / "videos" / "val" / f"{video_id}.mp4"
    assert run_command("predict", run, video, "--protocol", protocol.name).code == 0


def test_eval_of_videos_without_labels_leaves_predictions(
    run_command: RunCommand, trained_runs: dict[str, Path], tmp_path: Path
) -> None:
    outcome = run_command("eval", trained_runs["group"], "--split", "test", "--output", tmp_path)
    assert outcome.code == 0
    assert "predictions without labels" in outcome.out
    evaluation = read_json(tmp_path / "gn-10.json")
    assert (evaluation["num_videos"], evaluation["num_labelled"]) == (6, 0)
    assert evaluation["video_top1"] is None


def test_eval_of_weights_alone_asks_for_the_data(
    run_command: RunCommand,
    trained_runs: dict[str, Path],
    prepared_kinetics: Path,
    tmp_path: Path,
) -> None:
    last = find_last_checkpoint(trained_runs["group"])
    assert last is not None
    weights = Path(shutil.copy(last / "model.safetensors", tmp_path / "shared.safetensors"))
    assert_fails_in_one_line(run_command("eval", weights), weights, "data.root=FOLDER")
    words = [f"data.root={prepared_kinetics}", "training.device=cpu", "data.num_workers=0"]
    outcome = run_command("eval", weights, *words, "--output", tmp_path / "evaluation")
    assert outcome.code == 0
    assert read_json(tmp_path / "evaluation" / "gn-10.json") == read_json(
        trained_runs["group"] / "evaluation" / "gn-10.json"
    )


def respell_classes(root: Path, spell: Callable[[str], str]) -> None:
    """Gives the classes of a prepared folder other names, and the last one the index 0."""
    rows = [
        dataclasses.replace(row, label=row.label and spell(row.label))
        for row in read_manifest(root)
    ]
    classes = [spell(name) for name in reversed(read_classes(root))]
    write_manifest(root, rows)
    write_classes(root, classes)


def test_classes_of_other_data_are_matched_by_name_and_said(
    run_command: RunCommand, trained_runs: dict[str, Path], prepared_kinetics: Path, tmp_path: Path
) -> None:
    run, root = trained_runs["group"], tmp_path / "data"
    shutil.copytree(prepared_kinetics, root)
    respell_classes(root, lambda name: f"({name.replace(' ', '_').upper()})")
    assert set(read_classes(root)).isdisjoint(read_classes(prepared_kinetics))

    output = tmp_path / "evaluation"
    outcome = run_command("eval", run, "--output", output, f"data.root={root}")
    assert outcome.code == 0
    note = outcome.out.splitlines()[0]
    assert note.startswith(f"classes of {root} matched by name to the 6 of {find_weights(run)}")
    assert "6 at another index, 6 in other spelling" in note
    for name in ("gn-10.json", "gn-10_predictions.csv"):
        assert (output / name).read_bytes() == (run / "evaluation" / name).read_bytes()

    data = load_config(RunConfig, run / "config.yaml").data
    own = build_run_data(data)
    resumed = build_run_data(data.model_copy(update={"root": root}), load_weights(run))
    assert resumed.classes == own.classes
    assert resumed.class_note == note
    for index, own_index in ((resumed.train, own.train), (resumed.val, own.val)):
        labels = [index.label(place) for place in range(len(index))]
        assert labels == [own_index.label(place) for place in range(len(own_index))]


def test_classes_that_the_weights_do_not_know_are_refused(
    run_command: RunCommand, trained_runs: dict[str, Path], prepared_kinetics: Path, tmp_path: Path
) -> None:
    root = tmp_path / "data"
    shutil.copytree(prepared_kinetics, root)
    respell_classes(root, lambda name: f"another {name}")
    outcome = run_command("eval", trained_runs["group"], f"data.root={root}")
    assert_fails_in_one_line(outcome, "'another ", "is none of the 6 classes", "model.safetensors")


def test_predict_names_classes_of_a_video_as_it_was_downloaded(
    run_command: RunCommand,
    trained_runs: dict[str, Path],
    sample_kinetics: Path,
    prepared_kinetics: Path,
    val_rows: list[ManifestRow],
) -> None:
    row = next(row for row in val_rows if row.status == "ok")
    video = sample_kinetics / "videos" / "val" / f"{row.id}.mp4"
    outcome = run_command("predict", trained_runs["group"], video, "--device", "cpu", "--top", 6)
    assert outcome.code == 0
    assert row.id in outcome.out.replace("\n", "")
    percentages = re.findall(r"(\d+\.\d\d) % *│ *(.*?) *\n", outcome.out)
    assert {name.strip(" │") for _, name in percentages} == set(read_classes(prepared_kinetics))
    values = [float(percent) for percent, _ in percentages]
    assert values == sorted(values, reverse=True)
    assert sum(values) == pytest.approx(100, abs=0.1)


@pytest.mark.parametrize("normalizer", NORMALIZERS)
def test_a_finished_run_is_left_as_it_is(
    run_command: RunCommand, trained_runs: dict[str, Path], config_path: Path, normalizer: str
) -> None:
    folder = trained_runs[normalizer]
    before = read_files(folder)
    outcome = run_command("train", config_path, f"normalizer.name={normalizer}", f"output={folder}")
    assert outcome.code == 0
    assert f"{folder} is finished: gn-10: video top-1 " in outcome.out
    assert ("with precise statistics" in outcome.out) == (normalizer == "batch")
    assert read_files(folder) == before


def read_comparable(folder: Path) -> list[str]:
    """Returns the lines of the log but for those that tell of the clock or the machine."""
    lines = (folder / "log.jsonl").read_text().splitlines()
    return [line for line in lines if json.loads(line)["event"] not in ("start", "speed")]


def test_a_killed_run_goes_on_and_ends_as_one_never_stopped(
    run_command: RunCommand, trained_runs: dict[str, Path], config_path: Path, tmp_path: Path
) -> None:
    expected, folder = trained_runs["batch"], tmp_path / "run"
    words = ["train", str(config_path), "normalizer.name=batch", f"output={folder}"]
    command = [sys.executable, "-m", "gnvideo", *words]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        log = folder / "log.jsonl"
        deadline = time.monotonic() + 60
        # In the middle of the second epoch.
        while not log.exists() or b'"train", "step": 12,' not in log.read_bytes():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.001)
        os.kill(process.pid, signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    last = find_last_checkpoint(folder)
    assert last is not None
    assert last.name == f"step_{STEPS_PER_EPOCH:08d}"

    outcome = run_command(*words)
    assert outcome.code == 0
    weights, expected_weights = load_weights(folder), load_weights(expected)
    assert weights.step == expected_weights.step == TOTAL_STEPS
    assert weights.tensors.keys() == expected_weights.tensors.keys()
    for name, tensor in weights.tensors.items():
        assert torch.equal(tensor, expected_weights.tensors[name]), name
    assert read_comparable(folder) == read_comparable(expected)
    for path in (expected / "evaluation").iterdir():
        assert (folder / "evaluation" / path.name).read_bytes() == path.read_bytes()


@pytest.fixture
def copied_run(trained_runs: dict[str, Path], tmp_path: Path) -> Path:
    """A finished run that a test may damage."""
    return Path(shutil.copytree(trained_runs["group"], tmp_path / "copied run"))


def find_weights(folder: Path) -> Path:
    return folder / "checkpoints" / f"step_{TOTAL_STEPS:08d}" / "model.safetensors"


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_a_cut_off_checkpoint_is_named(
    run_command: RunCommand, copied_run: Path, share: float
) -> None:
    weights = find_weights(copied_run)
    whole = weights.read_bytes()
    weights.write_bytes(whole[: int(share * len(whole))])
    assert_fails_in_one_line(run_command("eval", copied_run), weights, "damaged")
    assert_fails_in_one_line(run_command("predict", copied_run, "x.mp4"), weights, "damaged")


def test_a_cut_off_training_state_is_named(
    run_command: RunCommand, copied_run: Path, config_path: Path
) -> None:
    state = find_weights(copied_run).with_name("training_state.pt")
    state.write_bytes(state.read_bytes()[:1000])
    shutil.rmtree(copied_run / "evaluation")
    outcome = run_command("train", config_path, f"output={copied_run}")
    assert_fails_in_one_line(outcome, state, "damaged")


def test_weights_without_a_description_are_named(run_command: RunCommand, tmp_path: Path) -> None:
    path = tmp_path / "foreign.safetensors"
    safetensors.torch.save_file({"weight": torch.zeros(2)}, path)
    assert_fails_in_one_line(run_command("eval", path), path, "no gnvideo description")


@pytest.mark.parametrize("section", ["model", "normalizer", "input_recipe"])
def test_weights_of_a_version_with_other_settings_are_named(
    run_command: RunCommand, copied_run: Path, section: str
) -> None:
    path = find_weights(copied_run)
    with safetensors.safe_open(str(path), framework="pt") as opened:
        metadata = opened.metadata()
    metadata[section] = json.dumps({**json.loads(metadata[section]), "of_the_future": 3})
    safetensors.torch.save_file(load_weights(path).tensors, path, metadata)
    outcome = run_command("predict", copied_run, "x.mp4")
    assert_fails_in_one_line(outcome, path, "of_the_future")
    assert_fails_in_one_line(run_command("eval", copied_run), "of_the_future")


def test_a_checkpoint_of_another_model_is_refused(
    run_command: RunCommand, trained_runs: dict[str, Path], config_path: Path, tmp_path: Path
) -> None:
    shutil.copytree(trained_runs["batch"] / "checkpoints", tmp_path / "checkpoints")
    outcome = run_command("train", config_path, f"output={tmp_path}")
    assert_fails_in_one_line(outcome, find_weights(tmp_path), "belongs to another model")


def test_a_damaged_configuration_of_a_run_is_named(
    run_command: RunCommand, copied_run: Path
) -> None:
    path = copied_run / "config.yaml"
    for text in ("data: [", "just text", "data: 3"):
        path.write_text(text)
        assert_fails_in_one_line(run_command("eval", copied_run), path)


def test_a_damaged_log_of_a_run_is_named(
    run_command: RunCommand, copied_run: Path, config_path: Path
) -> None:
    log = copied_run / "log.jsonl"
    log.write_text("not an event\n" + log.read_text())
    outcome = run_command("train", config_path, f"output={copied_run}")
    assert_fails_in_one_line(outcome, log, "line 1")


def damage(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("change", [damage, Path.unlink], ids=["damaged", "removed"])
def test_a_video_that_changed_after_preparation_stops_the_run_by_its_name(
    run_command: RunCommand,
    prepared_kinetics: Path,
    config_path: Path,
    tmp_path: Path,
    change: Callable[[Path], None],
    split: str,
) -> None:
    root = Path(shutil.copytree(prepared_kinetics, tmp_path / "root"))
    video = sorted((root / "videos" / split).rglob("*.mp4"))[0]
    change(video)
    outcome = run_command(
        *("train", config_path, f"data.root={root}", f"output={tmp_path / 'run'}"),
        "training.evaluate_every_epochs=0.5",
    )
    assert_fails_in_one_line(outcome, video, before="step ")
    last_event = read_log(tmp_path / "run")[-1]
    assert last_event["event"] == "failed"
    assert str(video) in last_event["reason"]


def test_doctor_finds_nothing_broken(run_command: RunCommand) -> None:
    outcome = run_command("doctor")
    assert outcome.code == 0
    assert "broken" not in outcome.out
