"""Encodes mono 16-bit PCM as a WAV file."""

from __future__ import annotations

import io
import wave

import numpy as np

WAV_HEADER_BYTES = 44
"""Size of the header, in bytes; the first PCM sample follows it."""


def wav_bytes(pcm: np.ndarray, sample_rate: int) -> bytes:
    """Encodes int16 [n] at `sample_rate` Hz as a WAV file of `WAV_HEADER_BYTES` + 2 n bytes."""
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(sample_rate)
        file.writeframes(pcm.astype("<i2").tobytes())
    return buffer.getvalue()
