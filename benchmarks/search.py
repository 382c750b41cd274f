"""Measures a search for ten of a million vectors: by an index of search.index, and by FAISS alone.

    python -m benchmarks.search --json out.json
    python -m benchmarks.search --rows 100000 --dim 256

The vectors are invented: unit vectors around random centres, because cells find nothing in vectors without structure.
Queries come one at a time, as from a user, on one thread; an index also returns sources, times and labels. FAISS alone
returns numbers of rows from memory. All searches take turns.
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.tools.options import at_least, positive
from common.phases import introduce
from common.terminal import command


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=functools.partial(at_least, 10_000), default=1_000_000, help="vectors")
    parser.add_argument("--dim", type=positive, default=128, help="length of the vectors")
    parser.add_argument("--centres", type=positive, default=20_000, help="number of random centres")
    parser.add_argument("--queries", type=positive, default=200, help="timed queries per search")
    parser.add_argument(
        "--work", type=Path, help="new folder for rows and indexes, about 1.7 GB (default: a temporary one)"
    )
    parser.add_argument("--json", type=Path, help="write the result to this file")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    introduce("benchmarks.search", "timing searches by an index and by FAISS alone", parse)

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.tools.result import publish
from benchmarks.tools.timing import hold_threads
from common.environment import environment
from common.files import file_sha256
from common.finite import NotFiniteError
from common.phases import begin
from common.progress import show_progress
from common.randomness import numpy_generator
from search.embeddings import AT_END, FORMAT, KEY, open_embeddings, part_name
from search.index.build import build
from search.index.folder import Head, SearchIndexError
from search.index.open import open_index
from search.index.vectors import read_faiss
from search.query.find import find

Name = tuple[str, str]
"""Kind of the index, and what searches it."""
Figures = dict[Name, list[float]]

TOP = 10
_SPREAD = 0.6
"""Length of the noise relative to the centres, which have length 1."""
_BLOCK = 50_000


def vectors(count: int, options: argparse.Namespace, purpose: str) -> np.ndarray:
    """Unit vectors around the centres, float32 [count, dim]."""
    centres = numpy_generator(0, 0, "search centres").standard_normal((options.centres, options.dim), np.float32)
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    rng = numpy_generator(0, 0, f"search {purpose}")
    noise = rng.standard_normal((count, options.dim), np.float32)
    noise *= _SPREAD / np.sqrt(options.dim)
    noise += centres[rng.integers(options.centres, size=count)]
    noise /= np.linalg.norm(noise, axis=1, keepdims=True)
    return noise


def write_rows(folder: Path, options: argparse.Namespace) -> None:
    """Writes embeddings, as search.embed does: ten rows of a second per source, with one label."""
    folder.mkdir(parents=True)
    model = {"run": "none", "step": 0, "fingerprint": "none", "dim": options.dim, "modalities": ["video"]}
    source = {"kind": "shards", "path": "none", "fingerprint": "none"}
    parts = -(-options.rows // _BLOCK)
    head: dict[str, Any] = {"format": FORMAT, "model": model, "every": 1.0, "source": source, "labels": ["kind"]}
    head["parts"] = parts
    for part in show_progress(range(parts), total=parts, unit="parts of the rows"):
        rows = np.arange(part * _BLOCK, min((part + 1) * _BLOCK, options.rows))
        values = pa.array(vectors(len(rows), options, f"rows {part}").reshape(-1))
        labels = pa.StructArray.from_arrays([pa.array([str(row % 100) for row in rows])], ["kind"])
        columns = {
            "source": [f"video/{row // 10:08d}.mp4" for row in rows],
            "start": rows % 10 * 1.0,
            "end": rows % 10 + 1.0,
            "labels": labels,
            "video": pa.FixedSizeListArray.from_arrays(values, options.dim),
        }
        table = pa.table(columns).replace_schema_metadata({KEY: json.dumps(head)})
        pq.write_table(table, folder / part_name(part))
    hashes = [file_sha256(folder / part_name(part)) for part in range(parts)]
    (folder / "embeddings.json").write_text(
        json.dumps({**head, **dict(zip(AT_END, (options.rows, 0, hashes), strict=True))})
    )


def measure(work: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    """One record per search."""
    write_rows(work / "rows", options)
    heads: dict[str, tuple[Head, float]] = {}
    for kind, exact_up_to in (("exact", options.rows), ("ivfpq", 0)):
        began = time.perf_counter()
        head = build(open_embeddings(work / "rows"), work / kind, exact_up_to=exact_up_to)
        heads[kind] = head, time.perf_counter() - began
    queries = vectors(options.queries + 1, options, "queries")
    begin("opening the indexes")
    for path in sorted(work.glob("*/video-*")):
        with path.open("rb") as file:  # into the page cache, where the files of an index in use are
            while file.read(2**24):
                pass
    opened = {}
    for kind in heads:
        began = time.perf_counter()
        index = open_index(work / kind)
        opened[kind] = index, 1e3 * (time.perf_counter() - began)
    flat = read_faiss(work / "exact" / heads["exact"][0].file("video", "flat"))
    cells: Any = read_faiss(work / "ivfpq" / heads["ivfpq"][0].file("video", "ivfpq"))
    cells.nprobe = heads["ivfpq"][0].structures["video"].probes
    searches: dict[Name, Callable[[np.ndarray], Any]] = {
        ("exact", "FAISS alone"): lambda query: flat.search(query[None], TOP)[1][0],
        ("exact", "search.index"): lambda query: _ids(opened["exact"][0], query),
        ("ivfpq", "FAISS alone"): lambda query: cells.search(query[None], TOP)[1][0],
        ("ivfpq", "search.index"): lambda query: _ids(opened["ivfpq"][0], query),
    }
    times, recalls = take_turns(searches, queries)
    records = []
    for (kind, by), found in times.items():
        head, seconds = heads[kind]
        record: dict[str, Any] = {"kind": kind, "by": by, "ms_per_query": float(np.median(found))}
        record |= {
            "ms_of_the_slowest_tenth": float(np.quantile(found, 0.9)),
            "recall": float(np.mean(recalls[kind, by])),
        }
        if by == "search.index":
            size = sum((work / kind / head.file("video", suffix)).stat().st_size for suffix in _suffixes(kind))
            record |= {"opening_ms": opened[kind][1], "build_seconds": seconds, "bytes_per_vector": size / options.rows}
            record["stated_recall"] = head.structures["video"].recall
        records.append(record)
    return records


def take_turns(searches: dict[Name, Callable[[np.ndarray], Any]], queries: np.ndarray) -> tuple[Figures, Figures]:
    """Times of each search in ms, and its recall of what the first search finds, for all queries but the first."""
    times: Figures = {name: [] for name in searches}
    recalls: Figures = {name: [] for name in searches}
    for number, query in enumerate(show_progress(queries, total=len(queries), unit="queries")):
        true: set[int] = set()
        for name, search in searches.items():
            began = time.perf_counter()
            found = search(query)
            seconds = time.perf_counter() - began
            true = true or set(map(int, found))
            if number:  # the first one reads the files
                times[name].append(1e3 * seconds)
                recalls[name].append(len(true & set(map(int, found))) / TOP)
    return times, recalls


def _ids(index: Any, query: np.ndarray) -> list[int]:
    return [hit.row.id for hit in find(index, query, "video", top=TOP, where={})]


def _suffixes(kind: str) -> list[str]:
    return ["flat"] if kind == "exact" else ["flat", "ivfpq"]


@command("benchmarks.search", NotFiniteError, SearchIndexError)
def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    hold_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        records = measure(options.work or Path(temporary), options)
    setting = {name: getattr(options, name) for name in ("rows", "dim", "centres", "queries")}
    result = {"environment": environment("faiss-gpu", "pyarrow", "numpy"), "setting": setting | {"threads": 1}}
    publish(result | {"gpus_seen_by_faiss": faiss.get_num_gpus(), "records": records}, options.json)


if __name__ == "__main__":
    sys.exit(main())
