"""Which frames of a video make the test clips of each protocol, as its source picks them.

A rule is a function `(num_video_frames, frames_per_second, *, num_frames, stride, num_clips)` that
returns the (num_clips, num_frames) frame indices. The arithmetic is exact, on integers and
fractions, so that an index is the same on every machine; where a source rounds in float32, its
result may be one frame off at isolated lengths. Rules that go by time take the frames of a video to
be equally spaced.

In what follows N is the number of frames of the video, T that of the clip, s the stride, V the
number of clips, and j counts clips and i frames from 0.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from types import MappingProxyType
from typing import Protocol

import numpy as np
import numpy.typing as npt

from gnvideo.data.clip_sampling import sample_center_clip, sample_test_clips
from gnvideo.data.video_index import VideoIndex
from gnvideo.errors import VideoError

SLOWFAST_FRAMES_PER_SECOND = 30
"""At which rate PySlowFast counts the stride; pytorchvideo's recipes do the same."""

TORCHVISION_FRAMES_PER_SECOND = 15
"""To which rate torchvision's reference resamples a video before it cuts clips."""

# The manifest and containers state rates such as 30000/1001 as floating-point numbers.
_MAX_RATE_DENOMINATOR = 1001


class ViewRule(Protocol):
    """Picks the frames of all test clips of a video."""

    def __call__(
        self,
        num_video_frames: int,
        frames_per_second: Fraction,
        /,
        *,
        num_frames: int,
        stride: int,
        num_clips: int,
    ) -> npt.NDArray[np.int64]:
        """Returns the (num_clips, num_frames) frame indices."""
        ...


def sample_center_view(
    num_video_frames: int,
    frames_per_second: Fraction,
    /,
    *,
    num_frames: int,
    stride: int,
    num_clips: int,
) -> npt.NDArray[np.int64]:
    """Returns the indices of the clip in the middle; a shorter video is played in a loop.

    Raises:
        ValueError: `num_clips` is not 1.
    """
    if num_clips != 1:
        raise ValueError(f"num_clips is {num_clips}; there is one clip in the middle")
    return sample_center_clip(num_video_frames, num_frames, stride)[None]


def sample_nonlocal_views(
    num_video_frames: int,
    frames_per_second: Fraction,
    /,
    *,
    num_frames: int,
    stride: int,
    num_clips: int,
) -> npt.NDArray[np.int64]:
    """Returns clips that start at floor(N j / V) and wrap around; see `sample_test_clips`."""
    return sample_test_clips(num_video_frames, num_frames, stride, num_clips)


