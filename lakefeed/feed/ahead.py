"""Workers that keep finished batches in front of the consumer, within a budget of bytes.

All workers are equal. Each takes what is most urgent: make a batch whose reads are done, do some of
the waiting reads, or plan the next window; so one worker does everything in turn without handing
over, and many keep many reads under way while one of them plans. How many there are is found out
while reading (`pace`). Windows grow from one batch (so that the first comes soon) up to a size at
which merging reads pays; a planned window waits until the budget has room for it (I9).

A read that takes much longer than the others is done once more by an idle worker, and the faster
one counts (`window` sees to it that the other disturbs nobody). An error comes in place of the
first batch that it concerns (`slots`): nothing more is planned, and what is under way is finished,
for the batches before it. `close` wakes everybody and waits for the workers, but not long for one
that a volume keeps waiting: that one ends by itself when the call returns, touching nothing.

One lock guards all fields below it; no I/O and no planning under it. Idle workers wait for its
condition, the consumer for a bell. A worker that is done looks for the next job itself, and wakes
others only for what it cannot do alone: waking all after each read costs more than reading.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial

from lakefeed.closing import work_here
from lakefeed.feed.batch import Batch
from lakefeed.feed.bell import Bell
from lakefeed.feed.cursor import Cursor
from lakefeed.feed.fetching import Stopped
from lakefeed.feed.flights import Flight, Start, Task, straggler
from lakefeed.feed.pace import Pace
from lakefeed.feed.planning import Plan
from lakefeed.feed.slots import Limits, Slot, Slots
from lakefeed.feed.stats import Now
from lakefeed.feed.tuning import Tuner
from lakefeed.feed.window import Means, Window

# What `close` waits for a worker inside a volume's call: several usual calls, less than one would
# notice; for one that plans, which reads the index and decodes it (a second or two where a batch is
# spread over a thousand groups of a big lake); and for one that computes, which always ends.
_CALLING_SECONDS = 0.05
_PLANNING_SECONDS = 5.0
_COMPUTING_SECONDS = 60.0
# How often an idle worker looks for stragglers at most.
_STRAGGLER_LOOK_SECONDS = 0.01

Job = Callable[[], None]


class Ahead:
    """The batches of a plan, read ahead. Workers run from `start` to `close`, in process `pid`
    alone: a forked child has a copy of their lock, maybe held, so nobody there may ask for more."""

    def __init__(self, means: Means, plan: Plan, limits: Limits, closed: threading.Event) -> None:
        self.pid = os.getpid()
        self._means = means
        self._plan = plan
        self.closed = closed
        self._tuner = Tuner(limits, means.recorder, plan)
        self._lock = threading.Lock()
        self._work_to_do = threading.Condition(self._lock)
        self._answer = Bell()
        self._cursor: Cursor | None = None  # where to plan on; None: nothing is left to plan
        self._skip = 0
        self._pace = Pace()
        self._planning = False
        self._waiting: Window | None = None
        self._opening = False
        self._tasks: deque[Task] = deque()
        self._urgent: deque[Job] = deque()
        self._running: dict[Task, None] = {}  # in the order they began
        self._slots = Slots(limits)
        self._any_made = False  # was any batch made yet?
        # The workers; each of them says how long `close` waits for it.
        self._workers: dict[threading.Thread, float] = {}
        self._leaving: set[threading.Thread] = set()  # those of them that are about to end

    def start(self, start: Start) -> None:
        """Start the first worker."""
        with self._lock:
            self._cursor, self._skip = start.cursor, start.skip
            self._hire()

    # -- the consumer ----------------------------------------------------------------------------

    def next(self) -> Batch | None:
        """Return the next batch, or None behind the last; raise what stopped the work."""
        while True:
            with self._lock:
                if self._can_answer():
                    self._answer.ring()  # one may have been for many: others who wait look as well
                    if self._slots.first is None:  # behind the last, or closed by another thread
                        return None
                    batch = self._slots.take()
                    self._work_to_do.notify()
                    ready, inflight = len(self._slots), len(self._running)
                    break
            self._answer.wait()
        self._means.recorder.queue(ready, inflight)
        return batch

    @property
    def is_ready(self) -> bool:
        """True if the next batch is there for the taking."""
        with self._lock:
            return (first := self._slots.first) is not None and first.error is None

    @property
    def failure(self) -> BaseException | None:
        """What `next` raises from now on, because the batches end with it."""
        with self._lock:
            return self._slots.first.error if self._slots.first else None

    def _can_answer(self) -> bool:
        ended = not self._slots and self._planned_all()
        return ended or self.closed.is_set() or self._slots.first is not None

    def _planned_all(self) -> bool:
        return self._cursor is None and not self._planning and self._waiting is None

    def now(self) -> Now:
        """Return what the workers are at."""
        with self._lock:
            return Now(
                occupancy=self._slots.occupancy,
                inflight=sum(task.reads for task in self._running),
                workers=self._pace.width.target,
                peak_bytes=self._slots.peak_bytes,
            )

    @property
    def is_at_work_here(self) -> bool:
        """True in a worker: it can wait neither for itself nor for a lock that it holds."""
        return threading.current_thread() in self._workers

    def close(self) -> None:
        """Stop the workers and drop what is ready. Works twice; not in a worker."""
        self.closed.set()
        with self._lock:
            self._wake_everybody()
            workers = list(self._workers)
        began = time.perf_counter()
        for worker in workers:
            while worker.is_alive() and time.perf_counter() < began + self._workers.get(
                worker, _COMPUTING_SECONDS
            ):
                worker.join(_CALLING_SECONDS)
        with self._lock:
            for queue in (self._slots, self._tasks, self._urgent):
                queue.clear()
            self._waiting = None

    # -- workers ---------------------------------------------------------------------------------

    def _hire(self) -> None:
        """Start workers while there is work for more of them; called under the lock."""
        useful = len(self._running) + len(self._tasks) + len(self._urgent) + 1
        wanted = max(1, min(self._pace.width.target, useful))
        while len(self._workers) - len(self._leaving) < wanted and not self.closed.is_set():
            worker = threading.Thread(target=self._work, name="lakefeed-feed", daemon=True)
            try:
                worker.start()
            except RuntimeError:
                if len(self._workers) == len(self._leaving):
                    raise
                return  # a limit of the system, or the interpreter is about to end: fewer will do
            self._workers[worker] = _COMPUTING_SECONDS

    def _work(self) -> None:
        work_here()
        me = threading.current_thread()
        working = False
        try:
            while True:
                with self._lock:
                    if working:
                        self._pace.rest()
                    job = self._next_job(me)
                    working = job is not None
                    if working:
                        self._pace.work()
                if job is None:
                    break
                job()
        except Stopped:
            pass  # closed: nobody wants the rest
        except BaseException as error:  # noqa: BLE001 - carried to the consumer, who raises it
            with self._lock:  # nobody knows which batches it concerns
                self._slots.append([Slot(0)], 0)
                self._fail(self._slots, error)
        with self._lock:
            if working:
                self._pace.rest()
            self._workers.pop(me, None)
            self._leaving.discard(me)
            # What it was woken for is another's to do now; at the end, the others leave as well.
            self._wake_everybody()

    def _wake_everybody(self) -> None:
        self._work_to_do.notify_all()
        self._answer.ring()

    def _next_job(self, me: threading.Thread) -> Job | None:
        """Return what to do next, waiting for it; None when this worker is not needed any more."""
        while not self.closed.is_set():
            self._admit()
            if self._urgent:
                return self._urgent.popleft()
            target = self._pace.width.target
            if len(self._workers) - len(self._leaving) > max(target, 1):
                self._leaving.add(me)  # at once: others that look now must not leave as well
                return None
            # Plan before the last reads are handed out, so that there are always some to do. What
            # is announced comes by itself as soon as it is planned; but the first batch goes first.
            early = self._pace.announces and self._any_made
            few = early or (len(self._tasks) < target and len(self._running) > 0)
            cursor = self._to_plan()
            if self._tasks and not (few and cursor is not None):
                return self._start_task(me)
            if cursor is not None:
                self._planning = True
                return partial(self._plan_window, cursor)
            late = straggler(self._running, self._tuner.hedge_seconds, self._slots.free_bytes)
            if late.task is not None and late.seconds <= 0:
                return self._hedge(late.task, me)
            if self._planned_all() and not self._running and self._slots.all_ready:
                return None
            # For a straggler: reads that begin meanwhile wake nobody.
            pause = max(late.seconds, _STRAGGLER_LOOK_SECONDS)
            self._work_to_do.wait(pause if self._running else None)
        return None

    def _try(self, action: Job, slots: list[Slot]) -> bool:
        """Do something that may call the volume; what it runs into comes in place of these batches.
        Tells if it was done."""
        me = threading.current_thread()
        self._workers[me] = _CALLING_SECONDS
        try:
            action()
        except Stopped:
            raise
        except BaseException as error:  # noqa: BLE001 - carried to the consumer, who raises it
            with self._lock:
                self._fail(slots, error)
            return False
        finally:
            self._workers[me] = _COMPUTING_SECONDS
        return True

    def _fail(self, slots: Iterable[Slot], error: BaseException) -> None:
        """Plan no more; an error takes the place of some batches. Called under the lock."""
        self._cursor, self._waiting = None, None
        self._slots.fail(slots, error)
        self._wake_everybody()

    # -- planning --------------------------------------------------------------------------------

    def _to_plan(self) -> Cursor | None:
        """Return where to plan on, None if that would be too early or too much."""
        room = self._slots.fewer_than(self._tuner.ahead_bytes)
        free = not self._planning and self._waiting is None
        wanted = self._pace.announces or len(self._tasks) < 2 * self._pace.width.target
        return self._cursor if free and room and wanted else None

    def _plan_window(self, cursor: Cursor) -> None:
        began, me = time.perf_counter(), threading.current_thread()
        draft, window, failure = None, None, None
        self._workers[me] = _PLANNING_SECONDS
        try:
            draft = self._plan.draft(cursor, self._tuner.samples(), self._skip)
            if draft is not None:
                window, draft = self._tuner.sized(self._means, draft, self._pace)
        except Stopped:
            raise
        except BaseException as error:  # noqa: BLE001 - carried to the consumer, who raises it
            failure = error
        with self._lock:
            self._workers[me] = _COMPUTING_SECONDS
            self._planning = False
            if self._cursor is cursor:  # nobody failed meanwhile
                self._cursor = None if draft is None else draft.cursors[-1]
                self._skip = self._plan.every - 1
                self._waiting = window
                if failure is not None:  # comes behind all that is planned
                    end = Slot(0)
                    self._slots.append([end], 0)
                    self._fail([end], failure)
            if self._planned_all():
                self._wake_everybody()
        self._means.recorder.stage("index", time.perf_counter() - began)

    def _admit(self) -> None:
        """Open the window that waits, if there is room, and no other is being opened: to announce
        may take as long as to read, and the first goes first. Called under the lock."""
        window = self._waiting
        if window is None or self._opening:
            return
        if not self._slots.fit(len(window.batch_bytes), window.needed_bytes):
            return
        flight = Flight(window)
        self._waiting, self._opening = None, True
        self._slots.append(flight.slots, window.needed_bytes)
        self._urgent.append(partial(self._open, flight, self._pace.announced_from))

    def _open(self, flight: Flight, announced_from: int | None) -> None:
        opened = self._try(partial(flight.open, announced_from), flight.slots)
        with self._lock:
            self._opening = False
            if not opened:
                return
            tasks = flight.tasks(self._pace.width.target, one_by_one=self._pace.unknown)
            self._tasks.extend(tasks)
            if not tasks:
                self._urgent.append(partial(self._settle, flight))
            self._hire()
            self._work_to_do.notify(len(tasks))

    # -- reading ---------------------------------------------------------------------------------

    def _start_task(self, me: threading.Thread) -> Job:
        task = self._tasks.popleft()
        task.began = time.perf_counter()
        task.announced = task.flight.ahead_of(task.read_bytes)
        return self._run(task, me)

    def _run(self, task: Task, me: threading.Thread) -> Job:
        if not self._running:
            self._pace.begin()
        task.runners += 1
        self._running[task] = None
        self._workers[me] = _CALLING_SECONDS
        return partial(self._read, task, me, second=task.hedged)

    def _read(self, task: Task, me: threading.Thread, *, second: bool) -> None:
        first = False
        try:
            if second:
                self._means.recorder.hedged()
            first = task.read(second=second)
        except Stopped:
            raise
        except BaseException as error:  # noqa: BLE001 - told below, unless a runner is left
            task.error = error
        with self._lock:
            self._workers[me] = _COMPUTING_SECONDS
            task.runners -= 1
            done = task in self._running and (first or task.runners == 0)
            if done:
                self._running.pop(task)
            if self._pace.note(task if first else None):
                self._hire()
            if done:
                self._note_done(task, failure=None if first else task.error)
            ready, inflight = len(self._slots), len(self._running)
        self._means.recorder.queue(ready, inflight)

    def _note_done(self, task: Task, failure: BaseException | None) -> None:
        flight = task.flight
        if failure is not None:
            self._fail(flight.concerned(task.start, task.end), failure)
        flight.reads_left -= task.reads
        if not flight.reads_left:
            self._pace.note_window(flight)
            self._urgent.append(partial(self._settle, flight))

    def _hedge(self, task: Task, me: threading.Thread) -> Job:
        task.hedged = True
        task.flight.extra_bytes += task.hedge_bytes
        self._slots.hold(task.hedge_bytes)
        return self._run(task, me)

    # -- finishing -------------------------------------------------------------------------------

    def _settle(self, flight: Flight) -> None:
        self._try(flight.window.settle, flight.slots)
        with self._lock:
            self._urgent.extend(partial(self._finish, flight, n) for n in range(len(flight.slots)))
            self._hire()
            self._work_to_do.notify(len(flight.slots) - 1)

    def _finish(self, flight: Flight, number: int) -> None:
        if not (slot := flight.slots[number]).ready:
            self._try(partial(self._make, flight, number), [slot])
        with self._lock:
            flight.batches_left -= 1
            if not flight.batches_left:
                self._slots.hold(-flight.extra_bytes)

    def _make(self, flight: Flight, number: int) -> None:
        batch = flight.window.batch(number)
        with self._lock:
            self._any_made = True
            self._slots.put(flight.slots[number], batch)
            self._answer.ring()
