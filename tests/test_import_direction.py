from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "gnvideo"
FILES = sorted(PACKAGE.rglob("*.py"))
MAX_LINES = 360

# What each room may import beside itself. `import gnvideo` itself, which holds the version, may
# stand anywhere.
ALLOWED: Mapping[str, set[str]] = {
    "errors": set(),
    "atomic_file": {"errors"},
    "ops": {"errors"},
    "layers": {"errors", "ops"},
    "models": {"errors", "ops", "layers"},
    "data": {"errors", "atomic_file"},
    "weights": {"errors", "layers", "models"},
    "evaluation": {"errors", "atomic_file", "layers"},
    "training": {"errors", "layers", "evaluation"},
    "export": {"errors", "atomic_file", "models", "training"},
    "config": {"errors"},
    "comparison": {"errors", "atomic_file", "config"},
    "build": {
        *("errors", "ops", "layers", "models", "data", "evaluation", "training", "config"),
        "weights",
    },
    "commands": {
        *("errors", "ops", "layers", "models", "data", "evaluation", "training", "config"),
        *("atomic_file", "comparison", "export", "build", "weights"),
    },
    "cli": {"errors", "config", "commands"},
    "__main__": {"cli"},
    "__init__": set(),
}


# Of `ops/triton_norm`: what is imported when a kernel is first launched.
KERNELS = {
    *("backward_units", "forward_units", "tile_functions", "launches", "one_read_launches"),
    *("two_read_kernels", "one_read_kernels"),
}


def find_room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def find_imported_rooms(path: Path) -> Iterator[tuple[int, str]]:
    """Yields (line, room) for every import of gnvideo in the file, also inside of functions."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} imports relatively"
            # `from gnvideo import x` may import a room.
            modules = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for module in modules:
            package, _, rest = module.partition(".")
            room = rest.partition(".")[0]
            if package == "gnvideo" and room and room != "__version__":
                yield node.lineno, room


def test_every_room_has_its_rule() -> None:
    assert {find_room(path) for path in FILES} == ALLOWED.keys()


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_file_imports_only_what_its_room_may(path: Path) -> None:
    room = find_room(path)
    wrong = [
        f"line {line} imports {imported}"
        for line, imported in find_imported_rooms(path)
        if imported != room and imported not in ALLOWED[room]
    ]
    assert not wrong


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_file_is_short_enough_to_read(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MAX_LINES


def list_new_packages(code: str, before: str = "") -> set[str]:
    """Returns the packages that `code` loads in a fresh interpreter that ran `before`."""
    script = f"""
import sys
{before}
earlier = set(sys.modules)
{code}
print(*{{name.partition(".")[0] for name in sys.modules if name not in earlier}})
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    return set(done.stdout.split())


def test_the_command_lines_help_needs_no_torch() -> None:
    packages = list_new_packages("import gnvideo, gnvideo.cli")
    assert "gnvideo" in packages
    assert not packages & {"torch", "numpy", "av", "pydantic", "rich", "yaml"}


def test_optional_packages_are_imported_only_where_they_are_used() -> None:
    """Every module imports where none of them is installed, and does not pay for those that are."""
    modules = [
        ".".join(["gnvideo", *path.relative_to(PACKAGE).with_suffix("").parts])
        for path in FILES
        if path.stem not in {"__init__", "__main__", *KERNELS}
    ]
    # Whatever torch loads by itself is not gnvideo's to answer for.
    packages = list_new_packages(f"import {', '.join(modules)}", before="import torch")
    assert "gnvideo" in packages
    assert not packages & {
        *("decord", "pytorchvideo", "triton", "ray", "torchcodec", "timm"),
        *("onnx", "onnxscript", "onnxruntime", "huggingface_hub"),
    }
