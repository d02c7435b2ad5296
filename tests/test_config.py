from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gnvideo.config import (
    ComparisonConfig,
    RunConfig,
    StrictConfig,
    dump_config,
    load_config,
    make_config,
)
from gnvideo.errors import ConfigError, InputFileError

# What YAML could take for a number, a date, a boolean, nothing, a mapping or a comment.
TRICKY_TEXTS = (
    *("1e3", "1e-3", "12e4", "1_0", "0x1f", "010", "2024-01-01", "12:30:45", "yes", "on", "null"),
    *("~", "true", ".nan", ".inf", "=", "<<", "a: b", "#x", "- x", " x ", "x\n", "\u00e9t\u00e9"),
)
# YAML counts the next-line character as a line's end; PyYAML writes it and reads another one.
TEXTS = st.sampled_from(TRICKY_TEXTS) | st.text(
    st.characters(codec="utf-8", exclude_characters="\x85"), min_size=1, max_size=12
)
COUNTS = st.integers(1, 2**40)
RATES = st.floats(1e-300, 1e300)
SHARES = st.floats(0, 1, exclude_max=True)
PLAIN_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXTS,
    lambda values: st.lists(values, max_size=3) | st.dictionaries(TEXTS, values, max_size=3),
    max_leaves=8,
)

MINIMAL_RUN = {"output": "out", "data": {"root": "root"}}
MINIMAL_COMPARISON = {"output": "out", "base": {"data": {"root": "root"}}}


@st.composite
def run_values(draw: st.DrawFn) -> dict[str, Any]:
    crop, *sides, test_side = sorted(draw(st.lists(COUNTS, min_size=4, max_size=4)))
    epochs = draw(st.floats(1e-3, 1e6))
    return {
        "seed": draw(st.integers(0, 2**70)),
        "output": draw(TEXTS),
        "model": {
            "name": draw(TEXTS),
            "width": draw(COUNTS),
            "dropout_rate": draw(SHARES),
            "stem_pool": draw(st.booleans()),
            "non_local": draw(st.booleans()),
            "temporal_strides": draw(st.lists(COUNTS, min_size=4, max_size=4)),
        },
        "normalizer": {"name": draw(TEXTS), "eps": draw(RATES)},
        "data": {
            "root": draw(TEXTS),
            "train_split": draw(TEXTS),
            "crop_pixels": crop,
            "short_side_range_pixels": sides,
            "test_short_side_pixels": test_side,
            "mean": draw(st.lists(st.floats(-1e9, 1e9), min_size=3, max_size=3)),
            "prefetch_batches": draw(st.none() | COUNTS),
            "start_method": draw(st.sampled_from(["auto", "fork", "forkserver", "spawn"])),
            "decode_timeout_seconds": draw(RATES),
            "clips_per_open": draw(COUNTS),
            "pixel_format": draw(st.sampled_from(["rgb", "rgb" if crop % 2 else "yuv420"])),
        },
        "training": {
            "epochs": epochs,
            "warmup_epochs": epochs * draw(SHARES),
            "learning_rate": draw(RATES),
            "reference_clips_per_step": draw(st.none() | COUNTS),
            "step_epochs": sorted(draw(st.sets(st.floats(0, 1e6), max_size=3))),
            "max_gradient_norm": draw(st.none() | RATES),
            "device": draw(st.sampled_from(["auto", "cpu", "cuda", "cuda:12"])),
        },
        "evaluation": {"protocol": draw(TEXTS)},
    }


@st.composite
def comparison_values(draw: st.DrawFn) -> dict[str, Any]:
    clips = draw(st.sets(st.sampled_from([1, 2, 4, 8]), min_size=1))
    isolated = {"mode": "isolated", "clips_per_step": 8}
    return {
        "output": draw(TEXTS),
        **draw(st.sampled_from([{}, {"mode": "paper"}, isolated])),
        "parallel_runs": draw(st.none() | COUNTS),
        "grid": {
            "normalizers": sorted(draw(st.sets(TEXTS, min_size=1, max_size=3))),
            "clips_per_batch": sorted(clips),
            "seeds": sorted(draw(st.sets(st.integers(0), min_size=1, max_size=3))),
            "clip_shapes": [
                list(shape) for shape in draw(st.sets(st.tuples(COUNTS, COUNTS), max_size=3))
            ],
        },
        "base": draw(st.dictionaries(TEXTS, PLAIN_VALUES, max_size=4)),
    }


