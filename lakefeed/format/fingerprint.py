"""Fingerprints of paths: 96 bits that tell one path from another, for millions at a time.

A path's bytes, padded with zeros to 32-bit words, and its length are multiplied with random numbers
and summed up modulo 2^64, three times; the upper half of each sum counts ("multilinear" hashing).
For any two different paths, chosen before the numbers were drawn, each half is equal with a chance
of at most 2^-32, all three with 2^-96. The numbers are drawn anew by each `Fingerprints`, so
nobody can write paths that collide.
"""

from __future__ import annotations

import os
from operator import mul
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lakefeed.forking import Lazy
from lakefeed.format.paths import PATH_BYTES_MAX

_SUMS = 3
_WORD_BYTES = 4
_WORDS_MAX = PATH_BYTES_MAX // _WORD_BYTES
# Of the last word of a path by its length modulo 4, what is the path's.
_TAIL = np.array([0xFFFFFFFF, 0xFF, 0xFFFF, 0xFFFFFF], np.uint32)
# Paths at a time: what they need stays in the processor cache.
_STEP = 1 << 14
_MASK = (1 << 64) - 1


class Prints(NamedTuple):
    """Of each path: 32 bits that say where to look, and 64 that say whether it is there."""

    place: NDArray[np.uint32]
    mark: NDArray[np.uint64]

    def some(self, which: NDArray[np.int64] | slice) -> Prints:
        """Return the fingerprints with these numbers."""
        return Prints(self.place[which], self.mark[which])


class Fingerprints:
    """One drawing of the random numbers; only fingerprints of the same one can be compared."""

    def __init__(self) -> None:
        count = _SUMS * (_WORDS_MAX + 1)
        self._factors = np.frombuffer(os.urandom(count * 8), np.uint64).reshape(-1, _SUMS, 1)

    def of(self, paths: pa.Array) -> Prints:
        """Return the fingerprints of an array of strings without nulls, none beyond 4096 bytes."""
        place = np.empty(len(paths), np.uint32)
        mark = np.empty(len(paths), np.uint64)
        for start in range(0, len(paths), _STEP):
            part = slice(start, start + _STEP)
            sums = self._sums(paths[part]) >> np.uint64(32)
            place[part] = sums[0]
            mark[part] = sums[1] << np.uint64(32) | sums[2]
        return Prints(place, mark)

    def one(self, path: str) -> Prints:
        """Return the fingerprint of a single path: a tenth of the time that arrays take."""
        text = path.encode()
        words = memoryview(text + bytes(-len(text) % _WORD_BYTES)).cast("I")
        sums = [sum(map(mul, numbers, (len(text), *words))) & _MASK for numbers in self._numbers]
        place, high, low = (number >> 32 for number in sums)
        return Prints(np.array([place], np.uint32), np.array([high << 32 | low], np.uint64))

    @Lazy
    def _numbers(self) -> list[list[int]]:
        """The factors of each sum as Python's numbers."""
        return [self._factors[:, number, 0].tolist() for number in range(_SUMS)]

    def _sums(self, paths: pa.Array) -> NDArray[np.uint64]:
        starts, lengths, words = _words(paths)
        counts = (lengths + (_WORD_BYTES - 1)) // _WORD_BYTES
        # The longest first: who has a word of some number is then a slice.
        order = np.argsort(-counts, kind="stable")
        starts, lengths, counts = starts[order], lengths[order], counts[order]
        having = len(counts) - np.cumsum(np.bincount(counts))
        sums: NDArray[np.uint64] = self._factors[0] * lengths.astype(np.uint64)
        for number, count in enumerate(having[:-1].tolist()):
            word = words[starts[:count] + number * _WORD_BYTES]
            ending = slice(int(having[number + 1]), count)
            word[ending] &= _TAIL[lengths[ending] % _WORD_BYTES]
            sums[:, :count] += self._factors[number + 1] * word.astype(np.uint64)
        result = np.empty_like(sums)
        result[:, order] = sums
        return result


def _words(
    paths: pa.Array,
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.uint32]]:
    """Return where each path starts, its length, and the word that starts at any byte."""
    _, offsets, data = paths.buffers()
    ends = np.frombuffer(offsets, np.int32)[paths.offset : paths.offset + len(paths) + 1]
    low, high = int(ends[0]), int(ends[-1])
    text = np.zeros(high - low + _WORD_BYTES, np.uint8)
    if high > low:
        text[: high - low] = np.frombuffer(data, np.uint8, high - low, low)
    words = np.ndarray(high - low + 1, np.dtype("<u4"), text, strides=(1,))
    starts = ends[:-1].astype(np.int64) - low
    return starts, np.diff(ends).astype(np.int64), words
