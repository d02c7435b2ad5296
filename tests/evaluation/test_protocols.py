from __future__ import annotations

import pytest

from gnvideo.errors import ConfigError
from gnvideo.evaluation import PROTOCOLS, get_protocol


def test_the_center_protocol_has_one_view_and_a_centre_crop():
    protocol = get_protocol("center-1x1")
    assert (protocol.num_clips, protocol.crop) == (1, "center")


def test_the_paper_protocol_has_ten_full_frame_views():
    protocol = get_protocol("gn-10")
    assert (protocol.num_clips, protocol.crop) == (10, "full")


@pytest.mark.parametrize(
    ("name", "num_views"),
    [
        ("nonlocal-fcn-10x3", 30),
        ("slowfast-10x3", 30),
        ("mmaction2-10x3", 30),
        ("pytorchvideo-10x3", 30),
        ("torchvision-5", 5),
    ],
)
def test_the_protocols_of_other_projects_have_as_many_views_as_there(name: str, num_views: int):
    assert get_protocol(name).num_views == num_views


def test_every_protocol_stands_under_its_own_name():
    assert all(get_protocol(name).name == name for name in PROTOCOLS)


def test_an_unknown_protocol_is_refused_with_the_allowed_names():
    with pytest.raises(ConfigError, match=r"'gn-30'.*center-1x1, gn-10"):
        get_protocol("gn-30")
