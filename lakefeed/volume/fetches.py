"""Who is fetching which block, so that readers side by side fetch each block once.

Who begins a block fetches it, and ends it whatever came of that; who comes meanwhile waits, and
looks for it then. Nobody may wait while there is a block that he has begun and not ended. A wait is
short: a read that hangs keeps nobody from fetching the same block beside it. Safe for threads; what
was being fetched at a fork, the child waits for in vain, once.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

from lakefeed.forking import new_lock

# Longer than a busy filer takes for a block, and short beside the time-outs of one that is sick:
# a read that is done once more, to overtake another one, waits for so long at most.
PATIENCE_SECONDS = 0.5


class Fetches:
    """The blocks being fetched."""

    def __init__(self) -> None:
        self._lock = new_lock()  # guards the table
        self._ended: dict[tuple[str, int], threading.Event] = {}

    def of(self, path: str, block: int) -> threading.Event | None:
        """Return what tells that a block was fetched by another one; None if nobody is at it."""
        with self._lock:
            return self._ended.get((path, block))

    def begin(self, path: str, block: int) -> threading.Event | None:
        """Let the caller fetch a block; return the same as `of` if another one was faster."""
        with self._lock:
            ended = self._ended.get((path, block))
            if ended is None:
                self._ended[path, block] = threading.Event()
            return ended

    def end(self, path: str, blocks: Sequence[int]) -> None:
        """Say that blocks are there, or will not be."""
        with self._lock:
            ended = [self._ended.pop((path, block), None) for block in blocks]
        for each in ended:
            if each is not None:
                each.set()

    def wait(self, path: str, block: int, ended: threading.Event) -> None:
        """Return once a block was fetched, or after a while: then nobody waits for it any more."""
        if not ended.wait(PATIENCE_SECONDS):
            self.end(path, [block])
