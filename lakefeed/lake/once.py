"""A value that is made on first need, by one thread, outside of any lock; others wait for it.

What only ends a program or a block (Ctrl-C) is no answer: whoever asks next, or waits, makes it.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Generic, TypeVar

from lakefeed.forking import new_lock

T = TypeVar("T")


class Once(Generic[T]):
    """What `make` returns or raises, the same for everybody who asks. What was being made at a fork
    the child makes itself. The lock guards `_pid` and `_ended`."""

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._lock = new_lock()
        self._pid = 0  # of the process that makes it
        self._ended = threading.Event()
        self._made: list[T] = []
        self._error: Exception | None = None
        self._trace: TracebackType | None = None

    def get(self) -> T:
        """Return the value, or raise what making it raised."""
        while not self._made and self._error is None:
            self._make_or_wait()
        if self._error is not None:
            # As it came: else it would grow by the frames of everybody who asks.
            raise self._error.with_traceback(self._trace)
        return self._made[0]

    def _make_or_wait(self) -> None:
        with self._lock:
            mine = self._pid != os.getpid()
            if mine:
                self._pid, self._ended = os.getpid(), threading.Event()
            ended = self._ended
        if not mine:
            ended.wait()
            return
        try:
            self._made.append(self._make())
        except Exception as error:  # noqa: BLE001 - `get` raises it
            self._trace, self._error = error.__traceback__, error
        except BaseException:
            with self._lock:
                self._pid = 0
            raise
        finally:
            ended.set()

    def peek(self) -> T | None:
        """Return the value if it has been made, without waiting."""
        return self._made[0] if self._made else None
