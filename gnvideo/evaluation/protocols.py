"""Which views of a video are scored. An accuracy means something only beside its protocol's name.

Common to all: the score of a view is the mean over the positions of the softmax at each position,
and the score of a video is the mean of its views' scores.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from gnvideo.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Protocol:
    """A named choice of test views.

    Attributes:
        name: As in configurations, file names and reports.
        num_clips: Clips of each video, which is its number of views: 1 is the clip around the
            video's middle, more are regularly spaced starts from the first frame on.
        crop: "full" is the whole frame at the test's short side, "center" the square in its middle.
        description: One line for people.
    """

    name: str
    num_clips: int
    crop: Literal["full", "center"]
    description: str


PROTOCOLS: Mapping[str, Protocol] = MappingProxyType(
    {
        protocol.name: protocol
        for protocol in (
            Protocol(
                name="center-1x1",
                num_clips=1,
                crop="center",
                description="one clip around the middle, centre crop; cheap, for curves",
            ),
            # Source: Wu and He, "Group Normalization", ECCV 2018, sec. 4.3, arXiv:1803.08494: ten
            # evenly sampled clips, softmax scores averaged. Fully convolutional on full frames:
            # Wang et al., "Non-local Neural Networks", CVPR 2018, arXiv:1711.07971.
            Protocol(
                name="gn-10",
                num_clips=10,
                crop="full",
                description="ten regularly spaced clips, full frame, fully convolutional",
            ),
            Protocol(
                name="center-10x1",
                num_clips=10,
                crop="center",
                description="ten regularly spaced clips, centre crop of the training size",
            ),
        )
    }
)


def get_protocol(name: str) -> Protocol:
    """Returns the protocol called `name`.

    Raises:
        ConfigError: no protocol has that name.
    """
    try:
        return PROTOCOLS[name]
    except KeyError:
        allowed = ", ".join(PROTOCOLS)
        raise ConfigError(
            f"the evaluation protocol is {name!r}; allowed are {allowed}; choose one of them"
        ) from None
