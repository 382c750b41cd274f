"""Waits until all processes of a run have started, and says which are missing."""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from datetime import timedelta
from pathlib import Path

from torch.distributed import Store, TCPStore
from torch.distributed.rendezvous import rendezvous

from settings import ConfigError
from training.ranks.errors import RankError

PATIENCE = 10.0
"""Seconds before the first message about processes that are missing."""
VARIABLES = "RANK WORLD_SIZE LOCAL_RANK LOCAL_WORLD_SIZE MASTER_ADDR MASTER_PORT"
_ADVICE = (
    "start all of them, on one machine with: torchrun --standalone --nproc_per_node={size} train.py ...; to train in "
    f"one process, run: unset {VARIABLES}"
)


def whole_number(name: str, default: int) -> int:
    """Returns an environment variable as a number of at least 0.

    Raises:
        ConfigError: the variable has any other value.
    """
    text = os.environ.get(name, "") or str(default)
    if not (text.isascii() and text.isdecimal()):
        raise ConfigError(
            f"the environment variable {name} must be a whole number, not {text!r}; torchrun sets it. To train in one "
            f"process, run: unset {VARIABLES}"
        )
    return int(text)


def address(size: int) -> tuple[str, int]:
    """Returns the host and port where the processes meet.

    Raises:
        ConfigError: the environment does not name them.
    """
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        if not os.environ.get(name):
            advice = _ADVICE.format(size=size)
            raise ConfigError(f"WORLD_SIZE={size}, but {name} is not set, so the processes cannot meet: {advice}")
    return os.environ["MASTER_ADDR"], whole_number("MASTER_PORT", 0)


def open_store(*, rank: int, size: int, timeout: float) -> Store:
    """Opens the store through which the processes meet; rank 0 hosts it, unless torchrun does.

    Raises:
        ConfigError: the environment variables do not name its host and port.
        RankError: rank 0 cannot be reached within `timeout` seconds, or cannot open the port.
    """
    host, port = address(size)
    limit = timedelta(seconds=timeout)
    advice = _ADVICE.format(size=size)
    notice = threading.Timer(
        PATIENCE, _say, [f"rank {rank} of {size} waits for rank 0 at {host}:{port}, which does not answer: {advice}"]
    )
    notice.daemon = True
    notice.start()
    try:
        if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
            return next(rendezvous("env://", timeout=limit))[0]
        # rendezvous is not used here, because in it rank 0 would wait for the others without a message.
        return TCPStore(
            host, port, is_master=rank == 0, timeout=limit, wait_for_workers=False, multi_tenant=True
        )  # fmt: skip
    except (RuntimeError, ValueError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise RankError(
            f"rank {rank} of {size} cannot {'open' if rank == 0 else 'reach'} {host}:{port}, where the processes meet "
            f"({reason}): {advice}"
        ) from None
    finally:
        notice.cancel()


def roll_call(store: Store, *, rank: int, size: int, timeout: float, key: str = "arrived") -> None:
    """Returns when all `size` processes have called it; after `PATIENCE` seconds one of them prints which are missing.

    Raises:
        RankError: some are still missing after `timeout` seconds.
    """
    store.set(f"{key} {rank}", socket.gethostname())
    started, said, missing = time.monotonic(), False, list(range(size))
    while missing := [other for other in missing if not store.check([f"{key} {other}"])]:
        waited = time.monotonic() - started
        if waited >= timeout:
            raise RankError(
                f"gave up after {timeout:g} s (train.timeout_seconds): {_absence(store, missing, size, key)}"
            )
        # Only one process prints the message: the one with the lowest rank of those that have arrived.
        if waited >= PATIENCE and not said and not any(other < rank for other in range(size) if other not in missing):
            said = True
            _say(_absence(store, missing, size, key))
        time.sleep(0.05)


def ranks(numbers: list[int]) -> str:
    """Formats ranks as "rank 3" or "ranks 1-3, 7"."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][-1] + 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    shown = ", ".join(f"{part[0]}-{part[-1]}" if len(part) > 1 else str(part[0]) for part in parts)
    return f"rank{'s' if len(numbers) > 1 else ''} {shown}"


def _absence(store: Store, missing: list[int], size: int, key: str) -> str:
    here = [other for other in range(size) if other not in missing]
    hosts = sorted({store.get(f"{key} {other}").decode(errors="replace") for other in here})
    return (
        f"waiting for {ranks(missing)} of {size} (WORLD_SIZE={size}): only {ranks(here)} started, on "
        f"{', '.join(hosts)}; {_ADVICE.format(size=size)}"
    )


def _say(text: str) -> None:
    print(f"{Path(sys.argv[0]).name}: {text}", file=sys.stderr, flush=True)