@pytest.fixture(scope="module")
def yaml_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("config") / "config.yaml"


@settings(deadline=None, max_examples=60)
@given(values=run_values())
def test_a_run_configuration_survives_its_file(yaml_path: Path, values: dict[str, Any]) -> None:
    config = make_config(RunConfig, values)
    yaml_path.write_text(dump_config(config), encoding="utf-8")
    assert load_config(RunConfig, yaml_path) == config


@settings(deadline=None, max_examples=60)
@given(values=comparison_values())
def test_a_comparison_survives_its_file(yaml_path: Path, values: dict[str, Any]) -> None:
    config = make_config(ComparisonConfig, values)
    yaml_path.write_text(dump_config(config), encoding="utf-8")
    assert load_config(ComparisonConfig, yaml_path) == config


@pytest.mark.parametrize("text", TRICKY_TEXTS)
def test_a_text_that_looks_like_something_else_stays_a_text(yaml_path: Path, text: str) -> None:
    values = {**MINIMAL_RUN, "output": text, "model": {"name": text}}
    config = make_config(RunConfig, values)
    yaml_path.write_text(dump_config(config), encoding="utf-8")
    loaded = load_config(RunConfig, yaml_path)
    assert (loaded.output, loaded.model.name) == (Path(text), text)


def test_a_dumped_configuration_names_every_setting() -> None:
    text = dump_config(make_config(RunConfig, MINIMAL_RUN))
    sections = [RunConfig, *(type(value) for _, value in make_config(RunConfig, MINIMAL_RUN))]
    names = {
        name
        for section in sections
        if issubclass(section, StrictConfig)
        for name in section.model_fields
    }
    assert len(names) > 40
    assert all(f"{name}:" in text for name in names)


def load(path: Path, text: str, *overrides: str) -> RunConfig:
    path.write_text(text, encoding="utf-8")
    return load_config(RunConfig, path, overrides)


RUN_TEXT = "output: out\ndata: {root: root}\n"


@pytest.mark.parametrize("number", ["1e-3", "1E-3", "1.e-3", "0.001", "1.0e-3", "10e-4"])
def test_a_number_may_be_written_with_an_exponent(yaml_path: Path, number: str) -> None:
    in_file = load(yaml_path, f"{RUN_TEXT}training: {{learning_rate: {number}}}")
    on_command_line = load(yaml_path, RUN_TEXT, f"training.learning_rate={number}")
    assert in_file.training.learning_rate == on_command_line.training.learning_rate == 0.001


def test_overrides_come_last_and_the_last_of_them_wins(yaml_path: Path) -> None:
    config = load(
        yaml_path,
        f"{RUN_TEXT}training: {{epochs: 3, clips_per_batch: 5}}",
        "training.epochs=4",
        "training.epochs=5",
        "data.short_side_range_pixels=[224, 230]",
        "training.reference_clips_per_step=null",
        "normalizer.name=batch",
        "output=a=b",
    )
    assert (config.training.epochs, config.training.clips_per_batch) == (5, 5)
    assert config.data.short_side_range_pixels == (224, 230)
    assert config.training.reference_clips_per_step is None
    assert config.normalizer.name == "batch"
    assert config.output == Path("a=b")


