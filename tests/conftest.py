"""Fixtures that all tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data that the environment variable CMACC_DATA names; skips without it."""
    folder = os.environ.get("CMACC_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("CMACC_DATA names no folder of real data")
    return Path(folder)
