"""Which frames of a video make a clip: pure integer arithmetic on frame indices.

A clip of T frames at stride s spans (T - 1) * s + 1 frames of the video. Clips keep the video's own
frame rate. A video that is too short for its clip is played in a loop.

Source: Wang et al., "Non-local Neural Networks", CVPR 2018, sec. 4.1, and its code.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def sample_train_clip(
    num_video_frames: int, num_frames: int, stride: int, generator: np.random.Generator
) -> npt.NDArray[np.int64]:
    """Returns the (num_frames,) indices of a clip that starts at random and fits in the video.

    Every start in [0, num_video_frames - span] is equally likely, so each frame of the video can be
    drawn. A shorter video starts at 0 and wraps around.

    Args:
        num_video_frames: Frames of the video.
        num_frames: T.
        stride: Frames of the video from one frame of the clip to the next.
        generator: Gives one draw.

    Raises:
        ValueError: a count or the stride is below 1.
    """
    last_start = _compute_last_start(num_video_frames, num_frames, stride)
    start = int(generator.integers(0, last_start + 1))
    return _make_clip(start, num_video_frames, num_frames, stride)


def sample_center_clip(
    num_video_frames: int, num_frames: int, stride: int
) -> npt.NDArray[np.int64]:
    """Returns the (num_frames,) indices of the clip in the middle of the video.

    A shorter video starts at 0 and wraps around.

    Raises:
        ValueError: a count or the stride is below 1.
    """
    last_start = _compute_last_start(num_video_frames, num_frames, stride)
    return _make_clip(last_start // 2, num_video_frames, num_frames, stride)


def sample_test_clips(
    num_video_frames: int, num_frames: int, stride: int, num_clips: int
) -> npt.NDArray[np.int64]:
    """Returns the (num_clips, num_frames) indices of clips spread evenly over the video.

    Clip j starts at floor(num_video_frames * j / num_clips); frames beyond the end wrap around.

    Raises:
        ValueError: a count or the stride is below 1.

    Source: facebookresearch/video-nonlocal-net, customized_video_io.cc: int(N / clips * j) mod N.
    """
    _compute_last_start(num_video_frames, num_frames, stride)
    if num_clips < 1:
        raise ValueError(f"num_clips is {num_clips}; it must be at least 1")
    starts = num_video_frames * np.arange(num_clips, dtype=np.int64) // num_clips
    return (starts[:, None] + stride * np.arange(num_frames, dtype=np.int64)) % num_video_frames


def _compute_last_start(num_video_frames: int, num_frames: int, stride: int) -> int:
    if num_video_frames < 1 or num_frames < 1 or stride < 1:
        raise ValueError(
            f"num_video_frames, num_frames and stride are {num_video_frames}, {num_frames} and"
            f" {stride}; each must be at least 1"
        )
    return max(0, num_video_frames - (num_frames - 1) * stride - 1)


def _make_clip(
    start: int, num_video_frames: int, num_frames: int, stride: int
) -> npt.NDArray[np.int64]:
    return (start + stride * np.arange(num_frames, dtype=np.int64)) % num_video_frames
