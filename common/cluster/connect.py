"""Connects this process to a Ray cluster, or starts a Ray on this machine that ends with this process."""

from __future__ import annotations

import logging
import os
import signal
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

from common.cluster.engine import ClusterError
from common.environment import ROOT, available_cores
from common.phases import begin
from common.signals import before_end

_CONNECT_SECONDS = 60.0
"""Time in seconds within which a cluster must accept this process."""
_OBJECT_STORE = 100 * 2**20
"""Bytes of shared memory of a Ray that is started here; tasks and results are small, and travel without it."""


@contextmanager
def connected(address: str | None) -> Iterator[None]:
    """Connects this process to the cluster, or starts a Ray that ends with this process, however that ends."""
    import ray

    if ray.is_initialized():
        yield
        return
    # Ray would otherwise report to its makers, and warn that a later version will handle GPUs in another way.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    options: dict[str, Any] = {
        "job_config": ray.job_config.JobConfig(code_search_path=[str(ROOT)]),
        "log_to_driver": False,
        "logging_level": logging.ERROR,
    }
    handler = signal.getsignal(signal.SIGTERM)
    is_here = address in (None, "local")
    # The agents of a Ray that was started here outlive it by a minute.
    with before_end(_kill_descendants) if is_here else nullcontext():
        if is_here:
            begin("starting Ray on this machine")
            _start(**options)
        else:
            begin(f"connecting to the Ray cluster at {address}")
            _connect(address=address, **options)
        with suppress(ValueError):  # not the main thread, in which alone Ray has changed the handler
            signal.signal(signal.SIGTERM, handler)
        try:
            yield
        finally:
            ray.shutdown()


def _start(**options: Any) -> None:
    import ray

    cores, store = available_cores(), _OBJECT_STORE
    try:
        ray.init(address="local", num_cpus=cores, include_dashboard=False, object_store_memory=store, **options)
    except Exception as error:
        raise ClusterError(f"Ray cannot be started on this machine: {last_line(error)}") from None


def _kill_descendants() -> None:
    """Kills all processes that this process has started, and theirs."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, ValueError, IndexError):
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(folder.name))
    found = children.get(os.getpid(), [])
    for process in found:  # grows
        found += children.get(process, [])
    for process in found:
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)


def _connect(**options: Any) -> None:
    """Connects within `_CONNECT_SECONDS`; in a thread, because Ray has no such limit, and takes over SIGTERM."""
    import ray

    errors: list[Exception] = []

    def connect() -> None:
        try:
            ray.init(**options)
        except Exception as error:
            errors.append(error)

    logging.getLogger("ray._private.worker").setLevel(logging.ERROR)
    thread = threading.Thread(target=connect, name="ray", daemon=True)
    thread.start()
    thread.join(_CONNECT_SECONDS)
    address = options["address"]
    if thread.is_alive():
        raise ClusterError(f"the Ray cluster at {address} does not answer within {_CONNECT_SECONDS:g} s")
    if errors:
        raise ClusterError(f"cannot use the Ray cluster at {address}: {last_line(errors[0])}")


def last_line(error: BaseException) -> str:
    """The last line of a message of Ray, which has many; it says what went wrong."""
    lines = "".join(traceback.format_exception_only(error)).strip().splitlines()
    return next((line.strip() for line in reversed(lines) if line.strip()), type(error).__name__)
