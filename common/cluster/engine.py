"""The options with which a command runs its tasks on a Ray cluster instead of this machine alone.

Needs only the standard library, so that a command can refuse a wrong option before anything slow is imported.
"""

from __future__ import annotations

import argparse
import os
import socket
from dataclasses import dataclass

from common.environment import MissingPackage, missing_packages

INSTALL = "pip install -r requirements-cluster.txt"
"""The command that installs Ray."""
_REACH_SECONDS = 10.0
"""Time in seconds within which a machine at --address must accept a connection."""


class ClusterError(Exception):
    """The cluster cannot be used; the message is meant for the user."""


@dataclass(frozen=True, kw_only=True)
class RayEngine:
    """Where tasks run, and what each of them needs.

    Attributes:
        address: of a running cluster, as HOST:PORT or `auto`; None for a Ray of this machine alone, which is started.
        cpus: CPU cores that one task occupies; None for the command's own choice.
        memory_mb: memory in MiB that one task occupies; 0 if only cores count.
        most: largest number of tasks at the same time; None for as many as the cluster has room for.
    """

    address: str | None = None
    cpus: int | None = None
    memory_mb: int = 0
    most: int | None = None


def add_engine_options(parser: argparse.ArgumentParser, *, task: str, cores: str) -> None:
    """Adds --engine and the options that go with it; `task` says what one task is, `cores` how many it takes."""
    parser.add_argument(
        "--engine", choices=("local", "ray"), default="local", help="this machine, or a Ray cluster (docs/cluster.md)"
    )
    parser.add_argument("--address", metavar="HOST:PORT", help="a running Ray cluster (default: Ray on this machine)")
    parser.add_argument(
        "--task-cpus", type=_positive, metavar="N", help=f"cores per {task} on a cluster (default: {cores})"
    )
    parser.add_argument(
        "--task-memory", type=_positive, metavar="MB", help=f"memory per {task} that a node must have free"
    )


def ray_engine(options: argparse.Namespace, *, most: int | None = None) -> RayEngine | None:
    """Returns what the options of `add_engine_options` ask for; None for --engine local.

    Args:
        most: largest number of tasks at the same time, if it is limited.

    Raises:
        ClusterError: the options do not go together, or nothing answers at the address.
        MissingPackage: Ray is not installed.
    """
    given = {"--address": options.address, "--task-cpus": options.task_cpus, "--task-memory": options.task_memory}
    if options.engine == "local":
        if names := [name for name, value in given.items() if value is not None]:
            raise ClusterError(f"{' and '.join(names)} only go with --engine ray")
        return None
    if missing_packages("ray"):
        raise MissingPackage(f"--engine ray needs Ray, which is not installed; install it with: {INSTALL}")
    # `ray job submit` runs a command on the cluster's head with the address in this variable.
    address = options.address or os.environ.get("RAY_ADDRESS") or None
    if address is not None:
        _check_address(address)
    return RayEngine(address=address, cpus=options.task_cpus, memory_mb=options.task_memory or 0, most=most)


def _check_address(address: str) -> None:
    if address in ("auto", "local"):
        return
    if "://" in address:
        raise ClusterError(
            f"--address must be HOST:PORT of the cluster, such as 10.0.0.1:6379, or auto, not {address}; from outside "
            "the cluster use: ray job submit --address http://HOST:8265 -- python -m ..."
        )
    host, _, port = address.rpartition(":")
    if not (host and port.isdecimal() and 0 < int(port) < 2**16):
        raise ClusterError(f"--address must be HOST:PORT, such as 10.0.0.1:6379, or auto, not {address}")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_REACH_SECONDS).close()
    except OSError as error:
        raise ClusterError(
            f"no Ray cluster answers at {address} ({error.strerror or error}); `ray status` on its head says whether "
            "it runs"
        ) from None


def _positive(text: str) -> int:
    if text.isdecimal() and int(text) > 0:
        return int(text)
    raise argparse.ArgumentTypeError(f"must be a positive whole number, not {text!r}")
