"""Volumes that misbehave on purpose: reads that fail, hang or take long, chosen by a function."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

from lakefeed.errors import VolumeFailed
from lakefeed.volume.base import ReadableFile
from lakefeed.volume.metered import Meter, MeteredVolume

# Told a path and an offset before each read of a pack; may wait, or raise.
Trouble = Callable[[str, int], None]


class TroubledVolume(MeteredVolume):
    """`inner`, whose reads of packs ask `trouble` first."""

    def __init__(self, inner: object, trouble: Trouble) -> None:
        super().__init__(inner, Meter())  # type: ignore[arg-type]
        self._trouble = trouble

    def open(self, path: str) -> ReadableFile:  # type: ignore[override]
        file = super().open(path)
        return TroubledFile(file, path, self._trouble) if path.startswith("packs/") else file  # type: ignore[return-value]


class TroubledFile:
    """See the module."""

    def __init__(self, inner: ReadableFile, path: str, trouble: Trouble) -> None:
        self._inner = inner
        self._path = path
        self._trouble = trouble
        self.size = inner.size
        self.close = inner.close
        self.stat = inner.stat
        self.read_at = inner.read_at
        self.will_need = inner.will_need

    def read_into(self, offset: int, buffers: Sequence[memoryview]) -> int:
        self._trouble(self._path, offset)
        return self._inner.read_into(offset, buffers)


class HintedVolume(MeteredVolume):
    """`inner`, whose packs fetch what is announced; any other read of them takes `seconds`."""

    def __init__(self, inner: object, seconds: float) -> None:
        super().__init__(inner, Meter())  # type: ignore[arg-type]
        self.seconds = seconds
        self.hints: list[tuple[str, int, int]] = []
        self.announced: list[bool] = []  # for each read

    def open(self, path: str) -> ReadableFile:  # type: ignore[override]
        file = super().open(path)
        return HintedFile(file, path, self) if path.startswith("packs/") else file  # type: ignore[return-value]


class HintedFile:
    """See `HintedVolume`."""

    def __init__(self, inner: ReadableFile, path: str, volume: HintedVolume) -> None:
        self._inner = inner
        self._path = path
        self._volume = volume
        self.size = inner.size
        self.close = inner.close
        self.stat = inner.stat
        self.read_at = inner.read_at

    def will_need(self, ranges: Sequence[tuple[int, int]]) -> bool:
        self._volume.hints += [(self._path, offset, length) for offset, length in ranges]
        return True

    def read_into(self, offset: int, buffers: Sequence[memoryview]) -> int:
        length = sum(buffer.nbytes for buffer in buffers)
        announced = (self._path, offset, length) in self._volume.hints
        self._volume.announced.append(announced)
        if not announced and self._volume.seconds:
            time.sleep(self._volume.seconds)
        return self._inner.read_into(offset, buffers)


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
