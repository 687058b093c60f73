"""A step of the pipeline that runs ahead of the next one, in order, within a bound.

One thread takes what comes from a source, lets an action work on it (itself, or a pool of
`threads`), and keeps at most `depth` results in front of the consumer. The first error comes out of
`next` behind the results before it. `close` wakes whoever waits and leaves no thread; `wake` is for
a source that the thread may be waiting in.

Items come as (state, value); the action sees the value, the state travels beside it. One lock
guards the shared fields; no action runs under it. The consumer waits for a bell and no condition or
future, whose locks an interrupt of it could leave taken: the threads would wait for them for ever.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from lakefeed.closing import work_here
from lakefeed.feed.bell import Bell

Stamped = tuple[dict[str, Any], Any]

_Value = TypeVar("_Value")
_Result = TypeVar("_Result")


def applied(action: Callable[[_Value], _Result], value: _Value) -> _Result:
    """Return what a user's function makes of a value.

    A StopIteration that it lets out would be taken for the end of the epoch, so it is an error.
    """
    try:
        return action(value)
    except StopIteration as error:
        raise RuntimeError("the transform raised StopIteration") from error


class _Made:
    """What an action makes of an item, or its error."""

    value: Any = None
    error: BaseException | None = None
    done = False

    def get(self) -> Any:
        """Return it once it is done, or raise the error, which nobody has from then on."""
        error, self.error = self.error, None
        try:
            if error is not None:
                raise error
        finally:
            del error
        return self.value


class Conveyor(Iterator[Stamped]):
    """Results of an action, made ahead. Its thread runs from construction to `close`."""

    def __init__(
        self,
        source: Iterator[Stamped],
        wake: Callable[[], None],
        action: Callable[[Any], Any],
        threads: int,
        depth: int,
    ) -> None:
        self._source = source
        self._wake = wake
        self._action = action
        self._depth = depth
        self._lock = threading.Lock()
        self._answer = Bell()  # for the consumer
        self._way = Bell()  # for the thread: there is room, or it is to end
        self._ready: deque[tuple[dict[str, Any], _Made]] = deque()
        self._error: BaseException | None = None
        self._ended = False
        self._closed = False
        self._pool = _pool(threads) if threads else None
        self._thread = threading.Thread(target=self._run, name="lakefeed-step", daemon=True)
        self._thread.start()

    def __next__(self) -> Stamped:
        while True:
            with self._lock:
                if self._ready[0][1].done if self._ready else self._ended:
                    self._answer.ring()  # for others who wait
                    if not self._ready:
                        raise self._error or StopIteration
                    state, made = self._ready.popleft()
                    self._way.ring()
                    break
            self._answer.wait()
        return state, made.get()

    def close(self) -> None:
        """Stop the threads, wait for them and drop what is ready. Works twice."""
        with self._lock:
            self._closed = True
            self._way.ring()
        self._wake()
        self._thread.join()
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
        with self._lock:
            self._ready.clear()  # some are never done
            self._answer.ring()

    # -- in the thread ---------------------------------------------------------------------------

    def _run(self) -> None:
        work_here()
        try:
            while self._room():
                state, value = next(self._source)
                self._start(state, value)
        except StopIteration:
            pass  # the end of the epoch
        except BaseException as error:  # noqa: BLE001 - carried to the consumer, who raises it
            if not self._closed:  # otherwise it is how the source answers to `wake`
                self._error = error
        finally:
            with self._lock:
                self._ended = True
                self._answer.ring()

    def _room(self) -> bool:
        """Wait until one more result fits; False once closed."""
        while True:
            with self._lock:
                if self._closed or len(self._ready) < self._depth:
                    return not self._closed
            self._way.wait()

    def _start(self, state: dict[str, Any], value: Any) -> None:
        made = _Made()
        if self._pool is not None:
            self._pool.submit(self._make, made, value)
        else:
            made.value = applied(self._action, value)
            made.done = True
        with self._lock:
            self._ready.append((state, made))
            self._answer.ring()

    def _make(self, made: _Made, value: Any) -> None:
        try:
            made.value = applied(self._action, value)
        except BaseException as error:  # noqa: BLE001 - carried to the consumer, who raises it
            made.error = error
        with self._lock:
            made.done = True
            self._answer.ring()


def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, "lakefeed-step-pool", initializer=work_here)
