from __future__ import annotations

import json
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gnvideo.data.annotations import Annotation, ListedVideo, parse_clip_id
from gnvideo.data.annotations_reading import AnnotationTable, read_annotation_files
from gnvideo.data.exclusions import read_exclusions
from gnvideo.errors import AnnotationError, InputFileError

HEADER = "label,youtube_id,time_start,time_end,split"


def write(folder: Path, *lines: str, name: str = "list.csv") -> Path:
    path = folder / name
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def read(path: Path, **options: Any) -> list[Annotation]:
    table = read_annotation_files([path], **options)
    assert table.videos == []
    return table.clips


def read_videos(path: Path, **options: Any) -> list[ListedVideo]:
    table = read_annotation_files([path], **options)
    assert table.clips == []
    return table.videos


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
def test_every_published_csv_is_read(
    tmp_path: Path, lines: list[str], expected: Annotation
) -> None:
    assert read(write(tmp_path, *lines)) == [expected]


def test_crawler_header_takes_the_split_of_the_file_name_or_of_the_caller(tmp_path: Path) -> None:
    lines = ["YouTube Identifier,Start time,End time,Class label", "abc,1,11,diving"]
    named = write(tmp_path, *lines, name="kinetics-400_validate.csv")
    unnamed = write(tmp_path, *lines, name="clips.csv")
    assert read(named) == [Annotation("abc", "diving", 1, 11, "val")]
    assert read(named, default_split="train") == [Annotation("abc", "diving", 1, 11, "val")]
    assert read(unnamed, default_split="train") == [Annotation("abc", "diving", 1, 11, "train")]
    with pytest.raises(AnnotationError, match="--split"):
        read(unnamed)


def test_clip_id_has_six_digits_of_seconds() -> None:
    assert Annotation("-_a", "x", 7, 17, "val").clip_id == "-_a_000007_000017"


def test_equal_rows_are_merged_and_counted_over_files(tmp_path: Path) -> None:
    one = write(tmp_path, HEADER, "a,v1,0,10,train", "a,v1,0.0,10.0,train", name="one.csv")
    two = write(tmp_path, HEADER, "a,v1,0,10,train", "a,v1,0,10,val", name="two.csv")
    table = read_annotation_files([one, two])
    assert [row.split for row in table.clips] == ["train", "val"]
    assert table.num_repeated == 2


def test_one_clip_with_two_labels_is_an_error_that_names_both_places(tmp_path: Path) -> None:
    path = write(tmp_path, HEADER, "a,v1,0,10,train", "b,v2,0,10,val", "c,v1,0,10,val")
    with pytest.raises(AnnotationError, match=r"line 4.*v1_000000_000010.*'c'.*'a'.*line 2"):
        read(path)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        pytest.param(["abseiling,0wR5jVB-WPk,417,427,val,0"], "header.*youtube_id", id="no-header"),
        pytest.param([""], "no form that can be read", id="empty"),
        pytest.param(
            ["youtube_id,label,split"], "line 1.*lacks time_start, time_end", id="no-times"
        ),
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
        pytest.param([HEADER, 'a,"v\nw",0,10,val'], "line 3.*one line", id="id-of-two-lines"),
    ],
)
def test_a_wrong_file_is_an_error_with_its_line(
    tmp_path: Path, lines: list[str], message: str
) -> None:
    path = write(tmp_path, *lines)
    with pytest.raises(AnnotationError, match=message) as error:
        read(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_or_binary_file_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputFileError, match=r"absent\.csv"):
        read(tmp_path / "absent.csv")
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00label")
    with pytest.raises(InputFileError, match=r"binary\.csv"):
        read(tmp_path / "binary.csv")


def write_json(folder: Path, data: object, name: str = "list.json") -> Path:
    return write(folder, json.dumps(data), name=name)


DEEPMIND = {
    "zvdtk1CSpao": {
        "annotations": {"label": "changing oil", "segment": [31.0, 41.0]},
        "duration": 10.0,
        "subset": "validate",
        "url": "https://www.youtube.com/watch?v=zvdtk1CSpao",
    },
    "-6bJUbfpnQ_": {"annotations": {"segment": [17, 27]}, "duration": 10.0, "subset": "test"},
}
RESNETS = {
    "labels": ["yoga", "abseiling"],
    "database": {
        "-_Ca_b_d-fg_000417_000427": {
            "subset": "training",
            "annotations": {"label": "yoga", "segment": [1, 301]},
        },
        "aaaaaaaaaaa_000000_000010": {"subset": "testing", "annotations": {}},
    },
}


def test_deepminds_json_is_read(tmp_path: Path) -> None:
    assert read(write_json(tmp_path, DEEPMIND)) == [
        Annotation("zvdtk1CSpao", "changing oil", 31, 41, "val"),
        Annotation("-6bJUbfpnQ_", None, 17, 27, "test"),
    ]


