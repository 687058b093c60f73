"""Clocks that are set by hours, forwards and backwards: the file server's, and those of clients.

The server's decides what is old, so it is told who has asked it what. Those of clients decide
nothing: whatever they say, nobody may be able to tell.
"""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from unittest.mock import patch

# The clock ticks once for every file made: what lay there before the run is old, the rest is not,
# wherever the clock is set meanwhile.
TICK_NS = 10**9
JUMP_SECONDS = 6_000
# A client's clock goes well for so many calls of all together.
STAYS_STEPS = 20
# By how many hours it is off then: a little, a day, or back to where a battery that is empty
# begins, in 1970.
HOURS = (0, 0, 1, -1, 7, -7, 30, -30, -500_000)


class Clock:
    """The file server's clock: a second later for each file made; some seeds set it by hours."""

    def __init__(self, seed: int) -> None:
        self._numbers = random.Random(f"{seed} clock")
        self._ticks = itertools.count(2 * JUMP_SECONDS)
        self._share = self._numbers.choice((0.0, 0.05))
        self._offset = 0
        self._told: list[int] = []

    def __call__(self) -> int:
        if self._numbers.random() < self._share:
            self._offset = self._numbers.choice((-JUMP_SECONDS, 0, JUMP_SECONDS))
        self._told.append((next(self._ticks) + self._offset) * TICK_NS)
        return self._told[-1]

    @property
    def asked(self) -> int:
        """How often it was asked so far."""
        return len(self._told)

    def latest_since(self, asked: int) -> int:
        """Return the latest time that it told since it had been asked so often."""
        return max(self._told[asked:], default=0)

    def settle(self) -> None:
        """Go on behind all times that were told, a second a file."""
        self._share, self._offset = 0.0, JUMP_SECONDS


@contextmanager
def clients(seed: int, steps: Callable[[], int]) -> Iterator[None]:
    """Have the clocks of all clients set again and again while the block runs; `steps` says how
    many calls were made until now."""
    real, real_ns = time.time, time.time_ns

    def off_seconds() -> int:
        return 3600 * random.Random(f"{seed} client {steps() // STAYS_STEPS}").choice(HOURS)

    with (
        patch.object(time, "time", lambda: real() + off_seconds()),
        patch.object(time, "time_ns", lambda: real_ns() + off_seconds() * 10**9),
    ):
        yield
