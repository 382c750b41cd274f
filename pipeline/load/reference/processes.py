"""The processes in which the decord loader decodes files: a damaged file may crash one, hang it or fill its memory."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar

from pipeline.load.reference.raw_decoding import LIMITS
from pipeline.plan.bad_samples import SampleError
from pipeline.prepare.workers.pool import WorkerPool, WorkersCannotStart, classify_failure, worker_pool
from pipeline.prepare.workers.process import WorkerDied

Result = TypeVar("Result")


@cache
def decoding_processes(workers: int) -> WorkerPool:
    """The pool of decoding processes, shared by all loaders of this process because it takes a second to start."""
    return worker_pool(workers, memory_mb=LIMITS.memory_mb)


def call_in_process(workers: int, function: Callable[..., Result], path: str, **arguments: Any) -> Result:
    """Calls `function(path, **arguments)` in one of the processes.

    Raises:
        ValueError: the function raised it, or the file crashed its process or exceeded a limit; the message says which.
        SampleError: no process can be started, which is not the fault of the file.
    """
    try:
        pool = decoding_processes(workers)
        return pool.schedule(function, args=(path,), kwargs=arguments, timeout=LIMITS.timeout_seconds).result()
    except WorkersCannotStart as error:
        raise SampleError(str(error)) from None
    except (ValueError, TimeoutError, MemoryError, WorkerDied) as error:
        raise ValueError(str(classify_failure(error, LIMITS.timeout_seconds, LIMITS.memory_mb) or error)) from None
