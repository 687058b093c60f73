"""A rate limit: a bucket that fills with time and that work empties.

Waits on an event that nobody sets, with the time the bucket needs as its timeout.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError

from lakefeed.forking import new_lock

# What may be taken at once after a pause.
BURST_SECONDS = 0.1


class Throttle:
    """Lets at most `rate` units a second pass; None: as many as come. For one thread."""

    def __init__(
        self,
        rate: float | None,
        clock: Callable[[], float] = time.monotonic,
        wait: Callable[[float], object] | None = None,
    ) -> None:
        self._rate = rate
        self._clock = clock
        self._wait = threading.Event().wait if wait is None else wait
        self._paid_until = 0.0

    def take(self, amount: int) -> None:
        """Return when this much more may have passed."""
        if self._rate is None:
            return
        now = self._clock()
        self._paid_until = max(self._paid_until, now - BURST_SECONDS) + amount / self._rate
        if self._paid_until > now:
            self._wait(self._paid_until - now)


class SharedThrottle:
    """A rate that several threads keep to together, until one of them ends them all."""

    def __init__(self, rate: float | None) -> None:
        self._ended = threading.Event()
        self._lock = new_lock()  # guards the throttle; who waits has the turn
        self._throttle = Throttle(rate, wait=self._ended.wait)

    def take(self, amount: int) -> None:
        """Return when this much more may have passed; CancelledError once it is ended."""
        with self._lock:
            self._throttle.take(amount)
        if self._ended.is_set():
            raise CancelledError

    def end(self) -> None:
        """Let nothing pass any more; nobody waits any longer."""
        self._ended.set()
