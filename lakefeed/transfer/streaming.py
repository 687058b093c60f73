"""One big file read in order, some pieces ahead of whoever takes them.

A filer answers one read after the other slowly and several at once well, so up to PIECES_AHEAD
pieces are in flight. The file's size and time are compared after the last piece.
"""

from __future__ import annotations

import os
import stat
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass

from lakefeed.closing import Closing
from lakefeed.format.rows import TIMES_NS
from lakefeed.transfer.reading import Changed

PIECE_BYTES = 4 << 20
PIECES_AHEAD = 4


class Unreadable(Exception):
    """The source failed, not the lake: told apart because both fail as OSError."""

    def __init__(self, reason: OSError) -> None:
        super().__init__(str(reason))
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Facts:
    """A source file as it was when it was opened."""

    size: int
    mtime_ns: int
    mode: int


class SourceStream(Closing):
    """A source file opened for streaming; close it, or use it in a `with` block."""

    def __init__(self, full: str, flags: int, pool: ThreadPoolExecutor) -> None:
        self._full = full
        self._flags = flags
        self._pool = pool
        self._fd = -1
        self._ahead: deque[Future[bytes]] = deque()

    def open(self) -> Facts:
        """Open the file and return its facts; Unreadable where that fails."""
        try:
            self._fd = os.open(self._full, self._flags)
            return self._facts()
        except OSError as error:
            raise Unreadable(error) from error

    def _facts(self) -> Facts:
        info = os.fstat(self._fd)
        if not stat.S_ISREG(info.st_mode) or info.st_mtime_ns not in TIMES_NS:
            raise Changed  # it was another one when the block was read
        return Facts(info.st_size, info.st_mtime_ns, stat.S_IMODE(info.st_mode))

    def pieces(self, facts: Facts) -> Iterator[bytes]:
        """Yield the bytes that `facts` promises; Changed when they are others by now."""
        try:
            yield from self._pieces(facts)
            if self._facts() != facts:
                raise Changed
        except OSError as error:
            raise Unreadable(error) from error

    def _pieces(self, facts: Facts) -> Iterator[bytes]:
        ahead = self._ahead
        for start in range(0, facts.size, PIECE_BYTES):
            length = min(PIECE_BYTES, facts.size - start)
            ahead.append(self._pool.submit(self._piece, start, length))
            if len(ahead) >= PIECES_AHEAD:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()

    def _piece(self, start: int, length: int) -> bytes:
        data = os.pread(self._fd, length, start)
        while len(data) < length:
            more = os.pread(self._fd, length - len(data), start + len(data))
            if not more:
                raise Changed
            data += more
        return data

    def close(self) -> None:
        """Close the file, once nobody reads it any more. Works twice."""
        for future in self._ahead:
            future.cancel()
        wait(self._ahead)
        self._ahead.clear()
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)
