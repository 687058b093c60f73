"""How fast the volume answers: observations while any read is under way, for `control` to decide.

Used under the scheduler's lock.
"""

from __future__ import annotations

import os
import time

from lakefeed.feed.control import CALL_BYTES, WAITING, WIDTH_MAX, Costs, Width
from lakefeed.feed.flights import Flight, Task

# An observation lasts at least so long and so many reads for each worker: longer where many more
# workers are not the way to speed, to have a few windows' planning and checking in it.
_OBSERVE_SECONDS = 0.01
_OBSERVE_QUICK_SECONDS = 0.05
_OBSERVE_READS = 3
# The first few reads tell a volume that makes its callers wait from a page cache. Out of a cache a
# read is work for the processor from its beginning to its end, on a loaded machine too, but for
# the turns that others take; those do not come in every one of the first reads.
_FIRST_READS = 4
_FIRST_WAITING = (20e-6, 0.15)  # seconds a read, of all its time: whoever is first waits for nobody
_WAITING = (50e-6, 0.25)
_WAITING_WIDTH = 8
# Where announced bytes come by themselves, a read that hangs must not keep the others.
_ANNOUNCED_WIDTH = 2
_DEAF_WINDOWS = 8
_DEAF_WINDOWS_MAX = 512


class Pace:
    """Counts what comes back; `width.target` and `costs` are what follows from it."""

    def __init__(self) -> None:
        self._processors = len(os.sched_getaffinity(0))
        # One worker plans and checks while the other reads, out of a page cache as well.
        self.width = Width(min(2, self._processors))
        self.costs = Costs()
        self._first_reads = 0
        self.waits = False  # do reads have to wait for the volume?
        self.announces = False  # are they announced, because of that?
        self._all_waited = True
        self._deaf_windows = 0  # so many windows may say that they waited, and are not heard
        self._next_deaf_windows = _DEAF_WINDOWS
        self._call_bytes = float(CALL_BYTES)
        self._largest = 0  # batches in a window so far
        self._skip = 0  # reads to come that were under way at another width
        self._since = 0.0
        self._reads = 0
        self._read_bytes = 0
        self._seconds = 0.0  # with a read under way
        self._working = 0
        self._working_since = 0.0
        self._work_seconds = 0.0  # with anybody at work

    @property
    def unknown(self) -> bool:
        """True until the first reads were seen."""
        return self._first_reads < _FIRST_READS

    @property
    def announced_from(self) -> int | None:
        """From which read on the next window is announced; None: not at all.

        The first reads of all are seen as they are.
        """
        if self.unknown:
            return _FIRST_READS - self._first_reads
        return 0 if self.announces else None

    def begin(self) -> None:
        """The first of some reads starts."""
        self._since = time.perf_counter()

    def work(self) -> None:
        """A worker begins with any job."""
        if not self._working:
            self._working_since = time.perf_counter()
        self._working += 1

    def rest(self) -> None:
        """A worker is done with a job."""
        self._working -= 1
        if not self._working:
            self._work_seconds += time.perf_counter() - self._working_since

    def note(self, task: Task | None) -> bool:
        """Count a task that came back, None for one that was overtaken; True after a decision."""
        now = time.perf_counter()
        self._seconds += now - self._since
        self._since = now
        if task is None:
            return False
        self.width.allow(self._width_max(task.flight))
        waited = self._waited(task, now)
        task.flight.note(waited=waited)
        if self.unknown and not task.flight.is_announced(task.start) and self._learn(task, waited):
            return True  # at the old width nothing is worth observing, and reads wait
        return self._comparable(task) and self._observe(task, now)

    def _width_max(self, flight: Flight) -> int:
        """Return how many workers may be of use: reads of a page cache keep a processor each."""
        cached = flight.counted and not self.waits and not self.unknown
        return self._processors if cached else WIDTH_MAX

    def _waited(self, task: Task, now: float) -> bool:
        """Tell whether a task had to wait for the volume.

        Where the kernel counts what it fetches that is known. Else it shows in the time, if nothing
        else took that: a turn of others at the interpreter, or at the processor.
        """
        if task.flight.counted:
            return task.fetched
        each, share = _FIRST_WAITING if self.unknown else _WAITING
        return task.waited_seconds > max(each * task.reads, share * (now - task.began))

    def _learn(self, task: Task, waited: bool) -> bool:
        """Count one of the first reads; True if it is known now that reads have to wait."""
        self._first_reads += task.reads
        self._all_waited &= waited
        if self.unknown or not self._all_waited:
            return False
        self.announces = task.flight.heard
        self.width.jump(_ANNOUNCED_WIDTH if task.flight.announceable else _WAITING_WIDTH)
        self._believe_in_waiting()
        self._start_anew(self.width.target)
        return True

    @property
    def _hurries(self) -> bool:
        """Whether speed depends on finding the right width soon."""
        return self.waits and not self.announces

    def _comparable(self, task: Task) -> bool:
        """Tell whether a task's read was asked for at this width, in windows that do not grow."""
        if self._skip > 0:
            self._start_anew(self._skip - task.reads)
            return False
        batches = len(task.flight.slots)
        if batches <= self._largest or self._hurries:
            return True
        self._largest = batches  # windows still grow, and their work gets cheaper, at any width
        self.width.begin_anew()
        self._start_anew(0)
        return False

    def _observe(self, task: Task, now: float) -> bool:
        """Add a task to the observation; True if that was enough, and the width is settled."""
        self._reads += task.reads
        self._read_bytes += task.read_bytes
        work_seconds = self._work_seconds + now - self._working_since
        least = _OBSERVE_SECONDS if self._hurries else _OBSERVE_QUICK_SECONDS
        if self._reads < _OBSERVE_READS * self.width.target or work_seconds < least:
            return False
        # What comes at the same time, and partly before anybody asks for it, does not show what a
        # call costs.
        if not self.announces:
            self.costs.note(self._reads, self._read_bytes, self._seconds)
        before = self.width.target
        # A worker that reads all the time brings no more than one that also plans and checks, if
        # that is left to others then: what counts is what all of them get done.
        self.width.note(self._reads, self._read_bytes, work_seconds, self._call_bytes)
        self._start_anew(self.width.target if self.width.target != before else 0)
        return True

    def note_window(self, flight: Flight) -> None:
        """Count a window whose reads are done: does the page cache end here, or begin?"""
        self._deaf_windows -= 1
        if self.announces and flight.in_memory:
            self.announces = self.waits = False
            self.costs = Costs()
            self._call_bytes = float(CALL_BYTES)
            # What waited was the thread, for its turn: believe that less and less often.
            self._deaf_windows = self._next_deaf_windows
            self._next_deaf_windows = min(2 * self._next_deaf_windows, _DEAF_WINDOWS_MAX)
            return
        heard = flight.heard and flight.mostly_waited and self._deaf_windows <= 0
        if heard and not self.announces:
            self.announces = True
            self._believe_in_waiting()

    def _believe_in_waiting(self) -> None:
        self.waits = True
        self.costs = Costs(WAITING)
        self._call_bytes = self.costs.gap_bytes

    def _start_anew(self, skip: int) -> None:
        """Begin an observation behind so many reads: they were asked for at another width."""
        self._skip = skip
        self._reads = self._read_bytes = 0
        self._seconds = self._work_seconds = 0.0
        self._working_since = time.perf_counter()
