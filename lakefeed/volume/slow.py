"""A volume that answers as slowly as it is told to, around any other volume: simulated filers.

Every call takes at least `call_seconds`; all calls together number at most `calls_per_second` and
move at most `bytes_per_second`, as one client of a shared filer sees it. Time goes by a schedule: a
call reserves its place behind those before it and waits for its turn, so the limits hold exactly
whatever the machine's timer does, and waiting blocks nobody else. Only opening and reading are
slowed down, because that is what feeds do; reads above `transfer_bytes` count as several calls, as
an NFS client splits them.

Figures measured on such a volume are simulated, and say so.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from lakefeed.closing import Closing
from lakefeed.forking import new_lock
from lakefeed.volume.base import FileStat, Listed, ReadableFile, Space, Volume, WritableFile
from lakefeed.volume.lists import PlainReads
from lakefeed.volume.pieces import total_bytes


@dataclass(frozen=True, slots=True)
class Profile:
    """What a volume can do; None: without limit."""

    call_seconds: float = 0.0
    calls_per_second: float | None = None
    bytes_per_second: float | None = None
    transfer_bytes: int = 1 << 20


# A millisecond for every call, and as many at a time as anybody likes.
FAR = Profile(call_seconds=1e-3)
# What a shared filer gives one client.
NAS = Profile(call_seconds=1e-3, calls_per_second=5000, bytes_per_second=1e9)


class SlowVolume:
    """`inner`, slowed down to a profile."""

    def __init__(self, inner: Volume, profile: Profile) -> None:
        self._inner = inner
        self._profile = profile
        self._lock = new_lock()  # guards the three below
        self._free_at = 0.0
        self.calls = 0
        self.moved_bytes = 0

    def __reduce__(self) -> tuple[type[SlowVolume], tuple[Volume, Profile]]:
        return SlowVolume, (self._inner, self._profile)

    def pay(self, moved_bytes: int) -> None:
        """Wait as long as a call that moves so many bytes takes."""
        profile = self._profile
        calls = max(1, -(-moved_bytes // profile.transfer_bytes))
        now = time.perf_counter()
        with self._lock:
            self.calls += calls
            self.moved_bytes += moved_bytes
            busy = 0.0
            if profile.calls_per_second is not None:
                busy = calls / profile.calls_per_second
            if profile.bytes_per_second is not None:
                busy = max(busy, moved_bytes / profile.bytes_per_second)
            self._free_at = max(self._free_at, now) + busy
            until = max(self._free_at, now + profile.call_seconds)
        threading.Event().wait(max(0.0, until - time.perf_counter()))

    @property
    def name(self) -> str:
        """The inner volume's name."""
        return self._inner.name

    def open(self, path: str) -> SlowFile:
        """Open a file for reading."""
        self.pay(0)
        return SlowFile(self._inner.open(path), self)

    def create(self, path: str) -> WritableFile:
        """Create a new file."""
        return self._inner.create(path)

    def stat(self, path: str) -> FileStat:
        """Return the facts of a file."""
        self.pay(0)
        return self._inner.stat(path)

    def link(self, source: str, target: str) -> None:
        """Give `source` the additional name `target`."""
        self._inner.link(source, target)

    def replace(self, source: str, target: str) -> None:
        """Rename over the target."""
        self._inner.replace(source, target)

    def unlink(self, path: str) -> None:
        """Remove a name."""
        self._inner.unlink(path)

    def list(self, directory: str) -> Iterator[Listed]:
        """Yield the names in a directory."""
        self.pay(0)
        return self._inner.list(directory)

    def make_directory(self, path: str) -> None:
        """Make a directory and its parents durably."""
        self._inner.make_directory(path)

    def sync_directory(self, path: str) -> None:
        """Make the names in a directory durable."""
        self._inner.sync_directory(path)

    def refresh(self, directory: str) -> None:
        """Forget cached misses below a directory."""
        self.pay(0)
        self._inner.refresh(directory)

    def space(self) -> Space:
        """Return the room left."""
        return self._inner.space()


class SlowFile(PlainReads, Closing):
    """A file whose reads take their time."""

    def __init__(self, inner: ReadableFile, volume: SlowVolume) -> None:
        self._inner = inner
        self._volume = volume

    @property
    def size(self) -> int:
        """Bytes in the file when it was opened."""
        return self._inner.size

    def read_at(self, offset: int, length: int) -> bytes:
        """Return exactly `length` bytes at `offset`."""
        self._volume.pay(length)
        return self._inner.read_at(offset, length)

    def read_into(self, offset: int, buffers: Sequence[memoryview]) -> int:
        """Fill the buffers in order from `offset`, wholly."""
        self._volume.pay(total_bytes(buffers))
        return self._inner.read_into(offset, buffers)

    def will_need(self, ranges: Sequence[tuple[int, int]]) -> bool:
        """Do nothing: every read takes its time here."""
        return False

    def stat(self) -> FileStat:
        """Return the facts of the open file, fresh from the server."""
        return self._inner.stat()

    def close(self) -> None:
        """Close the file. Works twice."""
        self._inner.close()
