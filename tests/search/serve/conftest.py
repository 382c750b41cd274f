"""A server on a port of this machine, and a browser."""

from __future__ import annotations

import http.client
import json
import shutil
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from search.serve.run import make_server
from tests.search.conftest import Collection
from tests.search.serve.browser import Browser


@dataclass(frozen=True)
class Live:
    """A running server."""

    port: int

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    def request(
        self, path: str, *, method: str = "GET", body: Any = None, headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        """Status, headers (lower-case names) and body of an answer; the path is sent as it is."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, body=body, headers=headers or {})
            response = connection.getresponse()
            return response.status, {k.lower(): v for k, v in response.getheaders()}, response.read()
        finally:
            connection.close()

    def json(self, path: str, **options: Any) -> tuple[int, Any]:
        status, _, body = self.request(path, **options)
        return status, json.loads(body)


@contextmanager
def serving(
    index: Path, *, run: Path | None, root: Path | None, token: str | None = None, max_upload: int = 2**22
) -> Iterator[Live]:
    """Runs a server in a thread."""
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    ready = threading.Event()
    with make_server(
        index,
        listening,
        run=run,
        no_encoder="" if run else "there are no encoders here",
        root=root,
        token=token,
        workers=1,
        max_upload=max_upload,
        ready=ready.set,
    ) as server:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        assert ready.wait(30)
        try:
            yield Live(port=listening.getsockname()[1])
        finally:
            server.should_exit = server.force_exit = True
            thread.join(20)
    listening.close()


@pytest.fixture(scope="session")
def live(collection: Collection) -> Iterator[Live]:
    """A server of the collection."""
    with serving(collection.index, run=collection.run, root=collection.videos) as found:
        yield found


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """Chromium; skips the test where there is none."""
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        pytest.skip("no chromium on this machine")
    found = Browser(program, tmp_path_factory.mktemp("profile"))
    yield found
    found.close()
