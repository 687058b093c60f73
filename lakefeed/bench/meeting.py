"""Where ranks meet between steps: a barrier of processes that costs a step some microseconds.

MPI's ranks look at shared memory until the last one has come; a barrier out of locks and conditions
takes ten times as long, which is points of AU where steps are short. Here a rank looks for a moment
too, and then sleeps until the last one wakes it, for a rank that waits long for another must not
take the processor from the threads that read.

Each rank writes one number that nobody else writes, how often it has come, and reads the others';
no lock is taken. A wake-up that is missed in the instant of falling asleep costs `_NAP_SECONDS`.
"""

from __future__ import annotations

import os
import threading
import time
from multiprocessing.context import BaseContext

# Ranks that compute the same time come within less than this of each other, mostly.
_LOOK_SECONDS = 200e-6
_NAP_SECONDS = 0.005


class Meeting:
    """A barrier of `count` ranks in as many processes or threads; pass it on when one is made."""

    def __init__(self, context: BaseContext, count: int) -> None:
        self._came = context.RawArray("Q", count)
        self._asleep = context.RawArray("b", count)
        self._broken = context.RawArray("b", 1)
        self._wake = [context.Semaphore(0) for _ in range(count)]

    def wait(self, rank: int) -> None:
        """Return when all ranks have come as often as this one.

        BrokenBarrierError, in every rank, once one gave up. There is no limit here: who started the
        ranks sees by `came` whether they get on.
        """
        mine = self._came[rank] + 1
        self._came[rank] = mine
        if self._all_came(mine):
            self._wake_all()
            return
        began = time.monotonic()
        while time.monotonic() - began < _LOOK_SECONDS:
            if self._all_came(mine):
                return
            os.sched_yield()
        self._sleep(rank, mine)

    def came(self) -> list[int]:
        """Return how often each rank has come."""
        return list(self._came)

    def _all_came(self, times: int) -> bool:
        return bool(min(self._came[:]) >= times)

    def _sleep(self, rank: int, mine: int) -> None:
        self._asleep[rank] = 1
        while not self._all_came(mine):
            if self._broken[0]:
                raise threading.BrokenBarrierError
            self._wake[rank].acquire(timeout=_NAP_SECONDS)
        self._asleep[rank] = 0

    def abort(self) -> None:
        """Let every rank that waits, or will, fail."""
        self._broken[0] = 1
        self._wake_all()

    def _wake_all(self) -> None:
        for asleep, wake in zip(self._asleep[:], self._wake, strict=True):
            if asleep:
                wake.release()
