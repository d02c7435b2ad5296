from __future__ import annotations

import logging

import pytest
from torch import nn

from gnvideo.errors import NormalizerError
from gnvideo.layers import describe_normalizers, make_normalizer
from gnvideo.layers.groups import _find_divisor, find_num_groups

WITH_GROUPS = ("group", "group_ws", "rms_group", "evonorm_s0")


@pytest.mark.parametrize(
    ("num_channels", "channels_per_group", "num_groups"),
    [(64, 16, 4), (64, 1, 64), (64, 64, 1), (48, 32, 2), (48, 64, 1), (7, 4, 7), (100, 16, 10)],
)
def test_channels_per_group_are_the_largest_divisor_up_to_the_wanted_number(
    num_channels, channels_per_group, num_groups
):
    assert find_num_groups(num_channels, 32, channels_per_group) == num_groups


def test_another_number_of_channels_is_logged_once(caplog):
    _find_divisor.cache_clear()
    with caplog.at_level(logging.INFO, logger="gnvideo"):
        for _ in range(2):
            find_num_groups(48, 32, 32)
            find_num_groups(64, 32, 32)
    assert [record.message for record in caplog.records] == [
        "32 channels per group do not divide 48 channels; using 24"
    ]


@pytest.mark.parametrize("name", WITH_GROUPS)
def test_channels_per_group_come_before_the_number_of_groups(name):
    assert make_normalizer(name, 24, "relu", num_groups=4).num_groups == 4
    assert make_normalizer(name, 24, "relu", num_groups=4, channels_per_group=8).num_groups == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0,), "num_channels is 0"),
        ((8, 0), "num_groups is 0"),
        ((8, 2.0), r"num_groups is 2\.0"),
        ((8, 2, 0), "channels_per_group is 0; it must be a positive integer"),
    ],
)
def test_what_is_no_count_is_named(arguments, message):
    with pytest.raises(NormalizerError, match=message):
        find_num_groups(*arguments)


def test_description_tells_normalizers_with_groups_apart():
    def describe(name, **settings):
        norms = [make_normalizer(name, channels, **settings) for channels in (64, 128)]
        return describe_normalizers(nn.Sequential(*norms))

    assert describe("layer") == "2 GroupNorm3d (1 group)"
    assert describe("instance") == "2 GroupNorm3d (1 channel a group)"
    assert describe("group", channels_per_group=16) == "2 GroupNorm3d (16 channels a group)"
    assert describe("group", per_frame=True) == "2 GroupNorm3d (32 groups, per frame)"
    assert describe("rms_group") == "2 RmsGroupNorm3d (32 groups)"
    assert describe("weight_norm") == "2 ChannelAffine3d"


def test_text_of_each_module_shows_its_settings():
    assert "8, num_groups=4" in repr(make_normalizer("rms_group", 8, num_groups=4))
    assert "gate=False" in repr(make_normalizer("evonorm_s0", 8))
    assert "threshold=True" in repr(make_normalizer("filter_response", 8, "relu"))
    assert repr(make_normalizer("weight_norm", 8)) == "ChannelAffine3d(8)"
    assert "per_frame=True" in repr(make_normalizer("layer", 8, per_frame=True))
