from __future__ import annotations

import csv
import dataclasses
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
import pytest

from gnvideo.data.drifting_textures import CLASS_NAMES, draw_video
from gnvideo.data.duplicates import Duplicate, find_duplicates, write_duplicates
from gnvideo.data.encoding import EncodedVideo, encode_video
from gnvideo.data.encoding_profiles import EncodingSettings
from gnvideo.data.manifest import ManifestRow
from gnvideo.data.perceptual_hash import (
    HASHES_PER_SECOND,
    NO_PICTURE,
    PerceptualHasher,
    compute_hash,
    parse_hashes,
)
from gnvideo.data.transcoding import transcode_video

FPS = 20
QUICK = EncodingSettings(preset="veryfast", options="")

Scene = npt.NDArray[np.uint8]


def make_scene(seed: int, seconds: float = 6, size: tuple[int, int] = (72, 96)) -> Scene:
    """Returns (T, H, W, 3) frames: soft blobs that wander before a soft background, and cuts."""
    generator = np.random.default_rng(seed)
    height, width = size
    y, x = np.mgrid[:height, :width] / height
    frames: list[npt.NDArray[np.float64]] = []
    while len(frames) < seconds * FPS:
        background = _draw_blobs(generator.uniform(-0.3, 1.6, (6, 2)), generator, y, x)
        places, speeds = generator.uniform(0, 1.3, (4, 2)), generator.uniform(-0.4, 0.4, (4, 2))
        strengths = generator.uniform(-1, 1, 4)
        for t in range(int(generator.integers(30, 60))):
            moved = places + speeds * t / FPS
            blobs = sum(
                strength * np.exp(-20 * ((y - place[0]) ** 2 + (x - place[1]) ** 2))
                for strength, place in zip(strengths, moved, strict=True)
            )
            frames.append(background + blobs)
    gray_THW = np.stack(frames[: round(seconds * FPS)])
    low, high = gray_THW.min(), gray_THW.max()
    gray_THW = (30 + 190 * (gray_THW - low) / (high - low)).astype(np.uint8)
    return np.repeat(gray_THW[..., None], 3, axis=-1)


def _draw_blobs(
    places: npt.NDArray[np.float64],
    generator: np.random.Generator,
    y: npt.NDArray[np.float64],
    x: npt.NDArray[np.float64],
) -> npt.NDArray[np.float64]:
    return np.sum(
        [
            generator.uniform(-1, 1) * np.exp(-6 * ((y - place[0]) ** 2 + (x - place[1]) ** 2))
            for place in places
        ],
        axis=0,
    )


def make_row(name: str, split: str, video: EncodedVideo) -> ManifestRow:
    return ManifestRow(
        id=name,
        path=f"videos/{split}/a/{name}.mp4",
        label="a",
        split=split,
        status="ok",
        reason=None,
        frames=video.frames,
        fps=video.fps,
        width=video.width,
        height=video.height,
        duration=video.duration,
        keyframe_interval=video.keyframe_interval,
        bytes=video.bytes,
        content_hash=video.content_hash,
        perceptual_hashes=video.perceptual_hashes,
    )


def prepare(source: Path, start: float | None = None, end: float | None = None) -> EncodedVideo:
    target = source.with_name(f"prepared {source.name}")
    return transcode_video(source, target, start_seconds=start, end_seconds=end, settings=QUICK)


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("sources")
    paths = [folder / f"{seed}.mp4" for seed in range(6)]
    for seed, path in enumerate(paths):
        encode_video(path, make_scene(seed), fps=Fraction(FPS), settings=QUICK)
    return paths


@pytest.fixture(scope="module")
def trained(sources: list[Path]) -> list[ManifestRow]:
    return [make_row(f"train{i}", "train", prepare(path)) for i, path in enumerate(sources)]


