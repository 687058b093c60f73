"""Making way for readers: a copy that waits while the volume answers more slowly than before.

Before the copying begins, a few small reads at random places tell how fast the volume answers when
left alone. Between the windows of the copying the same small read is made again, a few times a
second. While it takes more than SLOWDOWN times as long, whoever copies rests for a growing share of
the time it works; once reads are quick again, the share shrinks. So what other readers see stays
within about twice of what they saw before, whoever slows the volume down, and the copying still
gets on. Time comes from a clock that is handed in.
"""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable

# The reader's bargain: at most twice the latency of a quiet volume.
SLOWDOWN = 2.0
# A page cache answers in microseconds; nobody notices a slow-down below this.
FLOOR_SECONDS = 1e-3
LEARN_READS = 16
PROBE_SECONDS = 0.1
# Resting four times as long as working: a fifth of the bandwidth is left for compaction.
REST_MAX = 4.0
_REST_FIRST = 0.25
# One rest is never longer: the next look at the volume must not be far.
_REST_SECONDS_MAX = 2.0


class Backoff:
    """Rests between pieces of work while `probe` is slow. For one thread.

    `learn` is called before the work, `rest` between its pieces.
    """

    def __init__(
        self,
        probe: Callable[[], object],
        clock: Callable[[], float] = time.monotonic,
        wait: Callable[[float], object] | None = None,
    ) -> None:
        self._probe = probe
        self._clock = clock
        self._wait = threading.Event().wait if wait is None else wait
        self._usual_seconds = FLOOR_SECONDS
        self._share = 0.0
        self._probed = self._resumed = clock()
        self.rested_seconds = 0.0

    def learn(self) -> None:
        """Find out how fast the volume answers now."""
        self._usual_seconds = max(
            statistics.median(self._measured() for _ in range(LEARN_READS)), FLOOR_SECONDS
        )
        self._probed = self._resumed = self._clock()

    def _measured(self) -> float:
        began = self._clock()
        self._probe()
        return self._clock() - began

    def rest(self) -> None:
        """Wait if readers need the volume more."""
        if self._clock() - self._probed >= PROBE_SECONDS:
            self._look()
        if not self._share:
            self._resumed = self._clock()
            return
        seconds = min((self._clock() - self._resumed) * self._share, _REST_SECONDS_MAX)
        self._wait(seconds)
        self.rested_seconds += seconds
        self._resumed = self._clock()

    def _look(self) -> None:
        slow = self._measured() > SLOWDOWN * self._usual_seconds
        if slow:
            self._share = min(max(self._share * 2, _REST_FIRST), REST_MAX)
        else:
            self._share = self._share / 2 if self._share > _REST_FIRST else 0.0
        self._probed = self._clock()
