"""Decides how a comparison writes a file: complete under its name, or not at all."""

from __future__ import annotations

import os
from pathlib import Path

from gnvideo.errors import OutputError


def write_text(path: Path, text: str) -> None:
    """Writes `text` as UTF-8 to `path`, whose folder is made if it is missing.

    Raises:
        OutputError: the file cannot be written.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise OutputError(
            f"cannot write {path}: {error.strerror or error}; free space or pass another folder"
        ) from None
