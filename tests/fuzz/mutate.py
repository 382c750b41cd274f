"""Damages bytes in the ways that disks, broken downloads, other programs and manual edits do."""

from __future__ import annotations

import random
import re
from collections.abc import Callable

# Boundary values of sizes, counts and offsets.
_SIZES = (0, 1, 7, 8, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF)
# Field names near which media containers store sizes, counts, rates and offsets.
_FIELDS = re.compile(
    rb"ftyp|moov|mvhd|tkhd|mdhd|hdlr|stsd|stts|ctts|stsc|stsz|stco|stss|elst|mdat|avc1|avcC|mp4a|esds"
    rb"|RIFF|WAVE|fmt |data|AVI |LIST|avih|strh|strf|idx1|\x1a\x45\xdf\xa3|\x16\x54\xae\x6b|\x1f\x43\xb6\x75|DKIF"
)


def damaged(data: bytes, rng: random.Random, *, other: bytes = b"") -> bytes:
    """Returns `data` with one to three kinds of damage; parts of `other` may be spliced in."""
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        data = rng.choice(_DAMAGES)(data, rng, other)
    return data


def _flip(data: bytes, rng: random.Random, other: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 2, 8, 64)) if data else 0):
        changed[_offset(data, rng)] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _truncate(data: bytes, rng: random.Random, other: bytes) -> bytes:
    return data[: _offset(data, rng)]


def _delete(data: bytes, rng: random.Random, other: bytes) -> bytes:
    first, last = _chunk(data, rng)
    return data[:first] + data[last:]


def _repeat(data: bytes, rng: random.Random, other: bytes) -> bytes:
    first, last = _chunk(data, rng)
    return data[:last] + data[first:last] * rng.choice((1, 1, 3)) + data[last:]


def _zero(data: bytes, rng: random.Random, other: bytes) -> bytes:
    first, last = _chunk(data, rng)
    return data[:first] + bytes(last - first) + data[last:]


def _splice(data: bytes, rng: random.Random, other: bytes) -> bytes:
    first, last = _chunk(other, rng)
    offset = _offset(data, rng)
    return data[:offset] + other[first:last] + data[offset:]


def _resize(data: bytes, rng: random.Random, other: bytes) -> bytes:
    """Overwrites two, four or eight bytes with a number, usually next to the name of a field."""
    fields = [match.start() for match in _FIELDS.finditer(data)]
    offset = rng.choice(fields) + rng.randrange(-8, 48) if fields and rng.random() < 0.8 else _offset(data, rng)
    width = rng.choice((2, 4, 4, 8))
    number = rng.choice((*_SIZES, rng.getrandbits(8 * width))) % 2 ** (8 * width)
    offset = min(max(offset, 0), max(len(data) - width, 0))
    return data[:offset] + number.to_bytes(width, rng.choice(("big", "little"))) + data[offset + width :]


_DAMAGES: tuple[Callable[[bytes, random.Random, bytes], bytes], ...] = (
    *(_flip, _flip, _truncate, _delete, _repeat, _zero, _splice),
    *(_resize, _resize, _resize),
)


def _offset(data: bytes, rng: random.Random) -> int:
    """Returns a random offset, in half of the cases within the first kilobyte, where headers are."""
    size = len(data) if rng.random() < 0.5 else min(len(data), 1024)
    return rng.randrange(size) if size else 0


def _chunk(data: bytes, rng: random.Random) -> tuple[int, int]:
    first = _offset(data, rng)
    return first, min(len(data), first + rng.choice((1, 4, 16, 188, 512, 4096, len(data) // 2 + 1)))
