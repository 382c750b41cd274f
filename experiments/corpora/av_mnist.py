"""AV-MNIST: a video of a digit that moves over a canvas, paired with a recording of the same digit.

Training pairs use the images of MNIST's training part, test pairs those of its test part; the speakers of test pairs
are in no training pair. A share of the training pairs can be limited to three digits, which makes a dictionary of
random keys redundant.
"""

from __future__ import annotations

import csv
import gzip
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import torchaudio

from common.randomness import numpy_generator
from experiments.corpora.pairs import Corpus, Pairs, Part, move
from settings import ConfigError

HELD_OUT_SPEAKERS = ("theo", "yweweler")
"""The speakers of the test pairs of part `all`."""
TUNING_SPEAKERS = ("lucas", "nicolas")
"""The speakers of the test pairs of part `tuning`."""
TEST_SPEAKERS = tuple(combinations(("george", "jackson", "theo", "yweweler"), 2))
"""The speakers of the test pairs of part `test`, which change with the seed."""
FREQUENT = (0, 1, 2)
"""The digits that most training pairs are limited to if `skew` is large."""
IMAGES = {
    "all": (slice(0, 10_000), slice(0, 10_000)),
    "tuning": (slice(10_000, 20_000), slice(0, 5_000)),
    "test": (slice(0, 10_000), slice(5_000, 10_000)),
}
"""Part -> rows of MNIST's training part for the training pairs, and of its test part for the test pairs."""
RATE, SECONDS, MELS, FFT, HOP = 8000, 0.75, 32, 256, 125
"""Sample rate in Hz, length of a recording in seconds, mel bands, and FFT size and hop in samples."""
DIGIT, CANVAS, FRAMES = 20, 32, 4
"""Sides of a digit and of the canvas in pixels, and frames per video."""


def make_av_mnist(
    folder: Path,
    *,
    train: int,
    held_out: int,
    seed: int,
    skew: float,
    frequent: Sequence[int] = FREQUENT,
    part: Part = "all",
) -> Corpus:
    """A corpus of video [4, 32, 32] and log-mel audio [32, 49].

    Args:
        folder: holds MNIST's idx files under mnist/ and the Free Spoken Digit Dataset under spoken_digits/.
        train: number of training pairs; `probe` and `test` have `held_out` each, with all digits equally frequent.
        skew: share of the training pairs that are limited to the digits `frequent`.
        part: which speakers and images the test pairs have. In part `test`, all pairs of speakers take turns: the seed
            selects them, so that a mean over seeds is also one over speakers.

    Raises:
        ConfigError: a data set is missing.
    """
    spoken = _spoken(folder / "spoken_digits")
    sounds, digits = spoken.spectra, spoken.digits
    unseen = np.isin(spoken.speakers, held_out_speakers(part, seed))
    rows = IMAGES[part]
    learned, tested = (_mnist(folder / "mnist", name, rows[i]) for i, name in enumerate(("train", "t10k")))
    known, new = (sounds[~unseen], digits[~unseen]), (sounds[unseen], digits[unseen])
    return Corpus(
        train=_pairs(learned, known, train, seed=seed, purpose="train", skew=skew, frequent=frequent),
        probe=_pairs(learned, known, held_out, seed=seed, purpose="probe"),
        test=_pairs(tested, new, held_out, seed=seed, purpose="test"),
    )


def held_out_speakers(part: Part, seed: int) -> tuple[str, ...]:
    """The speakers of the test pairs, who are in no training pair."""
    if part == "test":
        return TEST_SPEAKERS[seed % len(TEST_SPEAKERS)]
    return TUNING_SPEAKERS if part == "tuning" else HELD_OUT_SPEAKERS


def to_log_mel(folder: Path, waves: torch.Tensor) -> torch.Tensor:
    """Converts other sounds to input for an encoder of this corpus: float32 [n, 6000] at RATE to log-mel [n, 32, 49].

    Args:
        folder: as for make_av_mnist; the spectra are standardised with the mean and deviation of its spoken digits.
    """
    spoken = _spoken(folder / "spoken_digits")
    return ((_log_mel(waves) - spoken.mean) / spoken.std).float()


