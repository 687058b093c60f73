"""The order of samples, as a function: which sample stands at a position of a seeded epoch.

Nothing is shuffled and nothing is stored. `permute` is a keyed bijection of [0, count): a Feistel
network on a grid that just holds `count` numbers (at least 64), applied again to whatever falls
outside (cycle walking). It costs a constant amount of memory, works beyond 2^32, and any
stretch of the order can be computed alone, so a position is all the state a feed needs.

`Shuffle` says how far the order strays from path order: not at all, by runs of neighbours that are
mixed inside a window, or globally.

The order is a promise: the same seed, epoch and count give the same order in every version, and
golden values in the tests hold it. Knows nothing of files and snapshots.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lakefeed.errors import Invalid

Positions = NDArray[np.int64]
_Words = NDArray[np.uint64]

COUNT_MAX = 1 << 62
# Six give every order of 3, 4 and 5 samples its fair share (chi-squared over 6,000 seeds).
_ROUNDS = 6
_NUMBERS_MIN = 64
# Samples in a window unless it is given: sixteen batches of 256, so that few of a run meet in one,
# and still 16 MB of tiny files, which a processor cache holds. Long runs need a few to be mixed.
WINDOW_SAMPLES = 4096
WINDOW_RUNS_MIN = 8
# A block's three work arrays stay in the processor's second-level cache.
_BLOCK = 1 << 14

# Multipliers of splitmix64 (Steele, Lea, Flood 2014); the top bits of a product are the mixed ones.
_GOLDEN = 0x9E3779B97F4A7C15
_MULTIPLY_1 = 0xBF58476D1CE4E5B9
_MULTIPLY_2 = 0x94D049BB133111EB
_WORD = (1 << 64) - 1

Key = tuple[int, int]  # (seed, epoch)


def permute(positions: Positions, count: int, key: Key) -> Positions:
    """Return where a seeded permutation of [0, count) sends each position."""
    cipher = _Cipher.of(count, key)
    source = np.ascontiguousarray(positions, np.int64).view(np.uint64)
    result = np.empty(len(source), np.uint64)
    for start in range(0, len(source), _BLOCK):
        block = result[start : start + _BLOCK]
        cipher.forward(source[start : start + _BLOCK], block)
    return result.view(np.int64)


@dataclass(frozen=True, slots=True)
class Shuffle:
    """How samples are mixed: runs of `run` neighbours are permuted, then windows of `window`
    positions in themselves. A run of 1 is a global shuffle, 0 is none; a window of 0 is none."""

    run: int
    window: int = 0

    @classmethod
    def parse(cls, text: str | None, window: int | None = None) -> Shuffle:
        """Return what "global", "runs=K", "runs=K,window=W" or None asks for, else Invalid."""
        if text is None:
            return cls(0)
        if text == "global":
            return cls(1)
        # Also what is no text: other loaders take True.
        match = re.fullmatch(r"runs=([0-9]{1,18})(?:,window=([0-9]{1,18}))?", str(text))
        run = 0 if match is None else int(match[1])
        if match is None or not run:
            expected = '"global", "runs=K", "runs=K,window=W" or None'
            raise Invalid("shuffle", expected=expected, found=repr(text))
        if match[2] is not None:
            if window is not None:
                raise Invalid("window", expected=f"none beside shuffle={text!r}", found=window)
            window = int(match[2])
        if window is None:
            window = _usual_window(run)
        if window < 0:
            raise Invalid("window", expected="0 or more samples", found=window)
        return cls(run, 0 if window == 1 else window)

    def __str__(self) -> str:
        if self.run < 2 and not self.window:
            return "global" if self.run else ""
        if self.window == _usual_window(self.run):
            return f"runs={self.run}"
        return f"runs={self.run},window={self.window}"

    def samples(self, positions: Positions, count: int, key: Key) -> Positions:
        """Return the number of the sample at each position of an epoch of `count` samples."""
        positions = np.asarray(positions, np.int64)
        if self.run == 0 or not count:
            return positions
        if self.window:
            positions = self._in_windows(positions, count, key)
        if self.run == 1:
            return permute(positions, count, key)
        return self._by_runs(positions, count, key)

    def _in_windows(self, positions: Positions, count: int, key: Key) -> Positions:
        """Permute each window's positions in themselves; the last window may be short."""
        numbers = positions // self.window
        moved = np.empty_like(positions)
        for number in sorted(set(numbers.tolist())):
            start = number * self.window
            size = min(self.window, count - start)
            inside = numbers == number
            # A key of its own for each window, from the epoch's: windows repeat no pattern.
            own = (_mix(key[0] ^ _mix(number + 1)), key[1])
            moved[inside] = permute(positions[inside] - start, size, own) + start
        return moved

    def _by_runs(self, positions: Positions, count: int, key: Key) -> Positions:
        """Permute whole runs. The last run may be short: behind its slot everything moves up."""
        runs = -(-count // self.run)
        missing = runs * self.run - count
        short_slot = _Cipher.of(runs, key).backward(runs - 1)
        behind = positions >= (short_slot + 1) * self.run - missing
        padded = positions + np.where(behind, missing, 0)
        return permute(padded // self.run, runs, key) * self.run + padded % self.run


def _usual_window(run: int) -> int:
    return max(WINDOW_SAMPLES, WINDOW_RUNS_MIN * run)


@dataclass(frozen=True, slots=True)
class _Cipher:
    """A Feistel network on numbers `row << right | column`, of which `rows << right` exist.

    With rows counted and columns a power of two, hardly anything falls outside of `count`: with
    powers of two alone up to half of all numbers would, and walking back costs twice the time.
    """

    count: int
    rows: int
    right: int
    keys: tuple[int, ...]

    @classmethod
    def of(cls, count: int, key: Key) -> _Cipher:
        seed, epoch = key
        if not 0 <= count <= COUNT_MAX:
            raise Invalid("sample count", expected=f"0 to {COUNT_MAX}", found=count)
        if not (0 <= seed <= _WORD and 0 <= epoch <= _WORD):
            raise Invalid("seed and epoch", expected="0 to 2^64 - 1", found=f"{seed}, {epoch}")
        numbers = max(count, _NUMBERS_MIN)
        right = (numbers - 1).bit_length() // 2
        state = _mix(_mix(seed) ^ epoch)
        keys = tuple(_mix(state + turn * _GOLDEN) for turn in range(1, _ROUNDS + 1))
        return cls(count, -(-numbers >> right), right, keys)

    def forward(self, source: _Words, result: _Words) -> None:
        """Write the image of each number below `count` into `result`."""
        if len(source) and int(source.max()) >= self.count:
            raise Invalid("position", expected=f"0 to {self.count - 1}", found=int(source.max()))
        self._once(source, result)
        outside = np.flatnonzero(result >= self.count)
        while len(outside):
            walked = np.empty(len(outside), np.uint64)
            self._once(result[outside], walked)
            result[outside] = walked
            outside = outside[walked >= self.count]

    def _once(self, source: _Words, result: _Words) -> None:
        rows, shift = np.uint64(self.rows), np.uint64(self.right)
        row = source >> shift
        column = source & np.uint64((1 << self.right) - 1)
        work = np.empty(len(source), np.uint64)
        spare = np.empty(len(source), np.uint64)
        for turn, key in enumerate(self.keys):
            np.add(column if turn % 2 == 0 else row, np.uint64(key), out=work)
            np.multiply(work, np.uint64(_MULTIPLY_1), out=work)
            np.right_shift(work, np.uint64(32), out=spare)
            np.bitwise_xor(work, spare, out=work)
            np.multiply(work, np.uint64(_MULTIPLY_2), out=work)
            if turn % 2 == 0:
                np.right_shift(work, np.uint64(32), out=work)
                np.multiply(work, rows, out=work)
                np.right_shift(work, np.uint64(32), out=work)
                np.add(row, work, out=row)
                # The smaller of x and x - rows is x modulo rows, because a negative one wraps.
                np.subtract(row, rows, out=spare)
                np.minimum(row, spare, out=row)
            else:
                np.right_shift(work, np.uint64(64 - self.right), out=work)
                np.bitwise_xor(column, work, out=column)
        np.left_shift(row, shift, out=row)
        np.bitwise_or(row, column, out=result)

    def backward(self, image: int) -> int:
        """Return the number whose image this is."""
        while True:
            row, column = image >> self.right, image & ((1 << self.right) - 1)
            for turn in reversed(range(_ROUNDS)):
                if turn % 2 == 0:
                    step = (_hash(column, self.keys[turn]) >> 32) * self.rows >> 32
                    row = (row - step) % self.rows
                else:
                    column ^= _hash(row, self.keys[turn]) >> (64 - self.right)
            image = row << self.right | column
            if image < self.count:
                return image


def _hash(half: int, key: int) -> int:
    """The round function of `_once`, for one number."""
    word = (half + key) * _MULTIPLY_1 & _WORD
    return (word ^ word >> 32) * _MULTIPLY_2 & _WORD


def _mix(word: int) -> int:
    """splitmix64's finaliser: every input bit changes half of the output bits."""
    word = (word + _GOLDEN) & _WORD
    word = ((word ^ (word >> 30)) * _MULTIPLY_1) & _WORD
    word = ((word ^ (word >> 27)) * _MULTIPLY_2) & _WORD
    return word ^ (word >> 31)
