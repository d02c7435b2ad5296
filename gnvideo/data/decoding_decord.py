"""Decoding with decord 0.6, checked against the frame table that PyAV reads from the same file.

Decord numbers frames by packets and repeats a neighbour where a frame does not come out, silently.
Here both end in an error, so that what is returned is what PyAV returns, bit by bit.

Axes: T frames, H height, W width, C colour channels (RGB).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gnvideo.data.decoding import DecodedFrames, VideoMetadata, arrange, find_distinct
from gnvideo.data.decoding_pyav import PyavDecoder
from gnvideo.data.foreign_decoders import describe_refusal, read_checked_table
from gnvideo.errors import DecoderUnavailableError, VideoError

# As a share of the video's frames, so: not a single repeated frame.
_FAULT_TOLERANCE = 1e-9


class DecordDecoder:
    """Reads videos with decord.

    Refuses, with VideoError, what `read_checked_table` does, Matroska streams without a duration
    anywhere, edit lists that hide frames, and AV1. The decoder "pyav" reads these.

    Where a video has B-frames, all frames up to the last wanted one are read: behind decord's seek
    the last frame of some of these videos is another one.

    Args:
        num_threads: Of FFmpeg's decoder.

    Raises:
        DecoderUnavailableError: decord does not import here.
    """

    name = "decord"

    def __init__(self, num_threads: int = 1) -> None:
        self._num_threads = num_threads
        _import_decord()

    def read_metadata(self, path: Path) -> VideoMetadata:
        """Returns the metadata of the video at `path`, as PyAV reads it; see `VideoDecoder`."""
        return PyavDecoder().read_metadata(path)

    def decode_frames(
        self, path: Path, indices: Sequence[int] | npt.NDArray[np.integer]
    ) -> DecodedFrames:
        """Returns the frames at `indices`; see `VideoDecoder`."""
        wanted, rows = find_distinct(indices)
        table = read_checked_table(path, self.name)
        times = table.select(path, wanted)
        decord = _import_decord()
        try:
            reader = decord.VideoReader(
                str(path),
                ctx=decord.cpu(0),
                num_threads=self._num_threads,
                fault_tol=_FAULT_TOLERANCE,
            )
            if len(reader) != len(table.times):
                raise VideoError(
                    describe_refusal(
                        path,
                        self.name,
                        f"{len(reader)} stored frames of which {len(table.times)} show",
                    )
                )
            if table.is_reordered:
                frames = _read_from_start(reader, wanted)
            else:
                frames = [_make_rgb(reader[index]) for index in wanted.tolist()]
        # It stops where the video is shorter than its header says.
        except (decord.DECORDError, decord.DECORDLimitReachedError, StopIteration) as error:
            raise VideoError(
                describe_refusal(path, self.name, " ".join(str(error).split()))
            ) from error
        return arrange(np.stack(frames), times, rows)


def _import_decord() -> Any:
    try:
        import decord
    except (ImportError, OSError) as error:
        raise DecoderUnavailableError(
            f"the decoder 'decord' does not import here ({' '.join(str(error).split())});"
            " install the package decord, or use the decoder 'pyav'"
        ) from error
    # What FFmpeg would print is in the errors.
    decord.logging.set_level(decord.logging.QUIET)
    return decord


def _read_from_start(reader: Any, wanted: npt.NDArray[np.int64]) -> list[npt.NDArray[np.uint8]]:
    indices = set(wanted.tolist())
    frames: list[npt.NDArray[np.uint8]] = []
    for index in range(int(wanted[-1]) + 1):
        stored = reader.next()
        if index in indices:
            frames.append(_make_rgb(stored))
    return frames


def _make_rgb(stored: Any) -> npt.NDArray[np.uint8]:
    frame: npt.NDArray[np.uint8] = stored.asnumpy()
    # Where the padded line is a multiple of the width, decord takes it for a frame with more than
    # three channels.
    height, width = frame.shape[:2]
    return frame.reshape(height, -1)[:, : 3 * width].reshape(height, width, 3)
