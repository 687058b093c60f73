"""Who is fetching which block, so that readers side by side fetch each block once.

Who begins a block fetches it, and ends it whatever came of that; who comes meanwhile waits, and
looks for it then. Nobody may wait while there is a block that he has begun and not ended. A wait is
short, for however many blocks: a read that hangs keeps nobody from fetching the same ones beside
it. Safe for threads; a forked child waits for nothing that was being fetched at the fork.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping, Sequence

from lakefeed.forking import new_lock

# Longer than a busy filer takes for a block, and short beside the time-outs of one that is sick:
# a read that is done once more, to overtake another one, waits for so long at most.
PATIENCE_SECONDS = 0.5


class Fetches:
    """The blocks being fetched."""

    def __init__(self) -> None:
        self._lock = new_lock()  # guards the table
        self._ended: dict[tuple[str, int], threading.Event] = {}
        self._pid = os.getpid()

    def of(self, path: str, block: int) -> threading.Event | None:
        """Return what tells that a block was fetched by another one; None if nobody is at it."""
        with self._lock:
            return self._table().get((path, block))

    def begin(self, path: str, block: int) -> threading.Event | None:
        """Let the caller fetch a block; return the same as `of` if another one was faster."""
        with self._lock:
            table = self._table()
            ended = table.get((path, block))
            if ended is None:
                table[path, block] = threading.Event()
            return ended

    def _table(self) -> dict[tuple[str, int], threading.Event]:
        if self._pid != os.getpid():
            # The parent's threads end nothing here, and may have held the lock of an event.
            self._ended, self._pid = {}, os.getpid()
        return self._ended

    def end(self, path: str, blocks: Sequence[int]) -> None:
        """Say that blocks are there, or will not be."""
        with self._lock:
            ended = [self._ended.pop((path, block), None) for block in blocks]
        for each in ended:
            if each is not None:
                each.set()

    def wait(self, path: str, others: Mapping[int, threading.Event]) -> None:
        """Return once blocks were fetched, or after a while: nobody waits for the rest any more."""
        give_up = time.monotonic() + PATIENCE_SECONDS
        late = [block for block, ended in others.items()
                if not ended.wait(max(give_up - time.monotonic(), 0))]  # fmt: skip
        self.end(path, late)
