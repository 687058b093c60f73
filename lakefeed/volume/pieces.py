"""Pieces of memory that one read fills: a list of buffers that is made without an object for each.

A read that brings a thousand small samples into a thousand places would make, convert and forget a
thousand memoryviews, which takes longer than to read them. `Pieces` are what `preadv` wants in the
end, addresses and lengths, computed by vector operations; whoever iterates over them gets
memoryviews all the same. All pieces lie inside of buffers that they keep alive.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Sequence
from typing import overload

import numpy as np
from numpy.typing import NDArray

from lakefeed.errors import Invalid

_Numbers = NDArray[np.int64]

_preadv = ctypes.CDLL(None, use_errno=True).preadv
_preadv.restype = ctypes.c_ssize_t
_preadv.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_longlong]
# Linux refuses more than 1024 buffers in one vectored call (UIO_MAXIOV).
IOV_MAX = 1024
_IOVEC_BYTES = np.uintp(2 * ctypes.sizeof(ctypes.c_void_p))


class Pieces(Sequence[memoryview]):
    """Piece i is `length[i]` bytes from `start[i]` on of buffer `which[i]`."""

    __slots__ = ("_address", "_buffers", "_end", "_ends", "_first", "_start", "_vector", "_which")

    def __init__(
        self, buffers: Sequence[NDArray[np.uint8]], which: _Numbers, start: _Numbers,
        length: _Numbers,
    ) -> None:  # fmt: skip
        sizes = np.array([buffer.nbytes for buffer in buffers], np.int64)
        places = np.array([buffer.ctypes.data for buffer in buffers], np.uintp)
        inside = len(which) == len(start) == len(length) and (
            not len(which)
            or (which.min() >= 0 and which.max() < len(sizes) and start.min() >= 0
                and length.min() >= 0 and (start + length <= sizes[which]).all())
        )  # fmt: skip
        whole = all(buffer.flags.c_contiguous and buffer.flags.writeable for buffer in buffers)
        if not (inside and whole):
            raise Invalid("pieces of memory", expected="places inside of writable buffers")
        self._buffers = [buffer.data for buffer in buffers]
        self._which, self._start = which, start
        self._ends = np.zeros(len(length) + 1, np.int64)
        np.cumsum(length, out=self._ends[1:])
        self._vector = np.empty((len(which), 2), np.uintp)
        self._vector[:, 0] = places[which] + start.astype(np.uintp)
        self._vector[:, 1] = length
        self._address: int = self._vector.ctypes.data
        self._first, self._end = 0, len(which)

    def __len__(self) -> int:
        return self._end - self._first

    @property
    def nbytes(self) -> int:
        """The bytes of all pieces."""
        return int(self._ends[self._end] - self._ends[self._first])

    @overload
    def __getitem__(self, at: int) -> memoryview: ...
    @overload
    def __getitem__(self, at: slice) -> Pieces: ...
    def __getitem__(self, at: int | slice) -> memoryview | Pieces:
        if isinstance(at, slice):
            first, end, step = at.indices(len(self))
            if step != 1:
                raise Invalid("slice of pieces", expected="step 1", found=step)
            return self.part(self._first + first, self._first + max(first, end))
        if not -len(self) <= at < len(self):
            raise IndexError(at)
        position = at + (self._first if at >= 0 else self._end)
        buffer: memoryview = self._buffers[self._which[position]]
        start = int(self._start[position])
        end = start + int(self._ends[position + 1] - self._ends[position])
        return buffer[start:end]

    def part(self, first: int, end: int) -> Pieces:
        """Return pieces [first, end) of all that were given, without looking."""
        part = object.__new__(Pieces)
        part._buffers, part._which, part._start = self._buffers, self._which, self._start
        part._ends, part._vector, part._address = self._ends, self._vector, self._address
        part._first, part._end = first, end
        return part

    def bytes_between(self, edges: _Numbers) -> _Numbers:
        """Return the bytes of pieces [edges[i], edges[i + 1]), for each i."""
        sizes: _Numbers = np.diff(self._ends[edges])
        return sizes

    def vectors(self, first: _Numbers) -> NDArray[np.uintp]:
        """Return where the `iovec` of each of these pieces is; those of the next ones follow it."""
        places: NDArray[np.uintp] = np.uintp(self._address) + first.astype(np.uintp) * _IOVEC_BYTES
        return places

    def fill(self, fd: int, offset: int) -> int:
        """Read at most so many bytes from a descriptor as they take, with one call: preadv(2)."""
        address = self._address + self._first * int(_IOVEC_BYTES)
        while True:
            done: int = _preadv(fd, address, len(self), offset)
            if done >= 0:
                return done
            number = ctypes.get_errno()
            if number != errno.EINTR:
                raise OSError(number, os.strerror(number))


def preadv(fd: int, buffers: Sequence[memoryview], offset: int) -> int:
    """Do what os.preadv does, for pieces as well."""
    if isinstance(buffers, Pieces):
        return buffers.fill(fd, offset)
    return os.preadv(fd, buffers, offset)


def total_bytes(buffers: Sequence[memoryview]) -> int:
    """Return the bytes of all buffers."""
    if isinstance(buffers, Pieces):
        return buffers.nbytes
    return sum(buffer.nbytes for buffer in buffers)


def deal_out(data: memoryview, buffers: Sequence[memoryview]) -> None:
    """Copy bytes into buffers that take as many in all."""
    position = 0
    for buffer in buffers:
        buffer[:] = data[position : position + buffer.nbytes]
        position += buffer.nbytes