def test_3d_resnets_json_is_read_with_the_times_of_its_names(tmp_path: Path) -> None:
    assert read(write_json(tmp_path, RESNETS)) == [
        Annotation("-_Ca_b_d-fg", "yoga", 417, 427, "train"),
        Annotation("aaaaaaaaaaa", None, 0, 10, "test"),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("{", "not a JSON file", id="cut-off"),
        pytest.param('{"a": 1, "a": 2}', "'a' stands twice", id="key-twice"),
        pytest.param('{"abc": 3}', "entry 'abc': 3 stands where", id="no-object"),
        pytest.param(
            '{"abc": {"annotations": [{"label": "x"}], "subset": "training"}}',
            "'annotations' is a list.*one row a segment",
            id="activitynet",
        ),
        pytest.param(
            '{"abc": {"annotations": {"label": "x", "segment": [1]}, "subset": "train"}}',
            r"segment is \[1\]",
            id="half-a-segment",
        ),
        pytest.param(
            '{"abc": {"annotations": {"label": "x", "segment": [1, null]}, "subset": "train"}}',
            "segment is",
            id="null-time",
        ),
        pytest.param(
            '{"abc": {"annotations": {"label": "x", "segment": [1, NaN]}, "subset": "train"}}',
            "time_end is nan",
            id="nan-time",
        ),
        pytest.param(
            '{"abc": {"annotations": {"segment": [1, 11]}, "subset": "train"}}',
            "no label",
            id="no-label",
        ),
        pytest.param(
            '{"abc": {"annotations": {"label": "x", "segment": [1, 11]}, "subset": "dev"}}',
            "subset is 'dev'",
            id="unknown-subset",
        ),
        pytest.param(
            '{"labels": [], "database": {"abc": {"subset": "testing", "annotations": {}}}}',
            "entry 'abc'.*<id>_<start>_<end>",
            id="3d-resnets-name-without-times",
        ),
        pytest.param("[1]", "no form that can be read", id="array"),
    ],
)
def test_a_wrong_json_is_an_error_with_its_entry(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(AnnotationError, match=message) as error:
        read(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_equal_clips_of_different_forms_are_one(tmp_path: Path) -> None:
    official = write(tmp_path, HEADER, "changing oil,zvdtk1CSpao,31,41,validate")
    table = read_annotation_files([official, write_json(tmp_path, DEEPMIND)])
    assert (len(table.clips), table.num_repeated) == (2, 1)


CLASSES = ("abseiling", "high jump", "yoga")


@pytest.mark.parametrize(
    ("line", "path", "label"),
    [
        pytest.param("a/b.mp4 2", "a/b.mp4", "yoga", id="space"),
        pytest.param("a/b.mp4\t2", "a/b.mp4", "yoga", id="tab"),
        pytest.param("a/b.mp4,2", "a/b.mp4", "yoga", id="comma"),
        pytest.param("a/b.mp4 , 2", "a/b.mp4", "yoga", id="comma-and-spaces"),
        pytest.param("a/b.mp4::2", "a/b.mp4", "yoga", id="colons"),
        pytest.param("/data/high jump/my clip.webm 1", "/data/high jump/my clip.webm", "high jump"),
        pytest.param("../a, b::c.MKV 0", "../a, b::c.MKV", "abseiling", id="separators-in-path"),
        pytest.param("a.mp4 2.avi 1", "a.mp4 2.avi", "high jump", id="suffix-in-name"),
        pytest.param('"a, b.mp4",1', "a, b.mp4", "high jump", id="quoted-path"),
        pytest.param("a.mp4 high jump", "a.mp4", "high jump", id="name-with-space"),
        pytest.param("a.mp4\thigh jump", "a.mp4", "high jump", id="name-after-tab"),
        pytest.param('a.mp4,"high jump"', "a.mp4", "high jump", id="quoted-name"),
        pytest.param('a.mp4,"shaking hands, twice"', "a.mp4", "shaking hands, twice"),
        pytest.param("été/ü 'q'.mp4 0", "été/ü 'q'.mp4", "abseiling", id="unicode-and-quote"),
        pytest.param("-bc.mp4 0", "-bc.mp4", "abseiling", id="leading-dash"),
    ],
)
@pytest.mark.parametrize("header", [[], ["video_path label"], ["path,label"]], ids=len)
def test_a_video_list_is_read_with_any_separator(
    tmp_path: Path, line: str, path: str, label: str, header: list[str]
) -> None:
    file = write(tmp_path, *header, line, "", name="kinetics400_train_list_videos.txt")
    assert read_videos(file, classes=CLASSES) == [ListedVideo(path, label, "train")]


@pytest.mark.parametrize(
    "line", ["a b/dir 300 1", "a b/dir\t300\t1", "a b/dir,300,1", "a b/dir::300::1"]
)
def test_a_list_of_image_folders_is_read(tmp_path: Path, line: str) -> None:
    for header in ([], ["frame_dir total_frames label"]):
        file = write(tmp_path, *header, line, name="val.txt")
        assert read_videos(file, classes=CLASSES) == [
            ListedVideo("a b/dir", "high jump", "val", 300)
        ]


def test_a_list_without_labels_is_of_test_clips_only(tmp_path: Path) -> None:
    test = write(tmp_path, "a b.mp4", "c.mp4", name="test.csv")
    assert read_videos(test) == [ListedVideo(path, None, "test") for path in ("a b.mp4", "c.mp4")]
    train = write(tmp_path, "a.mp4 x", "b.mp4", name="train.csv")
    with pytest.raises(AnnotationError, match=r"line 2: b\.mp4 of split 'train' has no label"):
        read(train)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        pytest.param(["a.mp4 1", "b.mp4 x"], "line 1.*number 1.*line 2 the name 'x'", id="mixed"),
        pytest.param(["a.mp4 0", "b.mp4 3"], "line 2.*label is 3.*3 names, 0 to 2", id="too-large"),
        pytest.param(["a.mp4 1 2"], "line 1: a.mp4 has 2 labels", id="two-numbers"),
        pytest.param(["a.mp4,x,train"], "line 1: a.mp4 has 2 labels", id="two-names"),
        pytest.param(["a.mp4 1", "b 1"], "line 2: 'b 1' is neither", id="no-suffix"),
        pytest.param(["a.mp4 1", "b 30 1"], "line 2.*folder of images.*two files", id="two-kinds"),
        pytest.param(["a,3,b 30 x"], "can be cut at a comma and at a space", id="two-cuts"),
        pytest.param(["a.mp4 0", "a.mp4 1"], "line 2: a.mp4 has the label", id="two-labels"),
        pytest.param(["a\0.mp4 0"], "line 1: the path", id="nul"),
    ],
)
def test_a_wrong_list_is_an_error_with_its_line(
    tmp_path: Path, lines: list[str], message: str
) -> None:
    path = write(tmp_path, *lines, name="train.txt")
    with pytest.raises(AnnotationError, match=message) as error:
        read(path, classes=CLASSES)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_numbers_need_a_class_list(tmp_path: Path) -> None:
    with pytest.raises(AnnotationError, match=r"line 1: the label is the number 7.*--classes"):
        read(write(tmp_path, "a.mp4 7", name="train.txt"))


