"""Builds frozen dataclasses from YAML and `key=value`; errors name the key, the value and what is allowed."""

from __future__ import annotations

import copy
import dataclasses
import difflib
import os
import sys
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml

from settings.errors import ConfigError
from settings.yaml_files import parse_yaml, read_yaml

T = TypeVar("T")
AUTO: Any = "auto"
AutoInt = Annotated[int, AUTO]
"""Type of a setting that is a whole number or `auto`. Type checkers take it for an int, because everything that runs
after `settings.recipe.fit` has replaced `auto` gets a number."""
COMMAND_LINE = "command line"
"""The name of the command line in messages, where a file is named by its path."""


def load_config(
    cls: type[T],
    path: str | Path | None = None,
    overrides: Iterable[str] = (),
    *,
    check: Callable[[T], None] = lambda config: None,
) -> T:
    """Builds `cls` from a YAML file, then applies `key=value` overrides, whose keys are dotted paths.

    Args:
        check: further checks of the settings; raises ConfigError.

    Raises:
        ConfigError: the file is missing or not valid YAML, or a key is unknown, or a type or value is wrong; the
            message says whether the file or the command line is at fault.
    """

    def build(tree: Any) -> T:
        config = from_dict(cls, tree, source=COMMAND_LINE)
        try:
            check(config)
        except ConfigError as error:
            raise ConfigError(f"{COMMAND_LINE}: {error}") from None
        return config

    tree = read_yaml(Path(path)) if path is not None else {}
    merged = copy.deepcopy(tree)
    for override in overrides:
        _apply_override(merged, override)
    try:
        return build(merged)
    except ConfigError as error:
        if path is not None and _mistake(build, tree) == str(error):  # the file alone has the same mistake
            raise ConfigError(f"{path}{str(error).removeprefix(COMMAND_LINE)}") from None
        raise


def _mistake(build: Callable[[Any], Any], tree: Any) -> str | None:
    """The message of the first mistake in the settings `tree`."""
    try:
        build(tree)
    except ConfigError as error:
        return str(error)
    return None


