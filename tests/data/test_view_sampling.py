"""The rules of the protocols against frozen tables, and against what their sources do."""

from __future__ import annotations

import hashlib
import json
import math
import pickle
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import av
import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pytorchvideo.data.clip_sampling import ConstantClipsPerVideoSampler
from pytorchvideo.data.encoded_video import EncodedVideo
from torchvision.datasets.samplers import UniformClipSampler
from torchvision.datasets.video_utils import VideoClips

from gnvideo.data.view_sampling import VIEW_RULES, ViewSampler
from gnvideo.errors import VideoError
from gnvideo.evaluation import PROTOCOLS

GOLDEN: dict[str, Any] = json.loads(
    (Path(__file__).parents[1] / "golden" / "protocol_views.json").read_text()
)
# Frames and frames per second: shorter than a clip, exactly one, usual, long, fast and slow.
VIDEOS = [
    *((1, 30.0), (7, 25.0), (63, 30.0), (64, 30.0), (65, 30.0), (300, 30.0), (250, 25.0)),
    *((150, 30000 / 1001), (299, 30000 / 1001), (240, 24000 / 1001), (1000, 30000 / 1001)),
    *((600, 60.0), (125, 12.5), (150, 15.0), (97, 9.0)),
]
CLIPS = [(32, 2), (8, 8), (64, 1), (16, 2), (4, 16)]

Indices = npt.NDArray[np.int64]


def sample(rule: str, num_video_frames: int, fps: float, clip: tuple[int, int], n: int) -> Indices:
    return ViewSampler(rule, clip[0], clip[1], n)(num_video_frames, fps)


def compute_digest(indices_VT: Indices) -> str:
    return hashlib.blake2b(indices_VT.astype("<i8").tobytes(), digest_size=8).hexdigest()


def name_case(case: dict[str, Any]) -> str:
    return "{protocol}-N{num_video_frames}-{fps:.5g}fps-T{num_frames}-s{stride}".format(**case)


@pytest.mark.parametrize("case", GOLDEN["cases"], ids=name_case)
def test_a_protocol_takes_the_frames_that_it_always_took(case: dict[str, Any]) -> None:
    protocol = PROTOCOLS[case["protocol"]]
    indices_VT = sample(
        protocol.sampling,
        case["num_video_frames"],
        case["fps"],
        (case["num_frames"], case["stride"]),
        protocol.num_clips,
    )
    assert indices_VT[:, 0].tolist() == case["starts"]
    assert indices_VT[:, -1].tolist() == case["lasts"]
    assert compute_digest(indices_VT) == case["digest"]


def test_every_protocol_has_its_table_and_its_rule() -> None:
    assert {case["protocol"] for case in GOLDEN["cases"]} == PROTOCOLS.keys()
    assert {protocol.sampling for protocol in PROTOCOLS.values()} == VIEW_RULES.keys()


def test_the_starts_of_a_ten_second_video_are_those_that_the_sources_give() -> None:
    """300 frames at 30 a second, clips of 64 frames; by time they start between two frames."""
    starts = {
        rule: sample(rule, 300, 30.0, (64, 1), 10)[:, 0].tolist()
        for rule in ("slowfast", "pytorchvideo", "mmaction2", "nonlocal")
    }
    between = [math.ceil(23.6 * j) for j in range(10)]
    assert starts["slowfast"] == starts["pytorchvideo"] == between
    assert starts["mmaction2"] == [0, 26, 52, 79, 105, 131, 157, 184, 210, 236]
    assert starts["nonlocal"] == list(range(0, 300, 30))
    torchvision = sample("torchvision", 300, 30.0, (32, 2), 10)
    assert torchvision[:, 0].tolist()[:2] == [0, 26]
    assert torchvision[-1, 0] == 236


