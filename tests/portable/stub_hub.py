"""A server that speaks as much of the Hugging Face Hub's protocol as an upload and a download of models need."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

COMMIT = "c" * 40


class StubHub:
    """What the server holds and has seen."""

    def __init__(self, *, refuse: bool) -> None:
        self.refuse = refuse
        self.files: dict[str, bytes] = {}
        self.blobs: dict[str, bytes] = {}
        self.created: list[dict[str, Any]] = []
        self.tokens: set[str | None] = set()
        self.url = ""

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and content of the answer to a request."""
        if self.refuse:
            return 403, {}, b'{"error": "this token may not write"}'
        if path == "/api/repos/create":
            self.created.append(json.loads(body))
            return _json({"url": f"{self.url}/me/mine", "id": "me/mine"})
        if path == "/api/validate-yaml":
            return _json({"errors": [], "warnings": []})
        if "/preupload/" in path:
            wanted = [{"path": file["path"], "uploadMode": _mode(file["path"])} for file in json.loads(body)["files"]]
            return _json({"files": [file | {"shouldIgnore": False} for file in wanted]})
        if path.endswith("/info/lfs/objects/batch"):
            return _json({"transfer": "basic", "objects": [self._upload(o) for o in json.loads(body)["objects"]]})
        if path.startswith("/blob/"):
            self.blobs[path.removeprefix("/blob/")] = body
            return _json({})
        if "/commit/" in path:
            for line in map(json.loads, body.splitlines()):
                self._commit(**line)
            return _json({"commitUrl": f"{self.url}/me/mine/commit/{COMMIT}", "commitOid": COMMIT, "success": True})
        if found := re.match(r"/me/mine/resolve/[^/]+/(.+)", path):
            return self._file(found[1], method)
        if re.match(r"/api/models/me/mine/tree/", path):
            listed = [
                {"type": "file", "path": name, "size": len(content), "oid": _sha1(content)}
                for name, content in self.files.items()
            ]
            return _json(listed)
        if path.startswith("/api/models/me/mine"):
            siblings = [{"rfilename": name} for name in self.files]
            return _json({"id": "me/mine", "sha": COMMIT, "siblings": siblings, "private": False, "tags": []})
        return 404, {}, b'{"error": "unknown address"}'

    def _upload(self, wanted: dict[str, Any]) -> dict[str, Any]:
        action = {"href": f"{self.url}/blob/{wanted['oid']}", "header": {}}
        return {**wanted, "authenticated": True, "actions": {"upload": action}}

    def _commit(self, key: str, value: dict[str, Any]) -> None:
        if key == "file":
            self.files[value["path"]] = base64.b64decode(value["content"])
        if key == "lfsFile":
            self.files[value["path"]] = self.blobs[value["oid"]]
        if key == "deletedFile":
            del self.files[value["path"]]

    def _file(self, name: str, method: str) -> tuple[int, dict[str, str], bytes]:
        content = self.files[name]
        head = {"ETag": f'"{_sha1(content)}"', "X-Repo-Commit": COMMIT, "Content-Length": str(len(content))}
        return 200, head, b"" if method == "HEAD" else content


@contextmanager
def stub_hub(*, refuse: bool = False) -> Iterator[StubHub]:
    """Runs the server at `url`, where me/mine is the only repository.

    Args:
        refuse: answer every request with 403.
    """
    hub = StubHub(refuse=refuse)

    class Handler(BaseHTTPRequestHandler):
        def handle_request(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0)) or self._chunks()
            hub.tokens.add(self.headers.get("Authorization"))
            status, head, content = hub.answer(self.command, self.path.partition("?")[0], body)
            self.send_response(status)
            for name, value in ({"Content-Length": str(len(content))} | head).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def _chunks(self) -> bytes:
            if self.headers.get("Transfer-Encoding") != "chunked":
                return b""
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)

        do_GET = do_HEAD = do_POST = do_PUT = handle_request

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _json(value: Any) -> tuple[int, dict[str, str], bytes]:
    return 200, {"Content-Type": "application/json"}, json.dumps(value).encode()


def _mode(name: str) -> str:
    return "regular" if name.endswith((".json", ".md")) else "lfs"


def _sha1(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()
