"""Buffers that are lent out and come back by themselves when nothing refers to them any more.

A fresh buffer for every batch costs more in page faults than reading the batch does, so buffers are
used again. What is lent is a numpy array over a memoryview: slices of it, memoryviews, Arrow
buffers and tensors all keep that very array alive (numpy would shorten the chain of bases past an
array, but not past a memoryview), so a finalizer on it fires when nobody can see the bytes any
more, and not before.

What is lent and what is kept for later use make up at most `bytes_max`, unless more than that is
lent; buffers of which nobody made use for a while go back to the system, so memory follows what is
needed now, not the greatest need there ever was. Finalizers run wherever the interpreter pleases,
so they take no lock: every change of shared state is one operation on a dictionary or a deque, and
dictionaries are copied before they are walked through, because a finalizer may change them.
"""

from __future__ import annotations

import mmap
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lakefeed.errors import Invalid

ALIGNMENT_BYTES = 64
# Batches of one feed differ by a few percent in size; classes this wide let them share buffers.
_CLASSES_PER_DOUBLING = 8
_SMALLEST_BYTES = 1 << 12
# A free buffer that was not needed for so long is not needed in the steady state.
_IDLE_SECONDS = 20.0

Bytes = NDArray[np.uint8]
# Gives a writable buffer of at least so many bytes on a 64-byte boundary, page-locked for example.
Allocate = Callable[[int], object]


def size_class(size_bytes: int) -> int:
    """Return the size of the buffer that a request is served with: at most an eighth more."""
    size_bytes = max(size_bytes, _SMALLEST_BYTES)
    step = max(1 << (size_bytes.bit_length() - 1), _SMALLEST_BYTES) // _CLASSES_PER_DOUBLING
    return -(-size_bytes // step) * step


def _anonymous(size_bytes: int) -> object:
    # Private, not Python's default: after a fork parent and child would read into the same pages.
    return mmap.mmap(-1, size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)


def _total(by_size: dict[int, deque[Any]]) -> int:
    return sum(size * len(buffers) for size, buffers in by_size.copy().items())


class Pool:
    """Lends buffers; see the module. Safe for threads."""

    def __init__(self, bytes_max: int, allocate: Allocate | None = None) -> None:
        self._bytes_max = bytes_max
        self._allocate = allocate or _anonymous
        # By size: when each free buffer came back, and the buffer; the one that came last is lent
        # first, because it is in the processor's cache, and the others grow old.
        self._free: dict[int, deque[tuple[float, memoryview]]] = {}
        # By size as well, one entry for each: a finalizer adds up classes, of which there are few,
        # where a small batch may be one of ten thousand that are lent.
        self._lent: dict[int, deque[None]] = {}
        self._closed = False

    def lend(self, size_bytes: int) -> Bytes:
        """Return an array of exactly `size_bytes`, uninitialised, on a 64-byte boundary."""
        wanted = size_class(size_bytes)
        buffer = self._find(wanted)
        if buffer is None:
            buffer = self._make(wanted)
        lent = np.frombuffer(buffer[:size_bytes], np.uint8)
        self._lent.setdefault(wanted, deque()).append(None)
        weakref.finalize(lent, self._take_back, wanted, buffer).atexit = False
        return lent

    def _find(self, wanted: int) -> memoryview | None:
        try:
            return self._free[wanted].pop()[1]
        except (KeyError, IndexError):
            return None

    def _make(self, size_bytes: int) -> memoryview:
        buffer = memoryview(self._allocate(size_bytes)).cast("B")  # type: ignore[arg-type]
        address = np.frombuffer(buffer, np.uint8).ctypes.data
        if buffer.readonly or len(buffer) < size_bytes or address % ALIGNMENT_BYTES:
            raise Invalid(
                "allocated buffer",
                expected=f"{size_bytes} writable bytes on a {ALIGNMENT_BYTES}-byte boundary",
                found=f"{len(buffer)} bytes at {address:#x}",
            )
        return buffer

    def _take_back(self, size: int, buffer: memoryview) -> None:
        self._lent[size].pop()
        if self._closed:
            return
        now = time.monotonic()
        self._free.setdefault(size, deque()).append((now, buffer))
        self._give_up(now)

    def _give_up(self, now: float) -> None:
        """Let go of free buffers that are old, or too much beside what is lent, oldest first."""
        excess = _total(self._lent) + _total(self._free) - self._bytes_max
        while True:
            oldest = min(self._oldest(), default=None)
            if oldest is None or (excess <= 0 and oldest[0] > now - _IDLE_SECONDS):
                return
            size = oldest[1]
            try:
                self._free[size].popleft()
            except IndexError:
                continue  # another thread took it just now
            excess -= size

    def _oldest(self) -> Iterator[tuple[float, int]]:
        """Yield when the oldest free buffer of each size came back."""
        for size, buffers in self._free.copy().items():
            try:
                yield buffers[0][0], size
            except IndexError:
                continue  # none of this size is left

    @property
    def free_bytes(self) -> int:
        """Bytes kept for later use."""
        return _total(self._free)

    def close(self) -> None:
        """Give free buffers back to the system, and lent ones when their users are gone."""
        self._closed = True
        self._free.clear()
