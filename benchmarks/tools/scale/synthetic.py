"""Data sets of any number of samples for benchmarks, which repeat a few prepared ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.shards.manifest import COLUMNS, Manifest
from pipeline.shards.manifest_writer import publish_manifest

_DIGITS = 10
"""Digits of the number in a sample's source."""
SPLITS = ("test", "train")
"""Values of the label column `split`; every tenth sample is of the first."""


def synthesise(source: Path, target: Path, *, samples: int, shards: int) -> None:
    """Writes a data set with `samples` rows in `shards` shards, which all link to the first shard of `source`.

    Every row points at real bytes. The labels are a column `split`; the sources are those of `source_name`.
    """
    real = Manifest.open(source)
    rows = np.flatnonzero(real.shard == 0)
    chosen = np.resize(rows, samples)
    arrays: dict[str, np.ndarray] = {name: np.asarray(getattr(real, name)[chosen]) for name in COLUMNS}
    arrays["shard"] = (np.arange(samples) * shards // samples).astype(np.int32)
    counts = np.diff(real.frame_start)[chosen]
    arrays["frame_start"] = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    offsets = [real.frame_offsets[real.frame_start[row] : real.frame_start[row + 1]] for row in rows]
    arrays["frame_offsets"] = np.resize(np.concatenate(offsets), int(arrays["frame_start"][-1]))
    arrays |= _sources(samples)
    arrays["label0"] = (np.arange(samples) % 10 > 0).astype(np.int32)
    arrays["label0_names_start"] = np.cumsum([0, *map(len, SPLITS)])
    arrays["label0_names_bytes"] = np.frombuffer("".join(SPLITS).encode(), dtype=np.uint8)
    meta: dict[str, Any] = json.loads((source / "manifest" / "meta.json").read_text())
    del meta["sha256"]  # of meta.json itself
    target.mkdir(exist_ok=True)
    links = [f"shard-{n:06d}.tar" for n in range(shards)]
    for name in links:
        (target / name).symlink_to((source / meta["shards"][0]).resolve())
    meta |= {"samples": samples, "label_columns": ["split"], "shards": links}
    meta |= {name: [meta[name][0]] * shards for name in ("shard_bytes", "shard_sha256")}
    publish_manifest(target / "manifest", meta, arrays)


def source_name(row: int) -> str:
    """The source of a sample."""
    return f"sample-{row:0{_DIGITS}d}.mp4"


def _sources(samples: int) -> dict[str, np.ndarray]:
    text = np.tile(np.frombuffer(source_name(0).encode(), dtype=np.uint8), (samples, 1))
    rest = np.arange(samples)
    for place in reversed(range(len("sample-"), len("sample-") + _DIGITS)):
        rest, digit = np.divmod(rest, 10)
        text[:, place] += digit.astype(np.uint8)
    starts = np.arange(samples + 1, dtype=np.int64) * text.shape[1]
    return {"source_start": starts, "source_bytes": text.reshape(-1)}
