"""Which threads a test leaves behind, whatever the tests before it have left."""

from __future__ import annotations

import contextlib
import threading
import time

# A thread that is about to end needs a turn on a busy machine, and some frameworks take their time
# to let go of an iterator. One that never ends fails the test.
_PATIENCE_SECONDS = 120.0


class Threads:
    """The package's threads that began since this was made."""

    def __init__(self) -> None:
        self._there = frozenset(threading.enumerate())

    def running(self) -> list[threading.Thread]:
        """Return those that run now."""
        new = set(threading.enumerate()) - self._there
        return [thread for thread in new if thread.name.startswith("lakefeed-")]

    def left(self) -> list[str]:
        """Return the names of those that do not end."""
        until = time.monotonic() + _PATIENCE_SECONDS
        while (running := self.running()) and time.monotonic() < until:
            # One that is just beginning cannot be joined yet.
            with contextlib.suppress(RuntimeError):
                running[0].join(max(0.0, until - time.monotonic()))
        return [thread.name for thread in self.running()]
