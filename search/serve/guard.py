"""Who may use the server, and what browsers may do with its answers."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Iterable
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from search.serve.limits import ANSWER_SECONDS, UPLOAD_SECONDS

COOKIE = "search_token"
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "media-src 'self' blob:; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "Permissions-Policy": "microphone=(self), camera=(), geolocation=()",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}
_LOGIN = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Search</title>
<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="stylesheet" href="/assets/style.css">
</head><body><main class="login"><h1>Search</h1><p>{message}</p><form method="post" action="/login">
<label>Token <input name="token" type="password" autocomplete="off" required autofocus></label>
<button class="primary">Open</button></form></main></body></html>"""
_OPEN_PATHS = ("/login", "/assets/style.css")
"""Paths that need no token."""


class Guard:
    """ASGI middleware: checks the names that the server is called by, and the token.

    Args:
        hosts: values of the Host header that are accepted; None for all, which is safe with a token. A page of another
            site that has pointed its own name at this machine (DNS rebinding) sends that name.
        token: what a browser must know once; None for none.
    """

    def __init__(self, app: ASGIApp, *, hosts: Iterable[str] | None, token: str | None) -> None:
        self._app, self._token = app, token
        self._hosts = None if hosts is None else frozenset(hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        refusal = await self._refusal(Request(scope, receive))
        app = self._app if refusal is None else refusal
        await app(scope, receive, send_guarded)

    async def _refusal(self, request: Request) -> Response | None:
        """The answer to a request that goes no further; None lets it pass."""
        headers = request.headers
        if self._hosts is not None and headers.get("host", "").lower() not in self._hosts:
            return PlainTextResponse("This server is not called by that name.\n", 421)
        if request.method not in ("GET", "HEAD") and not _is_same_origin(headers):
            return PlainTextResponse("Requests from other sites are refused.\n", 403)
        if self._token is None:
            return None
        if request.url.path == "/login" and request.method == "POST":
            return await self._login(request)
        if request.url.path in _OPEN_PATHS or self._knows(_cookie(headers)):
            return None
        given = request.query_params.get("token")
        if given is not None and request.url.path == "/" and self._knows(given):
            return self._welcome(given)
        if request.url.path == "/":
            return HTMLResponse(_LOGIN.format(message="This server asks for the token that it printed."), 401)
        return PlainTextResponse("The token is missing or wrong.\n", 401)

    async def _login(self, request: Request) -> Response:
        body = b""
        try:
            async with asyncio.timeout(UPLOAD_SECONDS):
                async for chunk in request.stream():
                    body += chunk
                    if len(body) > 4096:
                        return PlainTextResponse("The token is too long.\n", 413)
        except TimeoutError:
            return PlainTextResponse("The request took too long.\n", 408)
        given = parse_qs(body.decode("latin-1")).get("token", [""])[0]
        if self._knows(given):
            return self._welcome(given)
        return HTMLResponse(_LOGIN.format(message="That is not the token."), 401)

    def _welcome(self, token: str) -> Response:
        # Without the token, which would stay in the browser's history.
        response = RedirectResponse("/", 303)
        response.set_cookie(COOKIE, token, httponly=True, samesite="strict", max_age=30 * 24 * 3600)
        return response

    def _knows(self, given: str | None) -> bool:
        assert self._token is not None
        return given is not None and hmac.compare_digest(given.encode("utf-8", "replace"), self._token.encode())


class Deadline:
    """ASGI middleware: a request for anything but a file of a row must be answered within ANSWER_SECONDS."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"].startswith("/media/"):
            await self._app(scope, receive, send)
            return
        begun = False

        async def noted(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                await self._app(scope, receive, noted)
        except TimeoutError:
            if not begun:
                await PlainTextResponse("The answer took too long.\n", 503)(scope, receive, send)


def _is_same_origin(headers: Headers) -> bool:
    """Whether a page of this server, or no page at all, sent the request."""
    site = headers.get("sec-fetch-site")
    if site is not None:
        return site in ("same-origin", "none")
    origin = headers.get("origin")
    return origin is None or origin.partition("://")[2].lower() == headers.get("host", "").lower()


def _cookie(headers: Headers) -> str | None:
    try:
        found = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
    except CookieError:
        return None
    return None if found is None else found.value
