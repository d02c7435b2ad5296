"""What a video looks like, in a few numbers that survive re-encoding, scaling and brightening.

A hash has 64 bits: the signs of the lowest frequencies of the picture, but for its mean, against
their median. Integers throughout, so that every machine computes the same ones. This module imports
no torch: preparation starts many processes of it.

Axes: H height, W width.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

# Of a copy that is shifted in time, hashes are taken up to a sixth of a second away; where things
# move, a quarter is too far.
HASHES_PER_SECOND = 3
# Of a picture that shows nothing, such as a black one. No other has it: half of its bits are set.
NO_PICTURE = 0

_SIDE = 32
_FREQUENCIES = 8
# Of the brightness in the 32x32 picture, in levels of 255. Noise and compression stay below it.
_MIN_STANDARD_DEVIATION = 3
# After a gap, such as a broken timestamp makes, hashes no longer stand at their time.
_MAX_REPEATS = 20 * HASHES_PER_SECOND

# (8, 32), rows of the discrete cosine transform.
_COSINES = np.rint(
    1024
    * np.cos(np.pi * np.outer(np.arange(_FREQUENCIES + 1), 2 * np.arange(_SIDE) + 1) / (2 * _SIDE))
).astype(np.int64)


class PerceptualHasher:
    """Collects the hashes of a video's frames as they come, `HASHES_PER_SECOND` of them.

    Hash k is that of the first frame shown at k / `HASHES_PER_SECOND` seconds or later.
    """

    def __init__(self) -> None:
        self._hashes: list[int] = []

    def add(self, luma_HW: npt.NDArray[np.uint8], seconds: float) -> None:
        """Takes the next frame's brightness, shown `seconds` after the first frame."""
        num_due = int(seconds * HASHES_PER_SECOND) + 1 - len(self._hashes)
        if num_due > 0:
            self._hashes += [compute_hash(luma_HW)] * min(num_due, _MAX_REPEATS)

    def format(self) -> str:
        """Returns the hashes as text, 16 hexadecimal digits each."""
        return "".join(f"{value:016x}" for value in self._hashes)


def parse_hashes(text: str) -> npt.NDArray[np.uint64]:
    """Returns what `PerceptualHasher.format` wrote, as (N,) uint64."""
    return np.frombuffer(bytes.fromhex(text), ">u8").astype(np.uint64)


def compute_hash(luma_HW: npt.NDArray[np.uint8]) -> int:
    """Returns the hash of a picture's brightness, or `NO_PICTURE` where it is all alike."""
    picture = _shrink(luma_HW)
    if picture.std() < _MIN_STANDARD_DEVIATION:
        return NO_PICTURE
    spectrum = _COSINES @ picture @ _COSINES.T
    # The lowest 8 by 8 but the mean, and one more of the brightness from left to right.
    values = np.append(spectrum[:_FREQUENCIES, :_FREQUENCIES].ravel()[1:], spectrum[0, -1])
    bits = values > np.sort(values)[len(values) // 2 - 1]
    return int.from_bytes(np.packbits(bits).tobytes())


def _shrink(luma_HW: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    """Returns the mean brightness of each of 32 by 32 parts of a picture."""
    height, width = luma_HW.shape
    # Parts of a picture that is smaller than 32 by 32 are single pixels, some of them repeated.
    rows, columns = (np.arange(_SIDE) * side // _SIDE for side in (height, width))
    sums = np.add.reduceat(luma_HW, rows, axis=0, dtype=np.int64)
    sums = np.add.reduceat(sums, columns, axis=1)
    counts = np.outer(
        np.diff(rows, append=height).clip(min=1), np.diff(columns, append=width).clip(min=1)
    )
    return sums // counts
