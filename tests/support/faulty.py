"""A volume that fails one chosen call, around any other volume.

`FaultyVolume(inner, fail_at=N)` counts every call, those of its open files included, and makes the
N-th raise VolumeFailed(EIO). What has happened by then is the mode's choice:

    before   nothing: the call never reached the volume
    after    everything: only the reply was lost
    torn     half: a write stores half its bytes, a listing yields half its names; other verbs have
             no half and behave as `before`

`close` is different: it reports the failure, but the file underneath is closed in every mode, as
close(2) releases the descriptor whatever it says. Closing again is no call.

With `verbs`, only calls of those verbs are counted. With `dead`, every call after the failing one
fails too, without effect, as when the machine has gone. `every_fault` walks through all N.
"""

from __future__ import annotations

import errno
import itertools
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

from lakefeed.closing import Closing
from lakefeed.errors import VolumeFailed
from lakefeed.volume.around import AroundVolume
from lakefeed.volume.base import Buffer, FileStat, Listed, ReadableFile, Volume, WritableFile
from lakefeed.volume.lists import PlainReads

Mode = Literal["before", "after", "torn"]
MODES: tuple[Mode, ...] = ("before", "after", "torn")
VOLUME_VERBS = (
    "create", "open", "stat", "link", "replace", "unlink", "list", "make_directory",
    "sync_directory", "refresh", "space",
)  # fmt: skip
FILE_VERBS = ("write", "sync", "read", "close", "fstat")
# More than any test's operation makes: an operation that never stops failing is a bug to see.
FAULTS_MAX = 10_000

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Call:
    """One call seen; `number` is None where `verbs` leaves the call out of the count."""

    number: int | None
    verb: str
    path: str


def every_fault(
    build: Callable[[], Volume],
    mode: Mode = "before",
    *,
    verbs: Collection[str] | None = None,
    dead: bool = False,
) -> Iterator[FaultyVolume]:
    """Yield fresh volumes that fail at call 1, 2, …; the last one yielded met no fault."""
    for number in range(1, FAULTS_MAX):
        volume = FaultyVolume(build(), number, mode, verbs=verbs, dead=dead)
        yield volume
        if not volume.fired:
            return
    raise AssertionError(f"the operation still made {FAULTS_MAX} calls")


