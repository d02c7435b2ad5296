"""Decoding with torchcodec and the system's FFmpeg, checked against PyAV's frame table.

Torchcodec's frames carry their times. Each is compared with the table that PyAV reads from the same
file, so that what is returned is what PyAV returns, bit by bit, or an error.

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


class TorchcodecDecoder:
    """Reads videos with torchcodec.

    Refuses, with VideoError, what `read_checked_table` does, edit lists that hide frames, and open
    groups of pictures. The decoder "pyav" reads these.

    Args:
        num_threads: Of FFmpeg's decoder.

    Raises:
        DecoderUnavailableError: torchcodec does not import here, or finds no FFmpeg.
    """

    name = "torchcodec"

    def __init__(self, num_threads: int = 1) -> None:
        self._num_threads = num_threads
        _import_decoder()

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
        try:
            reader = _import_decoder()(
                str(path), dimension_order="NHWC", num_ffmpeg_threads=self._num_threads
            )
            num_frames = len(reader)
            if num_frames != len(table.times):
                cause = f"{num_frames} stored frames of which {len(table.times)} show"
                raise VideoError(describe_refusal(path, self.name, cause))
            batch = reader.get_frames_at(wanted.tolist())
        except (RuntimeError, ValueError, IndexError) as error:
            cause = " ".join(str(error).split())
            raise VideoError(describe_refusal(path, self.name, cause)) from error
        # Torchcodec keeps times as float64 seconds, as the table gives them.
        if not np.allclose(batch.pts_seconds.numpy(), times, rtol=0, atol=1e-6):
            raise VideoError(describe_refusal(path, self.name, "its frames have other times"))
        return arrange(batch.data.numpy(), times, rows)


def _import_decoder() -> Any:
    try:
        from torchcodec.decoders import VideoDecoder
    # RuntimeError where it finds no FFmpeg.
    except (ImportError, OSError, RuntimeError) as error:
        raise DecoderUnavailableError(
            "the decoder 'torchcodec' does not import here"
            f" ({' '.join(str(error).split())[:200]});"
            " install the extra gnvideo[torchcodec] and FFmpeg 4 to 8 with its shared libraries, or"
            " use the decoder 'pyav'"
        ) from error
    return VideoDecoder
