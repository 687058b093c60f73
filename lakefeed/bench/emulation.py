"""A simulated slow volume: every call waits as it would on a file server, whoever makes it.

The model has three numbers: how long a call takes (`call_seconds`), how many calls a second the
server answers (`calls_per_second`) and how many bytes a second come through (`bytes_per_second`).
The last two are shared by all ranks of a run, through one small array in shared memory, as one
server is. A read of more than `call_bytes_max` costs several of the server's calls, but waits only
once: the kernel's NFS client sends the parts together.

What is delayed is real: real files, read by real calls, from the page cache or the disk. A figure
that comes from here is called simulated wherever it is shown. Local files under the same delays
are read through `Pace` (`files`), lakes through `SlowVolume`.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.context import BaseContext
from typing import Any, TypeVar

from lakefeed.closing import Closing
from lakefeed.volume.around import AroundVolume
from lakefeed.volume.base import FileStat, ReadableFile, Volume
from lakefeed.volume.lists import PlainReads
from lakefeed.volume.pieces import total_bytes

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Delays:
    """How slow a simulated volume is; 0 calls or bytes a second means without limit."""

    name: str
    call_seconds: float
    calls_per_second: float = 0.0
    bytes_per_second: float = 0.0
    call_bytes_max: int = 1 << 20

    @property
    def label(self) -> str:
        """The model in two words, for lines that hold a figure."""
        return f"simulated volume {self.name!r}"

    def describe(self) -> str:
        """Return the model in words, which begin with 'simulated'."""
        parts = [f"{self.call_seconds * 1e3:g} ms a call"]
        if self.calls_per_second:
            parts.append(f"at most {self.calls_per_second:,.0f} calls/s")
        if self.bytes_per_second:
            parts.append(f"at most {self.bytes_per_second / 1e6:,.0f} MB/s")
        return f"{self.label}: {', '.join(parts)}"


# A file server one millisecond away, and the same one shared and busy.
FAR = Delays("far", 0.001)
NAS = Delays("nas", 0.001, 5000, 1e9)
KNOWN = {delays.name: delays for delays in (FAR, NAS)}


class Pace:
    """Makes callers wait as the model says; `shared` holds when the server is free again.

    Its two numbers (calls, bytes) are guarded by the array's own lock, which is never held while
    waiting. What happens for each call is little: it takes the processor from whom it measures.
    """

    def __init__(self, delays: Delays, shared: Any) -> None:
        self.delays = delays
        self._shared = shared
        self._never = threading.Lock()  # cheaper to wait for than an event, and never free
        self._never.acquire()

    def call(self, transferred_bytes: int = 0) -> None:
        """Wait for one call that moves so many bytes."""
        self._never.acquire(timeout=max(0.0, self._due(transferred_bytes) - time.monotonic()))

    def _due(self, transferred_bytes: int) -> float:
        delays = self.delays
        calls = max(1, math.ceil(transferred_bytes / delays.call_bytes_max))
        if not delays.calls_per_second and not delays.bytes_per_second:
            return time.monotonic() + delays.call_seconds
        free = self._shared.get_obj()  # each look at the array itself would take its lock again
        with self._shared.get_lock():
            now = time.monotonic()
            answered = now + delays.call_seconds
            if delays.calls_per_second:
                begun = max(now, free[0])
                free[0] = begun + calls / delays.calls_per_second
                answered = begun + delays.call_seconds
            if delays.bytes_per_second and transferred_bytes:
                free[1] = max(now, free[1]) + transferred_bytes / delays.bytes_per_second
                answered = max(answered, float(free[1]))
        return answered


def shared_state(context: BaseContext) -> Any:
    """Return the memory that the ranks of one run share; give it to each rank's `Pace`."""
    return context.Array("d", 2)


class SlowReadableFile(PlainReads, Closing):
    """A file whose reads wait."""

    def __init__(self, inner: ReadableFile, pace: Pace) -> None:
        self._inner = inner
        self._pace = pace

    @property
    def size(self) -> int:
        """Bytes in the file when it was opened."""
        return self._inner.size

    def read_at(self, offset: int, length: int) -> bytes:
        """Return exactly `length` bytes at `offset`."""
        self._pace.call(length)
        return self._inner.read_at(offset, length)

    def read_into(self, offset: int, buffers: Sequence[memoryview]) -> int:
        """Fill the buffers in order from `offset`, wholly."""
        self._pace.call(total_bytes(buffers))
        return self._inner.read_into(offset, buffers)

    def will_need(self, ranges: Sequence[tuple[int, int]]) -> bool:
        """Do nothing: every read waits here."""
        return False

    def stat(self) -> FileStat:
        """Return the facts of the open file."""
        self._pace.call()
        return self._inner.stat()

    def close(self) -> None:
        """Close the file."""
        self._inner.close()


class SlowVolume(AroundVolume):
    """Any volume, with the waits of a model. Writing waits as well, once for each call."""

    def __init__(self, inner: Volume, pace: Pace) -> None:
        super().__init__(inner)
        self._pace = pace

    def run(self, verb: str, path: str, work: Callable[[], T]) -> T:
        """Wait, then make the call."""
        self._pace.call()
        return work()

    def open(self, path: str) -> SlowReadableFile:
        """Open a file for reading."""
        return SlowReadableFile(super().open(path), self._pace)
