"""A random permutation of range(n), any part of which can be computed alone, without an array of n numbers.

If n is at most `TABLE`, the permutation is drawn uniformly from all permutations, and held as a table. A larger range
is permuted by a Feistel network, whose rounds are keyed hashes: neither its memory nor the time until its first number
depends on n. Its domain is a rectangle of a * b >= n numbers, a and b being close to the square root of n, so that
fewer than one number in a hundred lies outside range(n); such a number is permuted again until it lies within (the
generalised Feistel cipher and the cycle walking of Black and Rogaway, Ciphers with arbitrary finite domains, 2002).
"""

from __future__ import annotations

from functools import lru_cache
from math import isqrt

import numpy as np

from common.randomness import hash64

TABLE = 2**16
"""Up to this many numbers are permuted by a table, which takes up to half a megabyte. In a small range the halves of
the numbers have too few values for the rounds to mix them well; in larger ones our tests of positions and pairs
(tests/pipeline/plan/test_permutation.py) find no difference from chance."""
_ROUNDS = 8
"""Number of rounds of the Feistel network: twice the four after which, in theory, its permutations cannot be
distinguished from random ones (Luby and Rackoff, 1988)."""
_TOGETHER = 2**15
"""How many numbers are permuted at a time: few enough to stay in the cache of a core."""


def permuted(positions: np.ndarray, n: int, key: int) -> np.ndarray:
    """Returns the numbers at `positions` in the permutation of range(n) that `key` selects, int64 [m].

    Args:
        positions: int [m], from 0 to n - 1.
        n: size of the range that is permuted, at most 2^48.
        key: a key of 128 bits, from `common.randomness.random_key`.

    Raises:
        IndexError: a position is not in range(n).
    """
    positions = _checked(positions, n)
    return _table(n, key)[positions] if n <= TABLE else _in_parts(positions, n, key, inverse=False)


def positions_of(numbers: np.ndarray, n: int, key: int) -> np.ndarray:
    """Returns the positions of `numbers`, int [m], in the permutation of `permuted`, int64 [m].

    Raises:
        IndexError: a number is not in range(n).
    """
    numbers = _checked(numbers, n)
    return _inverse_table(n, key)[numbers] if n <= TABLE else _in_parts(numbers, n, key, inverse=True)


def _checked(values: np.ndarray, n: int) -> np.ndarray:
    values = np.asarray(values, dtype=np.int64)
    if len(values) and not 0 <= values.min() <= values.max() < n:
        raise IndexError(f"{values.min()} to {values.max()} are not all in range({n})")
    return values


@lru_cache(maxsize=8)
def _table(n: int, key: int) -> np.ndarray:
    table = np.random.Generator(np.random.Philox(key=key)).permutation(n)
    table.flags.writeable = False
    return table


@lru_cache(maxsize=8)
def _inverse_table(n: int, key: int) -> np.ndarray:
    return np.argsort(_table(n, key))


def _in_parts(values: np.ndarray, n: int, key: int, *, inverse: bool) -> np.ndarray:
    network = _Network(n, key)
    result = np.empty(len(values), dtype=np.int64)
    for first in range(0, len(values), _TOGETHER):
        part = slice(first, first + _TOGETHER)
        result[part] = network.walk(values[part].astype(np.uint64), inverse=inverse).astype(np.int64)
    return result


class _Network:
    """The Feistel network for range(n): with `sides` (a, b), a number x has the halves x // b, below a, and x % b."""

    def __init__(self, n: int, key: int) -> None:
        self.n = np.uint64(n)
        rows = isqrt(n - 1) + 1
        self.sides = np.uint64(rows), np.uint64(-(-n // rows))
        self.keys = np.random.Philox(key=key).random_raw(_ROUNDS)

    def walk(self, x: np.ndarray, *, inverse: bool) -> np.ndarray:
        """Permutes numbers below n, uint64 [m], or applies the inverse."""
        x = self._permute(x, inverse=inverse)
        while len(outside := np.flatnonzero(x >= self.n)):
            x[outside] = self._permute(x[outside], inverse=inverse)
        return x

    def _permute(self, x: np.ndarray, *, inverse: bool) -> np.ndarray:
        halves = list(np.divmod(x, self.sides[1]))
        for number in reversed(range(_ROUNDS)) if inverse else range(_ROUNDS):
            changed, other = number % 2, 1 - number % 2
            side = self.sides[changed]
            # The upper 32 bits of the hash, scaled to the side: nearly uniform for sides up to 2^24.
            shift = ((hash64(halves[other], self.keys[number]) >> np.uint64(32)) * side) >> np.uint64(32)
            moved = halves[changed] + (side - shift if inverse else shift)
            # `moved` modulo the side: where it is below the side, the unsigned difference wraps to a large number.
            halves[changed] = np.minimum(moved, moved - side)
        return halves[0] * self.sides[1] + halves[1]
