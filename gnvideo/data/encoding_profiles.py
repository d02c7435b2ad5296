"""How prepared videos are encoded: H.264, in three named ways.

What the settings cost and bring is measured by benchmarks/encoding_profiles.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

# The quality that training needs is the pictures' own, not what an eye likes better: psychovisual
# tuning off, and the bits spent where the distortion counts. subme=9 makes a file of equal SSIM 3 %
# smaller for a quarter more time; where size matters most, subme=10 with trellis=2 makes it 8 %
# smaller for two and a half times the time.
_FAITHFUL = "psy=0:aq-mode=2:subme=9"
_SMALLEST = "psy=0:aq-mode=2:subme=10:trellis=2"


@dataclass(frozen=True, slots=True)
class EncodingSettings:
    """How a video is encoded; by default, to be read at random.

    Decoding starts at a keyframe and spends most of its time on CABAC, so there is a keyframe a
    second and CAVLC instead. No deblocking filter, or more keyframes, would save less time than the
    space that they take at equal SSIM. There are no B-frames: decoders that cannot leave them out
    pay for them, and decord misreads some files that have them.

    Attributes:
        crf: libx264's constant rate factor, 0 (lossless) to 51; 23 is libx264's default.
        keyframe_interval_frames: Largest number of frames from one keyframe to the next.
        num_b_frames: Largest number of B-frames in a row.
        preset: libx264's trade of encoding time for size.
        options: What differs from the preset, as libx264's own `name=value`, separated by colons.
    """

    crf: int = 23
    keyframe_interval_frames: int = 24
    num_b_frames: int = 0
    preset: str = "medium"
    options: str = f"cabac=0:weightp=0:{_FAITHFUL}"


@dataclass(frozen=True, slots=True)
class EncodingProfile:
    """Encoding settings with a name on the command line.

    Attributes:
        settings: How to encode.
        purpose: What it is for, in a few words.
    """

    settings: EncodingSettings
    purpose: str


DEFAULT_SETTINGS = EncodingSettings()
DEFAULT_PROFILE = "fast-seek"
PROFILES: Mapping[str, EncodingProfile] = MappingProxyType(
    {
        DEFAULT_PROFILE: EncodingProfile(DEFAULT_SETTINGS, "random clips at little cost"),
        "archive": EncodingProfile(
            EncodingSettings(
                keyframe_interval_frames=250, num_b_frames=3, preset="slow", options=_SMALLEST
            ),
            "the smallest files",
        ),
        # Each frame is decoded by itself, so a clip of few frames far apart decodes just these. At
        # equal crf, pictures without motion compensation are coarser.
        "intra": EncodingProfile(
            EncodingSettings(
                crf=20, keyframe_interval_frames=1, options=f"cabac=0:no-deblock=1:{_FAITHFUL}"
            ),
            "clips of few frames far apart, such as 8x8; large files",
        ),
    }
)
