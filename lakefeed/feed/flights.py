"""What is under way: windows with their slots in the order, and reads cut into tasks."""

from __future__ import annotations

import time
from dataclasses import dataclass

from lakefeed.feed.batch import Batch
from lakefeed.feed.cursor import Cursor
from lakefeed.feed.window import Claim, Window

# Reads that are handed to a worker at once where they are quick: a megabyte or 64 calls.
_TASK_BYTES = 1 << 20
_TASK_READS = 64


@dataclass(frozen=True, slots=True)
class Start:
    """Where to begin: behind a cursor, leaving out `skip` batches."""

    cursor: Cursor
    skip: int = 0


class Slot:
    """A batch to come, in its place in the order: in the end a batch or an error."""

    def __init__(self, held_bytes: int, error: BaseException | None = None) -> None:
        self.held_bytes = held_bytes
        self.batch: Batch | None = None
        self.error = error

    @property
    def ready(self) -> bool:
        """True when there is something to hand out or to raise."""
        return self.batch is not None or self.error is not None


class Flight:
    """A window under way: its slots, and how many of its reads and batches are still to do."""

    def __init__(self, window: Window) -> None:
        self.window = window
        self.slots = [Slot(held) for held in window.held_bytes]
        self.reads_left = len(window.reads)
        self.batches_left = len(self.slots)
        self.extra_bytes = window.extra_bytes  # held until the last batch is made

    def tasks(self, one_by_one: bool) -> list[Task]:
        """Cut the reads into what one worker does at a time."""
        reads, hedged = self.window.reads, self.window.hedged
        tasks = []
        start = held_bytes = 0
        for read, length in enumerate(reads.length, 1):
            held_bytes += length
            full = held_bytes >= _TASK_BYTES or read - start >= _TASK_READS
            if full or hedged or one_by_one or read == len(reads):
                tasks.append(Task(self, start, read, Claim() if hedged else None))
                start, held_bytes = read, 0
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

    def read(self, *, second: bool) -> bool:
        """Do the reads, noting how long the thread waited; False if another runner was faster."""
        began, cpu = time.perf_counter(), time.thread_time()
        first = self.flight.window.read(self.start, self.end, self.claim, second=second)
        self.waited_seconds = time.perf_counter() - began - (time.thread_time() - cpu)
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