def _pairs(
    pictures: tuple[np.ndarray, np.ndarray],
    sounds: tuple[np.ndarray, np.ndarray],
    count: int,
    *,
    seed: int,
    purpose: str,
    skew: float = 0.0,
    frequent: Sequence[int] = FREQUENT,
) -> Pairs:
    rng = numpy_generator(seed, 0, f"av_mnist {purpose}")
    digits = rng.integers(10, size=count)
    if skew:
        limited = rng.random(count) < skew
        rare = np.setdiff1d(np.arange(10), frequent)
        digits = np.where(limited, rng.choice(frequent, size=count), rng.choice(rare, size=count))
    shown = pictures[0][_rows_of(pictures[1], digits, rng)]
    return Pairs(
        video=torch.from_numpy(move(shown, rng, canvas=CANVAS, frames=FRAMES)),
        audio=torch.from_numpy(sounds[0][_rows_of(sounds[1], digits, rng)]),
        classes=torch.from_numpy(digits)[:, None],
    )


def _rows_of(labels: np.ndarray, wanted: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A random row for each wanted label."""
    rows = np.empty(len(wanted), dtype=np.int64)
    for label in range(10):
        places = wanted == label
        rows[places] = rng.choice(np.flatnonzero(labels == label), size=int(places.sum()))
    return rows


def _mnist(folder: Path, part: str, rows: slice) -> tuple[np.ndarray, np.ndarray]:
    """Some images of a part, cropped to MNIST's inner box, uint8 [n, 20, 20], and their digits."""
    images, digits = _all_mnist(folder, part)
    return images[rows], digits[rows]


@lru_cache(maxsize=2)
def _all_mnist(folder: Path, part: str) -> tuple[np.ndarray, np.ndarray]:
    try:
        pictures = gzip.decompress((folder / f"{part}-images-idx3-ubyte.gz").read_bytes())
        labels = gzip.decompress((folder / f"{part}-labels-idx1-ubyte.gz").read_bytes())
    except FileNotFoundError as error:
        raise ConfigError(f"{folder} must hold MNIST's gzipped idx files: {error}") from None
    images = np.frombuffer(pictures, dtype=np.uint8, offset=16).reshape(-1, 28, 28)[:, 4:24, 4:24]
    return images, np.frombuffer(labels, dtype=np.uint8, offset=8).astype(np.int64)


@dataclass(frozen=True)
class _Spoken:
    """All recordings, each cut or padded to 0.75 s."""

    spectra: np.ndarray
    """Log-mel float32 [3000, 32, 49], standardised."""
    digits: np.ndarray
    speakers: np.ndarray
    mean: float
    std: float


@lru_cache(maxsize=1)
def _spoken(folder: Path) -> _Spoken:
    if not (folder / "index.csv").is_file():
        raise ConfigError(f"{folder} must hold index.csv and recordings/ of the Free Spoken Digit Dataset")
    with (folder / "index.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    samples = int(RATE * SECONDS)
    waves = []
    for row in rows:
        data = (folder / "recordings" / row["file"]).read_bytes()
        # The files are 16-bit PCM after a header of 44 bytes.
        wave = np.frombuffer(data[44 : 44 + (len(data) - 44) // 2 * 2], dtype="<i2")
        wave = torch.from_numpy(wave.astype(np.float32) / 32768)[:samples]
        waves.append(F.pad(wave, (0, samples - len(wave))))
    mels = _log_mel(torch.stack(waves))
    mean, std = mels.mean(), mels.std()
    return _Spoken(
        spectra=((mels - mean) / std).float().numpy(),
        digits=np.array([int(r["digit"]) for r in rows]),
        speakers=np.array([r["speaker"] for r in rows]),
        mean=float(mean),
        std=float(std),
    )


def _log_mel(waves: torch.Tensor) -> torch.Tensor:
    spectrogram = torchaudio.transforms.MelSpectrogram(RATE, n_fft=FFT, hop_length=HOP, n_mels=MELS)
    return torch.log10(spectrogram(waves) + 1e-6).double()
