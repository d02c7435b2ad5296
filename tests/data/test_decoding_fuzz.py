"""Mutated video files: each is decoded, or named by an error of gnvideo; nothing crashes or hangs.

Files are read in a child process with a limit of memory, and of time for each file, that is ended
and started again where it breaks one. The seed fixes every file.
"""

from __future__ import annotations

import json
import select
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

SEED = 20260
# Reading a file of this size takes a tenth of a second; the rest is for a loaded machine.
LIMIT_SECONDS = 20
LIMIT_BYTES = 3 * 2**30

SOURCES: dict[str, dict[str, Any]] = {
    "b_frames.mp4": {"b_frames": 3},
    "header_first.mp4": {"b_frames": 0, "container_options": {"movflags": "faststart"}},
    "fragmented.mp4": {"container_options": {"movflags": "frag_keyframe+empty_moov"}},
    "sound.mkv": {"with_audio_first": True},
    "mpeg4.avi": {"codec": "mpeg4", "codec_options": {"bf": "2"}},
    "stream.ts": {},
    "vp9.webm": {"codec": "libvpx-vp9", "codec_options": {"deadline": "realtime", "cpu-used": "8"}},
}

# Reads lines of (source, scratch file) as JSON and answers each with a line.
CHILD = f"""
import json, resource, sys
from pathlib import Path
from gnvideo.data.decoding_pyav import PyavDecoder
from gnvideo.data.transcoding import transcode_video
from gnvideo.errors import GnvideoError

resource.setrlimit(resource.RLIMIT_AS, ({LIMIT_BYTES}, {LIMIT_BYTES}))

def read(path):
    decoder = PyavDecoder()
    last = decoder.read_metadata(path).num_frames - 1
    decoder.decode_frames(path, [last, 0, last // 2])

def attempt(action):
    try:
        action()
    except GnvideoError as error:
        is_one_line = "\\n" not in str(error) and name in str(error)
        return "named" if is_one_line else f"unnamed: {{error!r}}"
    except BaseException as error:
        return f"raised {{error!r}}"
    return "decoded"

for line in sys.stdin:
    path, scratch = map(Path, json.loads(line))
    name = path.name
    outcomes = attempt(lambda: read(path)), attempt(lambda: transcode_video(path, scratch))
    scratch.unlink(missing_ok=True)
    print(json.dumps(outcomes), flush=True)
"""


class Child:
    """A process that reads files until one of them ends it."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def read(self, path: Path, scratch: Path) -> list[str]:
        """Returns what became of decoding and of transcoding `path`."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([str(path), str(scratch)]) + "\n")
        self._process.stdin.flush()
        ready, _, _ = select.select([self._process.stdout], [], [], LIMIT_SECONDS)
        if not ready:
            self.end()
            return ["hung"]
        answer = self._process.stdout.readline()
        return json.loads(answer) if answer else [f"crashed with {self._process.wait()}"]

    def is_alive(self) -> bool:
        return self._process.poll() is None

    def end(self) -> None:
        self._process.kill()
        self._process.communicate()


@contextmanager
def keep_child() -> Generator[Callable[[], Child]]:
    """Yields a function that returns the child, a new one where the last one ended."""
    children: list[Child] = []

    def get() -> Child:
        if not children or not children[-1].is_alive():
            children.append(Child())
        return children[-1]

    try:
        yield get
    finally:
        for child in children:
            child.end()


def flip_bits(data: bytearray, generator: np.random.Generator) -> None:
    for at in generator.integers(0, len(data), int(generator.integers(1, 33))):
        data[at] ^= 1 << int(generator.integers(0, 8))


def truncate(data: bytearray, generator: np.random.Generator) -> None:
    del data[int(generator.integers(0, len(data))) :]


def zero_range(data: bytearray, generator: np.random.Generator) -> None:
    start, end = draw_range(data, generator)
    data[start:end] = bytes(end - start)


def delete_range(data: bytearray, generator: np.random.Generator) -> None:
    start, end = draw_range(data, generator)
    del data[start:end]


def duplicate_range(data: bytearray, generator: np.random.Generator) -> None:
    start, end = draw_range(data, generator)
    data[end:end] = data[start:end]


def exchange_ranges(data: bytearray, generator: np.random.Generator) -> None:
    """Two neighbouring parts change places."""
    first, second, third = np.sort(generator.integers(0, len(data), 3)).tolist()
    data[first:third] = data[second:third] + data[first:second]


def claim_absurd_numbers(data: bytearray, generator: np.random.Generator) -> None:
    """Sizes, rates, counts and times of the header become extreme."""
    numbers = (0, 1, 2**7, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1)
    for _ in range(int(generator.integers(1, 5))):
        number = int(generator.choice(numbers))
        order = "big" if generator.integers(0, 2) else "little"
        # Headers stand at the beginning, and MP4's usual one at the end.
        near = min(len(data), 1500)
        at = int(generator.integers(0, near))
        at = at if generator.integers(0, 2) else len(data) - near + at
        data[at : at + 4] = number.to_bytes(4, order)[: len(data[at : at + 4])]


