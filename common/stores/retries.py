"""Retries requests after temporary failures: an unreachable server, a stalled connection, an HTTP error 500."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from typing import TypeVar

from common.stores.errors import StoreUnreachable, without_secrets

_log = logging.getLogger(__name__)

RETRY_SECONDS = 120.0
"""Time in seconds after which a request that keeps failing is given up. It is less than the default of
train.timeout_seconds, after which the other processes of a run stop waiting for this one."""
FIRST_PAUSE, PAUSE_LIMIT = 0.1, 5.0
"""Longest pause in seconds after the first failure; each further failure doubles it, up to the limit."""

T = TypeVar("T")


class TemporaryError(Exception):
    """A request failed, and may succeed if it is repeated."""


def retrying(request: Callable[[], T], what: str) -> T:
    """Returns `request()`, retried with exponential backoff and jitter while it raises TemporaryError.

    Args:
        what: what the request does, as in "read s3://bucket/key", for messages.

    Raises:
        StoreUnreachable: it still fails after RETRY_SECONDS.
        StoreError: it failed permanently.
    """
    began, pause, warned = time.monotonic(), FIRST_PAUSE, False
    while True:
        try:
            return request()
        except TemporaryError as error:
            reason = without_secrets(str(error))
        elapsed = time.monotonic() - began
        if elapsed + pause > RETRY_SECONDS:
            raise StoreUnreachable(f"cannot {what}: {reason}; gave up after {elapsed:.0f} s of retries")
        if not warned and elapsed > PAUSE_LIMIT:
            _log.warning("cannot %s: %s; retrying for up to %.0f s", what, reason, RETRY_SECONDS - elapsed)
            warned = True
        time.sleep(pause * random.uniform(0.5, 1.0))
        pause = min(2 * pause, PAUSE_LIMIT)
