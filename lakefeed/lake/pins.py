"""Holding a snapshot while it is used: a pin with a heartbeat.

A pin expires unless it is renewed, so a reader that dies keeps nothing for ever. `Hold` renews one
from a thread of its own, three times within its lifetime: a server that restarts (90 s) does not
cost the snapshot. The first failure that let the pin run out is kept, and `check` raises it.

Keeps I3 for its snapshot, and I9: leaving the block ends the thread and removes the pin.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Protocol

from lakefeed.closing import Closing, Staying
from lakefeed.errors import LakefeedError, NotFound
from lakefeed.lake.refs import Pin

# Long enough for a server that restarts, short enough that a dead reader soon keeps nothing.
LIFETIME_SECONDS = 600.0
_BEATS = 3

_logger = logging.getLogger(__name__)


class Pinning(Protocol):
    """What a hold needs of a lake."""

    def renew(self, pin: Pin, lifetime_seconds: float) -> Pin:
        """Prolong a pin."""


class Hold(Closing, Staying):
    """A pinned snapshot, kept while the `with` block runs; made by `Lake.hold`."""

    def __init__(
        self, pinning: Pinning, pin: Pin, unpin: Callable[[Pin], None], lifetime_seconds: float
    ) -> None:
        self._pinning = pinning
        self._pin = pin
        self._unpin = unpin
        self._lifetime_seconds = lifetime_seconds
        self._stop = threading.Event()
        # Written by the thread alone, read by `check`.
        self._failure: LakefeedError | None = None
        self._thread = threading.Thread(target=self._beat, name="lakefeed-pin", daemon=True)
        self._started = False

    @property
    def number(self) -> int:
        """The snapshot that is kept."""
        return self._pin.snapshot

    def check(self) -> None:
        """Raise what made the pin lapse, if anything did: the snapshot may be gone."""
        failure = self._failure
        if failure is not None:
            raise failure

    def _beat(self) -> None:
        while not self._stop.wait(self._lifetime_seconds / _BEATS):
            try:
                self._pin = self._pinning.renew(self._pin, self._lifetime_seconds)
            except NotFound as error:
                _logger.warning("snapshot %d is no longer kept: %s", self._pin.snapshot, error)
                self._failure = error
                return
            except LakefeedError as error:
                # There are more beats before the pin runs out; if it does, `renew` will say so.
                _logger.warning("pin of snapshot %d not renewed: %s", self._pin.snapshot, error)

    def __enter__(self) -> Hold:
        if not self._started:
            self._started = True
            self._thread.start()
        return self

    def close(self) -> None:
        """Give the snapshot up. Works twice."""
        if self._stop.is_set():
            return
        self._stop.set()
        if self._started:
            self._thread.join()
        self._unpin(self._pin)