def find_boxes(data: bytearray, start: int, end: int) -> list[tuple[int, int]]:
    """(start, end) of MP4 boxes, also those within others."""
    boxes: list[tuple[int, int]] = []
    while start + 8 <= end:
        size = int.from_bytes(data[start : start + 4], "big")
        kind = bytes(data[start + 4 : start + 8])
        if size < 8 or start + size > end or not kind.isalnum():
            break
        boxes.append((start, start + size))
        if kind in (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"moof", b"traf", b"edts"):
            boxes += find_boxes(data, start + 8, start + size)
        start += size
    return boxes


def exchange_boxes(data: bytearray, generator: np.random.Generator) -> None:
    boxes = find_boxes(data, 0, len(data))
    if len(boxes) < 2:
        return exchange_ranges(data, generator)
    first, second = sorted(generator.choice(np.array(boxes), 2, replace=False).tolist())
    if first[1] <= second[0]:
        parts = data[second[0] : second[1]], data[first[1] : second[0]], data[first[0] : first[1]]
        data[first[0] : second[1]] = b"".join(parts)
    else:
        # One lies within the other: it takes its place.
        data[first[0] : first[1]] = data[second[0] : second[1]]
    return None


def duplicate_box(data: bytearray, generator: np.random.Generator) -> None:
    boxes = find_boxes(data, 0, len(data))
    if not boxes:
        return duplicate_range(data, generator)
    start, end = boxes[int(generator.integers(0, len(boxes)))]
    data[end:end] = data[start:end]
    return None


def draw_range(data: bytearray, generator: np.random.Generator) -> tuple[int, int]:
    start = int(generator.integers(0, len(data)))
    return start, min(len(data), start + int(2 ** generator.uniform(0, 12)))


MUTATIONS = (
    *(flip_bits, truncate, zero_range, delete_range, duplicate_range, exchange_ranges),
    *(claim_absurd_numbers, claim_absurd_numbers, exchange_boxes, duplicate_box),
)


def mutate(sources: dict[str, bytes], number: int) -> tuple[str, str, bytes]:
    """Returns the source, the mutation and the bytes of the mutated file with this number."""
    generator = np.random.default_rng([SEED, number])
    names = list(sources)
    name = names[number % len(names)]
    data = bytearray(sources[name])
    choice = int(generator.integers(0, len(MUTATIONS) + 1))
    if choice == len(MUTATIONS):
        # The beginning of one file, the end of another.
        other = sources[names[int(generator.integers(0, len(names)))]]
        cut = generator.uniform()
        return name, "splice", bytes(data[: int(cut * len(data))]) + other[int(cut * len(other)) :]
    mutation = MUTATIONS[choice]
    mutation(data, generator)
    return name, mutation.__name__, bytes(data)


def read_mutated_files(num_files: int, folder: Path, write_video: Any) -> Counter[str]:
    """Returns how often each pair of outcomes came; fails with the files that broke something."""
    sources = {
        name: write_video(folder / name, num_frames=20, **how).read_bytes()
        for name, how in SOURCES.items()
    }
    counts: Counter[str] = Counter()
    broken: list[str] = []
    with keep_child() as get_child:
        for number in range(num_files):
            name, mutation, data = mutate(sources, number)
            path = folder / f"mutated{Path(name).suffix}"
            path.write_bytes(data)
            outcomes = get_child().read(path, folder / "scratch.mp4")
            counts[" / ".join(outcome.partition(" ")[0] for outcome in outcomes)] += 1
            if not set(outcomes) <= {"decoded", "named"}:
                broken.append(f"file {number}: {mutation} of {name}: {' / '.join(outcomes)}")
    print(f"\nseed {SEED}, {num_files} files, reading / transcoding: {dict(counts.most_common())}")
    assert not broken, f"{len(broken)} of {num_files} files: " + "\n".join(broken[:20])
    return counts


@pytest.mark.skipif(sys.platform == "win32", reason="limits memory by resource.setrlimit")
def test_hundreds_of_mutated_files_are_decoded_or_named(tmp_path: Path, write_video: Any) -> None:
    counts = read_mutated_files(280, tmp_path, write_video)
    # The mutations are neither harmless nor all fatal.
    assert counts["decoded / decoded"] > 20
    assert counts["named / named"] > 20


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="limits memory by resource.setrlimit")
def test_two_thousand_mutated_files_are_decoded_or_named(tmp_path: Path, write_video: Any) -> None:
    read_mutated_files(2000, tmp_path, write_video)
