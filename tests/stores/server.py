"""An S3 server on the loopback interface that can be slow, fail, stall and be restarted, for tests.

Moto keeps the objects in this process's memory. A layer around it injects the faults and records the requests.
"""

from __future__ import annotations

import io
import os
import random
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moto.backends import get_backend
from moto.server import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import BaseWSGIServer, make_server

ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "test-key-id",
    "AWS_SECRET_ACCESS_KEY": "test-secret-that-no-output-may-hold",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_CONFIG_FILE": "/dev/null",
    "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
}
"""The variables with which a process reaches the server, besides AWS_ENDPOINT_URL, which names its port."""


@dataclass
class Faults:
    """What goes wrong; a test may change the fields at any time.

    Attributes:
        latency: seconds before each answer.
        errors: share of the requests that fail, by turns with status 500, status 503, a connection that is reset
            before the answer, and one that is reset in the middle of the body.
        stalls: share of the requests whose answer stops in the middle for `stall_seconds`.
        denied: whether every request is refused with status 403.
        only: the faults concern only the requests for which this returns true; all by default.
    """

    latency: float = 0.0
    errors: float = 0.0
    stalls: float = 0.0
    stall_seconds: float = 60.0
    denied: bool = False
    only: Callable[[Request], bool] | None = None


@dataclass(frozen=True)
class Request:
    """A request that was received: GET, HEAD, PUT, POST or DELETE, the path (/BUCKET/KEY), and the fault it met."""

    method: str
    path: str
    query: str
    range: str
    fault: str


class Handler(MotoRequestHandler):
    """Keeps connections open and prints nothing."""

    protocol_version = "HTTP/1.1"

    def make_environ(self) -> dict[str, Any]:
        return super().make_environ() | {"test.connection": self.connection}

    def log(self, *_: Any) -> None:
        pass


