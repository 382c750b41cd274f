"""Tux Paint's stamps: pictures of things, moved over a canvas, paired with recordings of the things' names.

The pictures and recordings are those of Debian's package tuxpaint-stamps-default (GPL-2), read where the package
installs them: 767 things with a picture in PNG, spoken in nine languages by one or a few volunteers each. All nine are
recordings of people: the room's noise is heard in every pause, 20 to 38 dB below the voice, and two recordings of one
text differ (correlation .2 to .3). Only in Russian and Greek are the recordings of one text copies of one file. Some
things share a name with others: they are one content here, which is never divided between training and test.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import av
import numpy as np
import torch
import torchaudio
from PIL import Image

from common.randomness import numpy_generator
from experiments.corpora.pairs import Corpus, Pairs, Part, move
from settings import ConfigError

STAMPS = Path("/usr/share/tuxpaint/stamps")
"""Where the package installs the stamps."""
LANGUAGES = ("be", "bg", "ca", "da", "el", "es", "fr", "ro", "ru")
TUNING_LANGUAGE = "ca"
"""The unseen language of part `tuning`."""
TEST_LANGUAGES = tuple(language for language in LANGUAGES if language != TUNING_LANGUAGE)
"""The unseen languages of part `test`, which change with the seed."""
FOLDS = 10
"""Number of folds that the contents are divided into; the first two are the unseen things of part `tuning`."""
FOLDERS = 30
"""Number of folders that are a class of their own for the probe: the largest ones; the others are one class."""
STAMP, CANVAS, FRAMES = 36, 48, 4
"""Sides of a picture and of the canvas in pixels, and frames per video."""
RATE, MELS, FFT, HOP, LENGTH = 16_000, 40, 512, 320, 64
"""Sample rate in Hz, mel bands, FFT size and hop in samples, and number of spectrogram columns (1.28 s)."""
LATEST = 12
"""Latest start of a name in a clip, in spectrogram columns."""


@dataclass(frozen=True)
class Stamps:
    """All things, and all recordings of their names."""

    pictures: np.ndarray
    """Grey on white, uint8 [things, 36, 36]."""
    classes: np.ndarray
    """Kind and folder of each thing, int64 [things, 2]."""
    contents: np.ndarray
    """Content of each thing, int64 [things]: things with a name in common have the same."""
    folds: np.ndarray
    """The fold of each thing's content, int64 [things]."""
    spectra: np.ndarray
    """Log-mel spectrograms, float32 [recordings, 40, 64]; zero mean and unit variance over all of them."""
    things: np.ndarray
    """The thing that each recording names, int64 [recordings]."""
    languages: np.ndarray
    """The language of each recording, [recordings]."""


def make_tuxpaint(*, train: int, held_out: int, seed: int, part: Part, folder: Path = STAMPS) -> Corpus:
    """A corpus of video [4, 48, 48] and log-mel audio [40, 64].

    The pairs of `test` are of unseen things in known languages, and those of `other_tests["language"]` are of known
    things in an unseen language: neither those things nor that language are in a training pair. Except for part
    `tuning`, both change with the seed, so that a mean over seeds is also one over things and languages.

    Args:
        train: number of training pairs; the other sets have `held_out` each.
        part: which things and which languages are unseen.

    Raises:
        ConfigError: the package is not installed.
    """
    stamps = read_stamps(folder)
    language, folds = unseen(part, seed)
    is_unseen_thing = np.isin(stamps.folds, folds)[stamps.things]
    is_unseen_language = stamps.languages == language

    def pairs(rows: np.ndarray, count: int, purpose: str) -> Pairs:
        return _pairs(stamps, np.flatnonzero(rows), count, seed=seed, purpose=purpose)

    return Corpus(
        train=pairs(~is_unseen_thing & ~is_unseen_language, train, "train"),
        probe=pairs(~is_unseen_thing & ~is_unseen_language, held_out, "probe"),
        test=pairs(is_unseen_thing & ~is_unseen_language, held_out, "test"),
        other_tests={"language": pairs(~is_unseen_thing & is_unseen_language, held_out, "language")},
    )


