"""Class lists, classes.txt among them: one class a line; the line number, from 0, is the index.

Classes match by name, never by position: folders and other tools spell a name in their own way, and
sorting such spellings gives another order.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from gnvideo.atomic_file import write_text_atomic
from gnvideo.data.manifest import read_prepared_text
from gnvideo.errors import ClassListError, InputFileError

CLASSES_NAME = "classes.txt"

_DROPPED = re.compile(r"[()'\"]")
_SPACES = re.compile(r"[\s_]+")


@dataclass(frozen=True, slots=True)
class ClassMatch:
    """How the classes of a prepared folder are called among those of a model.

    Attributes:
        names: The model's classes in its order, each as the prepared folder spells it, or as the
            model does where the folder lacks the class.
        note: One line that says how the two lists differ; None if they are equal.
    """

    names: tuple[str, ...]
    note: str | None


def sort_classes(labels: Iterable[str]) -> tuple[str, ...]:
    """Returns the distinct `labels` in the canonical order, that of their code points.

    It is the order of Kinetics-400, -600 and -700 in their own lists and in most tools.
    """
    return tuple(sorted(set(labels)))


def write_classes(root: Path, classes: Iterable[str]) -> None:
    """Writes the class list of the prepared folder `root`, in this order.

    Raises:
        OutputError: the folder cannot be written.
        SaveFailedError: writing failed half-way; the previous list is untouched.
    """
    write_text_atomic(root / CLASSES_NAME, "".join(f"{name}\n" for name in classes))


def read_classes(root: Path) -> tuple[str, ...]:
    """Returns the class names of the prepared folder `root`; the position is the class index.

    Raises:
        ManifestError: the list is missing or unreadable.
        ClassListError: a name is empty or stands there twice.
    """
    path = root / CLASSES_NAME
    return _parse_classes(path, read_prepared_text(path).removesuffix("\n").split("\n"))


def choose_classes(
    root: Path,
    labels: Iterable[str],
    *,
    given: Sequence[str] | None,
    earlier_labels: Iterable[str],
) -> tuple[str, ...]:
    """Returns the class list that the folder `root` gets for videos with these labels.

    It is the given list; or else the list of an earlier run, if that was given to it; or else the
    labels in the canonical order.

    Args:
        root: A prepared folder, or one that is yet to be made.
        labels: Of all videos that the folder will hold.
        given: By the user.
        earlier_labels: Of the videos in the manifest that `root` has, if it has one.

    Raises:
        ClassListError: a label is not in a given list, or two labels differ only in spelling.
        ManifestError: the earlier list is unreadable.
    """
    derived = sort_classes(labels)
    source = "the given class list"
    if given is None and (root / CLASSES_NAME).exists():
        earlier = read_classes(root)
        if earlier != sort_classes(earlier_labels):
            given, source = earlier, f"{root / CLASSES_NAME}, which an earlier run was given"
    if given is None:
        group_by_spelling(derived, "the labels", "or name both in a list with --classes")
        return derived
    known = set(given)
    unknown = [label for label in derived if label not in known]
    if unknown:
        raise ClassListError(
            f"the label {unknown[0]!r} is none of the {len(given)} classes of {source}; give a list"
            " that has it with --classes"
        )
    return tuple(given)


def read_class_file(path: Path) -> tuple[str, ...]:
    """Returns the class names of a list that the user gives; spaces around names do not count.

    Raises:
        InputFileError: the file is missing, unreadable or empty.
        ClassListError: a name is empty or stands there twice.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise InputFileError(f"no class list {path}; pass a text file, one class a line") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputFileError(f"cannot read the class list {path}: {error}") from None
    classes = _parse_classes(path, [line.strip() for line in text.rstrip().split("\n")])
    if not classes:
        raise InputFileError(f"the class list {path} is empty; it must hold one class a line")
    return classes


