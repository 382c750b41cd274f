"""What the server does for a request: searches, and the files and frames of rows. Every wait is bounded."""

from __future__ import annotations

import asyncio
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import anyio.to_thread
from anyio import CapacityLimiter

from common.finite import NotFiniteError
from pipeline.media.rejection import RejectedSource
from pipeline.prepare.workers.pool import WorkerPool, WorkersCannotStart
from search.decoding import MAX_PIXELS
from search.index.folder import HEAD, SearchIndexError
from search.index.open import Index, open_index
from search.index.rows import Row
from search.query.encode import QueryEncoder
from search.query.find import Hit, find, vector_of
from search.query.frames import file_and_start, file_of, frame_at
from search.query.request import DEFAULT_TO
from search.serve.limits import CACHED_BYTES, FRAME_SECONDS, WAITING, WAITING_FRAMES

T = TypeVar("T")
FIRST_ROWS = 24
"""Rows that the page shows before a search."""
_MOST_VALUES = 200
"""Values of a label that the page offers as filters."""


class Refused(Exception):
    """A request that is not carried out; the message is for the user.

    Attributes:
        status: the HTTP status.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Service:
    """An index, the encoders for queries, and the folder of the sources.

    Args:
        folder: folder of the index, which is opened again when it changes.
        encoder: encodes files; None if searches by a file are not possible, for the reason `no_encoder`.
        root: folder with the sources; None if nothing can be played.
        frames: the workers that decode frames.
        searches: number of searches that run at once.
    """

    def __init__(
        self,
        folder: Path,
        *,
        encoder: QueryEncoder | None,
        no_encoder: str = "",
        root: Path | None,
        frames: WorkerPool,
        searches: int,
    ) -> None:
        self._folder, self._encoder, self._no_encoder = folder, encoder, no_encoder
        self._root = None if root is None else root.resolve()
        self._frames = frames
        self._cache: OrderedDict[tuple[str, float], bytes] = OrderedDict()
        self._cached_bytes = 0
        self._waiting = {"searches": 0, "frames": 0}
        self._searching, self._finding = CapacityLimiter(searches), CapacityLimiter(searches)
        self._index = open_index(folder)
        self._stamp = self._stamp_of_index()
        self._opening = threading.Lock()

    @property
    def index(self) -> Index:
        """The index as it is now; the last one that could be opened if the present one cannot."""
        stamp = self._stamp_of_index()
        if stamp != self._stamp:
            with self._opening:
                self._stamp = stamp
                try:
                    newer = open_index(self._folder)
                except SearchIndexError:
                    return self._index
                if newer.head.model["fingerprint"] == self._index.head.model["fingerprint"]:
                    self._index = newer
        return self._index

    def about(self) -> dict[str, Any]:
        """What the page needs to know before a search."""
        index = self.index
        return {
            "name": self._folder.resolve().name,
            "rows": index.head.rows,
            "modalities": list(index.vectors),
            "labels": {name: index.rows.label_values(name, most=_MOST_VALUES) for name in index.rows.label_names},
            "encodes": self._encoder is not None,
            "no_encoder": self._no_encoder,
            "plays": self._root is not None,
        }

    async def some_rows(self, where: Mapping[str, str]) -> dict[str, Any]:
        """A few rows with these labels, evenly spaced over the index."""

        def choose() -> dict[str, Any]:
            rows = self.index.rows
            return {"results": [self.described(row) for row in rows.spread(FIRST_ROWS, rows.matching(where))]}

        return await self._in_thread(choose, self._finding)

    async def by_row(
        self, identifier: int, *, by: str | None, to: str | None, top: int, where: Mapping[str, str]
    ) -> dict[str, Any]:
        """Searches by a row of the index."""

        def search() -> dict[str, Any]:
            index = self.index
            row = index.rows.row(identifier)
            if row is None:
                raise Refused(404, "the index has no such row any more")
            modality, vector = vector_of(index, row, by)
            hits = find(index, vector, to or modality, top=top, where=where, without=identifier)
            return {
                "query": {"row": self.described(row), "by": modality, "to": to or modality},
                "results": self._described(hits),
            }

        return await self._in_thread(search, self._finding)

    async def by_file(
        self, path: Path, kind: str, *, at: float | None, to: str | None, top: int, where: Mapping[str, str]
    ) -> dict[str, Any]:
        """Searches by a file of a user; call it, and receive the file, within `search_turn`."""
        encoder = self._encoder
        if encoder is None:
            raise Refused(409, self._no_encoder)
        searched = to or DEFAULT_TO[kind]
        query = await self._in_thread(lambda: encoder.encode(path, kind, at=at), self._searching)
        hits = await self._in_thread(
            lambda: find(self.index, query.vector, searched, top=top, where=where), self._finding
        )
        about = {"words": query.words, "by": query.modality, "to": searched}
        return {"query": about, "results": self._described(hits)}

    def file(self, identifier: int) -> Path:
        """The file of a row, which is below the folder of the sources."""
        return self._row_and_file(identifier)[1]

    async def frame(self, identifier: int) -> bytes:
        """A frame from the middle of a row, as WebP."""
        row, path = self._row_and_file(identifier)
        key = (row.source, (row.start + row.end) / 2)
        if (cached := self._cache.get(key)) is not None:
            self._cache.move_to_end(key)
            return cached
        with self._turn("frames", WAITING_FRAMES):
            options = {"max_pixels": MAX_PIXELS}
            seconds = file_and_start(row.source)[1] + key[1]
            future = self._frames.schedule(frame_at, (path, seconds), options, timeout=FRAME_SECONDS)
            try:
                picture = await asyncio.wrap_future(future)
            except WorkersCannotStart as error:
                raise Refused(503, str(error)) from None
            except Exception as error:  # of the decoder, which has many kinds
                raise Refused(404, f"no frame can be shown: {error}") from None
        self._keep(key, picture)
        return picture

    def described(self, row: Row) -> dict[str, Any]:
        """A row as plain values, with its file, whether that is there, and at which second the source starts in it."""
        name, start = file_and_start(row.source)
        return row.as_json() | {"file": name, "file_start": start, "has_file": self._file_of(row) is not None}

    def _described(self, hits: list[Hit]) -> list[dict[str, Any]]:
        return [self.described(hit.row) | hit.as_json() for hit in hits]

    def _file_of(self, row: Row) -> Path | None:
        return None if self._root is None else file_of(self._root, row.source)

    def _row_and_file(self, identifier: int) -> tuple[Row, Path]:
        row = self.index.rows.row(identifier)
        path = None if row is None else self._file_of(row)
        if row is None or path is None:
            raise Refused(404, "there is no file for this row")
        return row, path

    def _keep(self, key: tuple[str, float], picture: bytes) -> None:
        if key not in self._cache:
            self._cache[key] = picture
            self._cached_bytes += len(picture)
        while self._cached_bytes > CACHED_BYTES:
            self._cached_bytes -= len(self._cache.popitem(last=False)[1])

    def search_turn(self) -> AbstractContextManager[None]:
        """Counts a search by a file, from its upload to its end, and refuses it while there are too many."""
        return self._turn("searches", WAITING)

    @contextmanager
    def _turn(self, what: str, most: int) -> Iterator[None]:
        if self._waiting[what] >= most:
            raise Refused(503, "too many searches at the moment; try again in a few seconds")
        self._waiting[what] += 1
        try:
            yield
        finally:
            self._waiting[what] -= 1

    @staticmethod
    async def _in_thread(function: Callable[[], T], limiter: CapacityLimiter) -> T:
        try:
            return await anyio.to_thread.run_sync(function, limiter=limiter)
        except (SearchIndexError, RejectedSource, NotFiniteError) as error:
            raise Refused(422, str(error)) from None
        except WorkersCannotStart as error:
            raise Refused(503, str(error)) from None

    def _stamp_of_index(self) -> tuple[int, int]:
        try:
            status = (self._folder / HEAD).stat()
        except OSError:
            return (0, 0)
        return (status.st_ino, status.st_mtime_ns)
