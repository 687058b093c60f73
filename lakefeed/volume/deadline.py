"""A volume that answers in time or fails, around any other volume.

A hard NFS mount whose server is gone blocks the calling thread in the kernel, where nothing but the
server ends it. Here every call runs on a thread of a small pool; the caller waits `seconds` and
then raises VolumeFailed(ETIMEDOUT) naming the call. The blocked thread stays with its call. Once
all of the pool's threads are blocked, further calls fail at once, and so they do (EAGAIN) where the
system gives the process no thread and none is there that still answers. When the server comes back
the threads return, what they opened too late is closed, files whose closing was too late or found
no thread are closed, and the volume works again.

The deadline counts only the time in which this process runs: one that was stopped meanwhile
(Ctrl-Z, a container that is paused) has not waited for the volume. So a wait is many short ones.

A call that timed out may still take effect later, as any lost reply may (V3). `read_into` reads
into memory of its own, so a late answer never writes into a buffer that is somebody else's by then.

Keeps V1 to V7. Pools are made on first use in each process, so forking is safe; their threads are
daemons, so a blocked one does not keep the process from exiting, and idle ones end by themselves.
Costs two hand-overs between threads a call: 56 microseconds on two cores of 2.x GHz.
"""

from __future__ import annotations

import errno
import math
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Generic, TypeVar

from lakefeed.closing import Closing
from lakefeed.errors import VolumeFailed
from lakefeed.volume.around import AroundVolume
from lakefeed.volume.base import Buffer, FileStat, Listed, ReadableFile, Volume, WritableFile
from lakefeed.volume.lists import PlainReads
from lakefeed.volume.pieces import deal_out, total_bytes
from lakefeed.volume.posix import PosixVolume

# As many calls as a client usually has slots for at its server (NFSv4.1 sessions: 64).
THREADS_MAX = 64
# Long enough to serve a burst with warm threads, short enough not to be seen as a leak.
IDLE_SECONDS = 2.0

# The wait in which a process is stopped ends as soon as it goes on. It was one of so many: a second
# of the deadline is lost, or an eighth of a short one.
_WAITS_MIN = 8
_WAIT_SECONDS_MAX = 1.0

# What messages call a verb, as `posix` does: by the system's call.
_CALLS = {
    "replace": "rename",
    "make_directory": "mkdir",
    "sync_directory": "fsync",
    "space": "statvfs",
}

T = TypeVar("T")
F = TypeVar("F", bound=WritableFile | ReadableFile)


class _Call(Generic[T]):
    """One call on its way: `work` runs on a pool thread, `outcome` is for the caller.

    An `owed` one is made even if its caller has gone before it began; an `abandoned` one is being
    made, and its caller has gone. `done` and `abandoned` change under the pool's lock; the thread
    alone writes the rest before.
    """

    def __init__(self, subject: str, work: Callable[[], T], *, owed: bool = False) -> None:
        self.subject = subject
        self.owed = owed
        self.done = threading.Event()
        self.abandoned = False
        self._work = work
        self._result: list[T] = []
        self._error: Exception | None = None

    def execute(self) -> None:
        try:
            self._result.append(self._work())
        except Exception as error:  # noqa: BLE001 - `outcome` raises it where the caller is
            self._error = error

    def outcome(self) -> T:
        if self._error is not None:
            raise self._error
        return self._result[0]

    def discard(self) -> None:
        """Close the file that was opened for a caller who had gone."""
        for result in self._result:
            if isinstance(result, _Opened):
                result.close()


