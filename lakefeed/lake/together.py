"""Many pieces of an index, made several at a time and handed out in order.

Made one after the other they keep one processor at work, and none while a volume lets wait.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Made = TypeVar("Made")

# More at a time would hold more of an index in memory than they would save of waiting.
THREADS_MAX = 16


def in_order(make: Callable[[Item], Made], items: Sequence[Item]) -> Iterator[Made]:
    """Yield what `make` returns for each item, in their order; a few are made ahead.

    The first one is made by the caller's thread, and how long it waited tells how many others at a
    time are worth it: as many as there are processors, or more. Raises what `make` raises.
    """
    if not items:
        return
    began, worked = time.perf_counter(), time.thread_time()
    first = make(items[0])
    waited = (time.perf_counter() - began) / max(time.thread_time() - worked, 1e-6)
    yield first
    threads = min(int(_processors() * max(waited, 1.0)), THREADS_MAX, len(items) - 1)
    if threads < 2:
        yield from map(make, items[1:])
        return
    pool = ThreadPoolExecutor(threads, "lakefeed-index")
    try:
        yield from _ahead(pool, make, items[1:], threads + 1)
    finally:
        # Whoever stops half-way, maybe in the midst of something, does not wait for what was ahead.
        pool.shutdown(wait=False, cancel_futures=True)


def _ahead(
    pool: ThreadPoolExecutor, make: Callable[[Item], Made], items: Sequence[Item], depth: int
) -> Iterator[Made]:
    coming: deque[Future[Made]] = deque()
    for item in items:
        try:
            coming.append(pool.submit(make, item))
        except RuntimeError:  # no thread can be started: those there are, or this one, do it
            yield from _all(coming)
            yield make(item)
        if len(coming) >= depth:
            yield coming.popleft().result()
    yield from _all(coming)


def _all(coming: deque[Future[Made]]) -> Iterator[Made]:
    while coming:
        yield coming.popleft().result()


def _processors() -> int:
    return len(os.sched_getaffinity(0))