def normalize_class_name(name: str) -> str:
    """Returns the spelling that all usual ones of a class share.

    Folders are named with spaces, with `_` for them, or also without `( ) '`, as torchvision does.
    """
    return _SPACES.sub("_", _DROPPED.sub("", name.casefold())).strip("_")


def match_class_names(names: Iterable[str], classes: Sequence[str], source: str) -> dict[str, str]:
    """Returns for each of `names` the class that it means: the equal one, or else by spelling.

    Two names may mean one class.

    Args:
        names: In any spelling.
        classes: The canonical ones.
        source: Where `classes` come from, for messages.

    Raises:
        ClassListError: a name means no class, or spellings have to be told apart and two classes
            have the same.
    """
    names, known = set(names), set(classes)
    meant = {name: name for name in names & known}
    others = sorted(names - known)
    if not others:
        return meant
    class_of_spelling = group_by_spelling(classes, source)
    for name in others:
        found = class_of_spelling.get(normalize_class_name(name))
        if found is None:
            close = difflib.get_close_matches(name, classes, n=1)
            raise ClassListError(
                f"{name!r} is none of the {len(classes)} classes of {source}"
                + (f"; the closest is {close[0]!r}" if close else "")
                + "; rename it, or give the class list that it belongs to"
            )
        meant[name] = found
    return meant


def match_model_classes(
    model_classes: Sequence[str], data_classes: Sequence[str], model: str, data: str
) -> ClassMatch:
    """Returns the model's classes as a prepared folder spells them, in the model's order.

    The folder may lack classes of the model, but not have others.

    Args:
        model_classes: In the order of the model's outputs.
        data_classes: Of the prepared folder.
        model: The checkpoint, for messages.
        data: The folder, for messages.

    Raises:
        ClassListError: a class of the folder is none of the model's, or two of the folder's are
            one of the model's.
    """
    if tuple(model_classes) == tuple(data_classes):
        return ClassMatch(tuple(model_classes), None)
    class_of_name = match_class_names(data_classes, model_classes, model)
    if len(set(class_of_name.values())) < len(data_classes):
        group_by_spelling(data_classes, data)
    name_of_class = {meant: name for name, meant in class_of_name.items()}
    position = {name: index for index, name in enumerate(data_classes)}
    names = tuple(name_of_class.get(name, name) for name in model_classes)
    num_respelled = sum(name != meant for name, meant in class_of_name.items())
    num_moved = sum(position.get(name, index) != index for index, name in enumerate(names))
    num_absent = len(model_classes) - len(data_classes)
    differences = [
        f"{count} {what}"
        for count, what in (
            (num_moved, "at another index"),
            (num_respelled, "in other spelling"),
            (num_absent, "not in the data"),
        )
        if count
    ]
    return ClassMatch(
        names,
        f"classes of {data} matched by name to the {len(model_classes)} of {model}:"
        f" {', '.join(differences)}",
    )


def group_by_spelling(
    classes: Iterable[str], source: str, or_else: str | None = None
) -> dict[str, str]:
    """Returns the class of each normalized name.

    Args:
        classes: Class names.
        source: Where they come from, for messages.
        or_else: What the user may do instead of renaming one of two that are the same.

    Raises:
        ClassListError: two of `classes` have one normalized name.
    """
    class_of_spelling: dict[str, str] = {}
    for name in classes:
        first = class_of_spelling.setdefault(normalize_class_name(name), name)
        if first != name:
            raise ClassListError(
                f"the classes {first!r} and {name!r} of {source} differ only in spelling;"
                f" rename one of them{f', {or_else}' if or_else else ''}"
            )
    return class_of_spelling


def _parse_classes(path: Path, names: Sequence[str]) -> tuple[str, ...]:
    if list(names) == [""]:
        return ()
    seen: set[str] = set()
    for line, name in enumerate(names, start=1):
        if not name.strip() or name in seen:
            raise ClassListError(
                f"{path}, line {line}: {name!r} is empty or stands there twice; one class a line"
            )
        seen.add(name)
    return tuple(names)
