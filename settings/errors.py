"""The error about a mistake in the configuration."""

from __future__ import annotations


class ConfigError(ValueError):
    """A mistake in the configuration; the message is meant for the user who wrote it."""


def require(condition: bool, message: str) -> None:
    """Raises ConfigError(message) unless `condition` holds; the settings classes check their values with it."""
    if not condition:
        raise ConfigError(message)
