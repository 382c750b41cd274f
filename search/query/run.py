"""Carries out the searches of the command line and shows what was found."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from common.console import Console
from common.files import write_atomically
from common.finite import NotFiniteError
from common.phases import begin
from common.terminal import printable
from pipeline.media.rejection import RejectedSource
from pipeline.prepare.workers.pool import WorkerPool, WorkersCannotStart, worker_pool
from search.decoding import MAX_PIXELS, MEMORY_MB
from search.index.folder import SearchIndexError
from search.index.open import Index, open_index
from search.query.find import Hit, find, vector_of
from search.query.frames import file_and_start, file_of, frame_at
from search.query.page import build_page
from search.query.request import DEFAULT_TO

MAX_SECONDS, TIMEOUT_SECONDS = 600.0, 120.0
"""Length at which the file of a query is cut, and time limit for decoding it."""
_FRAME_SECONDS = 20.0


@dataclass(frozen=True, kw_only=True)
class Found:
    """The results of a search."""

    index: Index
    query: dict[str, Any]
    """What was searched for and where, as plain values."""
    about: str
    """The same in words."""
    hits: list[Hit]


def by_row(
    folder: Path, source: str, at: float | None, *, by: str | None, to: str | None, top: int, where: Mapping[str, str]
) -> Found:
    """Searches by a row of the index: the one of `source` at `at` seconds, or its first.

    Raises:
        SearchIndexError: there is no such row, vector or label.
    """
    index = open_index(folder)
    row = index.rows.at(source, at or 0.0)
    modality, vector = vector_of(index, row, by)
    to = to or modality
    hits = find(index, vector, to, top=top, where=where, without=row.id)
    query = {"like": row.source, "start": row.start, "end": row.end, "by": modality, "to": to, "where": dict(where)}
    named = f"the {modality} of {row.source} from {row.start:.3g} to {row.end:.3g} s"
    return Found(index=index, query=query, about=_about(index, named, to, where), hits=hits)


def by_file(
    folder: Path,
    file: Path,
    kind: str,
    at: float | None,
    *,
    run: Path,
    to: str | None,
    top: int,
    where: Mapping[str, str],
) -> Found:
    """Searches by a sound, video or picture.

    Raises:
        SearchIndexError: the file cannot be used, or the run or the index does not fit.
        CheckpointError, ConfigError: the run cannot be read.
    """
    index = open_index(folder)
    to = to or DEFAULT_TO[kind]
    with _workers() as workers:
        begin(f"reading the encoders of {run}")
        from search.query.encode import QueryEncoder

        encoder = QueryEncoder(
            run,
            fingerprint=index.head.model["fingerprint"],
            workers=workers,
            max_seconds=MAX_SECONDS,
            timeout_seconds=TIMEOUT_SECONDS,
        )
        begin(f"encoding {file}")
        try:
            query = encoder.encode(file, kind, at=at)
        except (RejectedSource, NotFiniteError, WorkersCannotStart) as error:
            raise SearchIndexError(f"{file}: {error}") from None
    hits = find(index, query.vector, to, top=top, where=where)
    told = {kind: str(file), "clips": query.words, "by": query.modality, "to": to, "where": dict(where)}
    return Found(index=index, query=told, about=_about(index, f"{file} ({query.words})", to, where), hits=hits)


def show(found: Found, *, as_json: str | None, html: Path | None, videos: Path | None) -> None:
    """Prints the table or, with `as_json`, writes JSON to a file or stdout ("-"); also writes a page.

    Args:
        html: file of the page.
        videos: folder with the sources, of which the page shows frames; None takes the folder that was embedded.

    Raises:
        OSError: a file cannot be written.
    """
    if html is not None:
        pictures = _pictures(found, videos)
        title = f"Search in {found.index.folder.resolve().name}"
        write_atomically(html, build_page(found.hits, title=title, about=found.about, pictures=pictures))
    if as_json is None:
        _print_table(found)
    else:
        tree = {"query": found.query, "results": [hit.as_json() for hit in found.hits]}
        text = json.dumps(tree, indent=2, allow_nan=False) + "\n"
        if as_json == "-":
            sys.stdout.write(text)
        else:
            write_atomically(Path(as_json), text)


def _print_table(found: Found) -> None:
    table = Table("", "similarity", title=printable(found.about), title_justify="left")
    table.add_column("source", overflow="fold", min_width=12)
    table.add_column("seconds", no_wrap=True)
    table.add_column("labels", no_wrap=True)
    for place, hit in enumerate(found.hits, start=1):
        row = hit.row
        labels = ", ".join(f"{name}={value}" for name, value in row.labels.items())
        table.add_row(str(place), f"{hit.score:.3f}", row.source, f"{row.start:.1f} to {row.end:.1f}", labels)
    Console().print(table if found.hits else f"nothing found: {found.about}")


def _pictures(found: Found, videos: Path | None) -> dict[int, bytes]:
    """Id of a row -> a frame of it, for the rows whose files are there."""
    source = found.index.head.source
    if videos is None and source.get("kind") == "folder":
        videos = Path(source["path"])
    if videos is None or not videos.is_dir():
        return {}
    root, futures = videos.resolve(), dict[int, Future]()
    with _workers() as workers:
        for hit in found.hits:
            if (path := file_of(root, hit.row.source)) is not None:
                middle = file_and_start(hit.row.source)[1] + (hit.row.start + hit.row.end) / 2
                options = {"max_pixels": MAX_PIXELS}
                futures[hit.row.id] = workers.schedule(frame_at, (path, middle), options, timeout=_FRAME_SECONDS)
        return {row: future.result() for row, future in futures.items() if future.exception() is None}


def _about(index: Index, query: str, to: str, where: Mapping[str, str]) -> str:
    conditions = "".join(f", {name}={value}" for name, value in where.items())
    return f"The {to} of {index.head.rows:,} rows nearest to {query}{conditions}"


@contextmanager
def _workers() -> Iterator[WorkerPool]:
    pool = worker_pool(1, memory_mb=MEMORY_MB)
    try:
        yield pool
    finally:
        pool.stop()
