"""Damaged media files: preparation, and the decord loader."""

from __future__ import annotations

import io
import json
import random
from pathlib import Path
from typing import Any

from pipeline.load.reference.decord_loader import DecordLoader, RawVideoError
from pipeline.media.rejection import RejectedSource
from pipeline.prepare.media import normalise
from pipeline.shards.tar_writer import NormalisedMedia, sample_bytes, sample_row
from settings import Config, ConfigError, PrepareConfig, from_dict
from tests.fuzz.cases import MAY_CRASH, World, attempt, check, outcome
from tests.fuzz.mutate import damaged


def container(rng: random.Random, world: World) -> str:
    """Prepares a damaged media file as a worker would, then reads it with the decord loader."""
    suffix = rng.choice(list(world.media))
    data = damaged(world.media[suffix], rng, other=world.media[rng.choice(list(world.media))])
    name = f"clip.{suffix if rng.random() < 0.9 else rng.choice(list(world.media))}"
    folder = world.scratch()
    (folder / name).write_bytes(data)
    world.stage(MAY_CRASH)
    prepared = _prepare(folder / name, rng)
    world.stage("decord loader")
    return f"{prepared}, decord {_decord(folder)}"


def _prepare(path: Path, rng: random.Random) -> str:
    tree: dict[str, Any] = {"streams": rng.choice(("both", "both", "both", "video", "audio")), "max_seconds": 20.0}
    tree["storage"] = {"short_side": 32, "gop": 4, "codec": rng.choice(("jpeg", "jpeg", "jpeg", "vp9"))}
    config = from_dict(PrepareConfig, tree)
    try:
        media = attempt(lambda: normalise(path, config), RejectedSource)
    except MemoryError:
        return "contained: memory"
    if isinstance(media, NormalisedMedia):
        _check_media(media, config)
    return outcome(media)


def _check_media(media: NormalisedMedia, config: PrepareConfig) -> None:
    sample = sample_bytes(media, key="k" * 20, source="clip", labels={}, config=config)
    row = sample_row(io.BytesIO(sample))
    json.dumps(media.flags, allow_nan=False)
    check(row["seconds"] > 0, f"a sample of {row['seconds']} seconds")
    if media.video is not None:
        check(
            sum(media.video.frame_bytes) + media.video.first_frame == len(media.video.data),
            "first_frame plus the frame sizes is not the length of the blob",
        )
    if media.video is not None and media.pcm is not None:
        wanted = round(len(media.video.frame_bytes) / config.storage.fps * config.sample_rate)
        check(len(media.pcm) == wanted, f"{len(media.pcm)} audio samples for {len(media.video.frame_bytes)} frames")
    check((media.video is None) == (config.streams == "audio"), "wrong tracks")
    check((media.pcm is None) == (config.streams == "video"), "wrong tracks")


def _decord(folder: Path) -> str:
    config = from_dict(
        Config,
        {
            "data": {"path": str(folder), "loader": "decord", "threads": 1},
            "clip": {"frames": 2, "size": 16},
            "train": {"batch_size": 2},
            "augment": {"enabled": False},
        },
    )
    loader = attempt(lambda: DecordLoader(config=config), ConfigError, str(folder))
    if isinstance(loader, Exception):
        return outcome(loader)
    # Without a shutdown, the threads of the loader would run until the process ends.
    try:
        batches = attempt(lambda: list(loader.uniform_clips([0], clips=1)), RawVideoError, str(folder))
    finally:
        loader._pool.shutdown()
    if not isinstance(batches, Exception):
        check(tuple(batches[0].video.shape) == (1, 3, 2, 16, 16), f"a clip of {batches[0].video.shape}")
        check(bool(batches[0].video.isfinite().all()), "frames that are not finite")
    return outcome(batches)
