"""The addresses of the server."""

from __future__ import annotations

import asyncio
import contextlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from common.html import ELEMENT, THEME
from search.index.folder import SearchIndexError
from search.query.request import MODALITY, conditions
from search.serve.guard import Deadline, Guard
from search.serve.limits import UPLOAD_SECONDS
from search.serve.service import Refused, Service

ASSETS = Path(__file__).with_name("assets")
MOST_RESULTS = 200
MEDIA_TYPES = {
    ".mp4": "video/mp4",
    ".m4v": "video/mp4",
    ".mov": "video/quicktime",
    ".webm": "video/webm",
    ".mkv": "video/x-matroska",
    ".ogv": "video/ogg",
    ".ogg": "audio/ogg",
    ".oga": "audio/ogg",
    ".opus": "audio/ogg",
    ".mp3": "audio/mpeg",
    ".m4a": "audio/mp4",
    ".aac": "audio/aac",
    ".wav": "audio/wav",
    ".flac": "audio/flac",
}
"""Suffixes of files that browsers may play; others are offered for download."""


def make_app(service: Service, *, hosts: list[str] | None, token: str | None, max_upload: int) -> Starlette:
    """The ASGI application.

    Args:
        hosts, token: see `Guard`.
        max_upload: largest file to search by, in bytes.
    """
    scripts = [ELEMENT, ASSETS / "cards.js", ASSETS / "record.js", ASSETS / "app.js"]
    answers = _Answers(service, max_upload)
    return Starlette(
        routes=[
            Route("/", _fixed([ASSETS / "page.html"], "text/html")),
            Route("/assets/style.css", _fixed([THEME, ASSETS / "style.css"], "text/css")),
            Route("/assets/app.js", _fixed(scripts, "text/javascript")),
            Route("/assets/icon.svg", _fixed([ASSETS / "icon.svg"], "image/svg+xml")),
            Route("/api/about", answers.about),
            Route("/api/rows", answers.rows),
            Route("/api/like", answers.like),
            Route("/api/search", answers.search, methods=["POST"]),
            Route("/media/{id:int}", answers.media),
            Route("/frame/{id:int}", answers.frame),
        ],
        middleware=[Middleware(Guard, hosts=hosts, token=token), Middleware(Deadline)],
        exception_handlers={Refused: _refused, ClientDisconnect: _gone},  # type: ignore[dict-item]
    )


class _Answers:
    """What the server answers at the addresses that depend on the index."""

    def __init__(self, service: Service, max_upload: int) -> None:
        self._service, self._max_upload = service, max_upload

    async def about(self, request: Request) -> Response:
        return JSONResponse(await asyncio.to_thread(self._service.about) | {"max_upload": self._max_upload})

    async def rows(self, request: Request) -> Response:
        return JSONResponse(await self._service.some_rows(_where(request)))

    async def like(self, request: Request) -> Response:
        options = _options(request)
        by = _choice(request, "by", ("video", "audio"))
        return JSONResponse(await self._service.by_row(_number(request.query_params.get("id", "")), by=by, **options))

    async def search(self, request: Request) -> Response:
        options, kind = _options(request), _choice(request, "kind", tuple(MODALITY))
        if kind is None:
            raise Refused(400, f"kind must be one of {', '.join(MODALITY)}")
        at = request.query_params.get("at")
        seconds = None if at is None else _seconds(at)
        # The file has no name, so nothing is left of it however the server ends; workers open it by its descriptor.
        with self._service.search_turn(), tempfile.TemporaryFile() as file:
            await _receive(request, file, self._max_upload)
            path = Path(f"/proc/{os.getpid()}/fd/{file.fileno()}")
            return JSONResponse(await self._service.by_file(path, kind, at=seconds, **options))

    async def media(self, request: Request) -> Response:
        path = await asyncio.to_thread(self._service.file, request.path_params["id"])
        kind = MEDIA_TYPES.get(path.suffix.lower())
        if kind is None or "download" in request.query_params:
            return FileResponse(path, media_type="application/octet-stream", filename=path.name)
        return FileResponse(path, media_type=kind)

    async def frame(self, request: Request) -> Response:
        picture = await self._service.frame(request.path_params["id"])
        return Response(picture, media_type="image/webp", headers={"Cache-Control": "private, max-age=3600"})


def _fixed(files: list[Path], kind: str) -> Callable[[Request], Any]:
    """Answers with the content of files, one after the other, as it is when the server starts."""
    content = b"\n".join(path.read_bytes() for path in files)

    async def answer(request: Request) -> Response:
        return Response(content, media_type=kind)

    return answer


async def _receive(request: Request, file: BinaryIO, most: int) -> None:
    """Writes the body to a file."""
    too_large = Refused(
        413, f"the file is larger than {most / 2**20:.0f} MiB; cut it, or start the server with --max-upload"
    )
    with contextlib.suppress(ValueError):
        if int(request.headers.get("content-length", "0")) > most:
            raise too_large
    size = 0
    try:
        async with asyncio.timeout(UPLOAD_SECONDS):
            async for chunk in request.stream():
                size += len(chunk)
                if size > most:
                    raise too_large
                await asyncio.to_thread(file.write, chunk)
    except TimeoutError:
        raise Refused(408, f"the file did not arrive within {UPLOAD_SECONDS:.0f} s") from None
    except OSError as error:
        raise Refused(507, f"the file cannot be stored: {error.strerror}") from None
    await asyncio.to_thread(file.flush)


def _options(request: Request) -> dict[str, Any]:
    """The options that all searches have."""
    values = request.query_params
    top = _number(values.get("top", "24"))
    if not 1 <= top <= MOST_RESULTS:
        raise Refused(400, f"top must be from 1 to {MOST_RESULTS}")
    return {"to": _choice(request, "to", ("video", "audio")), "top": top, "where": _where(request)}


def _where(request: Request) -> dict[str, str]:
    try:
        return conditions(request.query_params.getlist("where"))
    except SearchIndexError as error:
        raise Refused(400, str(error)) from None


def _choice(request: Request, name: str, allowed: tuple[str, ...]) -> str | None:
    value = request.query_params.get(name)
    if value is not None and value not in allowed:
        raise Refused(400, f"{name} must be one of {', '.join(allowed)}")
    return value


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 16):
        raise Refused(400, "a number is missing or wrong")
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < 1e9:
        raise Refused(400, "at must be a time in seconds")
    return seconds


async def _refused(request: Request, error: Refused) -> Response:
    headers = {"Retry-After": "5"} if error.status == 503 else {}
    if error.status in (408, 413):
        headers["Connection"] = "close"
    return JSONResponse({"error": str(error)}, error.status, headers=headers)


async def _gone(request: Request, error: Exception) -> Response:
    return Response(status_code=499)
