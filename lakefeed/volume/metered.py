"""A volume that counts: calls, bytes and seconds of every verb, around any other volume.

It changes nothing it measures. The counters are one dictionary under one lock, held for
nanoseconds; `readings()` returns a copy, so differences between two moments are plain arithmetic.
Only volume calls are timed, not the work between them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from lakefeed.closing import Closing
from lakefeed.forking import new_lock
from lakefeed.volume.around import AroundVolume
from lakefeed.volume.base import Buffer, FileStat, Listed, ReadableFile, Volume, WritableFile
from lakefeed.volume.lists import ReadList
from lakefeed.volume.pieces import total_bytes

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Reading:
    """What one verb did so far; `failures` counts calls that raised."""

    calls: int = 0
    failures: int = 0
    transferred_bytes: int = 0
    busy_seconds: float = 0.0


class Meter:
    """The counters, by verb."""

    def __init__(self) -> None:
        self._lock = new_lock()
        self._readings: dict[str, Reading] = {}

    def readings(self) -> dict[str, Reading]:
        """Return the readings so far."""
        with self._lock:
            return dict(self._readings)

    @contextmanager
    def call(self, verb: str, transferred_bytes: int = 0, calls: int = 1) -> Iterator[None]:
        """Count what is called inside the block."""
        start = time.perf_counter()
        failed = 1
        try:
            yield
            failed = 0
        finally:
            seconds = time.perf_counter() - start
            moved = 0 if failed else transferred_bytes
            with self._lock:
                old = self._readings.get(verb, Reading())
                self._readings[verb] = Reading(
                    old.calls + calls,
                    old.failures + failed,
                    old.transferred_bytes + moved,
                    old.busy_seconds + seconds,
                )


class MeteredWritableFile(Closing):
    """A file whose writes and syncs are counted."""

    def __init__(self, inner: WritableFile, meter: Meter) -> None:
        self._inner = inner
        self._meter = meter

    def write(self, buffers: Sequence[Buffer]) -> int:
        """Append the buffers in order."""
        with self._meter.call("write", sum(map(len, buffers))):
            return self._inner.write(buffers)

    def tell(self) -> int:
        """Return the bytes written so far."""
        return self._inner.tell()

    def stat(self) -> FileStat:
        """Return the facts of the file as the server has them."""
        with self._meter.call("stat"):
            return self._inner.stat()

    def sync(self) -> None:
        """Return once everything written is on stable storage."""
        with self._meter.call("sync"):
            self._inner.sync()

    def close(self) -> None:
        """Close the file."""
        with self._meter.call("close"):
            self._inner.close()


class MeteredReadableFile(Closing):
    """A file whose reads are counted."""

    def __init__(self, inner: ReadableFile, meter: Meter) -> None:
        self._inner = inner
        self._meter = meter

    @property
    def size(self) -> int:
        """Bytes in the file when it was opened."""
        return self._inner.size

    def read_at(self, offset: int, length: int) -> bytes:
        """Return exactly `length` bytes at `offset`."""
        with self._meter.call("read", length):
            return self._inner.read_at(offset, length)

    def read_into(self, offset: int, buffers: Sequence[memoryview]) -> int:
        """Fill the buffers in order from `offset`, wholly."""
        with self._meter.call("read", total_bytes(buffers)):
            return self._inner.read_into(offset, buffers)

    def read_list(self, reads: ReadList, start: int, end: int) -> None:
        """Do reads [start, end), each wholly; each is counted."""
        size_bytes = int(reads.size[start:end].sum())
        with self._meter.call("read", size_bytes, calls=end - start):
            self._inner.read_list(reads, start, end)

    @property
    def descriptor(self) -> None:
        """Reads are to be counted, not to go past here."""

    @property
    def counted(self) -> bool:
        """Whether the kernel counts what it fetches for a thread."""
        return self._inner.counted

    def cached_share(self, ranges: Sequence[tuple[int, int]]) -> float | None:
        """Return which share of these bytes lies in memory, where somebody tells."""
        return self._inner.cached_share(ranges)

    def will_need(self, ranges: Sequence[tuple[int, int]]) -> bool:
        """Pass the hint on; it is not counted, because nobody waits for it."""
        return self._inner.will_need(ranges)

    def distrust(self, offset: int, length: int) -> bool:
        """Pass it on."""
        return self._inner.distrust(offset, length)

    def stat(self) -> FileStat:
        """Return the facts of the open file."""
        with self._meter.call("stat"):
            return self._inner.stat()

    def close(self) -> None:
        """Close the file."""
        with self._meter.call("close"):
            self._inner.close()


class MeteredVolume(AroundVolume):
    """Any volume, counted by `meter`."""

    def __init__(self, inner: Volume, meter: Meter) -> None:
        super().__init__(inner)
        self.meter = meter

    def run(self, verb: str, path: str, work: Callable[[], T]) -> T:
        """Make a call, and count it."""
        with self.meter.call(verb):
            return work()

    def create(self, path: str) -> MeteredWritableFile:
        """Create a new file."""
        return MeteredWritableFile(super().create(path), self.meter)

    def open(self, path: str) -> MeteredReadableFile:
        """Open a file for reading."""
        return MeteredReadableFile(super().open(path), self.meter)

    def list(self, directory: str) -> Iterator[Listed]:
        """Yield the names in a directory, counted as one call."""
        yield from self.run("list", directory, lambda: [*self.inner.list(directory)])
