"""Workers come and go while the feed reads; there is always one left while there is work."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from lakefeed.errors import Corrupt, LakefeedError, VolumeFailed
from lakefeed.feed import ahead as ahead_module
from lakefeed.feed.ahead import Ahead
from lakefeed.feed.batch import Batch
from lakefeed.feed.control import Width
from lakefeed.feed.cursor import Cursor
from lakefeed.feed.fetching import Stopped
from lakefeed.feed.flights import Start, Task
from lakefeed.feed.order import Shuffle
from lakefeed.feed.partition import Partition
from lakefeed.feed.slots import Limits, Slot
from lakefeed.feed.stats import Recorder

PLAN: Any = SimpleNamespace(count=10, shuffle=Shuffle(1), partition=Partition(1), every=1)


def test_workers_that_look_around_together_do_not_all_leave() -> None:
    """Each sees that there is one too many; only one of them is."""
    means: Any = SimpleNamespace(recorder=Recorder(None))
    ahead = Ahead(means, PLAN, Limits(8, 1 << 20), threading.Event())
    one, other = threading.Thread(), threading.Thread()
    ahead._workers = {one: 60.0, other: 60.0}
    reads = SimpleNamespace(length=[10])
    flight: Any = SimpleNamespace(window=SimpleNamespace(reads=reads), ahead_of=lambda size: (0, 0))
    ahead._tasks.append(Task(flight, 0, 1, None))
    ahead._pace.width = Width(1)
    assert ahead._next_job(one) is None
    assert ahead._next_job(other) is not None  # before the first one is gone


def refuse(step: str) -> None:
    raise VolumeFailed(step, found="Permission denied")


class FakeWindow:
    """A window of three batches and two reads; the second read brings the last two batches."""

    def __init__(self, failing: str = "", fail: Callable[[str], None] = refuse) -> None:
        self.batch_bytes = self.held_bytes = [10, 10, 10]
        self.needed_bytes, self.extra_bytes, self.hedged = 30, 0, False
        self.reads = FakeReads()
        self._failing, self._fail = failing, fail

    def _do(self, step: str) -> None:
        if step == self._failing:
            self._fail(step)

    def open(self) -> None:
        self._do("open")

    def heard_and_counted(self) -> tuple[bool, bool]:
        return False, False

    def first_batch(self, start: int, end: int) -> int:
        return start

    def read(self, start: int, end: int, claim: object, *, second: bool) -> bool:
        self._do(f"read {start}")
        return True

    def hedge_bytes(self, start: int, end: int) -> int:
        return 10

    def settle(self) -> None:
        self._do("settle")

    def batch(self, number: int) -> int:
        self._do(f"batch {number}")
        return number


class FakeReads:
    """Two reads."""

    length = (10, 20)

    def __len__(self) -> int:
        return 2


def ahead_with(draft: Callable[..., Any] | None = None) -> Ahead:
    """No worker runs: the test does what one of them would do."""
    means: Any = SimpleNamespace(recorder=Recorder(None))
    plan: Any = SimpleNamespace(**vars(PLAN), draft=draft)
    ahead = Ahead(means, plan, Limits(8, 1 << 20), threading.Event())
    ahead._pace.width = Width(1)
    ahead._workers = {threading.current_thread(): 60.0}
    ahead._cursor = None if draft is None else Cursor(1, "", None, 0, 0, 0)
    return ahead


def under_way(ahead: Ahead, window: Any) -> None:
    """Let a window be opened, and its reads wait to be done one by one."""
    ahead._waiting = window
    ahead._admit()
    ahead._urgent.popleft()()


def work_until_the_end(ahead: Ahead) -> None:
    """Do what a worker does. It waits for ever if it cannot leave, so it may not wait at all."""
    ahead._work_to_do.wait = never  # type: ignore[method-assign]
    while (job := ahead._next_job(threading.current_thread())) is not None:
        ahead._lock.release()  # what waits under it, waits without it
        job()
        ahead._lock.acquire()


def never(timeout: float | None = None) -> bool:
    raise AssertionError("a worker waits although nothing more will come")


def taken(ahead: Ahead) -> tuple[list[Batch], str]:
    """The batches before the error, and what that is about."""
    batches: list[Batch] = []
    with pytest.raises(LakefeedError) as caught:
        while (batch := ahead.next()) is not None:
            batches.append(batch)
    return batches, caught.value.subject


def test_a_batch_that_fails_leaves_the_reads_for_those_before_it() -> None:
    """Two windows are opened at the same time, and the later one's reads are done first."""
    means: Any = SimpleNamespace(recorder=Recorder(None))
    ahead = Ahead(means, PLAN, Limits(8, 1 << 20), threading.Event())

    def batch(number: int) -> None:
        raise Corrupt("train/a")

    earlier: Any = SimpleNamespace(slots=[Slot(0)])
    later: Any = SimpleNamespace(slots=[Slot(0)], batches_left=1, extra_bytes=0)
    later.window = SimpleNamespace(batch=batch)
    ahead._slots.append([*earlier.slots, *later.slots], 0)
    waiting = Task(earlier, 0, 1, None)
    ahead._tasks.append(waiting)
    ahead._finish(later, 0)
    assert list(ahead._tasks) == [waiting]
    assert isinstance(later.slots[0].error, Corrupt)


def unreadable(*_: object) -> None:
    raise Corrupt("group of the index")


def test_an_error_of_planning_comes_behind_all_that_was_planned() -> None:
    ahead = ahead_with(draft=unreadable)
    under_way(ahead, FakeWindow())
    start_to_plan(ahead)()
    with ahead._lock:
        work_until_the_end(ahead)
    assert taken(ahead) == ([0, 1, 2], "group of the index")


