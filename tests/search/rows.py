"""Embeddings of invented rows, as search.embed writes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from common.files import file_sha256
from search.embeddings import AT_END, FORMAT, KEY

DIM = 16


def unit_vectors(count: int, *, seed: int, clusters: int = 40) -> np.ndarray:
    """Unit vectors around a few centres, float32 [count, DIM]."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(7).standard_normal((clusters, DIM))
    vectors = centres[rng.integers(clusters, size=count)] + 0.5 * rng.standard_normal((count, DIM))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def write_embeddings(
    folder: Path,
    sources: list[str],
    *,
    labels: dict[str, list[str | None]] | None = None,
    vectors: dict[str, np.ndarray] | None = None,
    absent: dict[str, np.ndarray] | None = None,
    fingerprint: str = "f",
    run: str = "runs/none",
) -> dict[str, np.ndarray]:
    """Writes one row per source, the k-th of the same source from k to k + 1 seconds; returns the vectors."""
    count = len(sources)
    if vectors is None:
        vectors = {name: unit_vectors(count, seed=seed) for seed, name in enumerate(("video", "audio"))}
    starts = [float(sources[:place].count(source)) if count < 5000 else 0.0 for place, source in enumerate(sources)]
    model = {"run": run, "step": 1, "fingerprint": fingerprint, "dim": DIM, "modalities": list(vectors)}
    head: dict[str, Any] = {"format": FORMAT, "model": model, "every": 1.0, "parts": 1, "labels": list(labels or {})}
    head["source"] = {"kind": "shards", "path": "nowhere", "fingerprint": "s"}
    columns: dict[str, Any] = {"source": pa.array(sources, pa.string()), "start": starts}
    columns["end"] = [start + 1 for start in starts]
    if labels:
        rows = [dict(zip(labels, values, strict=True)) for values in zip(*labels.values(), strict=True)]
        columns["labels"] = pa.array(rows, pa.struct([(name, pa.string()) for name in labels]))
    for name, values in vectors.items():
        missing = (absent or {}).get(name, np.zeros(count, bool))
        rows = [None if gone else row for row, gone in zip(values.tolist(), missing, strict=True)]
        columns[name] = pa.array(rows, pa.list_(pa.float32(), DIM))
    folder.mkdir(parents=True)
    table = pa.table(columns).replace_schema_metadata({KEY: json.dumps(head)})
    pq.write_table(table, folder / "rows-00000.parquet")
    end = dict(zip(AT_END, (count, 0, [file_sha256(folder / "rows-00000.parquet")]), strict=True))
    (folder / "embeddings.json").write_text(json.dumps({**head, **end}))
    return vectors