def pick_as_slowfast(
    num_video_frames: int, fps: float, clip: tuple[int, int], num_clips: int
) -> Indices:
    """What PySlowFast's decoder does, with its torch operators, on frames `1 / fps` apart."""
    num_frames, stride = clip
    span = num_frames * stride * fps / 30
    clips: list[list[int]] = []
    for j in range(num_clips):
        start = max(num_video_frames - span, 0) * j / num_clips
        # Its time base: so fine that a start between frames stays there.
        ticks = 512
        start_ticks, end_ticks = int(start * ticks), int((start + span - 1) * ticks)
        after_start = [k for k in range(num_video_frames) if k * ticks >= start_ticks]
        decoded = [k for k in after_start if k * ticks <= end_ticks]
        # The frame on which it notices the end is kept.
        decoded += after_start[len(decoded) : len(decoded) + 1]
        wanted = torch.linspace(0, span - 1, num_frames).clamp(0, len(decoded) - 1).long()
        clips.append([decoded[k] for k in wanted.tolist()])
    return np.array(clips)


@pytest.mark.parametrize("clip", CLIPS, ids=str)
@pytest.mark.parametrize(("num_video_frames", "fps"), VIDEOS)
def test_slowfast_views_equal_those_of_its_operators(
    num_video_frames: int, fps: float, clip: tuple[int, int]
) -> None:
    expected = pick_as_slowfast(num_video_frames, fps, clip, 10)
    assert np.array_equal(sample("slowfast", num_video_frames, fps, clip, 10), expected)


@pytest.mark.parametrize("clip", CLIPS, ids=str)
@pytest.mark.parametrize(("num_video_frames", "fps"), VIDEOS)
def test_mmaction2_views_equal_those_of_its_operators(
    num_video_frames: int, fps: float, clip: tuple[int, int]
) -> None:
    num_frames, stride = clip
    room = max(num_video_frames - ((num_frames - 1) * stride + 1), 0)
    starts = np.round(np.arange(10) * (room / 9.0)).astype(np.int32)
    expected = np.mod(starts[:, None] + np.arange(num_frames) * stride, num_video_frames)
    assert np.array_equal(sample("mmaction2", num_video_frames, fps, clip, 10), expected)


def pick_as_pytorchvideo(
    num_video_frames: int, fps: float, clip: tuple[int, int], num_clips: int
) -> Indices:
    """By the installed package's sampler; the frames of [start, stop) and their subsampling."""
    num_frames, stride = clip
    rate = Fraction(fps).limit_denominator(1001)
    sampler = ConstantClipsPerVideoSampler(
        cast(float, Fraction(num_frames * stride, 30)), clips_per_video=num_clips
    )
    clips: list[list[int]] = []
    for _ in range(num_clips):
        info = sampler(0.0, cast(float, num_video_frames / rate), {})
        shown = [
            k
            for k in range(num_video_frames)
            if info.clip_start_sec <= k / rate < info.clip_end_sec
        ]
        wanted = torch.linspace(0, len(shown) - 1, num_frames).clamp(0, len(shown) - 1).long()
        clips.append([shown[k] for k in wanted.tolist()])
    return np.array(clips)


@pytest.mark.parametrize("clip", CLIPS, ids=str)
@pytest.mark.parametrize(("num_video_frames", "fps"), VIDEOS)
def test_pytorchvideo_views_equal_those_of_the_package(
    num_video_frames: int, fps: float, clip: tuple[int, int]
) -> None:
    expected = pick_as_pytorchvideo(num_video_frames, fps, clip, 10)
    assert np.array_equal(sample("pytorchvideo", num_video_frames, fps, clip, 10), expected)


