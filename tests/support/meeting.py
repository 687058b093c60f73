"""Who can only go on when others are there: tells what is really done at the same time."""

from __future__ import annotations

import threading

from tests.support.patience import PATIENCE_SECONDS


class Meeting:
    """Whoever calls first goes on alone; those behind wait until `count` of them are there."""

    def __init__(self, count: int) -> None:
        self._barrier = threading.Barrier(count, timeout=PATIENCE_SECONDS)
        self._left = threading.Semaphore(count)
        self._first = threading.Semaphore(1)

    def __call__(self) -> None:
        if not self._first.acquire(blocking=False) and self._left.acquire(blocking=False):
            self._barrier.wait()

    @property
    def held(self) -> bool:
        """True if so many met."""
        return not self._left.acquire(blocking=False) and not self._barrier.broken
