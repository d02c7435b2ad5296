from __future__ import annotations

from pathlib import Path

import pytest

from gnvideo.data.annotations import Annotation, read_annotation_files, read_annotations
from gnvideo.errors import AnnotationError, InputFileError

HEADER = "label,youtube_id,time_start,time_end,split"


def write(folder: Path, *lines: str, name: str = "list.csv") -> Path:
    path = folder / name
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        pytest.param(
            [f"{HEADER},is_cc", "abseiling,0wR5jVB-WPk,417,427,val,0"],
            Annotation("0wR5jVB-WPk", "abseiling", 417, 427, "val"),
            id="kinetics400-with-is_cc",
        ),
        pytest.param(
            [HEADER, "testifying,---QUuC4vJs,84,94,train"],
            Annotation("---QUuC4vJs", "testifying", 84, 94, "train"),
            id="kinetics700-id-of-dashes",
        ),
        pytest.param(
            ["youtube_id,time_start,time_end,split", "--6bJUbfpnQ,17,27,test"],
            Annotation("--6bJUbfpnQ", None, 17, 27, "test"),
            id="test-without-label-column",
        ),
        pytest.param(
            [HEADER, ",--6bJUbfpnQ,17,27,test"],
            Annotation("--6bJUbfpnQ", None, 17, 27, "test"),
            id="test-with-empty-label",
        ),
        pytest.param(
            ["split,time_end,time_start,label,youtube_id", "validate,10,0,a b,abc"],
            Annotation("abc", "a b", 0, 10, "val"),
            id="other-order-and-validate",
        ),
        pytest.param(
            [HEADER, '"""passing American football (in game)""",\'abc,3.0,13.0,train'],
            Annotation("'abc", "passing American football (in game)", 3, 13, "train"),
            id="quotes-and-float-times",
        ),
        pytest.param(
            ["\ufeff" + HEADER, '"shaking hands, twice",abc,0,10,train', ""],
            Annotation("abc", "shaking hands, twice", 0, 10, "train"),
            id="byte-order-mark-and-comma-in-label",
        ),
    ],
)
def test_every_published_form_is_read(
    tmp_path: Path, lines: list[str], expected: Annotation
) -> None:
    assert read_annotations(write(tmp_path, *lines)) == [expected]


def test_crawler_header_takes_the_split_of_the_file_name_or_of_the_caller(tmp_path: Path) -> None:
    lines = ["YouTube Identifier,Start time,End time,Class label", "abc,1,11,diving"]
    named = write(tmp_path, *lines, name="kinetics-400_validate.csv")
    unnamed = write(tmp_path, *lines, name="clips.csv")
    assert read_annotations(named) == [Annotation("abc", "diving", 1, 11, "val")]
    assert read_annotations(unnamed, "train") == [Annotation("abc", "diving", 1, 11, "train")]
    assert read_annotations(named, "train") == []
    with pytest.raises(AnnotationError, match="--split"):
        read_annotations(unnamed)


def test_clip_id_has_six_digits_of_seconds() -> None:
    assert Annotation("-_a", "x", 7, 17, "val").clip_id == "-_a_000007_000017"


def test_split_limits_the_rows(tmp_path: Path) -> None:
    path = write(tmp_path, HEADER, "a,v1,0,10,train", "b,v2,0,10,val", "a,v3,0,10,train")
    assert [row.youtube_id for row in read_annotations(path, "train")] == ["v1", "v3"]


def test_equal_rows_are_merged_and_counted_over_files(tmp_path: Path) -> None:
    one = write(tmp_path, HEADER, "a,v1,0,10,train", "a,v1,0.0,10.0,train", name="one.csv")
    two = write(tmp_path, HEADER, "a,v1,0,10,train", "a,v1,0,10,val", name="two.csv")
    annotations, num_repeated = read_annotation_files([one, two])
    assert [row.split for row in annotations] == ["train", "val"]
    assert num_repeated == 2


def test_one_clip_with_two_labels_is_an_error_that_names_both_places(tmp_path: Path) -> None:
    path = write(tmp_path, HEADER, "a,v1,0,10,train", "b,v2,0,10,val", "c,v1,0,10,val")
    with pytest.raises(AnnotationError, match=r"line 4.*v1_000000_000010.*'c'.*'a'.*line 2"):
        read_annotations(path)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        pytest.param(["abseiling,0wR5jVB-WPk,417,427,val,0"], "line 1.*youtube_id", id="no-header"),
        pytest.param([""], "line 1.*lacks youtube_id, time_start, time_end", id="empty"),
        pytest.param([f"{HEADER},youtube_id"], "line 1.*two columns", id="column-twice"),
        pytest.param([HEADER, "a,v,0,10,dev"], "line 2.*'dev'.*train, val", id="unknown-split"),
        pytest.param([HEADER, "a,v,x,10,val"], "line 2.*time_start is 'x'", id="time-not-a-number"),
        pytest.param([HEADER, "a,v,0,nan,val"], "line 2.*time_end is 'nan'", id="time-nan"),
        pytest.param([HEADER, "a,v,-1,9,val"], "line 2.*'-1'.*0 to 999999", id="time-negative"),
        pytest.param([HEADER, "a,v,10,10,val"], "line 2.*after the start", id="empty-interval"),
        pytest.param([HEADER, "a,v,0,10,val", "a,,0,10,val"], "line 3.*youtube_id", id="no-id"),
        pytest.param([HEADER, ",v,0,10,train"], "line 2.*no label.*test", id="train-without-label"),
        pytest.param([HEADER, "a,b,v,0,10,val"], "line 2: 6 values.*5 columns", id="extra-value"),
        pytest.param([HEADER, '"a\nb",v,0,10,val'], "line 3.*one line", id="label-of-two-lines"),
    ],
)
def test_a_wrong_file_is_an_error_with_its_line(
    tmp_path: Path, lines: list[str], message: str
) -> None:
    path = write(tmp_path, *lines)
    with pytest.raises(AnnotationError, match=message) as error:
        read_annotations(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_or_binary_file_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputFileError, match=r"absent\.csv"):
        read_annotations(tmp_path / "absent.csv")
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00label")
    with pytest.raises(InputFileError, match=r"binary\.csv"):
        read_annotations(tmp_path / "binary.csv")
