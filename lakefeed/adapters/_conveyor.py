"""A step of the pipeline that runs ahead of the next one, in order, within a bound.

One thread takes what comes from a source, lets an action work on it (itself, or a pool of
`threads`), and keeps at most `depth` results in front of the consumer. The first error comes out of
`next` behind the results before it. `close` wakes whoever waits and leaves no thread; `wake` is for
a source that the thread may be waiting in.

Items come as (state, value); the action sees the value, the state travels beside it. One condition
guards the shared fields; no action runs under it.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from lakefeed.closing import work_here

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
        self._changed = threading.Condition()
        self._ready: deque[tuple[dict[str, Any], Future[Any]]] = deque()
        self._error: BaseException | None = None
        self._ended = False
        self._closed = False
        self._pool = _pool(threads) if threads else None
        self._thread = threading.Thread(target=self._run, name="lakefeed-step", daemon=True)
        self._thread.start()

    def __next__(self) -> Stamped:
        with self._changed:
            self._changed.wait_for(lambda: self._ready or self._ended)
            if not self._ready:
                if self._error is not None:
                    raise self._error
                raise StopIteration
            state, future = self._ready.popleft()
            self._changed.notify_all()
        return state, future.result()

    def close(self) -> None:
        """Stop the threads, wait for them and drop what is ready. Works twice."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._wake()
        self._thread.join()
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
        self._ready.clear()

    # -- in the thread ---------------------------------------------------------------------------

    def _run(self) -> None:
        work_here()
        try:
            while self._room():
                state, value = next(self._source)
                future = self._start(value)
                with self._changed:
                    self._ready.append((state, future))
                    self._changed.notify_all()
        except StopIteration:
            pass  # the end of the epoch
        except BaseException as error:  # noqa: BLE001 - carried to the consumer, who raises it
            self._error = error
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify_all()

    def _room(self) -> bool:
        """Wait until one more result fits; False once closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or len(self._ready) < self._depth)
            return not self._closed

    def _start(self, value: Any) -> Future[Any]:
        if self._pool is not None:
            return self._pool.submit(applied, self._action, value)
        done: Future[Any] = Future()
        done.set_result(applied(self._action, value))
        return done


def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, "lakefeed-step-pool", initializer=work_here)
