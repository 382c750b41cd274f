"""Flips single bits of what only preparation reads (index/, recipe.json, sources.json), and prepares again.

Expected: the damage is named, or the data set is what it was before.
"""

from __future__ import annotations

import functools
import random
import shutil
from pathlib import Path

import torch

from pipeline.prepare.labels import LabelError
from pipeline.prepare.records import PrepareError
from pipeline.prepare.run import prepare
from pipeline.shards.manifest import ManifestError
from tests.force.cases import Outcome, World
from tests.force.flips import be_silent, differences, flipped, read_everything
from tests.fuzz import originals

torch.set_num_threads(1)

_PATTERNS = ("index/*.jsonl", "recipe.json", "sources.json", "rejected.jsonl", "flagged.jsonl")


def make_index(world: World) -> None:
    """Makes the data set of five clips in whose copies bits are flipped."""
    originals.prepared(world.folder / "tiny")


def flip_index(rng: random.Random, world: World) -> Outcome:
    """Flips one bit of a copy of the data set, prepares it again, and compares it with the original."""
    be_silent()
    tiny, out = world.folder / "tiny", world.scratch() / "out"
    shutil.copytree(tiny / "jpeg", out)
    path = rng.choice(sorted(file for pattern in _PATTERNS for file in out.glob(pattern) if file.stat().st_size))
    offset, bit = rng.randrange(path.stat().st_size), rng.randrange(8)
    with flipped(path, offset, bit):
        return outcome(f"bit {bit} of byte {offset} of {path.relative_to(out)}", tiny, out)


def outcome(name: str, tiny: Path, out: Path) -> Outcome:
    """Prepares again, and returns whether the damage was named, repaired or without effect."""
    config = originals.prepare_config("jpeg")
    try:
        summary = prepare(tiny / "videos", out, config=config, labels_path=tiny / "labels.csv", workers=1)
    except (PrepareError, LabelError, ManifestError) as error:
        return Outcome("kept", detail=f"{name}: detected: {' '.join(str(error).split())[:200]}")
    if different := differences(_contents(tiny / "jpeg"), read_everything(out)):
        return Outcome("silent", detail=f"{name}: different {', '.join(different[:6])}, and nothing was reported")
    return Outcome("kept", detail=f"{name}: {'repaired' if summary.set_aside else 'harmless'}")


_contents = functools.cache(read_everything)
