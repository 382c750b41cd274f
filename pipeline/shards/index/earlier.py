"""What the published manifest was made from, so that publishing again reads only the index files that are new.

`OUT/manifest/merged.json` names the version of the manifest, and a hash and the number of rows of each index file at
that moment. It is only a shortcut: if it is missing or does not match, all index files are read again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.files import file_sha256, read_json_lines, write_atomically
from common.phases import hushed
from pipeline.shards.index.files import PACKED
from pipeline.shards.index.merging import PreviousRows
from pipeline.shards.index.packed_rows import packed_digest
from pipeline.shards.manifest import Manifest, ManifestError
from pipeline.shards.meta import read_meta

_FILE = "manifest/merged.json"


@dataclass(frozen=True, kw_only=True)
class Earlier:
    """The part of the published manifest that is still valid.

    Attributes:
        rows: its rows.
        flags: the lines of flagged.jsonl about these rows.
        shard_sha256: SHA-256 of each shard whose rows are kept, by its file name.
        counts: number of rows of each index file that is not read again, by the name of the file.
    """

    rows: PreviousRows
    flags: list[dict[str, Any]]
    shard_sha256: dict[str, str]
    counts: dict[str, int]


def earlier_rows(out: Path, indexes: Sequence[Path], expected: Mapping[str, Any]) -> Earlier | None:
    """Returns the rows of the published manifest that are still valid for `indexes`; None if it cannot be used.

    Args:
        indexes: the index file of each shard of the new manifest, in its order.
        expected: entries that its meta.json must have.
    """
    try:
        state = json.loads((out / _FILE).read_text(encoding="utf-8"))
        meta = read_meta(out)
        if state["version"] != meta["version"] or any(meta[key] != value for key, value in expected.items()):
            return None
        if state["flagged"] != file_sha256(out / "flagged.jsonl"):
            return None
        with hushed():
            manifest = Manifest.open(out, verify=True)
        numbers = {Path(name).stem: number for number, name in enumerate(manifest.shards)}
        rows_of = np.bincount(manifest.shard, minlength=len(manifest.shards))
        kept = {
            index.name: number
            for index in indexes
            if (number := numbers.get(index.stem)) is not None
            # The counts differ if the manifest left rows out, because an earlier shard has the same source. Such a file
            # is read again, as these rows may belong to the new manifest.
            and state["indexes"].get(index.name) == [_digest(index), int(rows_of[number])]
        }
        flags = read_json_lines(out / "flagged.jsonl")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, ManifestError):
        return None
    new_number = np.full(len(manifest.shards), -1, dtype=np.int32)
    for place, index in enumerate(indexes):
        if index.name in kept:
            new_number[kept[index.name]] = place
    shard: NDArray[np.int32] = new_number[manifest.shard]
    rows = PreviousRows(arrays=manifest.arrays, keep=shard >= 0, shard=shard)
    gone = {manifest.source(int(row)) for row in np.flatnonzero(shard < 0)}
    return Earlier(
        rows=rows,
        flags=[entry for entry in flags if entry["source"] not in gone],
        shard_sha256={manifest.shards[number]: manifest.shard_sha256[number] for number in kept.values()},
        counts={name: int(rows_of[number]) for name, number in kept.items()},
    )


def remember(out: Path, digests: Mapping[str, str], counts: Mapping[str, int]) -> None:
    """Records what the manifest that was just published was made from.

    Args:
        digests: what `index_digests` returned before the files were read.
        counts: number of rows of each index file, by its name.
    """
    indexes = {name: [digest, counts[name]] for name, digest in digests.items()}
    state = {"version": read_meta(out)["version"], "flagged": file_sha256(out / "flagged.jsonl"), "indexes": indexes}
    write_atomically(out / _FILE, json.dumps(state) + "\n")


def forget(out: Path) -> None:
    """Makes the next run read all index files again."""
    (out / _FILE).unlink(missing_ok=True)


def index_digests(indexes: Sequence[Path]) -> dict[str, str]:
    """A hash of the content of each index file, by its name."""
    return {index.name: _digest(index) for index in indexes}


def _digest(index: Path) -> str:
    if index.suffix != PACKED:
        return file_sha256(index)
    try:
        return packed_digest(index)
    except (ValueError, KeyError, TypeError, RecursionError):
        return ""  # the damage is reported when the rows are read
