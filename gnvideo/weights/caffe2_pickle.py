"""Reads Caffe2's pickled blobs, as Detectron publishes them, and runs nothing of the pickle."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

import numpy as np

from gnvideo.errors import CheckpointError


def load_blobs(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    """Returns the arrays of a Caffe2 pickle by name: all of it, or its `blobs`.

    The file may ask for numpy arrays and nothing else. Python 2's strings are read as Latin-1,
    which is how numpy's bytes come through unchanged.

    Raises:
        CheckpointError: it asks for anything else, is damaged, or holds no arrays.
    """
    try:
        with path.open("rb") as file:
            content: object = _ArrayUnpickler(file, encoding="latin1").load()
    except CheckpointError as error:
        raise CheckpointError(f"{path} {error}") from None
    # A damaged file raises whatever its first wrong byte leads to.
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(
            f"cannot read {path}: {reason}; a .pkl file is read as Detectron's pickled blobs: give"
            " the file as it was downloaded, or a .pth or .safetensors file"
        ) from error
    if isinstance(content, dict) and isinstance(cast(Any, content).get("blobs"), dict):
        content = cast(Any, content)["blobs"]
    blobs: dict[str, np.ndarray[Any, Any]] = {}
    if isinstance(content, dict):
        blobs = {
            str(name): value
            for name, value in cast(dict[Any, Any], content).items()
            if isinstance(value, np.ndarray) and value.dtype.kind == "f"
        }
    if not blobs:
        raise CheckpointError(
            f"{path} holds no arrays under `blobs` or at its top; give a file like Detectron's"
            " R-50-GN.pkl"
        )
    return blobs


def _encode_latin1(text: str, encoding: str = "latin1") -> bytes:
    """Stands for `_codecs.encode`, by which Python 3 writes bytes into old pickles."""
    if encoding != "latin1":
        raise CheckpointError(
            f"asks for the text encoding {encoding!r}; allowed is latin1: save it again from numpy"
        )
    return text.encode("latin1")


# How numpy itself says that arrays and scalars are to be rebuilt; its modules have moved.
_REBUILD_ARRAY = cast(Callable[..., Any], np.empty(0).__reduce__()[0])
_REBUILD_SCALAR = cast(Callable[..., Any], np.float64(0).__reduce__()[0])

_ALLOWED: Mapping[tuple[str, str], Any] = MappingProxyType(
    {
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
        ("numpy.core.multiarray", "_reconstruct"): _REBUILD_ARRAY,
        ("numpy._core.multiarray", "_reconstruct"): _REBUILD_ARRAY,
        ("numpy.core.multiarray", "scalar"): _REBUILD_SCALAR,
        ("numpy._core.multiarray", "scalar"): _REBUILD_SCALAR,
        ("_codecs", "encode"): _encode_latin1,
    }
)


class _ArrayUnpickler(pickle.Unpickler):
    """Finds what numpy arrays are rebuilt with, and refuses every other name."""

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        found = _ALLOWED.get((module_name, global_name))
        if found is None:
            raise CheckpointError(
                f"asks for {module_name}.{global_name}, which is no part of a numpy array and was"
                " not run; if you trust the file, load it in a program of its own and save a plain"
                " dictionary of numpy arrays"
            )
        return found