def unseen(part: Part, seed: int) -> tuple[str, tuple[int, int]]:
    """The language and the two folds of things that are in no training pair."""
    if part == "tuning":
        return TUNING_LANGUAGE, (0, 1)
    turn = seed % (FOLDS // 2 - 1)
    return TEST_LANGUAGES[seed % len(TEST_LANGUAGES)], (2 + 2 * turn, 3 + 2 * turn)


@lru_cache(maxsize=1)
def read_stamps(folder: Path) -> Stamps:
    """Reads every thing that has a picture in PNG and a recording in one of LANGUAGES."""
    recordings: dict[str, dict[str, Path]] = {}
    for path in sorted(folder.rglob("*_desc_??.ogg")):
        name = str(path.relative_to(folder).with_suffix(""))
        thing, language = name[: -len("_desc_xx")], name[-2:]
        if language in LANGUAGES and (folder / f"{thing}.png").is_file():
            recordings.setdefault(thing, {})[language] = path
    if not recordings:
        raise ConfigError(
            f"{folder} must hold the stamps of Tux Paint; install them with apt-get install tuxpaint-stamps-default"
        )
    things = list(recordings)
    contents = _contents([_names(folder / f"{thing}.txt", recordings[thing]) for thing in things])
    folders = [os.path.dirname(thing) for thing in things]
    largest = sorted(set(folders), key=lambda name: (-folders.count(name), name))[:FOLDERS]
    kinds = sorted({name.split("/")[0] for name in folders})
    classes = [(kinds.index(f.split("/")[0]), largest.index(f) if f in largest else FOLDERS) for f in folders]
    pairs = [(row, language) for row, thing in enumerate(things) for language in recordings[thing]]
    spectra = np.stack([_log_mel(recordings[things[row]][language]) for row, language in pairs])
    return Stamps(
        pictures=np.stack([_picture(folder / f"{thing}.png") for thing in things]),
        classes=np.array(classes, dtype=np.int64),
        contents=contents,
        folds=(numpy_generator(0, 0, "tuxpaint folds").permutation(contents.max() + 1) % FOLDS)[contents],
        spectra=((spectra - spectra.mean()) / spectra.std()).astype(np.float32),
        things=np.array([row for row, _ in pairs]),
        languages=np.array([language for _, language in pairs]),
    )


def _names(text: Path, recorded: dict[str, Path]) -> set[tuple[str, str]]:
    """The thing's name in English and in each language in which it is recorded, as (language, name)."""
    lines = text.read_text(encoding="utf-8", errors="replace").splitlines()
    names = {("en", lines[0].strip().lower())}
    for line in lines[1:]:
        language, _, name = line.partition(".utf8=")
        if language in recorded and name.strip():
            names.add((language, name.strip().lower()))
    return names


def _contents(names: Sequence[set[tuple[str, str]]]) -> np.ndarray:
    """Numbers the things so that those that share a name, directly or through other things, have the same number."""
    content = np.arange(len(names))
    owners: dict[tuple[str, str], int] = {}
    for thing, found in enumerate(names):
        for name in found:
            owner = owners.setdefault(name, thing)
            content[content == content[thing]] = content[owner]
    return np.unique(content, return_inverse=True)[1]


def _picture(path: Path) -> np.ndarray:
    """The picture in grey on white, fitted into a square, uint8 [36, 36]."""
    with Image.open(path) as image:
        coloured = image.convert("RGBA")
    coloured.thumbnail((STAMP, STAMP), Image.Resampling.BOX)
    square = Image.new("RGBA", (STAMP, STAMP), "white")
    square.alpha_composite(coloured, ((STAMP - coloured.width) // 2, (STAMP - coloured.height) // 2))
    return np.asarray(square.convert("L"))


@lru_cache(maxsize=1)
def _mel_spectrogram() -> torchaudio.transforms.MelSpectrogram:
    return torchaudio.transforms.MelSpectrogram(RATE, n_fft=FFT, hop_length=HOP, n_mels=MELS)


def _log_mel(path: Path) -> np.ndarray:
    """The log-mel spectrogram of a recording from where the voice begins, in dB below its maximum, [40, 64]."""
    resampler = av.AudioResampler(format="flt", layout="mono", rate=RATE)
    with av.open(str(path)) as container:
        frames = [out for frame in container.decode(audio=0) for out in resampler.resample(frame)]
    wave = torch.from_numpy(np.concatenate([frame.to_ndarray()[0] for frame in [*frames, *resampler.resample(None)]]))
    level = 10 * torch.log10(_mel_spectrogram()(torch.nn.functional.pad(wave, (0, FFT))) + 1e-10)
    level = (level - level.max()).clamp(min=-60)
    loud = torch.nonzero(level.amax(0) > -25)
    level = level[:, max(0, int(loud[0]) - 2) :][:, :LENGTH]
    return torch.nn.functional.pad(level, (0, LENGTH - level.shape[1]), value=-60.0).numpy()


def _pairs(stamps: Stamps, recordings: np.ndarray, count: int, *, seed: int, purpose: str) -> Pairs:
    rng = numpy_generator(seed, 0, f"tuxpaint {purpose}")
    rows = rng.choice(recordings, size=count)
    things = stamps.things[rows]
    return Pairs(
        video=torch.from_numpy(move(stamps.pictures[things], rng, canvas=CANVAS, frames=FRAMES, background=255)),
        audio=torch.from_numpy(_delay(stamps.spectra[rows], rng)),
        classes=torch.from_numpy(stamps.classes[things]),
        contents=torch.from_numpy(stamps.contents[things]),
    )


def _delay(spectra: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The spectrograms, each after a random silence of up to LATEST columns and cut to the same shape."""
    found = np.full_like(spectra, spectra.min())
    for row, start in enumerate(rng.integers(LATEST + 1, size=len(spectra))):
        found[row, :, start:] = spectra[row, :, : LENGTH - start]
    return found
