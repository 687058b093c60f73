"""One call after the other to a slow or failing volume: repeated where that helps, never for ever.

A handle that went stale is opened anew below (`lake.files`). What passes by itself (EIO of a soft
mount, a time-out, a dropped connection) is tried again a few times with growing pauses; the pause
ends at once when the feed is closed. Anything else, and the last failure, is the caller's.
"""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable
from typing import TypeVar

from lakefeed.errors import VolumeFailed
from lakefeed.feed.stats import Recorder

# 0.05 + 0.2 + 0.8 s: longer than a server needs to fail over a connection, shorter than a step's
# patience. A server that is away for longer is for a hard mount to wait for.
TRIES = 4
_FIRST_PAUSE_SECONDS = 0.05
_GROWTH = 4

_Asked = TypeVar("_Asked")
_Result = TypeVar("_Result")


class Stopped(Exception):
    """The feed was closed while a read was being repeated; nobody wants the result."""


class Patience:
    """Does what may have to be repeated; `closed` ends it, and nothing is begun behind it."""

    def __init__(self, closed: threading.Event, recorder: Recorder) -> None:
        self._closed = closed
        self._recorder = recorder

    def run(self, action: Callable[[], _Result]) -> _Result:
        """Return what `action` does; it may run several times. Raises Stopped when closed."""
        pause = _FIRST_PAUSE_SECONDS
        for attempt in range(TRIES):
            if self._closed.is_set():
                raise Stopped
            try:
                return action()
            except VolumeFailed as error:
                if not error.retryable or attempt == TRIES - 1:
                    raise
                self._recorder.retried(errno.errorcode.get(error.errno or 0, "unknown"))
            self._closed.wait(pause)
            pause *= _GROWTH
        raise AssertionError("the last attempt returns or raises")

    @classmethod
    def for_look_ups(cls) -> Patience:
        """Return the patience of one who looks something up before there is a feed."""
        return cls(threading.Event(), Recorder())

    def beyond_closing(self, action: Callable[[_Asked], _Result]) -> Callable[[_Asked], _Result]:
        """Return `action` with as much patience, for one who may ask when the feed is closed."""
        patience = Patience(threading.Event(), self._recorder)
        return lambda asked: patience.run(lambda: action(asked))
