"""Configurations as YAML files, with `key.sub=value` overrides.

Precedence, last wins: the sections' defaults, the YAML file, the overrides. An unknown key is an
error that names the nearest valid one.
"""

from __future__ import annotations

import copy
import difflib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from gnvideo.config.sections import StrictConfig
from gnvideo.errors import ConfigError, InputFileError

AnyConfig = TypeVar("AnyConfig", bound=StrictConfig)


def load_config(
    config_class: type[AnyConfig], path: Path, overrides: Sequence[str] = ()
) -> AnyConfig:
    """Returns the configuration in the YAML file at `path`, with `key.sub=value` overrides applied.

    Raises:
        InputFileError: the file is missing or unreadable.
        ConfigError: not YAML, or a wrong key, type or value.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputFileError(
            f"no configuration file {path}; pass a YAML file, such as one of configs/"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputFileError(f"cannot read the configuration {path}: {error}") from None
    values = _parse_yaml(text, str(path))
    if not isinstance(values, dict):
        raise ConfigError(f"{path} holds no mapping of settings; write 'key: value' lines")
    return make_config(config_class, cast(dict[str, Any], values), overrides, source=str(path))


def make_config(
    config_class: type[AnyConfig],
    values: Mapping[str, Any],
    overrides: Sequence[str] = (),
    source: str = "the configuration",
) -> AnyConfig:
    """Returns the configuration that plain `values` and `overrides` describe.

    Raises:
        ConfigError: a wrong key, type or value; the message names the key as the user wrote it.
    """
    merged = copy.deepcopy(dict(values))
    for override in overrides:
        _apply_override(merged, override)
    try:
        # As JSON, strict validation takes a list for a tuple and a string for a path, but no
        # string for a number.
        return config_class.model_validate_json(json.dumps(merged, default=str))
    except ValidationError as error:
        details = [detail for detail in error.errors() if not _follows(detail, error.errors())]
        described = "; ".join(_describe(config_class, detail) for detail in details)
        raise ConfigError(f"{source}: {described}") from None


def dump_config(config: StrictConfig) -> str:
    """Returns the complete configuration as YAML; `load_config` of it gives an equal one."""
    values = config.model_dump(mode="json")
    return yaml.dump(values, Dumper=_ConfigDumper, sort_keys=False, allow_unicode=True)


class _ConfigLoader(yaml.SafeLoader):
    """YAML with 1e-3 as a number (YAML 1.2); a repeated key, or one not a text, is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [cast(str, key.value) for key, _ in node.value]
        mapping = super().construct_mapping(node, deep)
        problems = [f"the key {key!r} stands there twice" for key in keys if keys.count(key) > 1]
        problems += [f"the key {key} is no text" for key in mapping if not isinstance(key, str)]
        if problems:
            raise yaml.constructor.ConstructorError(None, None, problems[0], node.start_mark)
        return mapping


class _ConfigDumper(yaml.SafeDumper):
    """Quotes the texts that `_ConfigLoader` would take for numbers."""


for _class in (_ConfigLoader, _ConfigDumper):
    _class.add_implicit_resolver(
        "tag:yaml.org,2002:float",
        re.compile(r"^[-+]?(\d[\d_]*)(\.\d*)?[eE][-+]?\d+$"),
        list("-+0123456789"),
    )


def _parse_yaml(text: str, source: str) -> object:
    try:
        # A SafeLoader: it builds plain values only.
        return yaml.load(text, Loader=_ConfigLoader)
    except yaml.YAMLError as error:
        raise ConfigError(f"{source} is not valid YAML: {' '.join(str(error).split())}") from None


def _apply_override(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"override {override!r} is not key.sub=value, such as training.epochs=10")
    section = values
    *parents, last = key.split(".")
    for parent in parents:
        child = section.setdefault(parent, {})
        if not isinstance(child, dict):
            raise ConfigError(f"override {override!r}: {parent!r} is a value and has no settings")
        section = cast(dict[str, Any], child)
    section[last] = _parse_yaml(text, f"override {override!r}")


def _follows(detail: ErrorDetails, others: Sequence[ErrorDetails]) -> bool:
    """Returns whether a list lacks items only because those that it has are wrong."""
    length = len(detail["loc"])
    return detail["type"] == "too_short" and any(
        len(other["loc"]) > length and other["loc"][:length] == detail["loc"] for other in others
    )


def _describe(config_class: type[StrictConfig], detail: ErrorDetails) -> str:
    key = ".".join(str(part) for part in detail["loc"])
    if detail["type"] == "extra_forbidden":
        *parents, last = (str(part) for part in detail["loc"])
        names = list(_section_fields(config_class, parents))
        near = difflib.get_close_matches(last, names, n=1, cutoff=0.0)
        return f"unknown key {key!r}; did you mean {'.'.join([*parents, *near])!r}?"
    if detail["type"] == "missing":
        return f"the key {key!r} is missing"
    message = detail["msg"].removeprefix("Value error, ")
    if detail["type"] == "value_error":
        return f"{key}: {message}" if key else message
    return f"{key} is {detail['input']!r}: {message[0].lower()}{message[1:]}"


def _section_fields(config_class: type[StrictConfig], parents: Sequence[str]) -> Sequence[str]:
    section: type[BaseModel] = config_class
    # A number is a place in a list, whose sections are all of one class.
    for parent in (name for name in parents if not name.isdigit()):
        annotation = section.model_fields[parent].annotation
        candidates = [annotation, *get_args(annotation)]
        section = next(c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel))
    return list(section.model_fields)