def test_an_override_leaves_the_given_values_as_they_are() -> None:
    values = {"output": "out", "data": {"root": "root"}}
    make_config(RunConfig, values, ["data.root=other"])
    assert values == {"output": "out", "data": {"root": "root"}}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("trainin.epochs=1", "unknown key 'trainin'; did you mean 'training'?"),
        (
            "training.learning_rat=1",
            "unknown key 'training.learning_rat'; did you mean 'training.learning_rate'?",
        ),
        ("data.clips_per_open=0", "data.clips_per_open is 0: input should be greater than"),
        ("data.prefetch_batches=0", "data.prefetch_batches is 0: input should be greater than"),
        ("data.decode_timeout_seconds=0", "data.decode_timeout_seconds is 0: input should be gr"),
        ("data.start_method=thread", "data.start_method is 'thread': input should be 'auto',"),
        ("data.pixel_format=yuv444", "data.pixel_format is 'yuv444': input should be 'rgb' or"),
        ("data.shortside=1", "unknown key 'data.shortside'; did you mean 'data."),
        ("training.epochs=many", "training.epochs is 'many': input should be a valid number"),
        ("training.epochs='10'", "training.epochs is '10': input should be a valid number"),
        ("seed=1.5", "seed is 1.5: input should be a valid integer"),
        ("seed=1.0", "seed is 1.0: input should be a valid integer"),
        ("seed=true", "seed is True: input should be a valid integer"),
        ("model.stem_pool=1", "model.stem_pool is 1: input should be a valid boolean"),
        ("model.name=3", "model.name is 3: input should be a valid string"),
        ("output=3", "output is 3: input"),
        ("seed=-1", "seed is -1: input should be greater than or equal to 0"),
        ("model.dropout_rate=1", "model.dropout_rate is 1: input should be less than 1"),
        ("training.learning_rate=.nan", "training.learning_rate is nan"),
        ("training.learning_rate=.inf", "training.learning_rate is inf"),
        ("data.mean=[0, 0]", "data.mean"),
        (
            "data.decoder=opencv",
            "data.decoder is 'opencv': input should be 'pyav', 'decord' or 'torchcodec'",
        ),
        ("training.device=gpu", "training.device is 'gpu'"),
        ("training=fast", "training is 'fast'"),
        ("training=", "training is None"),
        ("training.epochs", "override 'training.epochs' is not key.sub=value"),
        ("=3", "override '=3' is not key.sub=value"),
        ("seed.first=3", "override 'seed.first=3': 'seed' is a value and has no settings"),
        ("seed=[", "override 'seed=[' is not valid YAML"),
        ("data={2024-01-01: 3}", "the key 2024-01-01 is no text"),
        ("data.std=[1, 1, 0]", "data.std.2 is 0: input should be greater than 0"),
    ],
)
def test_a_wrong_setting_is_named_in_one_line(override: str, message: str) -> None:
    values = {"output": "out", "seed": 0, "data": {"root": "root"}}
    with pytest.raises(ConfigError) as caught:
        make_config(RunConfig, values, [override])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_whole_number_may_stand_for_a_float(yaml_path: Path) -> None:
    config = load(yaml_path, f"{RUN_TEXT}training: {{epochs: 3}}")
    assert config.training.epochs == 3.0