def change(scene: Scene, **changes: float) -> Scene:
    brighter = scene.astype(float) * changes.get("contrast", 1) + changes.get("brightness", 0)
    return brighter.clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize(
    ("alter", "crf", "options", "offset"),
    [
        pytest.param(lambda scene: scene, 38, {}, 0, id="encoded-again"),
        pytest.param(lambda scene: scene[:, ::2, ::2], 23, {}, 0, id="scaled"),
        pytest.param(lambda scene: change(scene, brightness=25), 23, {}, 0, id="brighter"),
        pytest.param(lambda scene: change(scene, contrast=0.7), 28, {}, 0, id="less-contrast"),
        pytest.param(lambda scene: scene, 23, {"start": 1}, 1, id="starts-later"),
        pytest.param(lambda scene: scene, 23, {"end": 5}, 0, id="ends-earlier"),
        # Half-way between two hashes, or nearly so.
        pytest.param(lambda scene: scene[3:], 28, {}, 0.15, id="shifted-by-3-frames"),
        pytest.param(lambda scene: scene[10:], 28, {}, 0.5, id="shifted-by-10-frames"),
        pytest.param(
            lambda scene: change(scene[:, ::2, ::2], brightness=-10),
            34,
            {"start": 0.5, "end": 5},
            0.5,
            id="all-of-it",
        ),
    ],
)
def test_a_changed_copy_is_found_with_its_offset_and_nothing_else_is(
    tmp_path: Path,
    trained: list[ManifestRow],
    alter: Callable[[Scene], Scene],
    crf: int,
    options: dict[str, float],
    offset: float,
) -> None:
    copy = tmp_path / "copy.mp4"
    settings = dataclasses.replace(QUICK, crf=crf)
    encode_video(copy, alter(make_scene(2)), fps=Fraction(FPS), settings=settings)
    row = make_row("copy", "val", prepare(copy, **options))
    (found,) = find_duplicates([*trained, row])
    assert (found.id, found.split, found.other_id, found.other_split) == (
        *("copy", "val"),
        *("train2", "train"),
    )
    assert found.kind == "near"
    assert found.seconds_offset == pytest.approx(offset, abs=1 / HASHES_PER_SECOND)


def test_the_same_file_is_an_exact_duplicate_listed_once(
    sources: list[Path], trained: list[ManifestRow]
) -> None:
    row = make_row("copy", "test", prepare(sources[3]))
    assert find_duplicates([*trained, row]) == [
        Duplicate("copy", "test", "train3", "train", "exact", 0, 0)
    ]


def test_copies_within_a_split_are_nobodys_leak(trained: list[ManifestRow]) -> None:
    again = dataclasses.replace(trained[0], id="again")
    assert find_duplicates([*trained, again]) == []


def test_black_and_still_videos_do_not_match_each_other(tmp_path: Path) -> None:
    rows: list[ManifestRow] = []
    for split in ("train", "val"):
        black = (np.full((48, 64, 3), 16, np.uint8) for _ in range(60))
        noise = np.random.default_rng(len(split))
        dark = (noise.integers(16, 20, (48, 64, 3), np.uint8) for _ in range(60))
        stills = {seed: make_scene(seed, seconds=0.1)[0] for seed in noise.integers(100, 10**6, 8)}
        for name, frames in {
            "black": black,
            "dark": dark,
            **{f"still{seed}": iter([still] * 60) for seed, still in stills.items()},
        }.items():
            path = tmp_path / f"{split} {name}.mp4"
            # Each of another length, or two black videos would be the same.
            few = list(frames)[: 60 - len(split)]
            rows.append(
                make_row(f"{split} {name}", split, encode_video(path, few, fps=Fraction(20)))
            )
    assert find_duplicates(rows) == []


def test_a_copy_that_begins_in_black_is_found(tmp_path: Path, trained: list[ManifestRow]) -> None:
    scene = make_scene(2)
    scene[: 2 * FPS] = 16
    path = tmp_path / "a.mp4"
    row = make_row("copy", "val", encode_video(path, scene, fps=Fraction(FPS), settings=QUICK))
    assert [one.other_id for one in find_duplicates([*trained, row])] == ["train2"]


