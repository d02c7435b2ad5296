"""Which views of a video are scored. An accuracy means something only beside its protocol's name.

Common to all: nothing is mirrored, the score of a view is the mean over the positions of the
softmax at each position, and the score of a video is the mean of its views' scores. A view of the
training size has one position. Frames are resized to the test's short side, 256 pixels in the
recipes of all sources but torchvision's, which takes 128.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from gnvideo.errors import ConfigError
from gnvideo.evaluation.view_crops import CROPS_PER_CLIP, Crop

Sampling = Literal["center", "nonlocal", "slowfast", "mmaction2", "pytorchvideo", "torchvision"]
"""The rule by which the frames of the clips are picked; `gnvideo.data.view_sampling` has them."""


@dataclass(frozen=True, slots=True)
class Protocol:
    """A named choice of test views.

    Attributes:
        name: As in configurations, file names and reports.
        num_clips: Clips of each video.
        sampling: How the frames of the clips are picked.
        crop: "full" is the whole frame at the test's short side, "center" the square of the
            training size in its middle, "three" three squares of the short side along the long one.
        pooling: "positions" classifies at each position of a view, each as large as a training
            clip; "whole" averages the features over the whole view and classifies once.
        description: One line for people.
    """

    name: str
    num_clips: int
    sampling: Sampling
    crop: Crop
    description: str
    pooling: Literal["positions", "whole"] = "positions"

    @property
    def num_views(self) -> int:
        """Views of each video: its clips times the crops of each."""
        return self.num_clips * CROPS_PER_CLIP[self.crop]


PROTOCOLS: Mapping[str, Protocol] = MappingProxyType(
    {
        protocol.name: protocol
        for protocol in (
            Protocol(
                name="center-1x1",
                num_clips=1,
                sampling="center",
                crop="center",
                description="one clip around the middle, centre crop; cheap, for curves",
            ),
            # Source: Wu and He, "Group Normalization", ECCV 2018, sec. 4.3, arXiv:1803.08494: ten
            # evenly sampled clips, softmax scores averaged. Fully convolutional on full frames:
            # Wang et al., "Non-local Neural Networks", CVPR 2018, arXiv:1711.07971.
            Protocol(
                name="gn-10",
                num_clips=10,
                sampling="nonlocal",
                crop="full",
                description="ten regularly spaced clips, full frame, fully convolutional",
            ),
            Protocol(
                name="center-10x1",
                num_clips=10,
                sampling="nonlocal",
                crop="center",
                description="ten regularly spaced clips, centre crop of the training size",
            ),
            # Source: facebookresearch/video-nonlocal-net, README.md and tools/test_net_video.py.
            Protocol(
                name="nonlocal-fcn-10x3",
                num_clips=10,
                sampling="nonlocal",
                crop="three",
                description="the clips of gn-10, three crops, fully convolutional",
            ),
            # Source: facebookresearch/SlowFast, slowfast/datasets/kinetics.py and decoder.py,
            # configs/Kinetics: TEST.NUM_ENSEMBLE_VIEWS 10, NUM_SPATIAL_CROPS 3, TEST_CROP_SIZE 256.
            Protocol(
                name="slowfast-10x3",
                num_clips=10,
                sampling="slowfast",
                crop="three",
                description="PySlowFast's test: ten clips timed at 30 frames a second, three crops",
            ),
            # Source: open-mmlab/mmaction2 1.2.0, configs/recognition/i3d: SampleFrames with
            # num_clips 10, Resize (-1, 256), ThreeCrop 256, average_clips "prob"; the head's
            # average pooling is over the whole crop.
            Protocol(
                name="mmaction2-10x3",
                num_clips=10,
                sampling="mmaction2",
                crop="three",
                pooling="whole",
                description="mmaction2's test: ten clips from the first to the last, three crops",
            ),
            # Source: pytorchvideo 0.1.5, ConstantClipsPerVideoSampler and UniformCrop; the 30 views
            # of its model zoo.
            Protocol(
                name="pytorchvideo-10x3",
                num_clips=10,
                sampling="pytorchvideo",
                crop="three",
                description="pytorchvideo's test: ten clips by time, three crops",
            ),
            # Source: pytorch/vision, references/video_classification: frame_rate 15,
            # clips_per_video 5, centre crop. Its frames are forced to 4:3; here they keep their
            # aspect.
            Protocol(
                name="torchvision-5",
                num_clips=5,
                sampling="torchvision",
                crop="center",
                description="torchvision's test: five clips at 15 frames a second, centre crop",
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
