"""Log-mel spectrograms: `LogMel` defines them by torchaudio, and `LogMelRunner` computes the same faster on a CPU.

The reference loader uses `LogMel`, the DALI loader `LogMelRunner` on a CPU and a DALI graph on a GPU. On a CPU, torch's
Fourier transform and matrix product are faster than DALI's operators.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torchaudio
from torch import nn

from pipeline.load.cpu_threads import TASKS_PER_THREAD, PendingBatch, SingleThreadTorchPool
from settings import AudioConfig


class LogMel(nn.Module):
    """torchaudio's MelSpectrogram (power, HTK mels) and AmplitudeToDB, then (dB - audio.mean_db) / audio.std_db."""

    def __init__(self, audio: AudioConfig) -> None:
        super().__init__()
        self.mean_db, self.std_db = audio.mean_db, audio.std_db
        self.mel = torchaudio.transforms.MelSpectrogram(
            sample_rate=audio.sample_rate,
            n_fft=audio.n_fft,
            win_length=audio.window,
            hop_length=audio.hop,
            f_min=audio.f_min,
            f_max=audio.f_max,
            n_mels=audio.n_mels,
        )
        self.decibels = torchaudio.transforms.AmplitudeToDB()

    def forward(self, waveform: torch.Tensor) -> torch.Tensor:
        """Maps float32 [..., samples] in [-1, 1] to [..., n_mels, F]."""
        return (self.decibels(self.mel(waveform)) - self.mean_db) / self.std_db


class LogMelRunner:
    """Computes `LogMel` from 16-bit PCM on a CPU in a thread pool; same interface as `GraphRunner`.

    Args:
        audio: defines the spectrograms.
        threads: the pool that runs the work.
    """

    def __init__(self, *, audio: AudioConfig, threads: SingleThreadTorchPool) -> None:
        self._audio = audio
        self._threads = threads
        reference = LogMel(audio).mel
        self._window = reference.spectrogram.window
        # [1, n_mels, 2 * (n_fft // 2 + 1)]: each weight occurs twice, for the real and the imaginary part, so that the
        # matrix product also adds their squares, which a separate sum would do more slowly. The weights include the
        # scale of 16-bit PCM.
        self._filters = reference.mel_scale.fb.T.repeat_interleave(2, dim=1)[None] / 32768**2

    def submit(self, inputs: Mapping[str, Any]) -> PendingBatch:
        """Submits a batch and returns immediately; the result is float32 [B, n_mels, F].

        Args:
            inputs: `pcm` [B, samples], int16 or float32 of the same scale.
        """
        pcm: np.ndarray = inputs["pcm"]
        out = torch.empty(len(pcm), self._audio.n_mels, 1 + pcm.shape[1] // self._audio.hop)
        size = math.ceil(len(pcm) / (TASKS_PER_THREAD * self._threads.count))  # clips per task
        parts = (slice(first, first + size) for first in range(0, len(pcm), size))
        return PendingBatch(out, [self._threads.submit(self._compute, pcm[part], out[part]) for part in parts])

    def result(self, run: PendingBatch) -> torch.Tensor:
        return run.result()

    def _compute(self, pcm: np.ndarray, out: torch.Tensor) -> None:
        audio = self._audio
        before = audio.n_fft // 2
        after = max(0, (out.shape[2] - 1) * audio.hop + audio.n_fft - before - pcm.shape[1])
        # torch.stft with center=True pads in the same way, but rejects audio that is shorter than its padding.
        padded = torch.from_numpy(np.pad(pcm, ((0, 0), (before, after)), mode="reflect")).float()
        spectrum = torch.stft(
            padded, audio.n_fft, audio.hop, audio.window, self._window, center=False, return_complex=True
        )
        power = torch.view_as_real(spectrum.transpose(1, 2)).flatten(2).square_()
        torch.bmm(self._filters.expand(len(out), -1, -1), power.transpose(1, 2), out=out)
        out.clamp_min_(1e-10).log10_().mul_(10 / audio.std_db).sub_(audio.mean_db / audio.std_db)
