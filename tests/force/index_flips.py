"""Flips single bits of what only preparation reads (index/, recipe.json, sources.json), and prepares again.

Expected: the damage is named, or the data set is what it was before.
"""

from __future__ import annotations

import functools
import os
import random
import shutil
import sys
from pathlib import Path

import torch

from pipeline.prepare.labels import LabelError
from pipeline.prepare.records import PrepareError
from pipeline.prepare.run import prepare
from pipeline.shards.manifest import ManifestError
from settings import PrepareConfig, load_config
from tests.force.cases import Outcome, World
from tests.force.flips import differences, read_everything
from tests.fuzz import originals

torch.set_num_threads(1)

SETTINGS = ["storage.short_side=32", "storage.gop=4", "shard_samples=3", "storage.codec=jpeg"]
"""Settings of `originals.prepared`."""
_PATTERNS = ("index/*.jsonl", "recipe.json", "sources.json", "rejected.jsonl", "flagged.jsonl")


def make_index(world: World) -> None:
    """Makes the data set of five clips in whose copies bits are flipped."""
    originals.prepared(world.folder / "tiny")


def flip_index(rng: random.Random, world: World) -> Outcome:
    """Flips one bit of a copy of the data set, prepares it again, and compares it with the original."""
    _be_silent()
    tiny, out = world.folder / "tiny", world.scratch() / "out"
    shutil.copytree(tiny / "jpeg", out)
    path = rng.choice(sorted(file for pattern in _PATTERNS for file in out.glob(pattern) if file.stat().st_size))
    offset, bit = rng.randrange(path.stat().st_size), rng.randrange(8)
    content = bytearray(path.read_bytes())
    content[offset] ^= 1 << bit
    path.write_bytes(content)
    name = f"bit {bit} of byte {offset} of {path.relative_to(out)}"
    return outcome(name, tiny, out)


def outcome(name: str, tiny: Path, out: Path) -> Outcome:
    """Prepares again, and returns whether the damage was named, repaired or without effect."""
    config = load_config(PrepareConfig, overrides=SETTINGS)
    try:
        summary = prepare(tiny / "videos", out, config=config, labels_path=tiny / "labels.csv", workers=1)
    except (PrepareError, LabelError, ManifestError) as error:
        return Outcome("kept", detail=f"{name}: detected: {' '.join(str(error).split())[:200]}")
    if different := differences(_contents(tiny / "jpeg"), read_everything(out)):
        return Outcome("silent", detail=f"{name}: different {', '.join(different[:6])}, and nothing was reported")
    return Outcome("kept", detail=f"{name}: {'repaired' if summary.set_aside else 'harmless'}")


_contents = functools.cache(read_everything)


@functools.cache
def _be_silent() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
