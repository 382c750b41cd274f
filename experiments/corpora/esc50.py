"""ESC-50's sounds: pairs with a video of their spectrum for pre-training, and evenly spaced windows for testing.

The sounds are real but have no video. A spectrum analyser's display of a sound is a video that can be generated and
that a video encoder must read to find the sound.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
import torchaudio

from common.randomness import numpy_generator
from experiments.corpora.pairs import Pairs
from pipeline.lists.names import Finder
from pipeline.load.log_mel import LogMel
from pipeline.load.reference.raw_decoding import decode_pcm
from settings import AudioConfig, ConfigError

SECONDS, FRAMES, SIDE = 5, 8, 32
"""Length of a clip in seconds; number of frames of a video, and their side in pixels (one mel band per column)."""
FLOOR_DB = 60.0
"""Range of the bars: a bar this far below the loudest band of the window has no height."""


@dataclass(frozen=True)
class Sounds:
    """All clips of the data set."""

    pcm: torch.Tensor
    """Mono waveforms in [-1, 1], float32 [n, samples]."""
    classes: np.ndarray
    """Classes 0 to 49, int [n]."""
    folds: np.ndarray
    """Official folds 1 to 5, int [n]."""


@lru_cache(maxsize=1)
def read_sounds(folder: Path, rate: int) -> Sounds:
    """The sounds of meta/esc50.csv, from the files in audio/ with these names and any suffix.

    Raises:
        ConfigError: the folder is not ESC-50.
    """
    table = folder / "meta" / "esc50.csv"
    if not table.is_file():
        raise ConfigError(f"{folder} must hold ESC-50 (meta/esc50.csv and audio/); {table} is missing")
    with table.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    finder = Finder(path.name for path in (folder / "audio").iterdir())
    pcm = []
    for row in rows:
        found = finder.find(row["filename"])
        if len(found) != 1:
            raise ConfigError(f"{folder}/audio must hold one file {row['filename']}, of any suffix, not {len(found)}")
        path = str(folder / "audio" / found[0])
        pcm.append(decode_pcm(path, origin=0.0, rate=rate, start=0, length=SECONDS * rate))
    return Sounds(
        pcm=torch.from_numpy(np.stack(pcm)).float() / 32768,
        classes=np.array([int(row["target"]) for row in rows]),
        folds=np.array([int(row["fold"]) for row in rows]),
    )


def make_pairs(sounds: Sounds, rows: np.ndarray, *, audio: AudioConfig, windows: int, seed: int) -> Pairs:
    """Pairs from `windows` random windows of each of the clips `rows`: video [8, 32, 32], audio [n_mels, F]."""
    rng, length = numpy_generator(seed, 0, "esc50 windows"), round(audio.seconds * audio.sample_rate)
    log_mel, video, spectra = LogMel(audio), [], []
    for _ in range(windows):
        starts = rng.integers(SECONDS * audio.sample_rate - length, size=len(rows))
        pcm = torch.stack([sounds.pcm[row, start : start + length] for row, start in zip(rows, starts, strict=True)])
        # Many clips are silent after their sound, so silent windows are replaced by the clip's beginning.
        silent = pcm.abs().amax(1) < 1e-3
        pcm[silent] = sounds.pcm[rows[silent.numpy()], :length]
        video.append(spectrum_video(pcm, rate=audio.sample_rate))
        spectra.append(log_mel(pcm))
    classes = torch.from_numpy(np.tile(sounds.classes[rows], windows))[:, None]
    return Pairs(video=torch.cat(video), audio=torch.cat(spectra), classes=classes)


def spectrum_video(pcm: torch.Tensor, *, rate: int) -> torch.Tensor:
    """A spectrum analyser's display: one bar per mel band, whose height is the level relative to the loudest band.

    It maps float [B, samples] to uint8 [B, 8, 32, 32].
    """
    mel = torchaudio.transforms.MelSpectrogram(
        sample_rate=rate, n_fft=1024, hop_length=pcm.shape[1] // FRAMES, n_mels=SIDE
    )
    # The video shows the shape of a sound, not its recording level.
    level = pcm / pcm.abs().amax(1, keepdim=True).clamp(min=1e-3)
    decibels = 10 * torch.log10(mel(level)[..., :FRAMES] + 1e-6)
    height = ((decibels - decibels.amax((1, 2), keepdim=True) + FLOOR_DB) / FLOOR_DB).clamp(0, 1) * SIDE
    row = torch.arange(SIDE - 1, -1, -1)[None, None, :, None]
    return ((height.transpose(1, 2)[:, :, None, :] - row).clamp(0, 1) * 255).to(torch.uint8)


def even_windows(sounds: Sounds, *, audio: AudioConfig, windows: int) -> torch.Tensor:
    """Spectrograms of windows that are evenly spaced over every clip, float32 [n, windows, n_mels, F]."""
    length = round(audio.seconds * audio.sample_rate)
    starts = np.linspace(0, SECONDS * audio.sample_rate - length, windows).astype(int)
    log_mel = LogMel(audio)
    return torch.stack([log_mel(sounds.pcm[:, start : start + length]) for start in starts], dim=1)
