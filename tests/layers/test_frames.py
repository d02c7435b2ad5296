from __future__ import annotations

import pytest
import torch

from gnvideo.layers.frames import join_frames, split_frames

CHANNELS_LAST = torch.channels_last_3d


@pytest.mark.parametrize(
    "shape", [(2, 6, 3, 5, 4), (1, 6, 3, 5, 4), (2, 6, 1, 5, 4), (2, 1, 3, 5, 4)]
)
@pytest.mark.parametrize("layout", [torch.contiguous_format, CHANNELS_LAST], ids=["NCTHW", "NTHWC"])
def test_frames_are_those_of_the_clips_and_join_to_them_again(shape, layout):
    clips = torch.randn(shape).contiguous(memory_format=layout)

    frames = split_frames(clips)
    joined = join_frames(frames, clips)

    assert torch.equal(
        frames,
        torch.cat([clip.unbind(1)[t][None, :, None] for clip in clips for t in range(shape[2])]),
    )
    assert torch.equal(joined, clips)
    assert joined.is_contiguous(memory_format=layout)


def test_channels_last_clips_are_not_copied():
    clips = torch.randn(2, 6, 3, 5, 4).contiguous(memory_format=CHANNELS_LAST)

    frames = split_frames(clips)

    assert frames.data_ptr() == clips.data_ptr()
    assert frames.is_contiguous(memory_format=CHANNELS_LAST)
    assert join_frames(frames, clips).data_ptr() == clips.data_ptr()
