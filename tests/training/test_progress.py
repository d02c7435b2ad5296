from __future__ import annotations

import pytest

from gnvideo.training.progress import TrainingProgress


def test_a_log_file_gets_plain_lines_with_an_estimate(capsys: pytest.CaptureFixture[str]) -> None:
    with TrainingProgress(total_steps=100, start_step=0, enabled=True) as progress:
        progress.advance(100)
        progress.report(100, "loss 1.5 [not markup]")
        progress.announce("step 100  evaluation  clip_top1 50.00")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.strip().splitlines() == [
        "step 100/100  loss 1.5 [not markup]  0:00:00 left",
        "step 100  evaluation  clip_top1 50.00",
    ]


def test_other_processes_show_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with TrainingProgress(total_steps=100, start_step=0, enabled=False) as progress:
        progress.advance(1)
        progress.report(1, "loss 1.5")
        progress.announce("evaluation")
    assert capsys.readouterr() == ("", "")
