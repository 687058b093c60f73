"""What is under way: windows with their slots in the order, and reads cut into tasks."""

from __future__ import annotations

import bisect
import itertools
import resource
import time
from collections.abc import Iterable
from dataclasses import dataclass

from lakefeed.feed.cursor import Cursor
from lakefeed.feed.slots import Slot
from lakefeed.feed.window import Claim, Window

# Reads that are handed to a worker at once where they are quick: a few calls of the kernel, each
# for many of them (`volume.lists`). Between two tasks a worker waits for its turn at the
# interpreter's lock, behind the consumer's Python, so there should be few; but every worker should
# find some in a window.
_TASK_BYTES_MIN, _TASK_BYTES_MAX = 2 << 20, 16 << 20
_TASK_READS = 1024
_TASKS_A_WORKER = 2
# So much is announced before it is read: two milliseconds of a filer that gives 10 GB/s. More would
# wait in the kernel's queues, and the first of it has to be read before the last can be announced.
_ANNOUNCED_BYTES = 32 << 20
# A page cache that lacks less than this share of what is announced had better be read as it is.
_MISSING_SHARE = 1 / 8
_BLOCK_BYTES = 512
_PAGE_BYTES = 4 << 10
_PAGES_A_READ = 8
_PAGE_SECONDS = 100e-9
_ADVICE_SECONDS = 1e-6
# One task or two may wait for their turn at a processor instead of for the volume.
_WAITED_TASKS = 4


@dataclass(frozen=True, slots=True)
class Start:
    """Where to begin: behind a cursor, leaving out `skip` batches."""

    cursor: Cursor
    skip: int = 0


class Flight:
    """A window under way: its slots, and how many of its reads and batches are still to do."""

    def __init__(self, window: Window) -> None:
        self.window = window
        self.slots = [Slot(held) for held in window.held_bytes]
        self.reads_left = len(window.reads)
        self.batches_left = len(self.slots)
        self.extra_bytes = window.extra_bytes  # held until the last batch is made
        self.heard = False  # does the volume fetch what is announced?
        self.announceable = False  # and are all packs open, or quickly opened?
        self.in_memory = False  # was what it announced at first in the page cache already?
        self.counted = False  # does the kernel count what it fetches for a thread?
        self._waited = 0  # more tasks that waited for the volume than tasks that did not
        self._ends = list(itertools.accumulate(window.reads.length))
        self._first = self._announced = 0  # reads [first, announced) were announced so far
        self._started_bytes = 0

    def open(self, first: int | None) -> None:
        """Lend the window's buffers, and announce its reads from `first` on; None: none of them."""
        self.window.open()
        self.heard, self.counted = self.window.heard_and_counted()
        self.announceable = self.heard
        self._first = len(self._ends) if first is None else min(first, len(self._ends))
        self._announced = self._first
        first, end = self.ahead_of(0)
        share = self.window.cached_share(first, end) if self.heard else None
        began = time.thread_time()  # others' turns at the interpreter are no work of the kernel
        blocks = blocks_fetched()
        self.announce(first, end)
        lengths = self.window.reads.length[first:end]
        if share is not None:
            in_memory = share > 1 - _MISSING_SHARE
        elif self.counted:
            fetched_bytes = (blocks_fetched() - blocks) * _BLOCK_BYTES
            in_memory = fetched_bytes < sum(lengths) * _MISSING_SHARE
        else:
            in_memory = were_in_memory(lengths, time.thread_time() - began)
        self.in_memory = self.announceable and in_memory

    def announce(self, start: int, end: int) -> None:
        """Announce reads [start, end)."""
        if self.announceable and start < end:
            self.announceable = self.window.announce(start, end)

    def is_announced(self, read: int) -> bool:
        """Tell whether a read that is under way was announced before."""
        return self.announceable and read >= self._first

    def note(self, *, waited: bool) -> None:
        """Count a task that came back."""
        self._waited += 1 if waited else -1

    @property
    def mostly_waited(self) -> bool:
        """True if many more tasks had to wait for the volume than did not."""
        return self._waited >= _WAITED_TASKS

    def ahead_of(self, starting_bytes: int) -> tuple[int, int]:
        """Return which reads to announce when reads of so many bytes more are starting."""
        self._started_bytes += starting_bytes
        first, target = self._announced, self._started_bytes + _ANNOUNCED_BYTES
        self._announced = max(first, min(bisect.bisect(self._ends, target) + 1, len(self._ends)))
        return first, self._announced

    def concerned(self, start: int, end: int) -> list[Slot]:
        """Return the slots from the first batch on that needs one of reads [start, end)."""
        return self.slots[self.window.first_batch(start, end) :]

    def tasks(self, workers: int, *, one_by_one: bool) -> list[Task]:
        """Cut the reads into what one of so many workers does at a time."""
        ends, hedged = self._ends, self.window.hedged
        share_bytes = (ends[-1] if ends else 0) // (_TASKS_A_WORKER * workers)
        task_bytes = max(_TASK_BYTES_MIN, min(share_bytes, _TASK_BYTES_MAX))
        tasks: list[Task] = []
        start = before_bytes = 0
        while start < len(ends):
            full = bisect.bisect_left(ends, before_bytes + task_bytes, start) + 1
            most = 1 if hedged or one_by_one else _TASK_READS
            end = min(full, start + most, len(ends))
            tasks.append(Task(self, start, end, Claim() if hedged else None))
            start, before_bytes = end, ends[end - 1]
        return tasks


