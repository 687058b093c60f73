"""Written bytes that are not committed yet, in memory or in a local file.

A file starts in memory and moves to an unnamed local file when it grows beyond
`MEMORY_FILE_BYTES`, or when all spools together hold more memory than they may. The local disk is
bounded too, and so is the number of files, each of which takes a descriptor of the process: what
does not fit is ENOSPC to whoever writes. Nothing here survives the process: what must survive is
committed (fsync).
"""

from __future__ import annotations

import errno
import os
import tempfile
from dataclasses import dataclass
from typing import IO

# Most files of a source tree or data set are smaller, and a copy of so little is cheap.
MEMORY_FILE_BYTES = 1 << 20
COPY_BYTES = 4 << 20


@dataclass(slots=True)
class Budget:
    """What all spools of a mount may hold, and hold now."""

    directory: str | None = None
    memory_max: int = 128 << 20
    disk_max: int = 16 << 30
    # Half of the usual 1,024 descriptors of a process: packs, commits and all else need some, too.
    files_max: int = 512
    memory_bytes: int = 0
    disk_bytes: int = 0
    files: int = 0

    @property
    def place(self) -> str:
        """Where spools are."""
        return self.directory or tempfile.gettempdir()

    def file(self) -> IO[bytes]:
        """Return a new file without a name, where spools are."""
        return tempfile.TemporaryFile(dir=self.place, prefix="lakefeed-")


class Spool:
    """The bytes of one changed file, readable and writable anywhere."""

    __slots__ = ("_budget", "_data", "_file", "size")

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._data: bytearray | None = bytearray()
        self._file = -1
        self.size = 0

    @property
    def on_disk(self) -> bool:
        """True when the bytes are in a local file."""
        return self._data is None

    def write(self, offset: int, data: bytes) -> None:
        """Put bytes at an offset; a gap before them reads as zeros."""
        if not data:
            return
        end = offset + len(data)
        held = self._data
        if held is not None and not self._fits(end - len(held), end):
            self._move()
            held = None
        if held is None:
            self._check_disk(end - self.size)
            self._write_disk(offset, data)
            self._budget.disk_bytes += max(end - self.size, 0)
        else:
            size = len(held)
            if end > size:
                self._grow_memory(end - size)
                if offset > size:
                    held.extend(bytes(offset - size))
            held[offset:end] = data
        self.size = max(self.size, end)

    def _fits(self, more: int, end: int) -> bool:
        budget = self._budget
        return end <= MEMORY_FILE_BYTES and budget.memory_bytes + more <= budget.memory_max

    def _grow_memory(self, more: int) -> None:
        self._budget.memory_bytes += more

    def _check_disk(self, more: int) -> None:
        """Refuse to grow beyond what all spools may hold on disk."""
        if more > 0 and self._budget.disk_bytes + more > self._budget.disk_max:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _write_disk(self, offset: int, data: bytes | bytearray) -> None:
        view = memoryview(data)
        try:
            while view:
                done = os.pwrite(self._file, view, offset)
                view, offset = view[done:], offset + done
        except OSError:
            # What a full disk took of it lies behind the end, where zeros are to be read later.
            os.ftruncate(self._file, self.size)
            raise

    def _move(self) -> None:
        """Continue in a local file."""
        held = self._data
        assert held is not None
        self._check_disk(len(held))
        if self._budget.files >= self._budget.files_max:
            raise OSError(errno.ENOSPC, "too many files in the spool")
        with self._budget.file() as file:
            self._file = os.dup(file.fileno())
        try:
            self._write_disk(0, held)
        except OSError:
            os.close(self._file)
            raise
        self._data = None
        self._budget.files += 1
        self._budget.memory_bytes -= len(held)
        self._budget.disk_bytes += len(held)

    def truncate(self, size: int) -> None:
        """Cut off what is behind `size`, or append zeros up to it."""
        if self._data is not None and not self._fits(size - len(self._data), size):
            self._move()
        if self._data is None:
            self._check_disk(size - self.size)
            os.ftruncate(self._file, size)
            self._budget.disk_bytes += size - self.size
        else:
            self._grow_memory(size - len(self._data))
            if size < len(self._data):
                del self._data[size:]
            else:
                self._data.extend(bytes(size - len(self._data)))
        self.size = size

    def read(self, offset: int, length: int) -> bytes:
        """Return up to `length` bytes at an offset; fewer only at the end."""
        length = min(length, max(self.size - offset, 0))
        if self._data is not None:
            return bytes(memoryview(self._data)[offset : offset + length])
        parts = []
        while length:
            part = os.pread(self._file, length, offset)
            if not part:
                break
            parts.append(part)
            offset, length = offset + len(part), length - len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def close(self) -> None:
        """Give memory or disk back. Works twice."""
        if self._data is not None:
            self._budget.memory_bytes -= len(self._data)
            self._data = bytearray()
        elif self._file >= 0:
            os.close(self._file)
            self._file = -1
            self._budget.files -= 1
            self._budget.disk_bytes -= self.size
        self.size = 0
