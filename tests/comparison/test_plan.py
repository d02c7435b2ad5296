from __future__ import annotations

import re

import pytest

from gnvideo.comparison import make_runs
from gnvideo.comparison.plan import list_varied_keys
from gnvideo.comparison.run_folder import flatten
from gnvideo.config import RunConfig, dump_config, load_config
from gnvideo.errors import ConfigError


def test_every_combination_of_the_grid_is_one_run(make_comparison):
    config = make_comparison("grid.clip_shapes=[[8, 4], [16, 2]]", data={"root": "data"})
    runs = make_runs(config)
    cells = {
        (
            run.config.normalizer.name,
            run.config.data.num_frames,
            run.config.data.stride,
            run.config.training.clips_per_batch,
            run.config.seed,
        )
        for run in runs
    }
    assert len(runs) == len(cells) == len({run.name for run in runs}) == 2 * 2 * 2 * 3


def test_names_say_what_a_run_is_and_folders_follow_them(make_comparison):
    config = make_comparison()
    run = make_runs(config)[0]
    assert run.name == "batch_8f2_1clips_seed0"
    assert run.folder == run.config.output == config.output / "runs" / run.name


def test_a_stopped_comparison_holds_whole_seeds_and_long_runs_start_first(make_comparison):
    runs = make_runs(make_comparison("grid.clip_shapes=[[8, 1], [16, 1]]", data={"root": "data"}))
    order = [
        (run.config.seed, run.config.training.clips_per_batch, -run.config.data.num_frames)
        for run in runs
    ]
    assert order == sorted(order)


def test_runs_differ_in_nothing_but_what_the_grid_varies(make_comparison):
    config = make_comparison("mode=isolated", "clips_per_step=16")
    first, *others = [flatten(run.config) for run in make_runs(config)]
    differing = {key for other in others for key in first if first[key] != other[key]}
    assert differing
    assert differing <= list_varied_keys(config)


SWEEP = "grid.normalizers=[batch, {name: group, num_groups: 8}, {name: group, per_frame: true}]"


def test_entries_with_settings_are_series_of_their_own(make_comparison):
    config = make_comparison(SWEEP, "base.normalizer.num_groups=4", "base.normalizer.eps=1e-3")
    found = {run.label: run for run in make_runs(config) if run.config.seed == 0}
    assert list(found) == ["batch", "group[num_groups=8]", "group[per_frame=true]"]
    names = [run.name.partition("_8f2")[0] for run in found.values()]
    assert names == ["batch", "group-num_groups=8", "group-per_frame=true"]
    settings = [run.config.normalizer for run in found.values()]
    assert [s.name for s in settings] == ["batch", "group", "group"]
    assert [s.num_groups for s in settings] == [4, 8, 4]
    assert [s.per_frame for s in settings] == [False, False, True]
    assert {s.eps for s in settings} == {1e-3}


def test_runs_of_a_sweep_differ_in_nothing_but_what_its_entries_set(make_comparison):
    config = make_comparison(SWEEP)
    first, *others = [flatten(run.config) for run in make_runs(config)]
    differing = {key for other in others for key in first if first[key] != other[key]}
    assert differing <= list_varied_keys(config)
    assert {"normalizer.num_groups", "normalizer.per_frame"} <= differing
    assert "normalizer.eps" not in list_varied_keys(config)


def test_a_comparison_without_settings_varies_no_setting_of_normalizers(make_comparison):
    varied = {key for key in list_varied_keys(make_comparison()) if key.startswith("normalizer.")}
    assert varied == {"normalizer.name"}


def test_every_entry_has_folders_of_its_own_whose_names_any_disk_takes(make_comparison):
    entries = (
        "{name: group, num_groups: 1, channels_per_group: 1}",
        "{name: group, num_groups: 11}",
        "{name: group, eps: 1e-7}",
        "{name: group, eps: 1e+7}",
        "{name: group, channels_per_group: null, num_groups: 3}",
        "{name: group_ws, num_groups: 11}",
        "group",
    )
    runs = make_runs(make_comparison(f"grid.normalizers=[{', '.join(entries)}]"))
    names = {run.name for run in runs}
    assert len(names) == len(runs) == len(entries) * 2 * 3
    assert all(re.fullmatch(r"[A-Za-z0-9_.=+-]+", name) for name in names)


