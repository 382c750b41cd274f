"""Starts the server: workers, encoders, index, and uvicorn with its limits."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import uvicorn

from common.environment import available_cores
from common.phases import begin
from pipeline.prepare.workers.pool import worker_pool
from search.decoding import MEMORY_MB
from search.index.folder import read_head
from search.query.encode import QueryEncoder
from search.serve.app import make_app
from search.serve.limits import DECODE_SECONDS, QUERY_SECONDS, REQUEST_SECONDS, LimitedProtocol
from search.serve.service import Service


class Server(uvicorn.Server):
    """Uvicorn's server, which calls `ready` when it accepts connections."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leaves Ctrl-C and SIGTERM to the command, which ends at once: nothing has to be saved."""
        yield


@contextmanager
def make_server(
    folder: Path,
    listening: socket.socket,
    *,
    run: Path | None,
    no_encoder: str,
    root: Path | None,
    token: str | None,
    workers: int,
    max_upload: int,
    ready: Callable[[], None],
) -> Iterator[Server]:
    """Makes the server, whose workers end with the context.

    Args:
        listening: the bound socket, which `Server.run` needs as well.
        run: run whose encoders encode files; None if files cannot be searched for, for the reason `no_encoder`.
        root: folder of the sources, or None.
        token: see `Guard`.
        max_upload: largest file to search by, in bytes.
        ready: called when connections are accepted.

    Raises:
        SearchIndexError, CheckpointError, ConfigError: the index or the run cannot be used.
    """
    torch.set_num_threads(max(1, available_cores() // workers))
    pools = [worker_pool(workers, memory_mb=MEMORY_MB) for _ in range(2)]
    try:
        encoder = None
        if run is not None:
            begin(f"reading the encoders of {run}")
            encoder = QueryEncoder(
                run,
                fingerprint=read_head(folder).model["fingerprint"],
                workers=pools[0],
                max_seconds=QUERY_SECONDS,
                timeout_seconds=DECODE_SECONDS,
            )
        begin("opening the index")
        service = Service(folder, encoder=encoder, no_encoder=no_encoder, root=root, frames=pools[1], searches=workers)
        port = listening.getsockname()[1]
        hosts = None if token else [f"{name}:{port}" for name in ("127.0.0.1", "localhost", "[::1]")]
        app = make_app(service, hosts=hosts, token=token, max_upload=max_upload)
        config = uvicorn.Config(
            app,
            http=LimitedProtocol,
            ws="none",
            lifespan="off",
            log_level="error",
            access_log=False,
            server_header=False,
            timeout_keep_alive=int(REQUEST_SECONDS),
        )
        yield Server(config, ready)
    finally:
        for pool in pools:
            pool.stop()
