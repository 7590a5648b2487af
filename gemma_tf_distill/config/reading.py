"""Reads a config from YAML and overrides; says which key is wrong, and what was probably meant."""

import dataclasses
import difflib
import json
import math
import pathlib
import re
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any

import yaml

from gemma_tf_distill.config.distillation import Schedule
from gemma_tf_distill.config.sections import Config
from gemma_tf_distill.errors import ConfigError

_EXPONENT = re.compile(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+")


def _expected(hint: Any) -> str:
    options = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    words = {str: "text", int: "a whole number", float: "a number", bool: "true or false", types.NoneType: "null"}
    names = []
    for option in options:
        if typing.get_origin(option) is tuple:
            names.append("a list of " + {"text": "texts", "a whole number": "whole numbers"}[_expected(typing.get_args(option)[0])])
        elif typing.get_origin(option) is Mapping:
            names.append("a section of names and " + _expected(typing.get_args(option)[1]))
        else:
            section = "a schedule of start, end and shape" if option is Schedule else "a section of keys"
            names.append(words.get(option, section if dataclasses.is_dataclass(option) else "a value"))
    return " or ".join(names)


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # A whole number beyond the largest float.
        return False


def _convert(value: Any, hint: Any, key: str) -> Any:
    """`value` as the annotation wants it; raises ConfigError where it is of another type."""
    options = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    for option in options:
        if dataclasses.is_dataclass(option) and isinstance(value, Mapping):
            return _build(option, value, key + ".")
        if typing.get_origin(option) is Mapping and isinstance(value, Mapping):
            item = typing.get_args(option)[1]
            return {str(name): _convert(v, item, f"{key}.{name}") for name, v in value.items()}
        if typing.get_origin(option) is tuple and isinstance(value, (list, tuple)):
            item = typing.get_args(option)[0]
            return tuple(_convert(v, item, f"{key}[{i}]") for i, v in enumerate(value))
        if option in (str, bool, types.NoneType) and isinstance(value, option):
            return value
        if option is int and isinstance(value, int) and not isinstance(value, bool):
            return value
        if option is float and isinstance(value, (int, float)) and not isinstance(value, bool) and _is_finite(value):
            return float(value)
        # YAML 1.1 reads 1e-3, which has no point, as a text.
        if option is float and isinstance(value, str) and _EXPONENT.fullmatch(value):
            return float(value)
    raise ConfigError(f"{key} must be {_expected(hint)}, not {value!r}")


def _unknown(key: str, known: Iterable[str], prefix: str) -> ConfigError:
    known = sorted(known)
    near = difflib.get_close_matches(key, known, n=1)
    hint = f"did you mean {prefix}{near[0]}?" if near else f"known here: {', '.join(known)}"
    return ConfigError(f"unknown config key {prefix}{key}: {hint}")


def _build(cls: Any, values: Mapping[str, Any], prefix: str = "") -> Any:
    hints = typing.get_type_hints(cls)
    for key in values:
        if key not in hints:
            raise _unknown(str(key), hints, prefix)
    for field in dataclasses.fields(cls):
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and field.name not in values:
            raise ConfigError(f"config key {prefix}{field.name} is missing: it must be {_expected(hints[field.name])}")
    return cls(**{key: _convert(value, hints[key], prefix + key) for key, value in values.items()})


def config_from_dict(values: Mapping[str, Any]) -> Config:
    """Checks `values` and makes a Config of them.

    Raises:
      ConfigError: for an unknown key (the nearest known one is suggested), a wrong type, or a value out of range.
    """
    return _build(Config, values)


def section_from_json(cls: type, text: str, section: str) -> Any:
    """One section of a config from the JSON that `Config.to_json` wrote, as a component receives it."""
    return _build(cls, json.loads(text)[section], section + ".")


def recipes() -> dict[str, pathlib.Path]:
    """The shipped recipes: name to path."""
    folder = pathlib.Path(__file__).resolve().parents[2] / "tfx_pipeline" / "configs"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


class _Loader(yaml.SafeLoader):
    """Refuses a key that is given twice, of which YAML would silently take the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise ConfigError(f"the config key {key!r} is given twice{node.start_mark}: keep one of them")
        return super().construct_mapping(node, deep)


def load_config(source: str, overrides: Iterable[str] = ()) -> Config:
    """Reads a config from a YAML file or a shipped recipe's name.

    Args:
      source: a path, or the name of a recipe such as `demo`.
      overrides: `section.key=value` each, the value in YAML.

    Raises:
      ConfigError: if there is no such file or recipe, it is not YAML, or its content is wrong.
    """
    path = recipes().get(source) or pathlib.Path(source)
    if path.is_dir():
        raise ConfigError(f"{source} is a folder: name a YAML file, or a recipe such as {', '.join(recipes())}")
    if not path.is_file():
        raise ConfigError(f"no config at {source!r}, and no recipe of that name: shipped are {', '.join(recipes())}")
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    # A file of thousands of nested brackets is no config either.
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{source} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        found = "nothing" if values is None else repr(values)
        raise ConfigError(f"{source} must hold config keys such as name and teacher, but holds {found[:80]}")
    return config_with(values, overrides)


def config_with(values: dict[str, Any], overrides: Iterable[str]) -> Config:
    """A config of `values` and `section.key=value` texts over them; raises as `config_from_dict`, and for what is no such text."""
    values = dict(values)
    for override in overrides:
        key, separator, text = override.partition("=")
        if not separator or not key:
            raise ConfigError(f"--set takes section.key=value, not {override!r}")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ConfigError(f"--set {key}: {text!r} is not a YAML value") from error
        *sections, last = key.split(".")
        node = values
        for section in sections:
            child = node.get(section)
            node[section] = node = dict(child) if isinstance(child, dict) else {}
        node[last] = value
    return config_from_dict(values)
