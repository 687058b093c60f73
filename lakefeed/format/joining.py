"""The CRC-32C of bytes that lie one behind the other, from the CRCs of the parts.

CRC is linear: the CRC of A followed by B is the CRC of A, shifted by the length of B, xor the CRC
of B. Shifting is a linear map of 32 bits, done here by table for many parts at once, 7 bits of the
distance at a time. So a stretch of a pack that holds hundreds of payloads is verified with one pass
over its bytes (20 GB/s, without the interpreter lock) instead of one call for each payload, and
just as well: a stretch whose CRC is right has the same chance of a hidden error as one payload has
(I7). Where it is wrong, the payloads are checked one by one to name the damaged ones.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from lakefeed.format.checksum import crc32c

Words = NDArray[np.uint32]

_BITS = 7
# Three digits of seven bits: stretches of up to two mebibytes.
_LEVELS = 3
DISTANCE_MAX = (1 << (_BITS * _LEVELS)) - 1
PADDING_MAX = 511  # payloads of 4 KiB or more start on 512-byte boundaries


@cache
def _zeros() -> Words:
    """Return the CRC of 0, 1, 2, ... zero bytes."""
    return np.array([crc32c(bytes(length)) for length in range(PADDING_MAX + 1)], np.uint32)


@cache
def _tables() -> tuple[Words, ...]:
    """Return for each digit a flat table: [(digit * 4 + byte number) << 8 | byte] -> shifted."""
    basis = np.concatenate(
        [np.arange(256, dtype=np.uint32) << np.uint32(8 * byte) for byte in range(4)]
    )
    tables: list[Words] = []
    for level in range(_LEVELS):
        rows = [basis]
        for _ in range((1 << _BITS) - 1):
            rows.append(_step(rows[-1], tables[level - 1] if level else None))
        tables.append(np.concatenate(rows))
    return tuple(tables)


def _step(words: Words, below: Words | None) -> Words:
    """Shift by one unit of a level: by a byte, or by twice the middle digit of the level below."""
    if below is None:
        for _ in range(8):
            words = (words >> np.uint32(1)) ^ np.where(
                words & np.uint32(1), np.uint32(0x82F63B78), np.uint32(0)
            )
        return words
    half = np.full(len(words), 1 << (_BITS - 1), np.int64)
    return _look_up(below, _look_up(below, words, half), half)


def _look_up(table: Words, words: Words, digits: NDArray[np.int64]) -> Words:
    at = digits << 10
    byte = np.uint32(255)
    result: Words = table[at | (words & byte)]
    for number in range(1, 4):
        result ^= table[(at | number << 8) | ((words >> np.uint32(8 * number)) & byte)]
    return result


def shift(checksums: Words, distances: NDArray[np.int64]) -> Words:
    """Return what each CRC adds to that of a stretch which ends `distances` bytes behind it."""
    result: Words = checksums
    furthest = int(distances.max()) if len(distances) else 0
    assert furthest <= DISTANCE_MAX, furthest
    for level, table in enumerate(_tables()):
        if furthest >> (_BITS * level):
            digits = (distances >> (_BITS * level)) & ((1 << _BITS) - 1)
            result = _look_up(table, result, digits)
    return result


def joined(
    checksums: Words, starts: NDArray[np.int64], ends: NDArray[np.int64], first: NDArray[np.int64]
) -> Words:
    """Return the CRC of each stretch of payloads, gaps of up to PADDING_MAX zero bytes between.

    Payload i has the bytes [starts[i], ends[i]); stretch j begins with payload first[j] and ends
    where the last payload before first[j + 1] does.
    """
    if not len(first):
        return np.empty(0, np.uint32)
    behind = np.r_[first[1:], len(ends)]
    stretch_end = np.repeat(ends[behind - 1], behind - first)
    parts = shift(checksums, stretch_end - ends)
    padding = np.zeros(len(ends), np.int64)
    padding[1:] = starts[1:] - ends[:-1]
    padding[first] = 0
    padded = np.flatnonzero(padding)
    if len(padded):
        parts[padded] ^= shift(_zeros()[padding[padded]], (stretch_end - starts)[padded])
    sums: Words = np.bitwise_xor.reduceat(parts, first)
    return sums
