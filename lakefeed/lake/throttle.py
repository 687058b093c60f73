"""A rate limit: a bucket that fills with time and that work empties.

Waits on an event that nobody sets, with the time the bucket needs as its timeout.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

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
