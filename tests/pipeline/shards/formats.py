"""Prepared data in both formats: the same three samples in two shards, 0.9 s each, per codec."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np

from common.files import file_sha256
from pipeline.plan.clips import ClipPlanner
from pipeline.prepare.labels import Labels
from pipeline.prepare.publish import publish
from pipeline.prepare.records import index_records
from pipeline.prepare.sources import Source
from pipeline.prepare.staging import Staging
from pipeline.shards.codecs import CODECS, VideoBlob
from pipeline.shards.manifest import Manifest
from pipeline.shards.meta import sealed
from pipeline.shards.reader import ShardReader
from pipeline.shards.tar_writer import NormalisedMedia, sample_bytes
from settings import Config, PrepareConfig, from_dict

AUDIO = {"sample_rate": 8000, "f_max": 4000, "window": 200, "hop": 80}
"""Settings that fit the sampling rate of these samples."""


def format_1(folder: Path, codec: str) -> Path:
    """Unpacks data that version 0.1 prepared, when format 1 was the only one."""
    with tarfile.open(Path(__file__).with_name("format_1.tar.gz")) as archive:
        archive.extractall(folder, filter="data")
    return folder / "format_1" / codec


def with_index_lines(out: Path, *, drop: Collection[str] = ()) -> Path:
    """Makes the index of prepared data JSON lines, as older versions wrote it.

    Args:
        drop: keys that a still older version did not write.
    """
    recipe = json.loads((out / "recipe.json").read_text())
    (out / "recipe.json").write_text(json.dumps({key: value for key, value in recipe.items() if key != "index"}))
    for index in sorted((out / "index").glob("*.rows")):
        rows = [{key: row[key] for key in row if key not in drop} for row in index_records(index)]
        lines = [{**row, "lines": len(rows)} for row in rows] if "lines" not in drop else rows
        index.with_suffix(".jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        index.unlink()
    return out


def format_2(old: Path, out: Path) -> Path:
    """Packs the same tracks again, as `prepare` does now."""
    recipe = json.loads((old / "recipe.json").read_text())
    del recipe["labels"]
    config = from_dict(PrepareConfig, recipe)
    staging = Staging(out, part=(0, 1), config=config, labels="file")
    for index in sorted((old / "index").glob("*.jsonl")):
        rows = [json.loads(line) for line in index.read_text().splitlines()]
        sources = [
            Source(name=row["source"], path=old, **{name: row[name] for name in ("key", "size", "mtime_ns")})
            for row in rows
        ]
        data = (old / f"{index.stem}.tar").read_bytes()
        for row, source in zip(rows, sources, strict=True):
            video = data[row["video_offset"] :][: row["first_frame"] + sum(row["frame_bytes"])]
            blob = VideoBlob(
                data=video, **{name: row[name] for name in ("frame_bytes", "first_frame", "width", "height")}
            )
            pcm = np.frombuffer(data, "<i2", row["audio_samples"], row["audio_offset"])
            media = NormalisedMedia(video=blob, pcm=pcm, flags=row["flags"])
            packed = sample_bytes(media, key=row["key"], source=row["source"], labels=row["labels"], config=config)
            staging.fragment(source).write_bytes(packed)
            staging.stage(source)
        staging.pack([(source, piece) for source in sources for piece in staging.pieces(source)])
    staging.close()
    publish(
        out, config=config, labels=Labels(columns=json.loads((old / "manifest/meta.json").read_text())["label_columns"])
    )
    return out


def handed_over(data: Manifest) -> list[Any]:
    """All that the data set hands to decoders and planners: encoded frames, PCM, sizes, names and labels."""
    config = from_dict(Config, {"clip": {"frames": 5}, "audio": AUDIO})  # two clips cover all frames
    planner = ClipPlanner(config=config, dataset=data, fps=data.storage.fps)
    reader = ShardReader(manifest=data, frames=5, stride=1, audio_samples=config.audio_samples)
    ids = np.arange(len(data))
    found: list[Any] = [data.frames.tolist(), data.width.tolist(), data.height.tolist(), data.seconds.tolist()]
    found += [[data.source(i) for i in range(len(data))], data.storage, data.sample_rate, data.streams]
    found += [(column, data.labels(column).tolist(), data.label_names(column)) for column in data.label_columns]
    for clips in (1, 2):
        plan = planner.uniform(ids, clips=clips)
        inputs = CODECS[data.storage.codec].read(reader, plan)
        found += [[bytes(blob) for blob in inputs["encoded"]], reader.pcm(plan).tobytes()]
    return found


def reseal(folder: Path, **changes: object) -> None:
    """Gives damaged arrays and edited entries of meta.json matching checksums."""
    path = folder / "manifest" / "meta.json"
    meta = json.loads(path.read_text())
    del meta["sha256"]
    version = path.parent / meta["version"]
    meta["array_sha256"] = {name: file_sha256(version / f"{name}.npy") for name in meta["array_sha256"]}
    path.write_text(sealed(meta | changes))


def without_checksums(folder: Path) -> None:
    """Makes the manifest one of format 1, so that nothing is compared with checksums."""
    path = folder / "manifest" / "meta.json"
    meta = json.loads(path.read_text())
    for name in ("sha256", "array_sha256", "shard_sha256"):
        del meta[name]
    path.write_text(json.dumps(meta | {"format": 1}))
