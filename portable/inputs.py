"""The loader's preprocessing as modules that can be exported: from raw frames and PCM to the encoders' inputs.

Only operators that every format and runtime has are used: products, gathers and elementwise ones.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import nn
from torch.nn import functional as F

from pipeline.load.log_mel import LogMel
from settings import AudioConfig


class FrameInput(nn.Module):
    """Crops, resizes and normalises frames as `CpuDecoder` does with the frames of test clips.

    The crop is the largest centred square. The filter is torch's bilinear one with antialiasing, which rounds to whole
    levels after each of its two passes; frames of size x size pixels come through unchanged.

    Args:
        size: output height and width in pixels.
        mean, std: normalisation per channel of RGB in [0, 1].
    """

    scale: torch.Tensor
    offset: torch.Tensor

    def __init__(self, *, size: int, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.size = size
        spread = torch.tensor(std, dtype=torch.float64)
        self.register_buffer("scale", (1 / (255 * spread)).float()[:, None, None, None])
        self.register_buffer("offset", (-torch.tensor(mean, dtype=torch.float64) / spread).float()[:, None, None, None])

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        """Maps uint8 RGB [B, T, H, W, 3] to float32 [B, 3, T, size, size]."""
        height, width = frames.shape[2], frames.shape[3]
        side = cast(int, torch.sym_min(height, width))  # a symbol while torch.export traces
        pixels = frames.permute(0, 4, 1, 2, 3).float()
        pixels = self._resize(pixels, width, side)
        pixels = self._resize(pixels.transpose(3, 4), height, side).transpose(3, 4)
        return pixels * self.scale + self.offset

    def _resize(self, pixels: torch.Tensor, length: int, side: int) -> torch.Tensor:
        """Maps levels [..., length] to levels [..., size] of the crop's pixels.

        The weights are rounded to 16 bits, as by torch's kernel for uint8 images: many sums lie half-way between two
        levels. Distances are whole numbers, in units of 1 / (2 * size) pixels, so that they are exact.
        """
        place = torch.arange(length, device=pixels.device) - (length - side) // 2
        centres = (2 * torch.arange(self.size, device=pixels.device) + 1) * side
        distance = ((2 * place + 1) * self.size - centres[:, None]).abs()  # [size, length]
        support = cast(int, torch.sym_max(side, self.size))
        heights = (2 * support - distance).clamp_min(0) * ((place >= 0) & (place < side))
        weights = heights / heights.sum(dim=1, keepdim=True)
        one = torch.exp2((32767.5 / weights.max()).log2().floor().clamp_max(22.0))
        weights = (weights * one + 0.5).floor()
        return ((pixels @ weights.T) / one + 0.5).floor().clamp(0.0, 255.0)


class PcmInput(nn.Module):
    """Computes the normalised log-mel spectrogram of `LogMelRunner`.

    The Fourier transform is a convolution with the windowed basis: that exists everywhere, and takes a small part of
    the time of an encoder.
    """

    basis: torch.Tensor
    filters: torch.Tensor

    def __init__(self, audio: AudioConfig) -> None:
        super().__init__()
        self.audio = audio
        reference = LogMel(audio).mel
        left = (audio.n_fft - audio.window) // 2
        window = F.pad(reference.spectrogram.window.double(), (left, audio.n_fft - audio.window - left))
        # Whole turns are dropped before the angle is computed, so that it is small and exact.
        turns = torch.arange(audio.n_fft // 2 + 1)[:, None] * torch.arange(audio.n_fft) % audio.n_fft
        angle = turns.double() * (2 * torch.pi / audio.n_fft)
        basis = torch.cat([angle.cos(), angle.sin()]) * window / 32768  # of 16-bit PCM
        self.register_buffer("basis", basis.float()[:, None])  # [2 * bins, 1, n_fft]
        self.register_buffer("filters", reference.mel_scale.fb.T.repeat(1, 2)[:, :, None])  # [n_mels, 2 * bins, 1]

    def forward(self, pcm: torch.Tensor) -> torch.Tensor:
        """Maps int16 [B, samples] to float32 [B, 1, n_mels, 1 + samples // hop]."""
        audio, samples = self.audio, pcm.shape[1]
        # Both ends are padded by reflection, repeatedly where the audio is shorter than its padding, as by np.pad.
        place = torch.arange(samples + audio.n_fft, device=pcm.device) - audio.n_fft // 2
        period = (2 * torch.arange(samples, device=pcm.device).max()).clamp_min(1)
        place = torch.remainder(place, period)
        place = torch.minimum(place, period - place)
        padded = pcm.float().index_select(1, place)
        parts = F.conv1d(padded[:, None], self.basis, stride=audio.hop)  # [B, 2 * bins, frames]
        decibels = F.conv1d(parts.square(), self.filters).clamp_min(1e-10).log10() * 10
        return ((decibels - audio.mean_db) / audio.std_db)[:, None]
