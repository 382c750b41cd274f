"""The processes in which the decord loader opens and decodes files: a file may crash, hang or exhaust one of them."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar

from pipeline.load.reference.raw_decoding import LIMITS
from pipeline.prepare.worker_process import WorkerDied
from pipeline.prepare.workers import WorkerPool, classify_failure, worker_pool

Result = TypeVar("Result")


@cache
def decoding_processes(workers: int) -> WorkerPool:
    """The pool of decoding processes, shared by all loaders of this process because it takes a second to start."""
    return worker_pool(workers, memory_mb=LIMITS.memory_mb)


def call_in_process(workers: int, function: Callable[..., Result], path: str, **arguments: Any) -> Result:
    """Calls `function(path, **arguments)` in one of the processes.

    Raises:
        ValueError: the function raised it, or the file crashed its process or went beyond a limit; it says which.
    """
    future = decoding_processes(workers).schedule(
        function, args=(path,), kwargs=arguments, timeout=LIMITS.timeout_seconds
    )
    try:
        return future.result()
    except (ValueError, TimeoutError, MemoryError, WorkerDied) as error:
        raise ValueError(str(classify_failure(error, LIMITS.timeout_seconds, LIMITS.memory_mb) or error)) from None
