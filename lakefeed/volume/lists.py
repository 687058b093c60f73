"""Lists of reads: many places of a file or more, brought with a few calls, not with one for each.

The interpreter takes longer to make a call than the kernel does to read a small sample out of its
page cache, and each call gives up the interpreter's lock and has to wait for it again. Linux takes
many reads with one call, io_submit(2). Reads of the page cache are done by the time it returns;
what has to come from elsewhere is waited for. (io_uring does the same, but is forbidden in many
containers, and was slower here.) Where the call is not allowed reads are made one by one.

`ReadList` is what to read, laid out as the kernel wants it. `Queues` lends a kernel queue to each
thread that submits; a queue never has anything in it when it is given back. A process has one
`QUEUES`, because the kernel takes 30 ms to give a queue up.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import weakref
from abc import abstractmethod
from collections import deque
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lakefeed.volume.pieces import Pieces

_Numbers = NDArray[np.int64]

# Of io_setup, io_destroy, io_getevents, io_submit, where integers are little endian.
_CALLS = {"x86_64": (206, 207, 208, 209), "aarch64": (0, 1, 4, 2), "riscv64": (0, 1, 4, 2)}
# Reads in a queue, and queues in a process: the system has room for 65,536 reads (fs.aio-max-nr).
_QUEUED_MAX = 128
_QUEUES_MAX = 16
_PREADV = 7
_CONTROL = np.dtype(
    [("data", "u8"), ("key", "u4"), ("rw_flags", "u4"), ("opcode", "u2"), ("priority", "i2"),
     ("fd", "i4"), ("buffers", "u8"), ("count", "u8"), ("offset", "i8"), ("reserved", "u8"),
     ("flags", "u4"), ("resfd", "u4")]
)  # fmt: skip
_EVENT = np.dtype([("data", "u8"), ("control", "u8"), ("result", "i8"), ("result2", "i8")])
_POINTER_BYTES = ctypes.sizeof(ctypes.c_void_p)

_syscall = ctypes.CDLL(None, use_errno=True).syscall
_syscall.restype = ctypes.c_long
# Keeps the interpreter's lock: for what returns at once.
_brief_syscall = ctypes.PyDLL(None, use_errno=True).syscall
_brief_syscall.restype = ctypes.c_long


class ReadList:
    """Read i fills pieces [edges[i], edges[i + 1]) from `offset[i]` of a file on.

    Threads share a list, each doing reads of its own, so all of it is made before any of them runs:
    the kernel is told addresses, which must be those of one table for as long as there are reads.
    """

    def __init__(self, pieces: Pieces, edges: _Numbers, offset: _Numbers) -> None:
        self._pieces = pieces
        self._edges = edges
        self._offset = offset
        # The bytes of each read.
        self.size = pieces.bytes_between(edges)
        # The kernel's control blocks of all reads; `aim` sets their file.
        self.controls = np.zeros(len(offset), _CONTROL)
        self.controls["data"] = np.arange(len(offset))
        self.controls["opcode"] = _PREADV
        self.controls["buffers"] = pieces.vectors(edges[:-1])
        self.controls["count"] = np.diff(edges)
        self.controls["offset"] = offset
        # Where each control block is.
        steps = np.arange(len(offset), dtype=np.uintp) * np.uintp(_CONTROL.itemsize)
        self.pointers = np.uintp(self.controls.ctypes.data) + steps

    def __len__(self) -> int:
        return len(self._offset)

    def aim(self, descriptor: int, start: int, end: int) -> None:
        """Have the kernel take reads [start, end) from this file."""
        self.controls["fd"][start:end] = descriptor

    def one(self, read: int) -> tuple[int, Sequence[memoryview]]:
        """Return where a read begins, and what it fills."""
        first, end = self._edges[read : read + 2].tolist()
        pieces = self._pieces
        buffers = [pieces[first]] if end - first == 1 else pieces.part(first, end)
        return int(self._offset[read]), buffers


class PlainReads:
    """Reading for files that do nothing special: one call after the other, nothing known of the
    kernel, no copies kept."""

    @property
    def descriptor(self) -> None:
        """It is not the kernel alone that reads."""

    @property
    def counted(self) -> bool:
        """Nothing is known about what the kernel fetches."""
        return False

    def cached_share(self, _ranges: Sequence[tuple[int, int]]) -> float | None:
        """Nobody tells what lies in memory."""
        return None

    def distrust(self, _offset: int, _length: int) -> bool:
        """No copies are kept."""
        return False

    @abstractmethod
    def read_into(self, offset: int, buffers: Sequence[memoryview]) -> int:
        """Fill the buffers in order from `offset`, wholly."""

    def read_list(self, reads: ReadList, start: int, end: int) -> None:
        """Do reads [start, end), each wholly."""
        for read in range(start, end):
            self.read_into(*reads.one(read))


class _Queue:
    """A queue of the kernel's: an "AIO context"."""

    def __init__(self, number: int) -> None:
        self._number = ctypes.c_ulong(number)
        self._events = np.zeros(_QUEUED_MAX, _EVENT)
        self._address: int = self._events.ctypes.data
        # At exit the kernel does it by itself.
        weakref.finalize(self, _destroy, number, os.getpid()).atexit = False

    def read(self, reads: ReadList, start: int, end: int) -> int:
        """Do as many of reads [start, end) as fit; return how many, from the first on, are done."""
        end = min(end, start + _QUEUED_MAX)
        pointers = reads.pointers.ctypes.data + start * _POINTER_BYTES
        count = _syscall(
            _SUBMIT, self._number, ctypes.c_long(end - start), ctypes.c_void_p(pointers)
        )
        if count <= 0:
            return 0
        self._wait_for(count)
        events = self._events[:count]
        result = np.zeros(count, np.int64)
        result[events["data"].astype(np.int64) - start] = events["result"]
        whole = result == reads.size[start : start + count]
        return count if whole.all() else int(whole.argmin())

    def _wait_for(self, count: int) -> None:
        """Return when so many reads have come; they write to their buffers until then."""
        there = self._take(_brief_syscall, 0, count, 0)
        while there < count:
            there += self._take(_syscall, there, count - there, count - there)

    def _take(self, syscall: ctypes._FuncPointer, there: int, count: int, least: int) -> int:
        """Take at most `count` events, waiting for `least` of them."""
        address = ctypes.c_void_p(self._address + there * _EVENT.itemsize)
        numbers = ctypes.c_long(least), ctypes.c_long(count)
        taken: int = syscall(_GETEVENTS, self._number, *numbers, address, None)
        if taken < 0 and ctypes.get_errno() != errno.EINTR:
            raise AssertionError(f"io_getevents: {os.strerror(ctypes.get_errno())}")
        return max(taken, 0)