def sample_mmaction2_views(
    num_video_frames: int,
    frames_per_second: Fraction,
    /,
    *,
    num_frames: int,
    stride: int,
    num_clips: int,
) -> npt.NDArray[np.int64]:
    """Returns clips from the first that fits to the last that fits, both included.

    With R = max(0, N - (T - 1) s - 1), clip j starts at R j / (V - 1), rounded to the nearest
    integer and halves to the even one; a single clip starts at floor(R / 2). Frames beyond the end
    wrap around.

    Source: open-mmlab/mmaction2 1.2.0, mmaction/datasets/transforms/loading.py, SampleFrames with
    test_mode.
    """
    room = max(0, num_video_frames - (num_frames - 1) * stride - 1)
    if num_clips == 1:
        starts = [room // 2]
    else:
        # Python rounds halves of a fraction to the even integer.
        starts = [round(Fraction(room * j, num_clips - 1)) for j in range(num_clips)]
    offsets = stride * np.arange(num_frames, dtype=np.int64)
    return (np.array(starts, np.int64)[:, None] + offsets) % num_video_frames


def sample_slowfast_views(
    num_video_frames: int,
    frames_per_second: Fraction,
    /,
    *,
    num_frames: int,
    stride: int,
    num_clips: int,
) -> npt.NDArray[np.int64]:
    """Returns clips of T s / 30 seconds that never reach the end of a video that is long enough.

    A clip spans L = T s fps / 30 frames of the video, which need not be an integer. Clip j spans
    from S = max(0, N - L) j / V to E = S + L - 1. What is decoded begins at ceil(S) and ends with
    the first frame after E, or with the video. Of that, frame i of the clip is the one at
    floor((L - 1) i / (T - 1)), or the last, which a video that is too short repeats. So the frames
    are a little further apart than s: 63/31 frames at 32 frames and stride 2.

    Source: facebookresearch/SlowFast, slowfast/datasets/decoder.py: get_start_end_idx, pyav_decode
    and temporal_sampling, at DATA.TARGET_FPS 30 and TEST.NUM_ENSEMBLE_VIEWS V.
    """
    span = num_frames * stride * frames_per_second / SLOWFAST_FRAMES_PER_SECOND
    offsets = _spread(span - 1, num_frames)
    clips: list[npt.NDArray[np.int64]] = []
    for j in range(num_clips):
        start = max(Fraction(0), num_video_frames - span) * j / num_clips
        first = math.ceil(start)
        last = min(math.floor(start + span - 1) + 1, num_video_frames - 1)
        clips.append(np.clip(first + offsets, 0, last))
    return np.stack(clips)


def sample_pytorchvideo_views(
    num_video_frames: int,
    frames_per_second: Fraction,
    /,
    *,
    num_frames: int,
    stride: int,
    num_clips: int,
) -> npt.NDArray[np.int64]:
    """Returns clips of D = T s / 30 seconds, of whose frames T are picked at equal distances.

    Clip j takes the M frames shown in [S, S + D) with S = max(0, N / fps - D) j / V, and frame i of
    the clip is the one at floor((M - 1) i / (T - 1)) of these; where there are fewer than T, frames
    repeat.

    Raises:
        VideoError: the clip is shorter than the time between two frames, and holds none.

    Source: pytorchvideo 0.1.5: ConstantClipsPerVideoSampler, EncodedVideo.get_clip and
    UniformTemporalSubsample; the clip's duration at 30 frames a second as in its tutorials.
    """
    duration = Fraction(num_frames * stride, SLOWFAST_FRAMES_PER_SECOND)
    room = max(Fraction(0), num_video_frames / frames_per_second - duration)
    clips: list[npt.NDArray[np.int64]] = []
    for j in range(num_clips):
        start = room * j / num_clips
        first = math.ceil(start * frames_per_second)
        stop = min(math.ceil((start + duration) * frames_per_second), num_video_frames)
        if first >= stop:
            raise VideoError(
                f"no frame of {num_video_frames} at {float(frames_per_second):g} a second is shown"
                f" in the {float(duration):g} seconds of a clip; test this video under another"
                " protocol, such as gn-10"
            )
        clips.append(first + _spread(Fraction(stop - first - 1), num_frames))
    return np.stack(clips)


def sample_torchvision_views(
    num_video_frames: int,
    frames_per_second: Fraction,
    /,
    *,
    num_frames: int,
    stride: int,
    num_clips: int,
) -> npt.NDArray[np.int64]:
    """Returns clips of T consecutive frames of the video at 15 frames a second, whatever s is.

    Frame k of the resampled video is frame floor(k fps / 15); it has M = floor(15 N / fps) frames,
    or, where fps / 15 is an integer, as many as fit. Clip j starts at frame
    floor((M - T) j / (V - 1)) of it. A video with M < T, which the source leaves out, is played in
    a loop.

    Source: torchvision.datasets.video_utils.VideoClips with frames_between_clips 1 and frame_rate
    15, and torchvision.datasets.samplers.UniformClipSampler; pytorch/vision,
    references/video_classification/train.py.
    """
    step = frames_per_second / TORCHVISION_FRAMES_PER_SECOND
    length = math.ceil(num_video_frames / step)
    if step.denominator != 1:
        length = max(1, math.floor(num_video_frames / step))
    room = max(0, length - num_frames)
    starts = _spread(Fraction(room), num_clips)
    resampled = (starts[:, None] + np.arange(num_frames, dtype=np.int64)) % length
    return resampled * step.numerator // step.denominator


VIEW_RULES: Mapping[str, ViewRule] = MappingProxyType(
    {
        "center": sample_center_view,
        "nonlocal": sample_nonlocal_views,
        "slowfast": sample_slowfast_views,
        "mmaction2": sample_mmaction2_views,
        "pytorchvideo": sample_pytorchvideo_views,
        "torchvision": sample_torchvision_views,
    }
)
"""By the name that a protocol has for its sampling."""

RULES_BY_TIME = frozenset({"slowfast", "pytorchvideo", "torchvision"})
"""The rules that read the frame rate of the video; to the others it may be anything."""


@dataclass(frozen=True, slots=True)
class ViewSampler:
    """The function from a video's frames and rate to the frame indices of its test clips.

    Attributes:
        rule_name: One of `VIEW_RULES`.
        num_frames: Frames of a clip.
        stride: Frames of the video from one frame of a clip to the next.
        num_clips: Clips of a video.

    Raises:
        ValueError: a count or the stride is below 1.
    """

    rule_name: str
    num_frames: int
    stride: int
    num_clips: int

    def __post_init__(self) -> None:
        counts = (self.num_frames, self.stride, self.num_clips)
        if min(counts) < 1:
            raise ValueError(
                f"num_frames, stride and num_clips are {counts}; each must be at least 1"
            )

    def __call__(self, num_video_frames: int, frames_per_second: float) -> npt.NDArray[np.int64]:
        """Returns the (num_clips, num_frames) frame indices.

        Raises:
            VideoError: the rule cannot sample this video, for example for want of a rate.
            ValueError: `num_video_frames` is below 1.
        """
        if num_video_frames < 1:
            raise ValueError(f"num_video_frames is {num_video_frames}; it must be at least 1")
        rate = Fraction(frames_per_second).limit_denominator(_MAX_RATE_DENOMINATOR)
        if self.rule_name in RULES_BY_TIME and rate <= 0:
            raise VideoError(
                f"a video of {num_video_frames} frames has no frame rate, which the sampling"
                f" {self.rule_name!r} needs; test it under another protocol, such as gn-10"
            )
        return VIEW_RULES[self.rule_name](
            num_video_frames,
            rate,
            num_frames=self.num_frames,
            stride=self.stride,
            num_clips=self.num_clips,
        )


class IndexedViewSampler:
    """The function from a video's place in an index to its test clips' indices; it pickles.

    Args:
        index: The videos.
        sampler: Of their clips.

    Raises:
        ManifestError: the rule goes by time, and the manifest of the videos cannot be read.
    """

    def __init__(self, index: VideoIndex, sampler: ViewSampler) -> None:
        self._index = index
        self._sampler = sampler
        self._frame_rates: npt.NDArray[np.float64] | None = None
        if sampler.rule_name in RULES_BY_TIME:
            self._frame_rates = _read_frame_rates(index)

    def __call__(self, position: int) -> npt.NDArray[np.int64]:
        """Returns the (num_clips, num_frames) frame indices of the video at `position`.

        Raises:
            VideoError: the rule cannot sample this video.
        """
        rate = 0.0 if self._frame_rates is None else float(self._frame_rates[position])
        try:
            return self._sampler(self._index.num_frames(position), rate)
        except VideoError as error:
            raise VideoError(f"{self._index.path(position)}: {error}") from None


def _read_frame_rates(index: VideoIndex) -> npt.NDArray[np.float64]:
    """Returns the frames per second of each video of the index."""
    # With pyarrow, which worker processes need not import.
    from gnvideo.data.manifest import read_manifest_table

    columns = read_manifest_table(index.root, ["id", "split", "fps"]).to_pydict()
    rates = {
        video_id: fps
        for video_id, split, fps in zip(*columns.values(), strict=True)
        if split == index.split
    }
    return np.array([rates[index.video_id(i)] for i in range(len(index))], np.float64)


def _spread(span: Fraction, num_points: int) -> npt.NDArray[np.int64]:
    """Returns floor(span i / (num_points - 1)) for each i; 0 for a single point.

    A negative span, of a clip shorter than a frame, counts as 0.
    """
    span = max(Fraction(0), span)
    steps = span.denominator * max(1, num_points - 1)
    return span.numerator * np.arange(num_points, dtype=np.int64) // steps