@dataclass(slots=True, eq=False)
class Task:
    """Some reads of a window; `runners` workers are at it, since `began`."""

    flight: Flight
    start: int
    end: int
    claim: Claim | None
    began: float = 0.0
    runners: int = 0
    hedged: bool = False
    waited_seconds: float = 0.0
    fetched: bool = False  # did the kernel count what it fetched?
    announced: tuple[int, int] = (0, 0)
    error: BaseException | None = None  # what a runner ran into

    def read(self, *, second: bool) -> bool:
        """Do the reads, noting how long the thread waited; False if another runner was faster."""
        began, cpu, blocks = time.perf_counter(), time.thread_time(), blocks_fetched()
        if not second:
            self.flight.announce(*self.announced)
        first = self.flight.window.read(self.start, self.end, self.claim, second=second)
        self.waited_seconds = time.perf_counter() - began - (time.thread_time() - cpu)
        self.fetched = blocks_fetched() > blocks
        return first

    @property
    def hedge_bytes(self) -> int:
        """Memory that doing them once more takes."""
        return self.flight.window.hedge_bytes(self.start, self.end)

    @property
    def reads(self) -> int:
        """How many reads these are."""
        return self.end - self.start

    @property
    def read_bytes(self) -> int:
        """How many bytes they take."""
        return sum(self.flight.window.reads.length[self.start : self.end])


@dataclass(frozen=True, slots=True)
class Late:
    """The reads due first to be done once more, None if there are none, in so many seconds."""

    task: Task | None
    seconds: float


def straggler(running: Iterable[Task], hedge_seconds: float, free_bytes: int) -> Late:
    """Choose among tasks in the order they began: after so many seconds they are late."""
    now = time.perf_counter()
    for task in running:
        if task.claim is None or task.hedged:
            continue
        seconds = task.began + hedge_seconds - now
        if seconds > 0 or task.hedge_bytes <= free_bytes:
            return Late(task, seconds)
    return Late(None, hedge_seconds)


def blocks_fetched() -> int:
    """Return how many blocks the kernel had to fetch for this thread so far, as far as it counts.

    It does where a filesystem lies on a disk, and in new versions on NFS.
    """
    return resource.getrusage(resource.RUSAGE_THREAD).ru_inblock


def were_in_memory(lengths: list[int], seconds: float) -> bool:
    """Tell whether announcing reads took as little work as where there is nothing to fetch.

    An old kernel, which does not say what it has cached, looks at a page that it has for 20 ns, and
    takes 300 for one that it has to make. With small reads the calls alone take most of the time.
    """
    pages = sum(lengths) // _PAGE_BYTES
    if pages < _PAGES_A_READ * len(lengths) or not pages:
        return False
    return seconds < len(lengths) * _ADVICE_SECONDS + pages * _PAGE_SECONDS
