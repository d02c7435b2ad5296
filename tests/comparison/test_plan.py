from __future__ import annotations

import pytest

from gnvideo.comparison import make_runs
from gnvideo.comparison.plan import VARIED_KEYS
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
    assert differing <= VARIED_KEYS


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