class Queues:
    """Lends queues to threads, and makes new ones where all are lent. Safe for forks too."""

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._free: deque[_Queue] = deque()
        self._unmade = deque(range(_QUEUES_MAX))

    def read(self, reads: ReadList, start: int, end: int) -> int:
        """Do reads [start, end), each from the file that it was aimed at; return how many, from the
        first on, are wholly done.

        What is wrong with the next one says whoever does it by itself.
        """
        queue = self._borrow()
        if queue is None:
            return 0
        done = start
        while done < end:
            came = queue.read(reads, done, end)
            done += came
            if not came:
                break
        self._free.append(queue)
        return done - start

    def _borrow(self) -> _Queue | None:
        if self._pid != os.getpid():  # a queue belongs to the process that made it
            self._pid, self._free = os.getpid(), deque()
            self._unmade = deque(range(_QUEUES_MAX))
        try:
            return self._free.pop()
        except IndexError:
            return self._make()

    def _make(self) -> _Queue | None:
        number = ctypes.c_ulong(0)
        try:
            self._unmade.pop()
        except IndexError:
            return None
        if _syscall(_SETUP, ctypes.c_long(_QUEUED_MAX), ctypes.byref(number)) == 0:
            return _Queue(number.value)
        self._unmade.clear()  # forbidden, or the system has no room
        return None


def _destroy(number: int, pid: int) -> None:
    if pid == os.getpid():
        _syscall(_DESTROY, ctypes.c_ulong(number))


_known = _CALLS.get(platform.machine()) if _POINTER_BYTES == 8 else None
_SETUP, _DESTROY, _GETEVENTS, _SUBMIT = _known or (-1, -1, -1, -1)
QUEUES = Queues()
