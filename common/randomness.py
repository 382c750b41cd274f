"""The one place that turns (seed, epoch, purpose, id) into random numbers.

Every draw of this project is a pure function of these: it depends neither on history nor on the batch, the process or
the machine. The streams are part of what a run is; `tests/common/test_randomness.py` holds their first numbers fixed.
"""

from __future__ import annotations

import hashlib
import zlib

import numpy as np
import torch


def random_key(seed: int, epoch: int, purpose: str) -> int:
    """128 bits that name one stream of random numbers.

    A cryptographic hash, because Python's own is salted per process, and because neighbouring seeds and epochs must
    not give neighbouring keys.
    """
    return int.from_bytes(_digest(f"{seed}/{epoch}/{purpose}", 16), "little")


def numpy_generator(seed: int, epoch: int, purpose: str) -> np.random.Generator:
    """NumPy generator of the stream (seed, epoch, purpose): Philox, whose streams are independent by key."""
    return np.random.Generator(np.random.Philox(key=random_key(seed, epoch, purpose)))


def torch_generator(name: str) -> torch.Generator:
    """Torch generator on the CPU of the stream that `name` names, for instance "seed/dictionary/purpose/step"."""
    return torch.Generator().manual_seed(int.from_bytes(_digest(name, 7), "little"))


def torch_seed(seed: int, epoch: int, purpose: str) -> int:
    """A seed for torch, of 63 bits: torch takes none that does not fit a signed 64-bit integer."""
    return random_key(seed, epoch, purpose) % 2**63


def weight_seed(seed: int, encoder: str) -> int:
    """The seed, of 63 bits, of an encoder's initial weights."""
    return int(np.random.SeedSequence([seed, zlib.crc32(encoder.encode())]).generate_state(1, np.uint64)[0] >> 1)


def uniform_of_text(text: str) -> float:
    """A number in [0, 1) that depends on the text alone, for splits by file name."""
    return int.from_bytes(_digest(text, 8), "big") / 2**64


def uniforms(ids: np.ndarray, draws: int, *, seed: int, epoch: int, purpose: str) -> np.ndarray:
    """Uniform numbers in [0, 1), float64 [len(ids), draws]; a row depends on its own id only.

    A counter-based generator: the finaliser of SplitMix64 (Steele, Lea and Flood, 2014) over (key, id, draw), which
    NumPy runs on whole arrays; one NumPy generator per sample would cost 20 microseconds each.
    """
    key = random_key(seed, epoch, purpose)
    low, high = np.uint64(key & (2**64 - 1)), np.uint64(key >> 64)
    golden = np.uint64(0x9E3779B97F4A7C15)
    row = _mix(_mix(np.asarray(ids).astype(np.uint64) * golden + low) ^ high)
    bits = _mix(row[:, None] + np.arange(1, draws + 1, dtype=np.uint64) * golden)
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _mix(x: np.ndarray) -> np.ndarray:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _digest(text: str, size: int) -> bytes:
    # surrogateescape: file names need not be valid UTF-8.
    return hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=size).digest()