def write_numbered_video(path: Path, num_frames: int, fps: int) -> None:
    """Writes frames whose upper and lower half spell their number in grey levels."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        stream.options = {"crf": "1", "threads": "1"}
        for number in range(num_frames):
            image = np.empty((32, 32, 3), np.uint8)
            image[:16], image[16:] = 40 + 10 * (number // 16), 40 + 10 * (number % 16)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))


@pytest.mark.parametrize(("num_video_frames", "fps"), [(250, 25), (200, 30), (40, 25)])
def test_pytorchvideo_views_are_the_frames_that_its_reader_returns(
    tmp_path: Path, num_video_frames: int, fps: int
) -> None:
    path = tmp_path / "numbered.mp4"
    write_numbered_video(path, num_video_frames, fps)
    indices_VT = sample("pytorchvideo", num_video_frames, float(fps), (32, 2), 10)
    sampler = ConstantClipsPerVideoSampler(cast(float, Fraction(64, 30)), clips_per_video=10)
    video = EncodedVideo.from_path(str(path), decode_audio=False, decoder="pyav")
    for indices_T in indices_VT:
        info = sampler(0.0, cast(float, Fraction(num_video_frames, fps)), {})
        frames_CTHW = video.get_clip(info.clip_start_sec, info.clip_end_sec)["video"]
        wanted = torch.linspace(0, frames_CTHW.shape[1] - 1, 32).long()
        halves = frames_CTHW[:, wanted].reshape(3, 32, 2, 16, 32).mean((0, 3, 4))
        numbers = ((halves - 40) / 10).round().long() @ torch.tensor([16, 1])
        assert numbers.tolist() == indices_T.tolist()
    video.close()


@pytest.mark.parametrize("clip", CLIPS, ids=str)
@pytest.mark.parametrize(("num_video_frames", "fps"), VIDEOS)
@pytest.mark.filterwarnings("ignore:There aren't enough frames")
def test_torchvision_views_equal_those_of_the_package(
    num_video_frames: int, fps: float, clip: tuple[int, int]
) -> None:
    num_frames, _ = clip
    times = torch.arange(num_video_frames)
    clips, _ = VideoClips.compute_clips_for_video(times, num_frames, 1, fps, 15)
    views = sample("torchvision", num_video_frames, fps, clip, 5)
    if not len(clips):
        # The package leaves the video out; here what it has resampled is played in a loop.
        length = math.floor(num_video_frames * 15 / fps)
        resampled = times[VideoClips._resample_video_idx(length, fps, 15)].numpy()
        assert np.array_equal(
            views, np.resize(resampled if len(resampled) else [0], (1, num_frames)).repeat(5, 0)
        )
        return
    nothing: dict[str, Any] = {"video_paths": [], "video_pts": [], "video_fps": []}
    video_clips = VideoClips([], _precomputed_metadata=nothing)
    video_clips.clips = [clips]
    chosen = list(UniformClipSampler(video_clips, 5))
    assert np.array_equal(views, clips[chosen].numpy())


@given(
    st.sampled_from(sorted(VIEW_RULES)),
    st.integers(1, 400),
    st.sampled_from([9.0, 12.5, 15.0, 24000 / 1001, 25.0, 30000 / 1001, 30.0, 50.0, 60.0, 14.987]),
    st.integers(1, 70),
    st.integers(1, 12),
    st.integers(1, 12),
)
def test_views_have_the_exact_count_and_lie_within_the_video(
    rule: str, num_video_frames: int, fps: float, num_frames: int, stride: int, num_clips: int
) -> None:
    num_clips = 1 if rule == "center" else num_clips
    if rule == "pytorchvideo" and num_frames * stride * fps < 60:
        return
    views = sample(rule, num_video_frames, fps, (num_frames, stride), num_clips)
    assert views.shape == (num_clips, num_frames)
    assert views.dtype == np.int64
    assert 0 <= views.min() <= views.max() < num_video_frames


def test_a_sampler_gives_the_same_in_another_process() -> None:
    sampler = ViewSampler("slowfast", num_frames=8, stride=8, num_clips=10)
    copied = pickle.loads(pickle.dumps(sampler))
    assert np.array_equal(copied(123, 29.97), sampler(123, 29.97))


def test_a_video_without_a_rate_is_refused_only_where_the_rate_counts() -> None:
    for rule in ("slowfast", "pytorchvideo", "torchvision"):
        with pytest.raises(VideoError, match="no frame rate"):
            sample(rule, 1, 0.0, (8, 2), 5)
    for rule in ("nonlocal", "mmaction2"):
        assert sample(rule, 1, 0.0, (8, 2), 5).tolist() == [[0] * 8] * 5


def test_a_clip_between_two_frames_is_refused() -> None:
    sample("pytorchvideo", 20, 1.0, (2, 1), 10)
    with pytest.raises(VideoError, match="no frame of 21 at 1 a second"):
        sample("pytorchvideo", 21, 1.0, (2, 1), 10)


@pytest.mark.parametrize("counts", [(0, 8, 2, 10), (9, 0, 2, 10), (9, 8, 0, 10), (9, 8, 2, 0)])
@pytest.mark.parametrize("rule", sorted(VIEW_RULES))
def test_counts_below_one_are_refused(rule: str, counts: tuple[int, int, int, int]) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        sample(rule, counts[0], 30.0, counts[1:3], counts[3])
