"""Spatial-MultiOmniglot (Ozair et al. 2019): strips of characters paired with the next characters of their alphabets.

Cell c of a strip always holds a character of alphabet c, so a pair shares Σ_c log|alphabet c| nats of information.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from common.randomness import numpy_generator
from experiments.corpora.pairs import Corpus, Pairs, Part
from settings import ConfigError

ARCHIVES = ("images_background_small1.zip", "images_background_small2.zip")
HELD_OUT = 5
"""Number of drawings of each character, of 20, that only test pairs use."""
TEST_DRAWINGS = {"all": range(20 - HELD_OUT, 20), "tuning": range(20 - HELD_OUT, 17), "test": range(17, 20)}
"""Part -> the drawings of its test pairs."""


@lru_cache(maxsize=2)
def read_alphabets(folder: Path, cell: int) -> tuple[torch.Tensor, ...]:
    """Drawings of each alphabet, uint8 [characters, 20, cell, cell], white on black, ordered by the alphabet's name.

    Raises:
        ConfigError: the folder lacks Omniglot's archives.
    """
    drawings: dict[str, dict[str, list[np.ndarray]]] = {}
    for name in ARCHIVES:
        if not (folder / name).is_file():
            raise ConfigError(f"{folder} must hold {' and '.join(ARCHIVES)} of Omniglot; {name} is missing")
        with zipfile.ZipFile(folder / name) as archive:
            for entry in sorted(e for e in archive.namelist() if e.endswith(".png")):
                _, alphabet, character, _ = entry.split("/")
                image = Image.open(io.BytesIO(archive.read(entry))).convert("L")
                small = np.asarray(image.resize((cell, cell), Image.Resampling.BOX))
                drawings.setdefault(alphabet, {}).setdefault(character, []).append(255 - small)
    # Greek and Latin are in both archives, under the same file names.
    return tuple(
        torch.from_numpy(np.stack([np.stack(d[:20]) for _, d in sorted(drawings[a].items())])) for a in sorted(drawings)
    )


def make_omniglot(
    folder: Path,
    *,
    characters: int,
    cell: int,
    train: int,
    held_out: int,
    seed: int,
    skew: float = 0.0,
    part: Part = "all",
) -> Corpus:
    """A corpus of strips of n = `characters` cells, video [1, cell, n·cell], audio [cell, n·cell].

    Args:
        train: number of training pairs; `probe` and `test` have `held_out` each.
        skew: share of the training strips whose first character is one of four; 0 draws all equally.
        part: which drawings the test pairs have.

    Raises:
        ConfigError: the folder lacks Omniglot's archives, or there are not so many alphabets.
    """
    alphabets = read_alphabets(folder, cell)
    if not 1 <= characters <= len(alphabets):
        raise ConfigError(f"corpus.characters must be in [1, {len(alphabets)}], not {characters}")
    # The largest alphabets come first, which maximises the information that n cells share.
    chosen = sorted(alphabets, key=len, reverse=True)[:characters]
    learned, unseen = range(20 - HELD_OUT), TEST_DRAWINGS[part]
    return Corpus(
        train=_strips(chosen, train, drawings=learned, seed=seed, purpose="train", skew=skew),
        probe=_strips(chosen, held_out, drawings=learned, seed=seed, purpose="probe"),
        test=_strips(chosen, held_out, drawings=unseen, seed=seed, purpose="test"),
    )


def _strips(
    alphabets: Sequence[torch.Tensor], count: int, *, drawings: range, seed: int, purpose: str, skew: float = 0.0
) -> Pairs:
    rng = numpy_generator(seed, 0, f"omniglot {purpose}")
    video, audio, classes = [], [], []
    for cell, alphabet in enumerate(alphabets):
        characters = rng.integers(len(alphabet), size=count)
        if skew and cell == 0:
            characters = np.where(rng.random(count) < skew, rng.integers(4, size=count), characters)
        takes = rng.integers(drawings.start, drawings.stop, size=(2, count))
        video.append(alphabet[characters, takes[0]])
        audio.append(alphabet[(characters + 1) % len(alphabet), takes[1]])
        classes.append(torch.from_numpy(characters))
    video_strip, audio_strip = torch.cat(video, dim=2), torch.cat(audio, dim=2)
    return Pairs(
        video=video_strip[:, None],
        audio=(audio_strip.float() / 255 - 0.1) / 0.25,
        classes=torch.stack(classes, dim=1),
    )
