from __future__ import annotations

import io
import os
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from named_values import make_uniform

from gnvideo.errors import CheckpointError
from gnvideo.weights.caffe2_pickle import load_blobs


def make_python2_pickle(arrays: dict[str, np.ndarray[Any, Any]]) -> bytes:
    """Returns the protocol-2 pickle that Python 2 and its numpy write of {"blobs": arrays}.

    Python 2's strings and the arrays' memory are both of opcode BINSTRING, which Python 3 does not
    write. Opcodes as in the standard library's pickletools.
    """

    def string(content: bytes) -> bytes:
        return b"T" + struct.pack("<i", len(content)) + content

    def tuple_of(*parts: bytes) -> bytes:
        return b"(" + b"".join(parts) + b"t"

    def integer(value: int) -> bytes:
        return b"J" + struct.pack("<i", value)

    items = b""
    for name, array in arrays.items():
        start = tuple_of(b"cnumpy\nndarray\n", tuple_of(integer(0)), string(b"b"))
        dtype = b"cnumpy\ndtype\n" + tuple_of(string(b"f4"), integer(0), integer(1)) + b"R"
        dtype_state = tuple_of(
            *(integer(3), string(b"<"), b"N", b"N", b"N", integer(-1), integer(-1), integer(0))
        )
        shape = tuple_of(*(integer(size) for size in array.shape))
        state = tuple_of(
            *(integer(1), shape, dtype + dtype_state + b"b", b"\x89", string(array.tobytes()))
        )
        items += string(name.encode())
        items += b"cnumpy.core.multiarray\n_reconstruct\n" + start + b"R" + state + b"b"
    return b"\x80\x02}" + string(b"blobs") + b"}(" + items + b"us."


def make_arrays() -> dict[str, np.ndarray[Any, Any]]:
    # Every byte value stands in them, so that a wrong text encoding would show.
    shapes = {"conv1_w": (4, 3, 7, 7), "conv1_gn_s": (4,), "pred_w": (5, 9)}
    return {name: make_uniform(name, shape).numpy() for name, shape in shapes.items()}


@pytest.mark.parametrize("written_by", ["Python 2", "2", "4", "top level"])
def test_arrays_come_back_to_the_bit(tmp_path: Path, written_by: str):
    arrays = make_arrays()
    content = {
        "Python 2": make_python2_pickle(arrays),
        "2": pickle.dumps({"blobs": arrays, "cfg": "SOLVER: {}"}, protocol=2),
        "4": pickle.dumps({"blobs": arrays | {"lr": np.float64(0.1)}}, protocol=4),
        "top level": pickle.dumps(arrays, protocol=2),
    }[written_by]
    (tmp_path / "R-50-GN.pkl").write_bytes(content)
    loaded = load_blobs(tmp_path / "R-50-GN.pkl")
    assert loaded.keys() == arrays.keys()
    for name, array in arrays.items():
        assert loaded[name].dtype == np.float32
        assert np.array_equal(loaded[name], array)


class Runs:
    """Pickles as a call of any function with any arguments."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.call


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize(
    ("function", "named"),
    [(os.mkdir, r"posix\.mkdir"), (eval, r"(__builtin__|builtins)\.eval")],
    ids=["mkdir", "eval"],
)
def test_a_pickle_that_asks_for_code_is_refused_and_not_run(
    tmp_path: Path, protocol: int, function: Any, named: str
):
    trace = tmp_path / "trace"
    argument = str(trace) if function is os.mkdir else f"__import__('os').mkdir({str(trace)!r})"
    content = {"blobs": {**make_arrays(), "x": Runs(function, argument)}}
    path = tmp_path / "evil.pkl"
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    with pytest.raises(CheckpointError, match=rf"evil\.pkl asks for {named}, .*was not run") as e:
        load_blobs(path)
    assert "\n" not in str(e.value)
    assert not trace.exists()
    # It would have run.
    pickle.loads(path.read_bytes())
    assert trace.exists()


def test_numpys_own_functions_are_refused_too(tmp_path: Path):
    path = tmp_path / "evil.pkl"
    path.write_bytes(pickle.dumps({"blobs": Runs(np.load, "x.npy", None, True)}, protocol=2))
    with pytest.raises(CheckpointError, match=r"asks for numpy\S*\.load"):
        load_blobs(path)


def test_bytes_of_another_encoding_are_refused(tmp_path: Path):
    path = tmp_path / "evil.pkl"
    # _codecs.encode("x", "zlib_codec") would import a module by the name of the encoding.
    path.write_bytes(
        b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00xX\x0a\x00\x00\x00zlib_codec\x86R."
    )
    with pytest.raises(CheckpointError, match="asks for the text encoding 'zlib_codec'"):
        load_blobs(path)


@pytest.mark.parametrize("content", ["text", "truncated", "empty", "zip", "no arrays"])
def test_anything_else_is_named_in_one_line(tmp_path: Path, content: str):
    whole = make_python2_pickle(make_arrays())
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as opened:
        opened.writestr("data.pkl", b"x")
    path = tmp_path / "model.pkl"
    path.write_bytes(
        {
            "text": b"<html>not found</html>",
            "truncated": whole[: len(whole) // 2],
            "empty": b"",
            "zip": archive.getvalue(),
            "no arrays": pickle.dumps({"blobs": {"a": 1}}),
        }[content]
    )
    with pytest.raises(CheckpointError, match=r"model\.pkl") as caught:
        load_blobs(path)
    assert "\n" not in str(caught.value)
