"""Random numbers as pure functions of (seed, epoch, purpose, id).

A draw depends neither on earlier draws nor on the batch, the process or the machine. A change of the streams would
change the results of all runs, so `tests/common/test_randomness.py` fixes their first numbers.
"""

from __future__ import annotations

import hashlib
import zlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
"""The step of SplitMix64: 2^64 divided by the golden ratio."""


def random_key(seed: int, epoch: int, purpose: str) -> int:
    """Returns the 128-bit key of one stream of random numbers.

    The key is a cryptographic hash, because Python's own hash is salted per process and because neighbouring seeds or
    epochs must not give similar keys.
    """
    return int.from_bytes(_digest(f"{seed}/{epoch}/{purpose}", 16), "little")


def numpy_generator(seed: int, epoch: int, purpose: str) -> np.random.Generator:
    """Returns a NumPy generator for the stream (seed, epoch, purpose); Philox gives each key an independent stream."""
    return np.random.Generator(np.random.Philox(key=random_key(seed, epoch, purpose)))


def torch_generator(name: str) -> torch.Generator:
    """Returns a torch generator on the CPU for the stream called `name`, such as "seed/dictionary/purpose/step"."""
    import torch  # not at the top: planning needs only NumPy, and the workers of preparation have little memory

    return torch.Generator().manual_seed(int.from_bytes(_digest(name, 7), "little"))


def torch_seed(seed: int, epoch: int, purpose: str) -> int:
    """Returns a 63-bit seed for torch, which accepts only seeds that fit a signed 64-bit integer."""
    return random_key(seed, epoch, purpose) % 2**63


def weight_seed(seed: int, encoder: str) -> int:
    """Returns the 63-bit seed of an encoder's initial weights; `encoder` is its name, such as "video tiny"."""
    return int(np.random.SeedSequence([seed, zlib.crc32(encoder.encode())]).generate_state(1, np.uint64)[0] >> 1)


def uniform_of_text(text: str) -> float:
    """Returns a pseudo-random number in [0, 1) that depends only on the text; used for splits by file name."""
    return int.from_bytes(_digest(text, 8), "big") / 2**64


def uniforms(ids: np.ndarray, draws: int, *, seed: int, epoch: int, purpose: str) -> np.ndarray:
    """Draws uniform numbers in [0, 1), float64 [len(ids), draws]; each row depends only on its own id.

    The generator is counter-based: the finaliser of SplitMix64 (Steele, Lea and Flood, 2014) hashes (key, id, draw).
    It is vectorised over the ids, whereas creating a NumPy generator per sample would cost 20 microseconds per sample.
    """
    key = random_key(seed, epoch, purpose)
    low, high = np.uint64(key & (2**64 - 1)), np.uint64(key >> 64)
    row = _mix(hash64(np.asarray(ids).astype(np.uint64), low) ^ high)
    bits = _mix(row[:, None] + np.arange(1, draws + 1, dtype=np.uint64) * _GOLDEN)
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def hash64(values: np.ndarray, key: np.uint64) -> np.ndarray:
    """Hashes uint64 numbers to 64 bits each, with SplitMix64's sequence that begins at `key`."""
    return _mix(values * _GOLDEN + key)


def _mix(x: np.ndarray) -> np.ndarray:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _digest(text: str, size: int) -> bytes:
    # With surrogateescape, because file names need not be valid UTF-8.
    return hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=size).digest()