def test_all_that_is_wrong_is_said_at_once() -> None:
    values = {"data": {"rot": "x"}, "model": {"width": 0}}
    with pytest.raises(ConfigError) as caught:
        make_config(RunConfig, values, source="run.yaml")
    message = str(caught.value)
    assert message.startswith("run.yaml: ")
    assert "the key 'output' is missing" in message
    assert "the key 'data.root' is missing" in message
    assert "unknown key 'data.rot'; did you mean 'data.root'?" in message
    assert "model.width is 0" in message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("output: a\noutput: b\n", "the key 'output' stands there twice"),
        ("data: {root: a, root: b}", "the key 'root' stands there twice"),
        ("- output", "holds no mapping of settings"),
        ("", "holds no mapping of settings"),
        ("a: [", "is not valid YAML"),
        ("output: !!python/object:os.system x", "is not valid YAML"),
    ],
)
def test_a_file_that_is_no_configuration_is_refused(
    yaml_path: Path, text: str, message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        load(yaml_path, text)
    assert message in str(caught.value)
    assert str(yaml_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    latin = tmp_path / "latin.yaml"
    latin.write_bytes(b"output: caf\xe9")
    for path in (tmp_path / "absent.yaml", tmp_path, latin):
        with pytest.raises(InputFileError, match=str(path)):
            load_config(RunConfig, path)


@pytest.mark.parametrize(
    ("config_class", "overrides", "message"),
    [
        (
            RunConfig,
            ["data.crop_pixels=257"],
            "data: short_side_range_pixels is [256, 320]; it must ascend and start at crop_pixels"
            " (257) or more",
        ),
        (
            RunConfig,
            ["data.pixel_format=yuv420", "data.decoder=decord"],
            "data: pixel_format is yuv420, decoder decord and crop_pixels 224; yuv420 needs",
        ),
        (
            RunConfig,
            ["data.pixel_format=yuv420", "data.crop_pixels=223"],
            "data: pixel_format is yuv420, decoder pyav and crop_pixels 223; yuv420 needs",
        ),
        (
            RunConfig,
            ["data.short_side_range_pixels=[320, 256]"],
            "data: short_side_range_pixels is [320, 256]; it must ascend",
        ),
        (
            RunConfig,
            ["data.test_short_side_pixels=200"],
            "data: test_short_side_pixels is 200; it must be at least crop_pixels (224)",
        ),
        (
            RunConfig,
            ["training.step_epochs=[20, 10]"],
            "training: step_epochs is [20.0, 10.0]; the epochs must ascend",
        ),
        (
            RunConfig,
            ["training.step_epochs=[10, 10]"],
            "training: step_epochs is [10.0, 10.0]; the epochs must ascend",
        ),
        (
            RunConfig,
            ["training.epochs=2", "training.warmup_epochs=2"],
            "training: warmup_epochs is 2.0; it must be below epochs (2.0)",
        ),
        (
            ComparisonConfig,
            ["grid.seeds=[0, 1, 0]"],
            "grid: seeds is [0, 1, 0]; a value stands there twice",
        ),
        (
            ComparisonConfig,
            ["grid.clip_shapes=[[8, 2], [8, 2]]"],
            "grid: clip_shapes is [(8, 2), (8, 2)]; a value stands there twice",
        ),
        (ComparisonConfig, ["grid.normalizers=[]"], "grid.normalizers is []"),
        (
            ComparisonConfig,
            ["clips_per_step=8"],
            "clips_per_step belongs to mode isolated; remove it or set mode=isolated",
        ),
        (
            ComparisonConfig,
            ["mode=isolated"],
            "clips_per_step is missing; mode isolated needs the optimizer's batch, in clips",
        ),
        (
            ComparisonConfig,
            ["mode=isolated", "clips_per_step=8", "grid.clips_per_batch=[8, 3]"],
            "grid.clips_per_batch holds 3, which does not divide clips_per_step (8)",
        ),
    ],
)
def test_settings_that_do_not_fit_together_are_explained(
    config_class: type[StrictConfig], overrides: list[str], message: str
) -> None:
    minimal = MINIMAL_RUN if config_class is RunConfig else MINIMAL_COMPARISON
    with pytest.raises(ConfigError) as caught:
        make_config(config_class, minimal, overrides)
    assert str(caught.value).startswith(f"the configuration: {message}")


@pytest.mark.parametrize("override", ["clips_per_batch=[0]", "clip_shapes=[[8, 0]]", "seeds=[-1]"])
def test_a_grid_holds_no_impossible_run(override: str) -> None:
    overrides = ["mode=isolated", "clips_per_step=8", f"grid.{override}"]
    with pytest.raises(ConfigError, match=rf"grid\.{override.partition('=')[0]}\.0.* is (0|-1)"):
        make_config(ComparisonConfig, MINIMAL_COMPARISON, overrides)


def test_a_configuration_cannot_be_changed() -> None:
    config = make_config(RunConfig, MINIMAL_RUN)
    with pytest.raises(ValueError, match="frozen"):
        config.training.epochs = 3.0  # pyright: ignore[reportAttributeAccessIssue]
