"""A port of fsx, the file system exerciser: random operations on one file and on a model of it.

Reads, writes, truncates, appends, fsyncs, closing and reopening, dropping the kernel's pages; every
read and every size is compared with the model. `python -m tests.fuse.fsx FILE OPERATIONS SEED` runs
it by hand; a failure prints the seed and the last operations.
"""

from __future__ import annotations

import os
import random
import sys
from collections import deque

FILE_BYTES_MAX = 256 << 10
OPERATION_BYTES_MAX = 64 << 10


class Difference(AssertionError):
    """The file is not what the model says."""


class Exerciser:
    """One file and its model."""

    def __init__(self, path: str, seed: int) -> None:
        self._path = path
        self._seed = seed
        self._random = random.Random(seed)
        self._model = bytearray()
        self._noise = self._random.randbytes(OPERATION_BYTES_MAX * 2)
        self._recent: deque[str] = deque(maxlen=30)
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
        self._actions = (
            [self._read] * 40 + [self._write] * 32 + [self._truncate] * 8 + [self._append] * 8
            + [self._size] * 8 + [self._reopen] * 2 + [self._forget] * 2
        )  # fmt: skip

    def run(self, operations: int, sync_every: int = 2000) -> None:
        """Do so many random operations, then compare the whole file."""
        for number in range(operations):
            self._random.choice(self._actions)()
            if number % sync_every == sync_every - 1:
                os.fsync(self._fd)
        self._compare(0, os.pread(self._fd, FILE_BYTES_MAX * 2, 0), len(self._model))
        os.close(self._fd)
        with open(self._path, "rb") as file:
            self._compare(0, file.read(), len(self._model))

    def _place(self, limit: int) -> tuple[int, int]:
        offset = self._random.randrange(max(limit, 1))
        # Mostly small, as fsx does; now and then big.
        most = OPERATION_BYTES_MAX if self._random.random() < 0.1 else 4096
        return offset, self._random.randrange(1, most + 1)

    def _note(self, what: str) -> None:
        self._recent.append(what)

    def _read(self) -> None:
        offset, length = self._place(len(self._model) + 4096)
        self._note(f"read {offset} {length}")
        self._compare(offset, os.pread(self._fd, length, offset), length)

    def _write(self) -> None:
        offset, length = self._place(min(len(self._model) + 8192, FILE_BYTES_MAX))
        length = min(length, FILE_BYTES_MAX - offset)
        start = self._random.randrange(OPERATION_BYTES_MAX)
        data = self._noise[start : start + length]
        self._note(f"write {offset} {length}")
        self._done(os.pwrite(self._fd, data, offset), length)
        if offset > len(self._model):
            self._model.extend(bytes(offset - len(self._model)))
        self._model[offset : offset + length] = data

    def _append(self) -> None:
        length = self._random.randrange(1, 4097)
        if len(self._model) + length > FILE_BYTES_MAX:
            return
        data = self._noise[:length]
        self._note(f"append {length}")
        handle = os.open(self._path, os.O_WRONLY | os.O_APPEND)
        self._done(os.write(handle, data), length)
        os.close(handle)
        self._model.extend(data)

    def _truncate(self) -> None:
        size = self._random.randrange(FILE_BYTES_MAX if self._random.random() < 0.3 else 32768)
        self._note(f"truncate {size}")
        os.ftruncate(self._fd, size)
        if size < len(self._model):
            del self._model[size:]
        else:
            self._model.extend(bytes(size - len(self._model)))

    def _size(self) -> None:
        self._note("stat")
        found = os.fstat(self._fd).st_size
        if found != len(self._model):
            self._fail(f"size {found}, expected {len(self._model)}")

    def _reopen(self) -> None:
        self._note("reopen")
        os.close(self._fd)
        self._fd = os.open(self._path, os.O_RDWR)

    def _forget(self) -> None:
        self._note("drop pages")
        os.posix_fadvise(self._fd, 0, 0, os.POSIX_FADV_DONTNEED)

    def _done(self, done: int, wanted: int) -> None:
        if done != wanted:
            self._fail(f"wrote {done} of {wanted} bytes")

    def _compare(self, offset: int, found: bytes, length: int) -> None:
        expected = self._model[offset : offset + length]
        if found != expected:
            at = next(
                (i for i, (a, b) in enumerate(zip(found, expected, strict=False)) if a != b),
                min(len(found), len(expected)),
            )
            self._fail(
                f"{len(found)} bytes at {offset}, expected {len(expected)}; "
                f"first difference at {offset + at}"
            )

    def _fail(self, what: str) -> None:
        recent = "\n  ".join(self._recent)
        raise Difference(f"seed {self._seed}: {what}; the last operations:\n  {recent}")


if __name__ == "__main__":
    Exerciser(sys.argv[1], int(sys.argv[3])).run(int(sys.argv[2]))