class FaultyVolume(AroundVolume):
    """`inner`, except for call `fail_at` (None: no call fails, all are recorded)."""

    def __init__(
        self,
        inner: Volume,
        fail_at: int | None = None,
        mode: Mode = "before",
        *,
        verbs: Collection[str] | None = None,
        dead: bool = False,
    ) -> None:
        unknown = set(verbs or ()) - {*VOLUME_VERBS, *FILE_VERBS}
        assert not unknown, f"no such verbs: {unknown}"
        super().__init__(inner)
        self.calls: list[Call] = []
        self.fired = False
        self.fail_at = fail_at
        self._mode = mode
        self._verbs = None if verbs is None else frozenset(verbs)
        self._dead = dead
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()  # guards calls, fired and the numbers

    def count(self, *verbs: str) -> int:
        """Return how many calls were made, of these verbs or of all."""
        with self._lock:
            return sum(not verbs or call.verb in verbs for call in self.calls)

    def run(
        self,
        verb: str,
        path: str,
        effect: Callable[[], T],
        half: Callable[[], object] | None = None,
    ) -> T:
        """Make a call with this effect, or the failure that is due instead."""
        mode = self._due(verb, path)
        if mode is None:
            return effect()
        if mode == "after":
            effect()
        elif mode == "torn" and half is not None:
            half()
        raise self._failure(verb, path)

    def _due(self, verb: str, path: str) -> Mode | None:
        with self._lock:
            counted = self._verbs is None or verb in self._verbs
            number = next(self._numbers) if counted else None
            self.calls.append(Call(number, verb, path))
            if self.fired:
                return "before" if self._dead else None
            if number is not None and number == self.fail_at:
                self.fired = True
                return self._mode
            return None

    def _failure(self, verb: str, path: str) -> VolumeFailed:
        subject = f"{verb} of {path}, call {self.fail_at}"
        return VolumeFailed(subject, found="an injected fault", errno=errno.EIO)

    def create(self, path: str) -> FaultyWritableFile:
        """Create a new file; a lost reply leaves it there, empty and closed."""
        with _Kept[WritableFile]() as kept:
            self.run("create", path, lambda: kept.keep(self.inner.create(path)))
            return FaultyWritableFile(kept.release(), self, path)

    def open(self, path: str) -> FaultyReadableFile:
        """Open a file for reading."""
        with _Kept[ReadableFile]() as kept:
            self.run("open", path, lambda: kept.keep(self.inner.open(path)))
            return FaultyReadableFile(kept.release(), self, path)

    def list(self, directory: str) -> Iterator[Listed]:
        """Yield the names in a directory; the call is counted when the first name is asked for."""
        mode = self._due("list", directory)
        names = [] if mode == "before" else [*self.inner.list(directory)]
        if mode == "torn":
            names = names[: len(names) // 2]
        yield from names
        if mode is not None:
            raise self._failure("list", directory)


F = TypeVar("F", WritableFile, ReadableFile)


class HookedVolume(FaultyVolume):
    """`inner`, with something else done before its calls."""

    def before(self, verb: str, path: str) -> None:
        """Do what is due before a call."""
        raise NotImplementedError

    def run(
        self,
        verb: str,
        path: str,
        effect: Callable[[], T],
        half: Callable[[], object] | None = None,
    ) -> T:
        """Make a call, behind what is due before it."""
        self.before(verb, path)
        return effect()


class _Kept(Generic[F]):
    """Closes a file that was opened for a caller who got an error instead."""

    def __init__(self) -> None:
        self._file: F | None = None

    def keep(self, file: F) -> None:
        self._file = file

    def release(self) -> F:
        assert self._file is not None
        file, self._file = self._file, None
        return file

    def __enter__(self) -> _Kept[F]:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()


class _FaultyFile(Closing):
    """What both kinds of open file share: closing, which works twice."""

    def __init__(self, volume: FaultyVolume, path: str) -> None:
        self._volume = volume
        self._path = path
        self._closed = False

    def _close(self, inner: Callable[[], None]) -> None:
        if not self._closed:
            self._closed = True
            try:
                self._volume.run("close", self._path, lambda: None)
            finally:
                inner()


class FaultyWritableFile(_FaultyFile):
    """A file being written whose calls may fail."""

    def __init__(self, inner: WritableFile, volume: FaultyVolume, path: str) -> None:
        super().__init__(volume, path)
        self._inner = inner

    def write(self, buffers: Sequence[Buffer]) -> int:
        """Append the buffers in order; torn, the first half of their bytes."""

        def half() -> None:
            data = b"".join(buffers)
            self._inner.write([data[: len(data) // 2]])

        return self._volume.run("write", self._path, lambda: self._inner.write(buffers), half)

    def tell(self) -> int:
        """Return the bytes written so far."""
        return self._inner.tell()

    def stat(self) -> FileStat:
        """Return the facts of the file as the server has them."""
        return self._volume.run("fstat", self._path, self._inner.stat)

    def sync(self) -> None:
        """Return once everything written is on stable storage."""
        self._volume.run("sync", self._path, self._inner.sync)

    def close(self) -> None:
        """Close the file."""
        self._close(self._inner.close)


class FaultyReadableFile(_FaultyFile, PlainReads):
    """A file being read whose calls may fail."""

    def __init__(self, inner: ReadableFile, volume: FaultyVolume, path: str) -> None:
        super().__init__(volume, path)
        self._inner = inner

    @property
    def size(self) -> int:
        """Bytes in the file when it was opened."""
        return self._inner.size

    def read_at(self, offset: int, length: int) -> bytes:
        """Return exactly `length` bytes at `offset`."""
        return self._volume.run("read", self._path, lambda: self._inner.read_at(offset, length))

    def read_into(self, offset: int, buffers: Sequence[memoryview]) -> int:
        """Fill the buffers in order from `offset`, wholly."""
        return self._volume.run("read", self._path, lambda: self._inner.read_into(offset, buffers))

    def will_need(self, ranges: Sequence[tuple[int, int]]) -> bool:
        """Pass the hint on."""
        return self._inner.will_need(ranges)

    def stat(self) -> FileStat:
        """Return the facts of the open file."""
        return self._volume.run("fstat", self._path, self._inner.stat)

    def close(self) -> None:
        """Close the file."""
        self._close(self._inner.close)
