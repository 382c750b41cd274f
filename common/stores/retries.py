"""Repeats requests that fail for a while: an unreachable server, a stalled connection, an error 500."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from typing import TypeVar

from common.stores.errors import StoreUnreachable, without_secrets

_log = logging.getLogger(__name__)

RETRY_SECONDS = 120.0
"""Time in seconds after which a request that keeps failing is given up. It is below the default of
train.timeout_seconds, after which the other processes of a run would give up on this one."""
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0
"""Pause in seconds after the first failure, and the limit up to which each further failure doubles it."""

T = TypeVar("T")


class TemporaryError(Exception):
    """A request failed, and may succeed if it is repeated."""


def retrying(request: Callable[[], T], what: str) -> T:
    """Returns `request()`, repeated with growing random pauses for as long as it raises TemporaryError.

    Args:
        what: what the request does, as in "read s3://bucket/key", for messages.

    Raises:
        StoreUnreachable: it still fails after RETRY_SECONDS.
        StoreError: it failed with an error that lasts.
    """
    began, pause, warned = time.monotonic(), FIRST_PAUSE, False
    while True:
        try:
            return request()
        except TemporaryError as error:
            reason = without_secrets(str(error))
        elapsed = time.monotonic() - began
        if elapsed + pause > RETRY_SECONDS:
            raise StoreUnreachable(f"cannot {what}: {reason}; gave up after {elapsed:.0f} s of attempts")
        if not warned and elapsed > LONGEST_PAUSE:
            _log.warning("cannot %s: %s; trying again for %.0f s", what, reason, RETRY_SECONDS - elapsed)
            warned = True
        time.sleep(pause * random.uniform(0.5, 1.0))
        pause = min(2 * pause, LONGEST_PAUSE)
