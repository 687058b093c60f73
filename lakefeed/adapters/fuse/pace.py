"""Waiting for the kernel and for the volume, as cheaply as each allows.

The kernel. pyfuse3 asks trio for the next request, which costs two rounds through the scheduler and
two epoll calls: half of what a small request takes. `install` gives pyfuse3 a `trio` of its own
(the way pyfuse3.asyncio does) whose lock and `wait_readable` return at once when they can, and that
waits inside `poll` for up to a millisecond while no read is under way. Every
`TURNS` requests the other tasks get their turn.

The volume. `Pace.call` runs a read inline while the volume answers from memory, because handing it
to a thread costs more than the read; once the mean answer takes longer than a hand-over it goes to
a thread, so that requests overlap. Threads time the call alone, so a volume that became fast again
is noticed. State belongs to the trio thread.
"""

from __future__ import annotations

import select
import time
from collections.abc import Callable
from typing import Any, TypeVar

import pyfuse3
import trio

# The other tasks (commits, heartbeat) wait at most this many requests, a few milliseconds.
TURNS = 64
# How long `poll` may hold the thread while no task of ours is waiting for anything but time.
POLL_MS = 1
# A hand-over to a thread and back costs 100 to 200 us on two busy cores, and helps only where
# several requests wait at a time: below this, one after the other is as fast (a local disk, cold).
SLOW_SECONDS = 500e-6
# Seconds that a byte may take, which is no waiting: a disk that gives 250 MB/s is used to the full
# by one reader and its read-ahead, and through threads (with memory of their own) it gives less.
PATIENCE = 4e-9
# Weight of the newest answer in the running mean: some ten answers decide.
_WEIGHT = 0.1
# As many calls as an NFS client has slots for; beyond that they would queue in the kernel.
THREADS = 64

_Result = TypeVar("_Result")


class Pace:
    """Decides where volume calls run; `busy` counts the short ones under way."""

    def __init__(self) -> None:
        self._mean_seconds = 0.0
        self._limiter = trio.CapacityLimiter(THREADS)
        self.busy = 0
        # True while this thread, and with it every request, waits for the volume.
        self.waits = False

    @property
    def slow(self) -> bool:
        """True while the volume answers slower than a hand-over to a thread costs."""
        return self._mean_seconds > SLOW_SECONDS

    def took(self, seconds: float, size_bytes: int = 0, together: int = 1) -> None:
        """Take notice of how long a read took, one of so many under way at that time.

        What counts as slow is waiting, not copying: `PATIENCE` for each byte is taken off. Large
        reads that are under way together share the volume's speed, which is no waiting either;
        otherwise a volume once found slow would stay so, by being asked for much at a time.
        """
        waited = max(seconds - size_bytes * PATIENCE * together, 0.0)
        self._mean_seconds += (waited - self._mean_seconds) * _WEIGHT

    async def call(
        self, action: Callable[..., _Result], *arguments: Any, size_bytes: int = 0
    ) -> _Result:
        """Return what a volume read of so many bytes gives, from here or from a thread.

        Of a small read everything is waiting: for one, give no size.
        """
        if not self.slow:
            return self.here(size_bytes, action, *arguments)
        spent: list[float] = []

        def timed() -> _Result:
            began = time.perf_counter()
            try:
                return action(*arguments)
            finally:
                spent.append(time.perf_counter() - began)

        self.busy += 1
        together = self.busy
        try:
            return await self.elsewhere(timed)
        finally:
            together = max(together, self.busy)
            self.busy -= 1
            for seconds in spent:
                self.took(seconds, size_bytes, together)

    def here(self, size_bytes: int, action: Callable[..., _Result], *arguments: Any) -> _Result:
        """Return what a volume read of so many bytes gives, from this thread."""
        began = time.perf_counter()
        self.waits = True
        try:
            return action(*arguments)
        finally:
            self.waits = False
            self.took(time.perf_counter() - began, size_bytes)

    async def elsewhere(self, action: Callable[..., _Result], *arguments: Any) -> _Result:
        """Return what a call gives that is known to take long; other requests go on."""
        return await trio.to_thread.run_sync(action, *arguments, limiter=self._limiter)


class _Lock:
    """A lock that its last holder may take again before those who wait for it.

    trio's hands itself over when released: with two tasks that answer requests, each request would
    cost a round through the scheduler. Here one waiter is woken and gets the lock when the holder
    lets the scheduler run with the lock free, which is when its request has to wait for something.
    """

    def __init__(self) -> None:
        self._held = False
        self._woken = False
        self._waiting = trio.lowlevel.ParkingLot()

    async def __aenter__(self) -> None:
        while self._held:
            try:
                await self._waiting.park()
            finally:
                self._woken = False
        self._held = True

    async def __aexit__(self, *_: object) -> None:
        self._held = False
        if self._waiting and not self._woken:
            self._woken = True
            self._waiting.unpark()


class _Lowlevel:
    """The part of `trio.lowlevel` that pyfuse3 uses."""

    current_task = staticmethod(trio.lowlevel.current_task)
    current_trio_token = staticmethod(trio.lowlevel.current_trio_token)
    notify_closing = staticmethod(trio.lowlevel.notify_closing)

    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        self._poll = select.poll()
        self._fd = -1
        self._turns = 0

    async def wait_readable(self, fd: int) -> None:
        """Return once the kernel has a request for us."""
        if fd != self._fd:
            self._poll.register(fd, select.POLLIN)
            self._fd = fd
        self._turns += 1
        if self._turns < TURNS and self._poll.poll(0 if self._pace.busy else POLL_MS):
            return
        self._turns = 0
        await trio.lowlevel.wait_readable(fd)


class _Trio:
    """What pyfuse3 sees as the module `trio`."""

    Lock = _Lock
    ClosedResourceError = trio.ClosedResourceError
    open_nursery = staticmethod(trio.open_nursery)

    def __init__(self, pace: Pace) -> None:
        self.lowlevel = _Lowlevel(pace)


def install(pace: Pace) -> None:
    """Let pyfuse3 wait our way; before its `main` starts."""
    pyfuse3.trio = _Trio(pace)  # type: ignore[attr-defined]


def uninstall() -> None:
    """Give pyfuse3 its trio back."""
    pyfuse3.trio = trio  # type: ignore[attr-defined]
