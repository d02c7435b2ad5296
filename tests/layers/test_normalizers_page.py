"""docs/normalizers.md has a row for every normalizer, and its flags are those of the table."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch import nn

from gnvideo.layers import NORMALIZERS

PAGE = Path(__file__).parents[2] / "docs" / "normalizers.md"
FLAGS = "trains on other clips"


def read_tables() -> dict[str, list[list[str]]]:
    """Returns the rows of each table whose first heading is "name", by its second heading."""
    tables: dict[str, list[list[str]]] = {}
    rows: list[list[str]] | None = None
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")] if line[:1] == "|" else []
        if cells[:1] == ["name"]:
            rows = tables.setdefault(cells[1], [])
        elif not cells:
            rows = None
        elif rows is not None and not cells[0].startswith("---"):
            rows.append(cells)
    return tables


@pytest.mark.parametrize("table", ["formula", FLAGS, "source"])
def test_every_normalizer_has_one_row_in_the_order_of_the_catalog(table):
    assert [row[0].strip("`") for row in read_tables()[table]] == list(NORMALIZERS)
    assert all(all(row) for row in read_tables()[table])


def test_flags_are_those_of_the_catalog():
    for name, *stated in read_tables()[FLAGS]:
        spec = NORMALIZERS[name.strip("`")]
        flags = (
            spec.uses_batch_statistics,
            spec.has_running_statistics,
            spec.conv_type is not nn.Conv3d,
            spec.replaces_activation,
        )
        assert stated == ["yes" if flag else "no" for flag in flags], name
