"""The training loop of one emulated accelerator: wait for a batch, compute, meet the others.

One step, in the order in which DLIO has it, so that AU means the same:

1. wait: take the next batch from the source.
2. compute: wait for exactly the workload's `computation_seconds`. What counts as compute is that
   nominal time (DLIO 2.0.0 and the rule of MLPerf Storage do so); that a timer ends late, by some
   50 to 100 microseconds, is a cost of the harness and lowers AU.
3. meet: a barrier of all ranks, outside compute and inside the wall time, in place of the
   all-reduce.

A warm-up, where one is asked for, takes batches before the first step as fast as they come,
computes nothing and is not counted. MLPerf Storage has a whole run for that; short runs need it for
another reason too: what a source has read ahead while its first batch was waited for is used up, so
that no measured step lives on it.

Every step's times are kept, so every figure is computed afterwards from what happened. Progress
goes into memory shared with the parent process, never read here.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lakefeed.bench.bookkeeping import Bookkeeping
from lakefeed.bench.sources import Delivered, Source

# What a rank tells the parent while it runs, one number each, in this order.
LIVE = ("steps", "samples", "bytes", "compute_seconds", "wait_seconds", "read_bytes")


@dataclass(slots=True)
class Epoch:
    """One epoch of one rank; lists have one value for each step. Times are of one clock."""

    start: float = 0.0
    end: float = 0.0
    began: list[float] = field(default_factory=list)  # when waiting for the batch began
    wait_seconds: list[float] = field(default_factory=list)
    busy_seconds: list[float] = field(default_factory=list)  # of compute, as it really took
    sample_bytes: list[int] = field(default_factory=list)
    samples: int = 0  # where batches differ in size, as a user's own do
    cpu_seconds: float = 0.0  # where other work lies between epochs, as in a user's own training


@dataclass(slots=True)
class RankResult:
    """What one rank did."""

    rank: int
    epochs: list[Epoch]
    samples: int = 0
    cpu_seconds: float = 0.0
    peak_rss_bytes: int = 0
    read_bytes: int = 0
    reads: int = 0
    supply_per_second: float = 0.0  # batches at the end of the warm-up, when nothing computed


@dataclass(frozen=True, slots=True)
class Loop:
    """What every rank does: `epochs` times `steps` steps of `computation_seconds`."""

    steps: int
    epochs: int
    computation_seconds: float
    seconds_max: float | None = None  # end the epoch early; only for a single rank
    harness: str = "dlio"
    warmup_steps: int = 0


@dataclass(frozen=True, slots=True)
class Company:
    """The others: how to meet them, where to tell how far one is, when to stop, where files go."""

    meet: Callable[[], object]
    live: Any
    stop: threading.Event
    scratch: str | None = None  # None: where the system keeps temporary files


def run(source: Source, loop: Loop, company: Company, rank: int = 0) -> RankResult:
    """Run all epochs; return what happened."""
    batches = source.batches()
    result = RankResult(rank, [])
    company.meet()
    result.supply_per_second = _warm_up(batches, source, loop.warmup_steps, company.live)
    company.meet()
    used = time.process_time()
    read_bytes, reads = source.read_bytes(), source.reads()
    with ExitStack() as stack:
        books = None
        if loop.harness == "dlio":
            books = stack.enter_context(Bookkeeping(rank, company.scratch))
        for _ in range(loop.epochs):
            result.epochs.append(_one_epoch(batches, source, loop, (company, books)))
    result.samples = int(company.live[1])
    result.cpu_seconds = time.process_time() - used
    result.peak_rss_bytes = peak_rss_bytes()
    result.read_bytes, result.reads = source.read_bytes() - read_bytes, source.reads() - reads
    return result


def _warm_up(batches: Iterator[Delivered], source: Source, steps: int, live: Any) -> float:
    """Take so many batches; return how many a second came in the second half."""
    began = time.monotonic()
    for step in range(steps):
        if step == steps // 2:
            began = time.monotonic()
        next(batches)
        live[5] = source.read_bytes()
    seconds = time.monotonic() - began
    return (steps - steps // 2) / seconds if steps and seconds > 0 else 0.0


def peak_rss_bytes() -> int:
    """Return the most memory this process had.

    Not ru_maxrss: that begins with what the parent held when it forked.
    """
    status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    return int(found[1]) * 1024 if found else 0


def _one_epoch(
    batches: Iterator[Delivered],
    source: Source,
    loop: Loop,
    beside: tuple[Company, Bookkeeping | None],
) -> Epoch:
    company, books = beside
    live, clock, stop = company.live, time.monotonic, company.stop
    epoch = Epoch(start=clock())
    began = epoch.start
    for step in range(loop.steps):
        batch = next(batches)
        if books is not None:
            books.fetched(step)
        loaded = clock()
        if books is not None:
            books.computing(step, batch.samples, loaded - began)
        if loop.computation_seconds and stop.wait(loop.computation_seconds):
            break
        computed = clock()
        epoch.began.append(began)
        epoch.wait_seconds.append(loaded - began)
        epoch.busy_seconds.append(computed - loaded)
        epoch.sample_bytes.append(batch.size_bytes)
        live[0] += 1
        live[1] += batch.samples
        live[2] += batch.size_bytes
        live[3] += loop.computation_seconds
        live[4] += loaded - began
        live[5] = source.read_bytes()
        if books is not None:
            books.processed(step, batch.samples, clock() - began)
        company.meet()
        began = clock()
        if loop.seconds_max is not None and began - epoch.start >= loop.seconds_max:
            break
    epoch.end = clock()
    return epoch
