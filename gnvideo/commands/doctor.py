"""`doctor`: what works on this machine, what does not, and what to do about it."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from gnvideo.commands.doctor_decoding import check_decoding, check_videos
from gnvideo.commands.environment import read_version
from gnvideo.commands.finding import Finding
from gnvideo.errors import ConfigError

_GIB = 2**30
# Source: github.com/pytorch/pytorch/issues/166643: cuDNN's conv3d in bf16 is off in torch 2.9.
_MIN_TORCH = (2, 11)


def run_doctor(videos: Sequence[Path] = (), max_files: int = 20) -> int:
    """Prints a table of findings; returns 0, or 1 if something that every run needs is broken.

    Args:
        videos: Files or folders of which all decoders must give the same frames; may be empty.
        max_files: At most so many files of these are looked at.

    Raises:
        ConfigError: `max_files` is below 1.
        InputFileError: there is no video below `videos`.
    """
    if max_files < 1:
        raise ConfigError(f"--files is {max_files}; it must be at least 1")
    checks: tuple[Callable[[], Iterator[Finding]], ...] = (
        _check_python,
        _check_torch,
        _check_gpu,
        check_decoding,
        *([partial(check_videos, videos, max_files)] if videos else []),
        _check_optional_packages,
        _check_machine,
    )
    findings = [finding for check in checks for finding in check()]
    table = Table("", "what", "finding", show_edge=False)
    colors = {"ok": "green", "note": "yellow", "broken": "red"}
    for finding in findings:
        state = f"[{colors[finding.state]}]{finding.state}[/]"
        table.add_row(state, finding.subject, finding.text)
    Console().print(table)
    return int(any(finding.state == "broken" for finding in findings))


def _check_python() -> Iterator[Finding]:
    version = platform.python_version()
    if (3, 11) <= sys.version_info < (3, 14):
        yield Finding("Python", "ok", version)
    else:
        yield Finding("Python", "broken", f"{version}; use 3.11, 3.12 or 3.13")


def _check_torch() -> Iterator[Finding]:
    major, minor = (int(part) for part in torch.__version__.split(".")[:2])
    if (major, minor) < _MIN_TORCH:
        yield Finding("torch", "broken", f"{torch.__version__}; install 2.11 or later")
    else:
        text = f"{torch.__version__}, {torch.get_num_threads()} threads"
        yield Finding("torch", "ok", text)


def _check_gpu() -> Iterator[Finding]:
    if not torch.cuda.is_available():
        yield Finding(
            "GPU", "note", "none that torch sees: runs go to the CPU, which suits small clips only"
        )
        return
    for number in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(number)
        bf16 = "bfloat16" if torch.cuda.is_bf16_supported() else "no bfloat16: keep float32"
        memory = f"{properties.total_memory / _GIB:.0f} GiB"
        yield Finding(f"GPU {number}", "ok", f"{properties.name}, {memory}, {bf16}")


def _check_optional_packages() -> Iterator[Finding]:
    for package, use in (
        ("pytorchvideo", "the models pytorchvideo_*"),
        ("tensorboard", "curves in TensorBoard"),
        ("plotly", "the report"),
    ):
        version = read_version(package)
        if version is None:
            text = f"not installed, needed for {use}: pip install {package}"
            yield Finding(package, "broken", text)
        else:
            yield Finding(package, "ok", version)


def _check_machine() -> Iterator[Finding]:
    yield Finding("cores", "ok", str(os.cpu_count()))
    free_bytes = shutil.disk_usage(Path.cwd()).free
    state = "ok" if free_bytes > 10 * _GIB else "note"
    yield Finding("disk", state, f"{free_bytes / _GIB:.0f} GiB free in the current folder")
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    text = browser or "none: the report opens in any browser elsewhere; its browser test is skipped"
    yield Finding("browser", "ok" if browser else "note", text)