def test_a_shared_title_card_makes_no_duplicate(tmp_path: Path) -> None:
    rows: list[ManifestRow] = []
    for seed, split in ((11, "train"), (12, "val")):
        scene = make_scene(seed)
        scene[: 2 * FPS] = make_scene(99, seconds=0.1)[0]
        path = tmp_path / f"{seed}.mp4"
        video = encode_video(path, scene, fps=Fraction(FPS), settings=QUICK)
        rows.append(make_row(f"{seed}", split, video))
    assert find_duplicates(rows) == []


def test_generated_videos_that_look_alike_do_not_match() -> None:
    rows: list[ManifestRow] = []
    for seed in range(80):
        frames_THWC = draw_video(
            CLASS_NAMES[seed % 2],
            np.random.default_rng(seed),
            num_frames=50,
            height_pixels=48,
            width_pixels=64,
            fps=25,
        )
        hasher = PerceptualHasher()
        for t, frame_HWC in enumerate(frames_THWC):
            hasher.add(frame_HWC[..., 1], t / 25)
        video = EncodedVideo(50, 25, 64, 48, 2, 24, 1, f"content {seed}", hasher.format())
        rows.append(make_row(f"{seed}", "train" if seed % 4 else "val", video))
    assert find_duplicates(rows) == []


def test_hashes_stand_at_their_times(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    # Lossless, so the file holds what was hashed.
    settings = dataclasses.replace(QUICK, crf=0)
    video = encode_video(path, make_scene(5, seconds=3), fps=Fraction(FPS), settings=settings)
    with av.open(str(path)) as container:
        luma = [frame.to_ndarray()[: frame.height] for frame in container.decode(video=0)]
    first_frames = np.ceil(np.arange(3 * HASHES_PER_SECOND) * FPS / HASHES_PER_SECOND).astype(int)
    expected = [compute_hash(luma[frame].astype(np.uint8)) for frame in first_frames]
    assert parse_hashes(video.perceptual_hashes).tolist() == expected


@pytest.mark.parametrize("shape", [(72, 96), (1080, 1920), (17, 5), (2, 3)])
def test_a_hash_has_half_of_its_bits_and_none_without_a_picture(shape: tuple[int, int]) -> None:
    height, width = shape
    blocks = np.random.default_rng(0).integers(0, 256, (12, 16), np.uint8)
    picture = blocks[np.arange(height) * 12 // height][:, np.arange(width) * 16 // width]
    assert compute_hash(np.full_like(picture, 200)) == NO_PICTURE
    # Fewer where a picture is so small that some of its frequencies are equal.
    assert 16 <= compute_hash(picture).bit_count() <= 32
    assert compute_hash(picture).bit_count() == 32 or height < 32


def test_many_videos_take_seconds() -> None:
    """Time grows with the product of the splits, so this bounds that of Kinetics."""
    generator = np.random.default_rng(0)

    def make_rows(split: str, count: int) -> list[ManifestRow]:
        hashes = generator.bytes(count * 30 * 8).hex()
        row = make_row("", split, EncodedVideo(200, 20, 64, 48, 10, 24, 1, "", ""))
        return [
            dataclasses.replace(
                row,
                id=f"{split}{i}",
                content_hash=f"{split}{i}",
                perceptual_hashes=hashes[i * 480 : (i + 1) * 480],
            )
            for i in range(count)
        ]

    rows = [*make_rows("train", 10_000), *make_rows("val", 1_000)]
    start = time.process_time()
    assert find_duplicates(rows) == []
    assert time.process_time() - start < 5


def test_the_list_has_a_line_for_each_pair(tmp_path: Path) -> None:
    write_duplicates(tmp_path, [Duplicate("a,b", "val", "c", "train", "near", 2.5, -1)])
    with (tmp_path / "duplicates.csv").open(newline="") as file:
        assert list(csv.reader(file)) == [
            ["id", "split", "other_id", "other_split", "kind", "distance", "seconds_offset"],
            ["a,b", "val", "c", "train", "near", "2.5", "-1"],
        ]
