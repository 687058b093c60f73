"""A value that is made on first need, by one thread, outside of any lock; others wait for it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

T = TypeVar("T")


class Once(Generic[T]):
    """What `make` returns or raises, the same for everybody who asks. The lock guards `_future`."""

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._future: Future[T] | None = None

    def get(self) -> T:
        """Return the value, or raise what making it raised."""
        with self._lock:
            mine = self._future is None
            future = self._future = self._future or Future()
        if mine:
            try:
                future.set_result(self._make())
            except BaseException as error:
                future.set_exception(error)
                raise
        return future.result()

    def peek(self) -> T | None:
        """Return the value if it has been made, without waiting."""
        with self._lock:
            future = self._future
        if future is None or not future.done() or future.exception() is not None:
            return None
        return future.result()