class _Pool:
    """Threads that may block, at most `threads_max`; the lock guards every field below it."""

    def __init__(self, threads_max: int) -> None:
        self._threads_max = threads_max
        self._lock = threading.Lock()
        self._wake = threading.Condition(self._lock)
        self._waiting: deque[_Call[Any]] = deque()
        self._idle: set[threading.Thread] = set()
        self._threads = 0
        self._blocked = 0
        self._dismissals = 0

    def run(self, call: _Call[T], seconds: float) -> T:
        """Return what the call gives, or raise VolumeFailed(ETIMEDOUT) after `seconds`."""
        with self._lock:
            refusal = self._find_thread(call.subject)
            if refusal is None or call.owed:
                self._waiting.append(call)
        if refusal is not None:
            raise refusal
        try:
            if _came(call.done, seconds):
                return call.outcome()
        finally:
            answered = self._leave(call)
        if answered:
            return call.outcome()
        raise _too_late(call.subject, f"no answer in {seconds:g} seconds")

    def _find_thread(self, subject: str) -> VolumeFailed | None:
        """See to a thread for one more call; return why there is none that would take it."""
        if self._blocked >= self._threads_max:
            return _too_late(subject, f"{self._blocked} earlier calls without an answer")
        if len(self._idle) > len(self._waiting):
            self._wake.notify()
        elif self._threads < self._threads_max:
            thread = threading.Thread(target=self._serve, name="lakefeed-deadline", daemon=True)
            try:
                thread.start()
            except RuntimeError as error:
                # A limit of the system. Those that answer take turns; so few will do.
                return None if self._threads > self._blocked else _no_thread(subject, error)
            self._threads += 1
        return None

    def _leave(self, call: _Call[Any]) -> bool:
        """Tell whether the call is done; if not, nobody waits for it from now on."""
        with self._lock:
            if call.done.is_set():
                return True
            if call not in self._waiting:
                call.abandoned = True
                self._blocked += 1
            elif not call.owed:
                self._waiting.remove(call)
            return False

    def _serve(self) -> None:
        me = threading.current_thread()
        dismissals = self._dismissals
        while True:
            call = self._next_call(dismissals)
            if call is None:
                return
            call.execute()
            with self._lock:
                call.done.set()
                self._blocked -= call.abandoned
                # From here on `dismiss` finds this thread, wherever it is on its way to the next.
                dismissals = self._dismissals
                if not call.abandoned:
                    self._idle.add(me)
            if call.abandoned:
                call.discard()
            # An idle thread would keep the error, its frames and all that their owners held.
            del call

    def _next_call(self, dismissals: int) -> _Call[Any] | None:
        me = threading.current_thread()
        with self._lock:
            self._idle.add(me)
            in_time = True
            while not self._waiting and in_time and dismissals == self._dismissals:
                in_time = self._wake.wait(IDLE_SECONDS)
            self._idle.discard(me)
            if self._waiting:
                return self._waiting.popleft()
            self._threads -= 1
            return None

    def dismiss(self) -> None:
        """End the idle threads and wait until they are gone."""
        with self._lock:
            self._dismissals += 1
            leaving = [*self._idle]
            self._wake.notify_all()
        for thread in leaving:
            thread.join(IDLE_SECONDS)


def _came(done: threading.Event, seconds: float) -> bool:
    """Wait for an event, `seconds` of the time in which this process runs; tell whether it came."""
    waits = max(_WAITS_MIN, math.ceil(seconds / _WAIT_SECONDS_MAX))
    return any(done.wait(seconds / waits) for _ in range(waits))


def _too_late(subject: str, found: str) -> VolumeFailed:
    hint = "check that the file server answers, then repeat"
    return VolumeFailed(subject, found=found, hint=hint, errno=errno.ETIMEDOUT)


def _no_thread(subject: str, error: RuntimeError) -> VolumeFailed:
    hint = "allow the process more threads (ulimit -u, the limit of its container)"
    return VolumeFailed(subject, found=str(error), hint=hint, errno=errno.EAGAIN)


class _Opened(Generic[F]):
    """A file on its way from the pool's thread to the caller."""

    def __init__(self, file: F) -> None:
        self.file = file

    def close(self) -> None:
        """Close a file that nobody waits for any more; its caller has had the error already."""
        try:
            self.file.close()
        except VolumeFailed:
            return


class _DeadlineFile(Closing, Generic[F]):
    """What both kinds of open file share."""

    def __init__(self, inner: F, volume: DeadlineVolume, path: str) -> None:
        self._inner = inner
        self._volume = volume
        self._path = path
        self._closed = False

    def stat(self) -> FileStat:
        """Return the facts of the open file, fresh from the server."""
        return self._volume.run("stat", self._path, self._inner.stat)

    def close(self) -> None:
        """Close the file. Works twice."""
        if not self._closed:
            self._closed = True
            self._volume.run("close", self._path, self._inner.close, owed=True)