def start_to_plan(ahead: Ahead) -> Callable[[], None]:
    """The job of whoever plans next, while all reads are under way."""
    tasks, me = list(ahead._tasks), threading.current_thread()
    ahead._tasks.clear()
    with ahead._lock:
        job = ahead._next_job(me)
    ahead._tasks.extend(tasks)
    assert job is not None
    assert ahead._planning
    return job


def test_a_read_that_fails_before_a_planner_gets_its_turn_is_what_is_told() -> None:
    """Nothing is to be planned any more when it begins to."""
    ahead = ahead_with(draft=lambda *_: None)
    under_way(ahead, FakeWindow("read 1"))
    plan = start_to_plan(ahead)
    for _ in range(2):
        with ahead._lock:
            read = ahead._start_task(threading.current_thread())
        read()
    plan()
    with ahead._lock:
        work_until_the_end(ahead)
    assert taken(ahead) == ([0], "read 1")


@pytest.mark.parametrize(
    ("failing", "good"),
    [("open", []), ("read 0", []), ("read 1", [0]), ("settle", []), ("batch 1", [0])],
)
def test_an_error_comes_in_place_of_the_first_batch_that_it_concerns(
    failing: str, good: list[int]
) -> None:
    """Also when the window before it is still being read."""
    ahead = ahead_with()
    under_way(ahead, FakeWindow())
    under_way(ahead, FakeWindow(failing))
    ahead._tasks.rotate(len(ahead._tasks) // 2)  # the later window's reads are done first
    with ahead._lock:
        work_until_the_end(ahead)
    assert taken(ahead) == ([0, 1, 2, *good], failing)


def stop(step: str) -> None:
    raise Stopped


@pytest.mark.parametrize("step", ["open", "read 0", "settle", "batch 0"])
def test_a_call_that_was_given_up_because_the_feed_closed_is_no_failure(step: str) -> None:
    ahead = ahead_with()
    ahead._waiting = cast("Any", FakeWindow(step, stop))
    ahead._admit()
    ahead._work()
    assert [slot.error for slot in ahead._slots] == [None, None, None]


def closes_soon(ahead: Ahead, hanging: threading.Event, release: threading.Event) -> None:
    """Close while its only worker hangs, and let that go afterwards."""
    worker = threading.Thread(target=ahead._work)
    ahead._workers = {worker: 60.0}
    worker.start()
    assert hanging.wait(30)
    began = time.perf_counter()
    ahead.close()
    # Hardly more than the patience with a call; generous for a busy machine, far from 60 s.
    assert time.perf_counter() - began < 10
    release.set()
    worker.join(30)
    assert not worker.is_alive()


@pytest.mark.parametrize("step", ["open", "read 0", "settle", "batch 0"])
def test_closing_does_not_wait_for_a_call_that_hangs(step: str) -> None:
    hanging, release = threading.Event(), threading.Event()

    def hang(step: str) -> None:
        hanging.set()
        release.wait(60)

    ahead = ahead_with()
    ahead._waiting = cast("Any", FakeWindow(step, hang))
    ahead._admit()
    closes_soon(ahead, hanging, release)


def test_closing_does_not_wait_for_an_index_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ahead_module, "_PLANNING_SECONDS", 0.1)
    hanging, release = threading.Event(), threading.Event()

    def hang(*_: object) -> None:
        hanging.set()
        release.wait(60)

    ahead = ahead_with(draft=hang)
    closes_soon(ahead, hanging, release)


def test_planning_that_was_given_up_because_the_feed_closed_is_no_failure() -> None:
    def give_up(*_: object) -> None:
        raise Stopped

    ahead = ahead_with(draft=give_up)
    ahead._work()
    assert not ahead._slots


def test_a_read_that_fails_after_another_worker_did_it_is_no_failure() -> None:
    ahead = ahead_with()
    under_way(ahead, FakeWindow())
    me = threading.current_thread()
    with ahead._lock:
        first = ahead._start_task(me)
        (task,) = ahead._running
        second = ahead._run(task, me)
    first()
    task.flight.window._failing = "read 0"  # type: ignore[attr-defined]
    second()
    with ahead._lock:
        work_until_the_end(ahead)
    assert [ahead.next() for _ in range(4)] == [0, 1, 2, None]


def test_an_observer_may_ask_a_feed_how_it_is_when_it_hears_of_a_straggler() -> None:
    ahead, window = ahead_with(), FakeWindow()
    told: list[tuple[str, bool]] = []
    observer: Any = SimpleNamespace(
        retried=lambda reason: told.append((reason, ahead._lock.locked())),
        queue=lambda ready, inflight: None,
    )
    ahead._means.recorder._observer = observer
    under_way(ahead, window)
    with ahead._lock:
        first = ahead._start_task(threading.current_thread())
        second = ahead._hedge(next(iter(ahead._running)), threading.current_thread())
    second()
    first()
    assert told == [("straggler", False)]


def cannot_start(thread: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


def test_fewer_workers_do_where_no_more_can_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python 3.12 starts none any more once the main thread is through, though others train on."""
    monkeypatch.setattr(threading.Thread, "start", cannot_start)
    ahead = ahead_with()
    ahead._pace.width = Width(8)
    under_way(ahead, FakeWindow())
    with ahead._lock:
        work_until_the_end(ahead)
    assert [ahead.next() for _ in range(4)] == [0, 1, 2, None]
    ahead._workers = {}
    with pytest.raises(RuntimeError, match="new thread"):
        ahead.start(Start(Cursor(1, "", None, 0, 0, 0)))
