"""How fast the volume answers: observations while any read is under way, for `control` to decide.

Used under the scheduler's lock.
"""

from __future__ import annotations

import time

from lakefeed.feed.control import Costs, Width
from lakefeed.feed.flights import Task

# An observation lasts at least so long and so many reads for each worker.
_OBSERVE_SECONDS = 0.02
_OBSERVE_READS = 3
# The first few reads tell a volume that makes its callers wait from a page cache: they take longer
# than a loaded machine needs to copy the same bytes out of memory.
_FIRST_READS = 3
_WAITING_SECONDS = 300e-6
_COPY_BYTES_PER_SECOND = 500e6
_WAITING_WIDTH = 8


class Pace:
    """Counts what comes back; `width.target` and `costs` are what follows from it."""

    def __init__(self) -> None:
        self.width = Width()
        self.costs = Costs()
        self._first_reads = 0
        self._since = 0.0
        self._reads = 0
        self._read_bytes = 0
        self._seconds = 0.0

    @property
    def unknown(self) -> bool:
        """True until the first reads were seen."""
        return self._first_reads < _FIRST_READS

    def begin(self) -> None:
        """The first of some reads starts."""
        self._since = time.perf_counter()

    def note(self, task: Task | None) -> bool:
        """Count a task that came back, None for one that was overtaken; True after a decision."""
        now = time.perf_counter()
        self._seconds += now - self._since
        self._since = now
        if task is None:
            return False
        if self.unknown:
            self._first_reads += task.reads
            copying = task.read_bytes / _COPY_BYTES_PER_SECOND + _WAITING_SECONDS * task.reads
            if self._first_reads >= _FIRST_READS and now - task.began > copying:
                self.width.jump(_WAITING_WIDTH)
                return True  # at the old width nothing is worth observing, and reads wait
        self._reads += task.reads
        self._read_bytes += task.read_bytes
        enough = self._reads >= _OBSERVE_READS * self.width.target
        if not enough or self._seconds < _OBSERVE_SECONDS:
            return False
        self.costs.note(self._reads, self._read_bytes, self._seconds)
        self.width.note(self._reads, self._read_bytes, self._seconds)
        self._reads = self._read_bytes = 0
        self._seconds = 0.0
        return True