class DeadlineWritableFile(_DeadlineFile[WritableFile]):
    """A file whose writes and syncs answer in time or fail."""

    def write(self, buffers: Sequence[Buffer]) -> int:
        """Append the buffers in order. After a time-out their owner must not change them."""
        return self._volume.run("write", self._path, lambda: self._inner.write(buffers))

    def tell(self) -> int:
        """Return the bytes written so far."""
        return self._inner.tell()

    def sync(self) -> None:
        """Return once everything written is on stable storage."""
        self._volume.run("fsync", self._path, self._inner.sync)


class DeadlineReadableFile(_DeadlineFile[ReadableFile], PlainReads):
    """A file whose reads answer in time or fail."""

    @property
    def size(self) -> int:
        """Bytes in the file when it was opened."""
        return self._inner.size

    def read_at(self, offset: int, length: int) -> bytes:
        """Return exactly `length` bytes at `offset`."""
        return self._volume.run("read", self._path, lambda: self._inner.read_at(offset, length))

    def read_into(self, offset: int, buffers: Sequence[memoryview]) -> int:
        """Fill the buffers in order from `offset`, wholly; a time-out leaves them as they were."""
        own = memoryview(bytearray(total_bytes(buffers)))
        done = self._volume.run("read", self._path, lambda: self._inner.read_into(offset, [own]))
        deal_out(own, buffers)
        return done

    def will_need(self, ranges: Sequence[tuple[int, int]]) -> bool:
        """Pass the hint on, for as long as the volume answers."""
        hint = partial(self._inner.will_need, ranges)
        try:
            return self._volume.run("fadvise", self._path, hint)
        except VolumeFailed:
            return False  # whoever reads hears of it

    def distrust(self, offset: int, length: int) -> bool:
        """Pass it on."""
        drop = partial(self._inner.distrust, offset, length)
        return self._volume.run("distrust", self._path, drop)


class DeadlineVolume(AroundVolume):
    """`inner`, whose every call answers within `seconds` or raises VolumeFailed(ETIMEDOUT)."""

    def __init__(self, inner: Volume, seconds: float, threads_max: int = THREADS_MAX) -> None:
        super().__init__(inner)
        self._seconds = seconds
        self._threads_max = threads_max
        # By process id: threads do not survive a fork. One atomic step makes a pool, so no lock.
        self._pools: dict[int, _Pool] = {}

    def __reduce__(self) -> tuple[type[DeadlineVolume], tuple[Volume, float, int]]:
        # Another process makes pools of its own.
        return DeadlineVolume, (self.inner, self._seconds, self._threads_max)

    def run(self, verb: str, path: str, work: Callable[[], T], *, owed: bool = False) -> T:
        """Return what `work` gives within the deadline; `owed`: it is done later if not in time."""
        pid = os.getpid()
        pool = self._pools.get(pid) or self._pools.setdefault(pid, _Pool(self._threads_max))
        call = _Call(f"{_CALLS.get(verb, verb)} of {self.name}/{path}", work, owed=owed)
        return pool.run(call, self._seconds)

    def close(self) -> None:
        """End the idle threads; the volume may be used again. A blocked thread ends when it can."""
        pool = self._pools.get(os.getpid())
        if pool is not None:
            pool.dismiss()

    def create(self, path: str) -> DeadlineWritableFile:
        """Create a new file; one that appears after the deadline is closed and left empty."""
        opened = self.run("create", path, lambda: _Opened(self.inner.create(path)))
        return DeadlineWritableFile(opened.file, self, path)

    def open(self, path: str) -> DeadlineReadableFile:
        """Open a file for reading."""
        opened = self.run("open", path, lambda: _Opened(self.inner.open(path)))
        return DeadlineReadableFile(opened.file, self, path)

    def list(self, directory: str) -> Iterator[Listed]:
        """Yield the names in a directory, read whole within the deadline."""
        yield from self.run("list", directory, lambda: [*self.inner.list(directory)])


def posix_volume(directory: str, timeout_seconds: float) -> Volume:
    """Return a directory as a volume whose every call answers in time, or fails; 0 sets no time."""
    volume = PosixVolume(directory)
    return DeadlineVolume(volume, timeout_seconds) if timeout_seconds else volume