def test_two_entries_that_mean_the_same_are_an_error(make_comparison):
    config = make_comparison(
        "grid.normalizers=[group, {name: group, num_groups: 4}]", "base.normalizer.num_groups=4"
    )
    message = r"holds group and group\[num_groups=4\], which are the same .*; remove one of them$"
    with pytest.raises(ConfigError, match=message):
        make_runs(config)


def test_paper_mode_takes_one_step_a_batch(make_comparison):
    runs = make_runs(make_comparison())
    assert {run.config.training.accumulation_steps for run in runs} == {1}


def test_isolated_mode_keeps_the_clips_per_step(make_comparison):
    runs = make_runs(make_comparison("mode=isolated", "clips_per_step=16"))
    training = [run.config.training for run in runs]
    assert {t.clips_per_batch for t in training} == {1, 8}
    assert {t.clips_per_batch * t.accumulation_steps for t in training} == {16}


def test_a_run_configuration_survives_its_file(make_comparison, tmp_path):
    run = make_runs(make_comparison())[0]
    path = tmp_path / "config.yaml"
    path.write_text(dump_config(run.config))
    assert load_config(RunConfig, path) == run.config


@pytest.mark.parametrize(
    ("override", "setter"),
    [
        ("base.seed=1", "grid.seeds"),
        ("base.output=here", "output"),
        ("base.normalizer.name=group", "grid.normalizers"),
        ("base.training.clips_per_batch=4", "grid.clips_per_batch"),
        ("base.training.accumulation_steps=2", "mode and clips_per_step"),
    ],
)
def test_base_may_not_hold_what_the_grid_sets(make_comparison, override, setter):
    key = override.partition("=")[0]
    with pytest.raises(ConfigError, match=rf"^{key} is .* sets it by {setter}; remove") as caught:
        make_runs(make_comparison(override))
    assert "\n" not in str(caught.value)


def test_base_may_hold_a_clip_shape_only_where_the_grid_has_none(make_comparison):
    assert make_runs(make_comparison())[0].config.data.num_frames == 8
    with pytest.raises(ConfigError, match=r"base\.data\.num_frames is 8.*grid\.clip_shapes"):
        make_runs(make_comparison("grid.clip_shapes=[[16, 1]]"))


def test_a_wrong_key_in_base_is_named(make_comparison):
    with pytest.raises(ConfigError, match=r"base of the comparison: unknown key 'training\.epoch'"):
        make_runs(make_comparison("base.training.epoch=3"))


def test_a_section_of_base_that_is_a_value_is_an_error(make_comparison):
    with pytest.raises(ConfigError, match=r"base\.normalizer is 'group'"):
        make_runs(make_comparison("base.normalizer=group"))


WEIGHTS = "grid.initial_weights={batch: bn.pth, group: gn.pth}"


def test_each_normalizer_starts_from_its_own_file(make_comparison):
    config = make_comparison(WEIGHTS)
    files = {
        (run.config.normalizer.name, str(run.config.training.initial_weights))
        for run in make_runs(config)
    }
    assert files == {("batch", "bn.pth"), ("group", "gn.pth")}
    assert "training.initial_weights" in list_varied_keys(config)
    assert "training.initial_weights" not in list_varied_keys(make_comparison())


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (
            ["grid.initial_weights={batch: bn.pth}"],
            "names batch, and the normalizers are batch, gr",
        ),
        ([WEIGHTS, "base.training.initial_weights=one.pth"], "sets it by grid.initial_weights"),
    ],
)
def test_weights_for_some_normalizers_or_from_two_places_are_refused(
    make_comparison, overrides, named
):
    with pytest.raises(ConfigError, match=named):
        make_runs(make_comparison(*overrides))
