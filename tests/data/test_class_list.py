from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gnvideo.data.class_list import (
    choose_classes,
    match_class_names,
    match_model_classes,
    normalize_class_name,
    read_class_file,
    read_classes,
    sort_classes,
    write_classes,
)
from gnvideo.errors import ClassListError, InputFileError

# The pair of Kinetics-400 whose order folders named as torchvision names them turn round.
SKIING = ("skiing (not slalom or crosscountry)", "skiing crosscountry")
CLASSES = ("abseiling", "massaging person's head", *SKIING, "yoga")


def sanitize(name: str) -> str:
    """Returns the folder that torchvision's Kinetics downloader makes for a class."""
    table = str.maketrans({" ": "_", "'": None, "(": None, ")": None})
    return name.translate(table)


def test_the_canonical_order_is_by_code_point() -> None:
    assert sort_classes(["b", "a b", "Zumba", "a(b)", "b"]) == ("Zumba", "a b", "a(b)", "b")
    assert sort_classes(reversed(CLASSES)) == CLASSES


def test_a_written_list_is_read_in_its_order(tmp_path: Path) -> None:
    write_classes(tmp_path, ["yoga", "a b"])
    assert (tmp_path / "classes.txt").read_text() == "yoga\na b\n"
    assert read_classes(tmp_path) == ("yoga", "a b")


@pytest.mark.parametrize("text", ["a\n\nb\n", "a\nb\na\n"], ids=["empty-line", "name-twice"])
def test_a_class_list_with_an_unclear_index_is_an_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "classes.txt").write_text(text)
    with pytest.raises(ClassListError, match=r"classes\.txt, line"):
        read_classes(tmp_path)
    with pytest.raises(ClassListError, match=r"classes\.txt, line"):
        read_class_file(tmp_path / "classes.txt")


def test_a_users_class_list_may_come_from_any_editor(tmp_path: Path) -> None:
    path = tmp_path / "label_map.txt"
    path.write_bytes("\ufeffabseiling \r\nhigh jump\r\n\r\n".encode())
    assert read_class_file(path) == ("abseiling", "high jump")
    path.write_text("\n")
    with pytest.raises(InputFileError, match="is empty"):
        read_class_file(path)
    with pytest.raises(InputFileError, match="no class list"):
        read_class_file(tmp_path / "absent.txt")


@pytest.mark.parametrize("name", CLASSES)
def test_all_usual_spellings_of_a_class_are_one(name: str) -> None:
    spellings = {name, name.replace(" ", "_"), sanitize(name)}
    assert len({normalize_class_name(spelling) for spelling in spellings}) == 1


@given(st.text(st.characters(codec="utf-8")))
def test_normalizing_twice_is_normalizing_once(name: str) -> None:
    once = normalize_class_name(name)
    assert normalize_class_name(once) == once


def test_names_match_the_class_of_their_spelling() -> None:
    names = [sanitize(name) for name in CLASSES] + ["yoga", "skiing_crosscountry"]
    matched = match_class_names(names, CLASSES, "the list")
    assert all(sanitize(matched[name]) == name for name in names)
    assert set(matched.values()) == set(CLASSES)


def test_classes_of_one_spelling_are_refused_only_where_spelling_decides() -> None:
    classes = ("High jump", "high_jump", "yoga")
    assert match_class_names(classes, classes, "the list") == {name: name for name in classes}
    with pytest.raises(ClassListError, match="'High jump' and 'high_jump' of the list"):
        match_class_names(["high jump"], classes, "the list")


def test_a_models_equal_classes_need_no_word() -> None:
    match = match_model_classes(CLASSES, CLASSES, "MODEL", "DATA")
    assert match.names == CLASSES
    assert match.note is None


def test_the_skiing_classes_of_kinetics400_are_not_exchanged() -> None:
    """Folders named as torchvision names them sort the other way round."""
    data_classes = sort_classes(map(sanitize, CLASSES))
    assert [sanitize(name) for name in CLASSES] != list(data_classes)
    match = match_model_classes(CLASSES, data_classes, "MODEL", "DATA")
    assert match.names == tuple(map(sanitize, CLASSES))
    assert match.note is not None
    assert "DATA matched by name to the 5 of MODEL" in match.note
    assert "2 at another index, 3 in other spelling" in match.note
    assert "\n" not in match.note


def test_a_model_may_know_more_classes_than_the_data_have() -> None:
    match = match_model_classes(CLASSES, ("yoga", "abseiling"), "MODEL", "DATA")
    assert match.names == CLASSES
    assert "2 at another index, 3 not in the data" in (match.note or "")


@pytest.mark.parametrize(
    ("model_classes", "data_classes", "message"),
    [
        (("a", "b"), ("a", "c"), "'c' is none of the 2 classes of MODEL"),
        (("high jump",), ("high jump", "high_jump"), "of DATA differ only in spelling"),
        (("High jump", "high jump"), ("high_jump",), "of MODEL differ only in spelling"),
    ],
)
def test_classes_that_do_not_match_are_refused_with_one_line(
    model_classes: tuple[str, ...], data_classes: tuple[str, ...], message: str
) -> None:
    with pytest.raises(ClassListError, match=message) as error:
        match_model_classes(model_classes, data_classes, "MODEL", "DATA")
    assert "\n" not in str(error.value)


def test_a_list_that_was_given_stays_until_another_is(tmp_path: Path) -> None:
    def choose(
        *labels: str, given: tuple[str, ...] | None = None, earlier: tuple[str, ...] = ()
    ) -> tuple[str, ...]:
        chosen = choose_classes(tmp_path, labels, given=given, earlier_labels=earlier)
        write_classes(tmp_path, chosen)
        return chosen

    assert choose("b", "a") == ("a", "b")
    # Derived before, so derived again: an index means nothing yet that it did not mean before.
    assert choose("b", "c", earlier=("a", "b")) == ("b", "c")
    assert choose("b", given=("c", "b", "a"), earlier=("b", "c")) == ("c", "b", "a")
    assert choose("a", earlier=("b",)) == ("c", "b", "a")
    with pytest.raises(ClassListError, match=r"'d' is none of the 3 classes of .*classes\.txt"):
        choose("d", earlier=("a",))
    with pytest.raises(ClassListError, match="'d' is none of the 2 classes of the given"):
        choose("d", given=("a", "b"))


def test_labels_that_differ_only_in_spelling_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ClassListError, match="'high jump' and 'high_jump'"):
        choose_classes(tmp_path, ["high_jump", "high jump"], given=None, earlier_labels=[])
