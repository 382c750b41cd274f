"""Reads every sample once: embeddings of its clips, small traces of picture and sound, loudness and motion."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from common.finite import require_finite
from common.progress import show_progress
from evaluation.features import MODALITIES
from model.encoder import CrossModalModel
from pipeline.batch import VIDEO_MEAN, VIDEO_STD
from pipeline.load.dali_loader import DaliLoader
from pipeline.plan.clips import ClipPlan
from search.encoders import DIVERGED

READ_SECONDS = 20.0
"""Length of the beginning of each sample that is read, in seconds."""
GRID = 8
"""Side of the traces' pictures, in cells."""
BANDS = 20
"""Number of frequency bands of the traces' sound."""
_LUMA = (0.299, 0.587, 0.114)
_SILENCE = 1e-6
"""Mean square that stands for digital silence, -60 dB below the quietest sound of 16 bits."""


@dataclass(frozen=True, kw_only=True)
class Samples:
    """What was read of n samples."""

    video: list[np.ndarray]
    """[n] embeddings of the clips, float32 [C, D]; C differs between samples."""
    audio: list[np.ndarray]
    """[n] embeddings of their sounds, float32 [C, D]."""
    pictures: list[np.ndarray]
    """[n] grey pictures at clip.fps, uint8 [T, GRID * GRID]."""
    spectra: list[np.ndarray]
    """[n] levels of the bands at the same times, in half decibels above -100 dB, uint8 [T, BANDS]."""
    loudness: np.ndarray
    """float64 [n], root mean square of the sound in dB relative to full scale."""
    motion: np.ndarray
    """float64 [n], mean distance of the pictures' cells from their mean over time, in levels of 0 to 255."""

    def joined(self, others: Samples) -> Samples:
        """These samples, followed by others."""
        lists = {
            name: getattr(self, name) + getattr(others, name) for name in ("video", "audio", "pictures", "spectra")
        }
        return Samples(
            **lists,
            loudness=np.concatenate([self.loudness, others.loudness]),
            motion=np.concatenate([self.motion, others.motion]),
        )


def read_samples(loader: DaliLoader, model: CrossModalModel, ids: np.ndarray) -> Samples:
    """Reads the beginning of each of the samples `ids`, int64 [n], in clips that follow each other.

    Raises:
        SampleError: a sample cannot be read.
        NotFiniteError: an embedding is not finite.
    """
    plan, counts = consecutive_clips(loader, ids)
    rows: dict[str, list[np.ndarray]] = {name: [] for name in (*MODALITIES, "pictures", "spectra", "power")}
    total = -(-len(plan) // loader.batch_size)
    for batch in show_progress(loader.carry_out(plan), total=total, unit="batches of clips"):
        assert batch.video is not None
        assert batch.audio is not None
        assert batch.plan is not None
        with torch.no_grad():
            for modality in MODALITIES:
                rows[modality].append(model.query[modality](getattr(batch, modality)).embedding.cpu().numpy())
        rows["pictures"].append(_pictures(batch.video))
        rows["spectra"].append(_spectra(batch.audio, batch.video.shape[2], loader))
        pcm = loader.waveforms(batch.plan).astype(np.float64) / 32768
        rows["power"].append((pcm**2).mean(axis=1))
    joined = {name: np.concatenate(parts) for name, parts in rows.items()}

    def name(row: int) -> str:
        return loader.dataset.source(int(plan.ids[row]))

    for modality in MODALITIES:
        require_finite(joined[modality], f"the {modality} embeddings", name=name, advice=DIVERGED)
    split = {key: np.split(values, np.cumsum(counts)[:-1]) for key, values in joined.items()}
    pictures = [_in_sequence(clips) for clips in split["pictures"]]
    return Samples(
        video=split["video"],
        audio=split["audio"],
        pictures=pictures,
        spectra=[_in_sequence(clips) for clips in split["spectra"]],
        loudness=np.array([10 * np.log10(max(power.mean(), _SILENCE**2)) for power in split["power"]]),
        motion=np.array([_motion(trace) for trace in pictures]),
    )


def consecutive_clips(loader: DaliLoader, ids: np.ndarray) -> tuple[ClipPlan, np.ndarray]:
    """Plans clips that follow each other through the first READ_SECONDS of samples, and counts those of each sample."""
    length = loader.config.clip.seconds
    seconds = np.minimum(np.asarray(loader.dataset.seconds)[ids], READ_SECONDS)
    # Only whole clips: the planner would shift one that is longer than the rest, and the traces would jump back.
    counts = np.maximum(1, np.floor(seconds / length + 1e-6)).astype(np.int64)
    number = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    begin = number * length
    return loader.planner.windows(np.repeat(ids, counts), begin, begin + length, clips=1), counts


def _pictures(video: torch.Tensor) -> np.ndarray:
    """Grey pictures of clips [B, 3, T, S, S], uint8 [B, T, GRID * GRID]."""
    scale, offset = torch.tensor(VIDEO_STD), torch.tensor(VIDEO_MEAN)
    rgb = video.float().cpu() * scale.view(1, 3, 1, 1, 1) + offset.view(1, 3, 1, 1, 1)
    grey = torch.einsum("bcthw,c->bthw", rgb, torch.tensor(_LUMA))
    cells = F.adaptive_avg_pool2d(grey, GRID).flatten(2)
    return (255 * cells.clamp(0, 1)).round().byte().numpy()


def _spectra(audio: torch.Tensor, frames: int, loader: DaliLoader) -> np.ndarray:
    """Levels of bands at the times of the frames, uint8 [B, T, BANDS], of the windows [B, 1, M, F] of clips.

    Windows longer than the video clip are centred on it; what lies outside the clip is left out.
    """
    config = loader.config
    share = min(1.0, config.clip.seconds / config.audio_seconds)
    count = audio.shape[3]
    first = round((1 - share) / 2 * count)
    decibels = audio[:, :, :, first : count - first].float().cpu() * config.audio.std_db + config.audio.mean_db
    bands = F.adaptive_avg_pool2d(decibels, (BANDS, frames))[:, 0].transpose(1, 2)
    return (2 * (bands + 100)).clamp(0, 255).round().byte().numpy()


def _in_sequence(clips: np.ndarray) -> np.ndarray:
    """Clips [C, T, n] one after another, [C * T, n]."""
    return clips.reshape(-1, clips.shape[2])


def _motion(trace: np.ndarray) -> float:
    values = trace.astype(np.float64)
    return float(np.abs(values - values.mean(axis=0)).mean())


def mean_vectors(clips: Sequence[np.ndarray]) -> np.ndarray:
    """Mean of the embeddings of each sample's clips, float64 [n, D]."""
    return np.stack([vectors.mean(axis=0, dtype=np.float64) for vectors in clips])
