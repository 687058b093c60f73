"""Many pieces of an index, made several at a time and handed out in order.

Made one after the other they keep one processor at work, and none while a volume lets wait.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import TypeVar

Item = TypeVar("Item")
Made = TypeVar("Made")

# More at a time would hold more of an index in memory than they would save of waiting, whoever asks
# for them: 32 look-ups at once, 16 threads for each, took three times the memory, and longer.
THREADS_MAX = 16
# One for each thread that this process may start; taken and put back in one step each. A lock would
# be found taken by the garbage collector when it closes what somebody left half-way.
_free = deque([None] * THREADS_MAX, THREADS_MAX)
# What is made ahead may take so much, as 16 usual pieces do. Those with long attributes take ten
# times as much each.
_AHEAD_BYTES = 64 << 20

Size = Callable[[Made], int]


def in_order(
    make: Callable[[Item], Made], items: Sequence[Item], size: Size[Made] = lambda _: 0
) -> Iterator[Made]:
    """Yield what `make` returns for each item, in their order; a few are made ahead.

    The first one is made by the caller's thread, and how long it waited tells how many others at a
    time are worth it: as many as there are processors, or more, as far as others leave some of
    `THREADS_MAX`. Of big ones, by `size` in bytes, fewer are made ahead. Raises what `make` raises.
    """
    if not items:
        return
    began, worked = time.perf_counter(), time.thread_time()
    first = make(items[0])
    waited = (time.perf_counter() - began) / max(time.thread_time() - worked, 1e-6)
    yield first
    taken: list[None] = []
    try:
        useful = int(_processors() * max(waited, 1.0))
        _take(min(useful, _room(size(first)), len(items) - 1), taken)
        if len(taken) < 2:
            yield from map(make, items[1:])
        else:
            yield from _ahead(len(taken), make, items[1:], size)
    finally:
        _free.extend(taken)


def _room(size_bytes: int) -> int:
    return _AHEAD_BYTES // max(size_bytes, 1)


def _take(threads: int, taken: list[None]) -> None:
    with suppress(IndexError):
        while len(taken) < threads:
            taken.append(_free.pop())


def _ahead(
    threads: int, make: Callable[[Item], Made], items: Sequence[Item], size: Size[Made]
) -> Iterator[Made]:
    pool = ThreadPoolExecutor(threads, "lakefeed-index")
    coming: deque[Future[Made]] = deque()
    depth = threads
    try:
        for item in items:
            try:
                coming.append(pool.submit(make, item))
            except RuntimeError:  # no thread can be started: those there are, or this one, do it
                yield from _all(coming)
                yield make(item)
            while len(coming) > depth:
                made = coming.popleft().result()
                depth = min(depth, max(_room(size(made)), 1))
                yield made
        yield from _all(coming)
    finally:
        # Whoever stops half-way, maybe in the midst of something, does not wait for what was ahead.
        pool.shutdown(wait=False, cancel_futures=True)


def _all(coming: deque[Future[Made]]) -> Iterator[Made]:
    while coming:
        yield coming.popleft().result()


def _processors() -> int:
    return len(os.sched_getaffinity(0))


def _all_free() -> None:
    _free.extend([None] * THREADS_MAX)


# A forked child has none of its parent's threads.
os.register_at_fork(after_in_child=_all_free)
