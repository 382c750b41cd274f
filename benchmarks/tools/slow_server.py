"""A read-only S3 server over a folder that answers every request late, for measurements.

    python -m benchmarks.tools.slow_server FOLDER --latency 0.02

It prints its address when it listens. The bucket's name does not matter. It answers HEAD, GET with a range, and
ListObjectsV2, and checks no signature.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

ENVIRONMENT = {"AWS_ACCESS_KEY_ID": "any", "AWS_SECRET_ACCESS_KEY": "any", "AWS_REGION": "us-east-1"}
"""Variables with which a client reaches the server, besides AWS_ENDPOINT_URL."""


@contextmanager
def slow_server(folder: Path, *, latency: float) -> Iterator[dict[str, str]]:
    """Runs the server in a process of its own, and yields the environment variables that lead clients to it.

    Args:
        latency: seconds before each answer.
    """
    command = [sys.executable, "-m", "benchmarks.tools.slow_server", str(folder), "--latency", str(latency)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield {**ENVIRONMENT, "AWS_ENDPOINT_URL": process.stdout.readline().strip()}
        finally:
            process.terminate()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 1024
    folder = Path()
    latency = 0.0


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = 65536
    disable_nagle_algorithm = True
    server: _Server

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        time.sleep(self.server.latency)
        url = urlsplit(self.path)
        query = parse_qs(url.query)
        if "list-type" in query:
            self._list(query.get("prefix", [""])[0])
            return
        path = self.server.folder / unquote(url.path).strip("/").partition("/")[2]
        if not path.is_file():
            self._send(404, b"<Error><Code>NoSuchKey</Code></Error>", body=body)
            return
        size, start = path.stat().st_size, 0
        stop, status = size, 200
        if wanted := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            start, stop, status = int(wanted[1]), min(size, int(wanted[2] or size) + 1), 206
        self.send_response(status)
        self.send_header("Content-Length", str(stop - start))
        self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{size}")
        self.send_header("ETag", f'"{path.stat().st_mtime_ns:x}"')
        self.send_header("Last-Modified", "Wed, 21 Oct 2015 07:28:00 GMT")
        self.end_headers()
        if body:
            self.wfile.flush()
            with path.open("rb") as file:
                while start < stop:
                    start += os.sendfile(self.connection.fileno(), file.fileno(), start, stop - start)

    def _list(self, prefix: str) -> None:
        entries = []
        for path in sorted(self.server.folder.rglob("*")):
            key = path.relative_to(self.server.folder).as_posix()
            if path.is_file() and key.startswith(prefix):
                entries.append(
                    f"<Contents><Key>{escape(key)}</Key><Size>{path.stat().st_size}</Size>"
                    f"<ETag>{path.stat().st_mtime_ns:x}</ETag><LastModified>2015-10-21T07:28:00Z</LastModified></Contents>"
                )
        text = f"<ListBucketResult><IsTruncated>false</IsTruncated>{''.join(entries)}</ListBucketResult>"
        self._send(200, text.encode(), body=True)

    def _send(self, status: int, content: bytes, *, body: bool) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if body:
            self.wfile.write(content)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--latency", type=float, default=0.0, help="seconds before each answer")
    options = parser.parse_args()
    server = _Server(("127.0.0.1", 0), _Handler)
    server.folder, server.latency = options.folder, options.latency
    print(f"http://127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
