"""Buffers that are lent out and come back by themselves when nothing refers to them any more.

A fresh buffer for every batch costs more in page faults than reading the batch does, so buffers are
used again. What is lent is a numpy array over a memoryview: slices of it, memoryviews, Arrow
buffers and tensors all keep that very array alive (numpy would shorten the chain of bases past an
array, but not past a memoryview), so a finalizer on it fires when nobody can see the bytes any
more, and not before.

Free buffers are kept up to `kept_bytes_max`; the rest goes back to the system. Finalizers run
wherever the interpreter pleases, so they take no lock: all shared state is a deque.
"""

from __future__ import annotations

import mmap
import weakref
from collections import deque
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from lakefeed.errors import Invalid

ALIGNMENT_BYTES = 64
# Batches of one feed differ by a few percent in size; classes this wide let them share buffers.
_CLASSES_PER_DOUBLING = 8
_SMALLEST_BYTES = 1 << 12

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


class Pool:
    """Lends buffers; see the module. Safe for threads."""

    def __init__(self, kept_bytes_max: int, allocate: Allocate | None = None) -> None:
        self._kept_bytes_max = kept_bytes_max
        self._allocate = allocate or _anonymous
        # One deque serves as the list of free buffers: appending and popping are atomic.
        self._free: deque[tuple[int, memoryview]] = deque()
        self._closed = False

    def lend(self, size_bytes: int) -> Bytes:
        """Return an array of exactly `size_bytes`, uninitialised, on a 64-byte boundary."""
        wanted = size_class(size_bytes)
        buffer = self._find(wanted)
        if buffer is None:
            buffer = self._make(wanted)
        lent = np.frombuffer(buffer[:size_bytes], np.uint8)
        weakref.finalize(lent, self._take_back, wanted, buffer).atexit = False
        return lent

    def _find(self, wanted: int) -> memoryview | None:
        """Take a free buffer of the class, looking at each free one at most once."""
        for _ in range(len(self._free)):
            try:
                size, buffer = self._free.popleft()
            except IndexError:
                return None
            if size == wanted:
                return buffer
            self._free.append((size, buffer))
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
        if self._closed:
            return
        self._free.append((size, buffer))
        while sum(size for size, _ in tuple(self._free)) > self._kept_bytes_max:
            try:
                self._free.popleft()
            except IndexError:
                return

    @property
    def free_bytes(self) -> int:
        """Bytes kept for later use."""
        return sum(size for size, _ in tuple(self._free))

    def close(self) -> None:
        """Give free buffers back to the system, and lent ones when their users are gone."""
        self._closed = True
        self._free.clear()
