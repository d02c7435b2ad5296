from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from gnvideo.data.encoding_profiles import EncodingSettings
from gnvideo.data.preparation import PreparationSettings, PreparedClip, prepare_clip
from gnvideo.data.preparation_plan import ClipJob, Source
from gnvideo.data.transcoding import transcode_images
from gnvideo.errors import VideoError

FAITHFUL = EncodingSettings(crf=5)


def write_image(path: Path, level: int, codec: str = "mjpeg") -> None:
    """Writes a gray picture of one brightness."""
    pixel_format = "yuvj420p" if codec == "mjpeg" else "rgb24"
    context = av.CodecContext.create(codec, "w")
    assert isinstance(context, av.VideoCodecContext)
    context.width, context.height, context.pix_fmt = 32, 24, pixel_format
    context.time_base = Fraction(1, 25)
    frame = av.VideoFrame.from_ndarray(np.full((24, 32, 3), level, np.uint8), format="rgb24")
    frame = frame.reformat(format=pixel_format)
    frame.pts = 0
    packets = [*context.encode(frame), *context.encode(None)]
    path.write_bytes(b"".join(map(bytes, packets)))


def read_levels(path: Path) -> list[int]:
    with av.open(str(path)) as container:
        return [
            round(float(frame.to_ndarray(format="gray").mean()))
            for frame in container.decode(video=0)
        ]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twelve pictures that grow brighter, whose names sort otherwise than their numbers."""
    (tmp_path / "images").mkdir()
    for number in range(1, 13):
        write_image(tmp_path / "images" / f"img_{number}.jpg", 15 * number)
    return tmp_path / "images"


def transcode(folder: Path, num_frames: int) -> list[int]:
    target = folder.with_name("out.mp4")
    fps = Fraction(30)
    video = transcode_images(folder, target, num_frames=num_frames, fps=fps, settings=FAITHFUL)
    assert (video.frames, video.width, video.height, video.fps) == (num_frames, 32, 24, 30)
    return read_levels(target)


def test_images_are_read_in_the_order_of_their_numbers(folder: Path) -> None:
    assert transcode(folder, 12) == pytest.approx([15 * number for number in range(1, 13)], abs=3)


def test_images_beyond_the_counted_ones_are_left_out(folder: Path) -> None:
    assert transcode(folder, 3) == pytest.approx([15, 30, 45], abs=3)


def test_images_of_optical_flow_are_left_out(folder: Path) -> None:
    for number in range(1, 13):
        write_image(folder / f"flow_x_{number}.jpg", 255)
    (folder / "notes 1.txt").touch()
    assert max(transcode(folder, 12)) < 200


def test_other_kinds_of_images_are_read(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for number in range(3):
        write_image(tmp_path / "images" / f"{number:05d}.png", 50 * number + 50, "png")
    assert transcode(tmp_path / "images", 3) == pytest.approx([50, 100, 150], abs=3)


def test_too_few_images_are_an_error_with_both_numbers(folder: Path) -> None:
    with pytest.raises(VideoError, match="images holds 12 of 13 images"):
        transcode(folder, 13)
    assert not folder.with_name("out.mp4").exists()


def test_images_of_two_kinds_are_an_error(tmp_path: Path) -> None:
    for name in ("left_1", "left_2", "right_1"):
        write_image(tmp_path / f"{name}.jpg", 100)
    with pytest.raises(VideoError, match="several kinds: left_, right_"):
        transcode(tmp_path, 2)


def test_a_broken_image_and_a_missing_folder_are_errors_that_name_them(folder: Path) -> None:
    (folder / "img_7.jpg").write_bytes(b"junk")
    with pytest.raises(VideoError, match=r"img_7\.jpg"):
        transcode(folder, 12)
    with pytest.raises(VideoError, match=r"absent"):
        transcode(folder.with_name("absent"), 12)


def test_an_image_that_is_a_playlist_reads_no_other_file(folder: Path) -> None:
    (folder / "img_7.jpg").write_text("ffconcat version 1.0\nfile 'img_6.jpg'\n")
    with pytest.raises(VideoError, match=r"img_7\.jpg"):
        transcode(folder, 12)


@pytest.mark.parametrize(
    ("end_seconds", "clip_id"), [(10, "v_000000_000010"), (None, "v_000000_000003")]
)
def test_a_clip_is_prepared_from_a_folder_at_the_stated_rate(
    folder: Path, tmp_path: Path, end_seconds: int | None, clip_id: str
) -> None:
    source = Source("images", is_clip=True, num_frames=12)
    settings = PreparationSettings(encoding=FAITHFUL, rawframes_fps=5)
    job = ClipJob("v", "a", "train", 0, end_seconds, (source,))
    clip = prepare_clip(job, videos=folder.parent, output=tmp_path / "out", settings=settings)
    assert isinstance(clip, PreparedClip)
    assert (clip.clip_id, clip.path) == (clip_id, f"videos/train/a/{clip_id}.mp4")
    assert (clip.video.frames, clip.video.fps) == (12, 5)
