"""The limits that keep one client, or a thousand, from exhausting the server."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

MOST_CONNECTIONS = 256
"""Further connections are closed at once; a page needs about six, and the usual limit of open files is 1024."""
REQUEST_SECONDS = 10.0
"""Time within which a request's head must arrive; also how often a connection is looked at."""
STALL_SECONDS = 120.0
"""Time after which a connection is closed whose client does not read what is sent. A browser that has paused a video
asks for the rest by itself."""
UPLOAD_SECONDS = 60.0
"""Time within which an uploaded file must arrive."""
ANSWER_SECONDS = 120.0
"""Time within which a search must be answered, waiting included."""
WAITING = 64
"""Most searches by a file that wait or run; further ones are told to try again."""
WAITING_FRAMES = 256
"""The same for frames."""
DECODE_SECONDS = 30.0
"""Time limit for decoding one uploaded file."""
QUERY_SECONDS = 120.0
"""Length at which an uploaded file is cut."""
FRAME_SECONDS = 15.0
"""Time limit for decoding one frame."""
CACHED_BYTES = 64 * 2**20
"""Memory for frames that were decoded."""


class LimitedProtocol(H11Protocol):
    """Uvicorn's HTTP/1.1 with a limit on connections, and on how long one may send no request or read no answer."""

    def connection_made(self, transport: Any) -> None:
        if len(self.connections) >= MOST_CONNECTIONS:
            transport.abort()
            self._refused = True
            return
        self._refused = False
        super().connection_made(transport)
        self._seen: Any = None
        self._stalled = 0.0
        self._look_again()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._refused:
            self._timer.cancel()
            super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if not self._refused:
            super().data_received(data)

    def eof_received(self) -> None:
        if not self._refused:
            super().eof_received()

    def _look_again(self) -> None:
        self._timer: asyncio.TimerHandle = self.loop.call_later(REQUEST_SECONDS, self._look)

    def _look(self) -> None:
        """Closes the connection if nothing has happened for too long."""
        if self.transport.is_closing():
            return
        cycle = self.cycle
        if cycle is None or cycle.response_complete:
            # The same finished request as at the last look, or still none: no whole head came in that time.
            if cycle is self._seen:
                self.transport.abort()
                return
            self._stalled = 0.0
        elif self.flow.write_paused:
            self._stalled += REQUEST_SECONDS
            if self._stalled > STALL_SECONDS:
                self.transport.abort()
                return
        else:
            self._stalled = 0.0
        self._seen = cycle
        self._look_again()
