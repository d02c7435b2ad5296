"""Sizes of clips and layouts in which the tests of operators and normalizers run."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

CHANNELS_LAST = torch.channels_last_3d
LAYOUTS = pytest.mark.parametrize(
    "layout", [torch.contiguous_format, CHANNELS_LAST], ids=["NCTHW", "NTHWC"]
)


@dataclass(frozen=True)
class Case:
    """N clips of C channels in G groups, T frames of H x W."""

    N: int
    C: int
    G: int
    T: int
    H: int
    W: int

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.N, self.C, self.T, self.H, self.W)

    def __str__(self) -> str:
        return "-".join(f"{axis}{getattr(self, axis)}" for axis in "NCGTHW")


def spread(values: torch.Tensor) -> torch.Tensor:
    """Values (C,) as (C, 1, 1, 1)."""
    return values[:, None, None, None]
