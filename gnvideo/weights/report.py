"""What a transfer of weights did, as numbers and as text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from gnvideo.weights.layouts import PixelScale, Rgb

# Published constants are rounded to five or six digits.
_PIXEL_TOLERANCE = 1e-4


@dataclass(frozen=True)
class TransferReport:
    """What a transfer did. Names are the model's.

    What is missing, unexpected or reshaped belongs to normalizers, to the head, or to parts that a
    plain ResNet does not have: anything else is an error.

    Attributes:
        path: The file.
        layout: The name of its layout.
        normalizer: What it was trained with; None if the file does not say.
        num_tensors: Tensors in the file.
        num_taken: Those of the model that have the file's values now.
        inflated: Those of them that were repeated in time.
        missing: Of the model and not in the file; they are as they were.
        unexpected: Of the file, without a place in the model; they are left out.
        reshaped: Of both, in another shape; the model's are as they were.
        head: The name of the model's last layer.
        head_renewal: Why the last layer is as it was; None if it is the file's.
        ignored: What else stands in the file.
        pixels: The input that the weights were made with; None if unknown.
        notes: What a user has to know who expects the source's accuracy.
    """

    path: Path
    layout: str
    normalizer: str | None
    num_tensors: int
    num_taken: int
    inflated: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    reshaped: tuple[str, ...]
    head: str
    head_renewal: str | None
    ignored: tuple[str, ...]
    pixels: PixelScale | None
    notes: tuple[str, ...]

    def format_lines(self, mean: Sequence[float], std: Sequence[float]) -> list[str]:
        """Returns the report as lines of text, for a model whose input is (x - mean) / std."""
        normalizer = f", trained with normalizer {self.normalizer}" if self.normalizer else ""
        lines = [
            f"{self.path}: {self.num_tensors} tensors, layout {self.layout}{normalizer}",
            f"{self.num_taken} taken, {len(self.inflated)} of them inflated in time; missing"
            f" {len(self.missing)}, unexpected {len(self.unexpected)}, reshaped"
            f" {len(self.reshaped)}",
        ]
        for names, fate in (
            (self.missing, "missing, kept at their start"),
            (self.unexpected, "unexpected, left out"),
            (self.reshaped, "reshaped, kept at their start"),
        ):
            if names:
                lines.append(f"{fate}: {_count_leaves(names)}, such as {names[0]}")
        if self.head_renewal is not None:
            lines.append(f"head {self.head} renewed: {self.head_renewal}")
        if self.ignored:
            lines.append(f"not read: {', '.join(self.ignored[:8])}")
        lines += [f"note: {note}" for note in self.notes]
        if self.pixels is not None and not (
            _are_close(self.pixels.mean, mean) and _are_close(self.pixels.std, std)
        ):
            lines.append(
                f"note: the weights expect data.mean={_format(self.pixels.mean)}"
                f" data.std={_format(self.pixels.std)}, and here they are {_format(mean)} and"
                f" {_format(std)}"
            )
        return lines


def _count_leaves(names: Iterable[str]) -> str:
    """Returns `53 running_mean, 53 running_var` of the names that end so."""
    counts = Counter(name.rpartition(".")[2] for name in names)
    return ", ".join(f"{count} {leaf}" for leaf, count in sorted(counts.items()))


def _are_close(a: Sequence[float], b: Sequence[float]) -> bool:
    return all(abs(x - y) <= _PIXEL_TOLERANCE for x, y in zip(a, b, strict=True))


def _format(values: Rgb | Sequence[float]) -> str:
    return f"[{','.join(f'{value:.6g}' for value in values)}]"
