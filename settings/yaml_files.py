"""Reads YAML of bounded size, whatever a file holds."""

from __future__ import annotations

import errno
import itertools
import stat
from pathlib import Path
from typing import Any

import yaml

from settings.errors import ConfigError

_MAX_VALUES = 10_000
"""Largest number of values in a YAML document: aliases can turn a few lines into billions, or into a cycle."""
_MAX_CHARACTERS = 2**18
"""Largest length of a YAML document, which PyYAML reads at less than 1 MB/s."""


def read_yaml(path: Path) -> dict[str, Any]:
    """Reads a YAML file whose top level is a mapping.

    Raises:
        ConfigError: the file cannot be read, or holds something else.
    """
    try:
        text = read_start(path, _MAX_CHARACTERS + 1)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the configuration {path}: {error}") from None
    tree = parse_yaml(text, str(path))
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: the top level must be a mapping of keys to values, not {type(tree).__name__}")
    return tree


def read_start(path: Path, characters: int) -> str:
    """Returns at most this many characters of a text file in UTF-8.

    Raises:
        OSError: it cannot be read, or is not a regular file (reading a pipe or a device may never end).
        UnicodeDecodeError: it is not UTF-8.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    with path.open(encoding="utf-8") as file:
        return file.read(characters)


def parse_yaml(text: str, what: str) -> Any:
    """Parses YAML of bounded length and with a bounded number of values; `what` describes the text in messages.

    Raises:
        ConfigError: it is too long, too deep, not valid, or holds too many values after aliases are followed.
    """
    if len(text) > _MAX_CHARACTERS:
        raise ConfigError(f"{what} is longer than {_MAX_CHARACTERS:,} characters")
    try:
        loader = yaml.SafeLoader(text)
        # Counted before values are made of the nodes, because merge keys (<<) copy what an alias refers to.
        node = loader.get_single_node()
        _require_few_nodes(node, what)
        return None if node is None else loader.construct_document(node)
    except ConfigError:
        raise
    except RecursionError:
        raise ConfigError(f"{what} is nested too deeply") from None
    except Exception as error:  # PyYAML raises many types where a scalar does not fit its tag
        raise ConfigError(f"{what} is not valid YAML: {' '.join(str(error).split())}") from None


def _require_few_nodes(root: yaml.Node | None, what: str) -> None:
    waiting, visited = [root], 0
    while waiting:
        node = waiting.pop()
        visited += 1
        if isinstance(node, yaml.MappingNode):
            waiting += itertools.chain.from_iterable(node.value)
        elif isinstance(node, yaml.SequenceNode):
            waiting += node.value
        if visited + len(waiting) > _MAX_VALUES:
            raise ConfigError(f"{what} holds more than {_MAX_VALUES:,} values, or a value that contains itself")
