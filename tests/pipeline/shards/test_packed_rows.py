"""Packed index rows are those that were packed; damage is found; a manifest of them is that of single rows."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

from pipeline.shards.index.packed_rows import PackedRows, pack, packed_digest
from pipeline.shards.manifest_writer import write_manifest
from pipeline.shards.tar_writer import RowError
from settings import StorageConfig


def row(number: int, **changes: Any) -> dict[str, Any]:
    frames = [100 + number, 70000, 3][: 1 + number % 3]
    return {
        "key": f"{number:020x}",
        "source": f"kind{number % 2}/ü{number}.mp4",
        "sha256": f"{number:064x}",
        **{"size": 10**12 + number, "mtime_ns": 1795880770488839709 + number},
        **{"video_offset": 512, "audio_offset": 2**33, "checksum_offset": 2**34, "audio_samples": 1600 * len(frames)},
        **{"width": 64, "height": 48, "first_frame": 32, "frame_bytes": frames, "frames": len(frames)},
        **{"seconds": 0.1 + number, "fps": 10.0, "sample_rate": 16000},
        **{"labels": {"kind": str(number % 2)}, "flags": {"decode_errors": 3} if number == 1 else {}},
        **changes,
    }


AUDIO_ONLY = {"frame_bytes": [], "width": 0, "height": 0, "first_frame": 0, "video_offset": -1}
ROWS = {
    "one": [row(0)],
    "ordinary": [row(number) for number in range(7)],
    "without video": [row(number, **AUDIO_ONLY) for number in range(3)],
    "mixed": [row(0), row(1, **AUDIO_ONLY), row(2), row(4, labels={}), row(5, labels={"kind": "", "more": "\n"})],
    "unusual": [row(0, sha256=""), row(1, key="not hexadecimal", mtime_ns=-5), row(2, file="a#b", odd=[{"x": None}])],
    "of an older version": [{name: value for name, value in row(3).items() if name != "sha256"}, row(4)],
}


@pytest.mark.parametrize("name", ROWS)
def test_rows_come_back_as_they_were(name):
    rows = copy.deepcopy(ROWS[name])
    packed = PackedRows(pack(rows))
    assert list(packed.rows()) == rows
    for first in range(len(rows)):
        assert list(packed.rows(first)) == rows[first:]
    some = {"key", "source", "size", "mtime_ns", "labels", "flags"}
    assert [{name: version[name] for name in some} for version in packed.versions()] == [
        {name: one[name] for name in some} for one in rows
    ]


def test_every_flipped_byte_is_found(tmp_path):
    data = pack(ROWS["ordinary"])
    for place in range(len(data)):
        flipped = bytearray(data)
        flipped[place] ^= 0x10
        with pytest.raises(RowError):
            PackedRows(bytes(flipped))
    for place in range(len(data)):
        with pytest.raises(RowError):
            PackedRows(data[:place])


def test_a_file_is_known_by_its_first_line(tmp_path):
    digests = set()
    for name, rows in ROWS.items():
        path = tmp_path / name
        path.write_bytes(pack(rows))
        digests.add(packed_digest(path))
    assert len(digests) == len(ROWS)


@pytest.mark.parametrize("name", ["ordinary", "without video", "mixed"])
def test_a_manifest_of_packed_rows_is_that_of_single_rows(tmp_path, name):
    rows = ROWS[name]

    def arrays(folder: str, *given: Any) -> dict[str, Any]:
        settings: dict[str, Any] = {"storage": StorageConfig(fps=10), "sample_rate": 16000, "streams": "both"}
        settings |= {"shards": ["a.tar", "b.tar"], "shard_bytes": [2**40] * 2, "label_columns": ["kind", "more"]}
        return write_manifest(tmp_path / folder, given, **settings)

    single = arrays("single", *({**one, "shard": 1} for one in rows))
    packed = arrays("packed", PackedRows(pack(rows)).block(shard=1))
    assert single.keys() == packed.keys()
    for key, values in single.items():
        assert values.dtype == packed[key].dtype
        np.testing.assert_array_equal(values, packed[key], err_msg=key)
    meta = [(tmp_path / folder / "manifest/meta.json").read_bytes() for folder in ("single", "packed")]
    assert meta[0] == meta[1]