class StoreServer:
    """The server; `start` and `stop` may be called repeatedly, and the objects stay, as after a restart.

    Attributes:
        faults: what goes wrong.
        requests: what was received so far, in order.
    """

    def __init__(self) -> None:
        self.faults = Faults()
        self.requests: list[Request] = []
        self._moto = DomainDispatcherApplication(create_backend_app)
        self._random, self._turn = random.Random(0), 0
        self._lock = threading.Lock()
        self._connections: set[socket.socket] = set()
        self._port = self._buckets = 0
        self._server: BaseWSGIServer | None = None
        self._ended = threading.Event()

    @property
    def url(self) -> str:
        """The endpoint, for AWS_ENDPOINT_URL."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def environment(self) -> dict[str, str]:
        """The variables with which a process reaches the server."""
        return ENVIRONMENT | {"AWS_ENDPOINT_URL": self.url}

    def start(self) -> None:
        self._ended = threading.Event()
        self._server = make_server("127.0.0.1", self._port, self._answer, threaded=True, request_handler=Handler)
        self._server.daemon_threads = True
        self._port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, args=(0.02,), name="s3-server", daemon=True).start()

    def stop(self) -> None:
        """Refuses connections from now on, and resets those that are open, even in the middle of an answer."""
        assert self._server is not None
        self._ended.set()
        self._server.shutdown()
        self._server.server_close()
        self._server = None
        with self._lock:
            connections, self._connections = self._connections, set()
        for connection in connections:
            _reset(connection)

    def restart(self, *, down_seconds: float = 0.0) -> None:
        """Stops, and starts again at the same port after some seconds; returns when it runs."""
        self.stop()
        time.sleep(down_seconds)
        self.start()

    def begin_test(self) -> None:
        """Ends all faults, forgets the requests, and runs if it was stopped."""
        if self._server is None:
            self.start()
        self.faults, self.requests = Faults(), []
        self._random, self._turn = random.Random(0), 0

    def make_bucket(self) -> str:
        """Makes an empty bucket with a new name and returns its URL, s3://NAME."""
        self._buckets += 1
        name = f"bucket-{os.getpid()}-{self._buckets}"
        self._backend.create_bucket(name, "us-east-1")
        return f"s3://{name}"

    def objects(self, url: object) -> dict[str, bytes]:
        """Returns the objects below s3://BUCKET/PREFIX by the rest of their key; this look-up is no request."""
        bucket, _, prefix = str(url).removeprefix("s3://").partition("/")
        prefix = prefix and prefix.rstrip("/") + "/"
        keys = self._backend.buckets[bucket].keys
        return {key.removeprefix(prefix): keys[key].value for key in sorted(keys) if key.startswith(prefix)}

    def put(self, url: object, content: bytes) -> None:
        """Stores an object at s3://BUCKET/KEY; this is no request."""
        bucket, _, key = str(url).removeprefix("s3://").partition("/")
        self._backend.put_object(bucket, key, content)

    def delete(self, url: object) -> None:
        """Deletes an object, if it exists; this is no request."""
        bucket, _, key = str(url).removeprefix("s3://").partition("/")
        self._backend.delete_object(bucket, key)

    def put_folder(self, folder: Path, url: object) -> None:
        """Stores the files of a folder below s3://BUCKET/PREFIX; these are no requests."""
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                self.put(f"{url}/{path.relative_to(folder).as_posix()}", path.read_bytes())

    def count(self, method: str | None = None, *, path: str = "", query: str = "") -> int:
        """The number of requests so far with this method, and with these texts in the path and the query."""
        return sum(
            method in (None, request.method) and path in request.path and query in request.query
            for request in list(self.requests)
        )

    @property
    def _backend(self) -> Any:
        return get_backend("s3")["123456789012"]["aws"]

    def _answer(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        connection = environ["test.connection"]
        request = Request(
            method=environ["REQUEST_METHOD"],
            path=environ["PATH_INFO"],
            query=environ["QUERY_STRING"],
            range=environ.get("HTTP_RANGE", ""),
            fault="",
        )
        with self._lock:
            self._connections.add(connection)
            request = Request(**{**vars(request), "fault": self._fault(request)})
            self.requests.append(request)
        concerned = self.faults.only is None or self.faults.only(request)
        if self.faults.latency and concerned:
            self._ended.wait(self.faults.latency)
        # A client sends the next request on this connection only after the server has read the whole of this one.
        chunked = environ.get("HTTP_TRANSFER_ENCODING") == "chunked"
        body = environ["wsgi.input"].read(*([] if chunked else [int(environ.get("CONTENT_LENGTH") or 0)]))
        if request.fault in ("403", "500", "503"):
            return _error(request.fault, start_response, head=request.method == "HEAD")
        if request.fault == "reset":
            raise self._broken(connection)
        environ["wsgi.input"] = io.BytesIO(body)
        parts = self._moto(environ, start_response)
        return self._hindered(b"".join(parts), request.fault, connection)

    def _fault(self, request: Request) -> str:
        faults = self.faults
        if faults.only is not None and not faults.only(request):
            return ""
        if faults.denied:
            return "403"
        if self._random.random() < faults.errors:
            self._turn += 1
            return ("500", "503", "reset", "cut")[self._turn % 4]
        return "stall" if self._random.random() < faults.stalls else ""

    def _hindered(self, content: bytes, fault: str, connection: socket.socket) -> Iterator[bytes]:
        if fault not in ("cut", "stall"):
            yield content
            return
        # The request was carried out. Of an answer without a body, not even the headers arrive.
        if content:
            yield content[: len(content) // 2]
        if fault == "cut":
            raise self._broken(connection)
        if self._ended.wait(self.faults.stall_seconds):
            raise self._broken(connection)
        yield content[len(content) // 2 :]

    def _broken(self, connection: socket.socket) -> ConnectionError:
        _reset(connection)
        return ConnectionResetError("injected")


_CODES = {"403": "AccessDenied", "500": "InternalError", "503": "SlowDown"}


def _error(status: str, start_response: Callable[..., Any], *, head: bool) -> list[bytes]:
    content = f"<Error><Code>{_CODES[status]}</Code><Message>injected</Message></Error>".encode()
    headers = [("Content-Type", "application/xml"), ("Content-Length", "0" if head else str(len(content)))]
    start_response(f"{status} {_CODES[status]}", headers)
    return [] if head else [content]


def _reset(connection: socket.socket) -> None:
    """Closes a connection so that the client sees a reset."""
    try:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.shutdown(socket.SHUT_RDWR)
        connection.close()
    except OSError:  # the client has closed it already
        pass
