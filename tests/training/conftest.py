"""Fixtures of the training tests."""

from __future__ import annotations

import pytest

from settings import Config
from tests.training.small_run import small_config


@pytest.fixture
def config() -> Config:
    return small_config()
