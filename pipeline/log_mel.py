"""The log-mel spectrogram by torchaudio: what the DALI graph must match, and what the reference loader uses."""

from __future__ import annotations

import torch
import torchaudio
from torch import nn

from config import AudioConfig


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
        """float32 [..., samples] in [-1, 1] to [..., n_mels, F]."""
        return (self.decibels(self.mel(waveform)) - self.mean_db) / self.std_db
