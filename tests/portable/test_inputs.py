"""The preprocessing in the graphs computes what the loader computes from the same frames and PCM."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate

from pipeline.load.cpu_threads import SingleThreadTorchPool
from pipeline.load.log_mel import LogMelRunner
from portable.inputs import FrameInput, PcmInput
from settings import AudioConfig


@pytest.mark.parametrize("frame", [(48, 48), (64, 80), (106, 80), (240, 320), (40, 50), (31, 33)], ids=str)
def test_frames_are_cropped_and_resized_to_the_same_levels_as_by_the_loader(frame):
    height, width = frame
    frames = torch.randint(256, (2, 3, height, width, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    side = min(frame)
    top, left = (height - side) // 2, (width - side) // 2
    crops = frames[:, :, top : top + side, left : left + side].flatten(0, 1).permute(0, 3, 1, 2)
    expected = interpolate(crops, size=(48, 48), mode="bilinear", antialias=True).unflatten(0, (2, 3)).transpose(1, 2)
    found = FrameInput(size=48, mean=(0.5,) * 3, std=(0.25,) * 3)(frames)
    torch.testing.assert_close(found, (expected / 255 - 0.5) / 0.25, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "audio",
    [
        AudioConfig(),
        AudioConfig(n_fft=401, window=301, hop=100),
        AudioConfig(n_fft=512, window=511, hop=160, n_mels=16),
    ],
    ids=["usual", "odd", "odd window"],
)
@pytest.mark.parametrize("samples", [12800, 6401, 512, 257, 90, 1])
def test_spectrograms_are_the_loaders_at_any_length(audio, samples):
    pcm = np.random.default_rng(samples).integers(-9000, 9000, (2, samples)).astype(np.int16)
    runner = LogMelRunner(audio=audio, threads=SingleThreadTorchPool(1, idle=False))
    expected = runner.result(runner.submit({"pcm": pcm})) if samples > 1 else None
    found = PcmInput(audio)(torch.from_numpy(pcm))
    assert found.shape == (2, 1, audio.n_mels, 1 + samples // audio.hop)
    if expected is not None:
        torch.testing.assert_close(found[:, 0], expected, rtol=0, atol=2e-3)


def test_silence_is_at_the_floor():
    audio = AudioConfig()
    found = PcmInput(audio)(torch.zeros(1, 1600, dtype=torch.int16))
    torch.testing.assert_close(found, torch.full_like(found, (-100 - audio.mean_db) / audio.std_db))
