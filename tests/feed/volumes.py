"""Volumes that misbehave on purpose: reads that fail, hang or take long, chosen by a function."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from multiprocessing import get_context

from lakefeed.bench.emulation import Delays, Pace, SlowVolume, shared_state
from lakefeed.errors import VolumeFailed
from lakefeed.volume.base import ReadableFile, Volume
from lakefeed.volume.lists import PlainReads
from lakefeed.volume.metered import Meter, MeteredVolume

# Told a path and an offset before each read of a pack; may wait, or raise.
Trouble = Callable[[str, int], None]


def slow_volume(inner: Volume, call_seconds: float) -> SlowVolume:
    """Return `inner`, each of whose calls takes so long."""
    return SlowVolume(inner, Pace(Delays("test", call_seconds), shared_state(get_context())))


class PackVolume(MeteredVolume):
    """`inner`, whose packs are opened as files of another kind."""

    def __init__(self, inner: object) -> None:
        super().__init__(inner, Meter())  # type: ignore[arg-type]

    def open(self, path: str) -> ReadableFile:  # type: ignore[override]
        file = super().open(path)
        return self.packed(file, path) if path.startswith("packs/") else file  # type: ignore[return-value]

    def packed(self, file: ReadableFile, path: str) -> PackFile:
        raise NotImplementedError


class PackFile(PlainReads):
    """A pack that hears of its reads before they are done."""

    def __init__(self, inner: ReadableFile, path: str) -> None:
        self.inner = inner
        self.path = path
        self.size = inner.size
        self.close = inner.close
        self.stat = inner.stat
        self.read_at = inner.read_at

    def will_need(self, ranges: Sequence[tuple[int, int]]) -> bool:
        return self.inner.will_need(ranges)

    def read_into(self, offset: int, buffers: Sequence[memoryview]) -> int:
        self.before(offset, sum(buffer.nbytes for buffer in buffers))
        return self.inner.read_into(offset, buffers)

    def before(self, offset: int, length: int) -> None:
        raise NotImplementedError


class TroubledVolume(PackVolume):
    """`inner`, whose reads of packs ask `trouble` first."""

    def __init__(self, inner: object, trouble: Trouble) -> None:
        super().__init__(inner)
        self._trouble = trouble

    def packed(self, file: ReadableFile, path: str) -> PackFile:
        return TroubledFile(file, path, self._trouble)


class TroubledFile(PackFile):
    """See `TroubledVolume`."""

    def __init__(self, inner: ReadableFile, path: str, trouble: Trouble) -> None:
        super().__init__(inner, path)
        self._trouble = trouble

    def before(self, offset: int, length: int) -> None:
        self._trouble(self.path, offset)


class HintedVolume(PackVolume):
    """`inner`, whose packs fetch what is announced; any other read of them takes `seconds`."""

    def __init__(self, inner: object, seconds: float) -> None:
        super().__init__(inner)
        self.seconds = seconds
        self.hints: list[tuple[str, int, int]] = []
        self.announced: list[bool] = []  # for each read
        self.hear: Callable[[], None] = lambda: None  # called with each hint; may wait

    def packed(self, file: ReadableFile, path: str) -> PackFile:
        return HintedFile(file, path, self)


class HintedFile(PackFile):
    """See `HintedVolume`."""

    def __init__(self, inner: ReadableFile, path: str, volume: HintedVolume) -> None:
        super().__init__(inner, path)
        self._volume = volume

    def will_need(self, ranges: Sequence[tuple[int, int]]) -> bool:
        for offset, length in ranges:
            self._volume.hints.append((self.path, offset, length))
            self._volume.hear()
        return True

    def before(self, offset: int, length: int) -> None:
        announced = (self.path, offset, length) in self._volume.hints
        self._volume.announced.append(announced)
        if not announced and self._volume.seconds:
            time.sleep(self._volume.seconds)


class Failing:
    """Fails the first `times` reads with an errno."""

    def __init__(self, times: int, errno: int) -> None:
        self.left = times
        self._errno = errno
        self._lock = threading.Lock()

    def __call__(self, path: str, offset: int) -> None:
        with self._lock:
            self.left -= 1
            fails = self.left >= 0
        if fails:
            raise VolumeFailed(f"read of {path}", errno=self._errno)
