"""The writer of small media files that the tests of preparation use."""

from __future__ import annotations

from tests.pipeline.prepare.conftest import media

__all__ = ["media"]
