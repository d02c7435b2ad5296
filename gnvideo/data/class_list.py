"""classes.txt of a prepared folder: the names of the classes; line number = class index."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from gnvideo.atomic_file import write_text_atomic
from gnvideo.data.manifest import read_prepared_text
from gnvideo.errors import ClassListError

CLASSES_NAME = "classes.txt"


def write_classes(root: Path, labels: Iterable[str]) -> None:
    """Writes the distinct `labels`, sorted by code point, one a line.

    The line number, from 0, is the class index.

    Raises:
        OutputError: the folder cannot be written.
        SaveFailedError: writing failed half-way; the previous list is untouched.
    """
    write_text_atomic(root / CLASSES_NAME, "".join(f"{label}\n" for label in sorted(set(labels))))


def read_classes(root: Path) -> tuple[str, ...]:
    """Returns the class names of the prepared folder `root`; the position is the class index.

    Raises:
        ManifestError: the list is missing or unreadable.
        ClassListError: a name is empty or stands there twice.
    """
    path = root / CLASSES_NAME
    names = tuple(read_prepared_text(path).removesuffix("\n").split("\n"))
    if names == ("",):
        return ()
    seen: set[str] = set()
    for line, name in enumerate(names, start=1):
        if not name.strip() or name in seen:
            raise ClassListError(
                f"{path}, line {line}: {name!r} is empty or stands there twice; one class a line"
            )
        seen.add(name)
    return names