def from_dict(cls: type[T], tree: Any, *, source: str = "config", prefix: str = "") -> T:
    """Builds the dataclass `cls` from nested mappings and checks every key and type.

    Args:
        source: where the values come from, such as a file name; used in messages.
        prefix: dotted path of `cls` within the settings, ending in a dot; used in messages.

    Raises:
        ConfigError: a key is unknown or missing, or a type or value is wrong.
    """
    if not isinstance(tree, Mapping):
        raise ConfigError(
            f"{source}: {prefix.rstrip('.') or 'the top level'} must be a mapping, not {format_value(tree)}"
        )
    hints = typing.get_type_hints(cls, include_extras=True)
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for key in tree:
        if key not in fields:
            raise ConfigError(f"{source}: unknown key {format_key(prefix, key)}; {suggest(str(key), fields)}")
    values = {key: _convert(hints[key], value, source=source, key=prefix + key) for key, value in tree.items()}
    missing = [
        prefix + name
        for name, field in fields.items()
        if name not in values and field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise ConfigError(f"{source}: {', '.join(missing)} must be set")
    try:
        return cls(**values)
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from None


def pick(table: Mapping[str, T], name: str, key: str) -> T:
    """Returns `table[name]`.

    Raises:
        ConfigError: `table` has no such name; the message names the setting `key` and the allowed names.
    """
    if name not in table:
        raise ConfigError(f"{key}={format_value(name)} is not known; {suggest(name, table)}")
    return table[name]


def format_value(value: Any) -> str:
    """Formats a value for a message, as one line of bounded length."""
    try:
        text = repr(value)
    except ValueError:  # Python converts no integer of more than 4,300 digits
        return "a very long number"
    return text if len(text) <= 200 else f"{text[:120]}... ({len(text):,} characters)"


def format_key(prefix: str, key: Any) -> str:
    """Formats `prefix` and a key for a message: unchanged if printable and short, else as a Python literal."""
    text = prefix + str(key)
    return text if text.isprintable() and len(text) <= 100 else format_value(text)


def format_names(names: Iterable[str]) -> str:
    """Formats names for a message; the label names of a data set may contain any characters."""
    return ", ".join(format_key("", name) for name in names) or "none"


def to_dict(config: Any) -> dict[str, Any]:
    """Converts a tree of dataclasses to plain dicts, lists and scalars."""

    def plain(value: Any) -> Any:
        if isinstance(value, tuple):
            return [plain(item) for item in value]
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        return value

    return plain(dataclasses.asdict(config))


def to_yaml(config: Any) -> str:
    """Writes the configuration as YAML, from which `load_config` builds an equal object."""
    return yaml.safe_dump(to_dict(config), sort_keys=False)


def _apply_override(tree: dict[str, Any], override: str) -> None:
    dotted, equals, text = override.partition("=")
    if not equals or not dotted:
        raise ConfigError(
            f"{COMMAND_LINE}: {format_value(override)} is not of the form key=value, as in optim.lr=0.001"
        )
    value = parse_yaml(text, f"{COMMAND_LINE}: the value of {format_value(override)}")
    *parents, leaf = dotted.split(".")
    node: Any = tree
    for parent in parents:
        if node.get(parent) is None:
            node[parent] = {}
        node = node[parent]
        if not isinstance(node, dict):
            raise ConfigError(
                f"{COMMAND_LINE}: {format_value(override)}: {format_key('', parent)} is a single value, so it has no "
                "nested keys"
            )
    node[leaf] = value


def suggest(name: str, allowed: Iterable[str]) -> str:
    """Lists the allowed names for a message, after the most similar one if there is one."""
    allowed = sorted(allowed)
    near = difflib.get_close_matches(name, allowed, n=1)
    listing = f"allowed: {', '.join(allowed)}"
    return f"did you mean {near[0]}? ({listing})" if near else listing


def _convert(hint: Any, value: Any, *, source: str, key: str) -> Any:
    def wrong(expected: str) -> ConfigError:
        return ConfigError(f"{source}: {key} must be {expected}, not {format_value(value)}")

    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:  # AutoInt
        if value == AUTO:
            return value
        return _convert_scalar(int, value, lambda expected: wrong(f"{expected} or auto"))
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return from_dict(hint, {} if value is None else value, source=source, prefix=key + ".")
    if origin is Literal:
        if value not in arguments:
            raise wrong("one of " + ", ".join(map(str, arguments)))
        return value
    if origin in (typing.Union, types.UnionType):
        if value is None:
            return None
        return _convert(next(a for a in arguments if a is not type(None)), value, source=source, key=key)
    if origin is tuple and arguments[-1] is Ellipsis:
        if not isinstance(value, list | tuple):
            raise wrong("a list")
        return tuple(_convert(arguments[0], v, source=source, key=key) for v in value)
    if origin is tuple:
        if not isinstance(value, list | tuple) or len(value) != len(arguments):
            raise wrong(f"a list of {len(arguments)} values")
        return tuple(_convert(a, v, source=source, key=key) for a, v in zip(arguments, value, strict=True))
    if origin is dict:
        if not isinstance(value, dict):
            raise wrong("a mapping")
        try:
            yaml.safe_dump(value)  # a run saves its settings as config.yaml
        except (yaml.YAMLError, ValueError):
            raise wrong("a mapping of plain values") from None
        if arguments and dataclasses.is_dataclass(arguments[1]):
            return {
                name: from_dict(arguments[1], item, source=source, prefix=f"{format_key(f'{key}.', name)}.")  # type: ignore[arg-type]
                for name, item in value.items()
            }
        return dict(value)
    return _convert_scalar(hint, value, wrong)


def _convert_scalar(hint: Any, value: Any, wrong: Any) -> Any:
    if hint is float and isinstance(value, str):
        # PyYAML follows YAML 1.1, in which 1e-3 (without a decimal point) is a string.
        try:
            value = float(value)
        except ValueError:
            raise wrong("a number") from None
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        if not -sys.float_info.max <= value <= sys.float_info.max:  # neither infinite nor NaN
            raise wrong("a finite number")
        return float(value)
    if hint is int and isinstance(value, int) and not isinstance(value, bool):
        if not -(2**63) <= value < 2**63:
            raise wrong("a whole number that fits 64 bits")
        return value
    if hint is bool and isinstance(value, bool):
        return value
    if hint is str and isinstance(value, str | int | float) and not isinstance(value, bool):
        return _text(value, wrong)
    raise wrong({int: "a whole number", float: "a number", bool: "true or false", str: "text"}.get(hint, str(hint)))


def _text(value: str | int | float, wrong: Any) -> str:
    try:
        text = str(value)
        # The text may be a path: those contain no NUL, and a lone surrogate only for a byte that is not UTF-8.
        encoded = os.fsencode(text)
    except ValueError:
        raise wrong("text") from None
    if b"\0" in encoded:
        raise wrong("text without NUL characters")
    return text