def test_the_split_of_a_list_is_its_files_or_the_callers(tmp_path: Path) -> None:
    named = write(tmp_path, "a.mp4 x", name="ucf-val.csv")
    unnamed = write(tmp_path, "a.mp4 x", name="list.csv")
    assert read_videos(named, default_split="train")[0].split == "val"
    assert read_videos(unnamed, default_split="train")[0].split == "train"
    with pytest.raises(AnnotationError, match="--split"):
        read(unnamed)


def test_labels_can_be_renamed() -> None:
    table = AnnotationTable(
        [Annotation("v", "high_jump", 0, 10, "val"), Annotation("w", None, 0, 10, "test")],
        [ListedVideo("a.mp4", "yoga", "val")],
        0,
    )
    assert table.list_labels() == ["high_jump", "yoga"]
    renamed = table.rename_labels({"high_jump": "high jump", "yoga": "yoga"})
    assert renamed.list_labels() == ["high jump", "yoga"]
    assert [row.youtube_id for row in renamed.clips] == ["v", "w"]


def test_clip_ids_are_cut_from_the_right() -> None:
    assert parse_clip_id("-a_b_c-_efg_000417_000427") == ("-a_b_c-_efg", 417, 427)
    assert parse_clip_id("a_1_11") == ("a", 1, 11)
    assert parse_clip_id("abcdefghijk") is None
    assert parse_clip_id("a_000010_000010") is None
    assert parse_clip_id("a_0000001_0000011") is None


PIECES = st.sampled_from(
    [
        *('"', "{", "}", "[", ":", ",", "::", " ", "\t", "\n", "\0", "\u2028", "é", "..", "/"),
        *(HEADER, "youtube_id", "a.mp4", "a b.avi", "12", "9" * 5000, "label", "train", "nan"),
        *('{"a": {"annotations": {"label": "x", "segment": [1, 11]}, "subset": "train"}}', "1e999"),
    ]
)


# No deadline: every example waits for the disk.
@settings(max_examples=300, deadline=None)
@given(text=st.lists(PIECES).map("".join) | st.text(), classes=st.none() | st.just(CLASSES))
def test_any_text_is_read_or_refused_in_one_line(
    text: str, classes: tuple[str, ...] | None
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "train.csv"
        path.write_text(text, encoding="utf-8", errors="replace", newline="")
        for read_file in (partial(read_annotation_files, classes=classes), read_exclusions):
            message = ""
            try:
                read_file([path])
            except (AnnotationError, InputFileError) as error:
                message = str(error)
            assert "\n" not in message
