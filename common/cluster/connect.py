"""Connects this process to a Ray cluster, or starts one on this machine alone that ends with this process."""

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
"""Bytes of shared memory for Ray on this machine: little, because tasks and results are small and do not use it."""


@contextmanager
def connected(address: str | None) -> Iterator[None]:
    """Within this context, this process is connected to the cluster at `address`.

    If `address` is None or "local", Ray is started on this machine. It ends with the context, or with the process if
    that ends first, however it ends.

    Raises:
        ClusterError: the cluster cannot be used, or Ray cannot be started.
    """
    import ray

    if ray.is_initialized():  # by the caller
        yield
        return
    # Ray would otherwise send usage statistics to its developers, and warn that GPUs will be handled differently.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    options: dict[str, Any] = {
        "job_config": ray.job_config.JobConfig(code_search_path=[str(ROOT)]),
        "log_to_driver": False,
        "logging_level": logging.ERROR,
    }
    handler = signal.getsignal(signal.SIGTERM)
    is_local = address in (None, "local")
    # A signal ends this process without ray.shutdown, and then some of Ray's processes would outlive it by a minute.
    with before_end(_kill_descendants) if is_local else nullcontext():
        if is_local:
            begin("starting Ray on this machine")
            _start(**options)
        else:
            begin(f"connecting to the Ray cluster at {address}")
            _connect(address=address, **options)
        with suppress(ValueError):  # outside the main thread, where Ray has not changed the handler either
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
    """Kills all child processes of this process, their children, and so on."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, ValueError, IndexError):
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(folder.name))
    found = children.get(os.getpid(), [])
    for process in found:  # a list that grows in this loop, until it holds all descendants
        found += children.get(process, [])
    for process in found:
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)


def _connect(**options: Any) -> None:
    """Connects within `_CONNECT_SECONDS`: in a thread, because `ray.init` itself has no such limit.

    In a thread it also cannot replace the handler of SIGTERM while it waits.
    """
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
        raise ClusterError(f"the Ray cluster at {address} did not answer within {_CONNECT_SECONDS:g} s")
    if errors:
        raise ClusterError(f"cannot use the Ray cluster at {address}: {last_line(errors[0])}")


def last_line(error: BaseException) -> str:
    """The last line of an error message, which in Ray's long messages says what went wrong."""
    lines = "".join(traceback.format_exception_only(error)).strip().splitlines()
    return next((line.strip() for line in reversed(lines) if line.strip()), type(error).__name__)
