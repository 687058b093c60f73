"""The first reads tell a volume that makes its callers wait from a page cache."""

from __future__ import annotations

import itertools
import os
import time
from itertools import count
from types import SimpleNamespace
from typing import Any

import pytest

from lakefeed.feed.flights import Task
from lakefeed.feed.pace import Pace

READS: Any = SimpleNamespace(
    window=SimpleNamespace(reads=SimpleNamespace(length=[100_000] * 20)),
    slots=[None],
    heard=False,
    announceable=False,
    counted=False,
    mostly_waited=True,
    in_memory=False,
    is_announced=lambda read: False,
    note=lambda *, waited: None,
)


def done(seconds: float, waited_seconds: float) -> Task:
    """A task that took so long until now, waiting for a part of it."""
    task = Task(READS, 0, 1, None, began=time.perf_counter() - seconds)
    task.waited_seconds = waited_seconds
    return task


def after(waits: list[float], seconds: float = 0.001) -> Pace:
    pace = Pace()
    pace.work()
    pace.begin()
    for waited in waits:
        pace.note(done(seconds, waited))
    return pace


def test_reads_that_all_wait_ask_for_many_at_once() -> None:
    pace = after([0.0009] * 4)
    assert pace.width.target == 8
    assert pace.costs.gap_bytes > 50_000


def test_a_volume_that_takes_hints_is_told_instead() -> None:
    pace = Pace()
    assert pace.announced_from == 4
    pace.work()
    pace.begin()
    flight: Any = SimpleNamespace(**{**vars(READS), "heard": True, "announceable": True})
    for _ in range(4):
        task = done(0.001, 0.0009)
        task.flight = flight
        pace.note(task)
    assert pace.width.target == 2
    assert pace.announced_from == 0
    assert pace.costs.gap_bytes > 50_000


def test_what_was_announced_says_nothing_about_the_volume() -> None:
    pace = Pace()
    pace.work()
    pace.begin()
    flight: Any = SimpleNamespace(**{**vars(READS), "is_announced": lambda read: True})
    for _ in range(9):
        task = done(0.001, 0.0)
        task.flight = flight
        pace.note(task)
    assert pace.unknown


def test_a_cache_that_ends_is_noticed_by_the_window() -> None:
    pace = after([0.0] * 4)
    assert pace.announced_from is None
    pace.note_window(READS)
    assert pace.announced_from is None  # nobody would hear it
    flight: Any = SimpleNamespace(heard=True, mostly_waited=False, in_memory=False)
    pace.note_window(flight)
    assert pace.announced_from is None
    flight.mostly_waited = True
    pace.note_window(flight)
    assert pace.announced_from == 0
    pace.note_window(flight)
    assert pace.announced_from == 0
    flight.in_memory = True  # the next epoch
    pace.note_window(flight)
    assert pace.announced_from is None
    assert pace.costs.gap_bytes < 20_000


def test_a_false_alarm_is_believed_less_and_less_often() -> None:
    pace = after([0.0] * 4)
    flight: Any = SimpleNamespace(heard=True, mostly_waited=True, in_memory=True)
    alarms = []
    for window in range(100):
        pace.note_window(flight)
        if pace.announces:
            alarms.append(window)
    assert len(alarms) == 4
    assert [later - one for one, later in itertools.pairwise(alarms)] == [9, 17, 33]


@pytest.mark.parametrize("waits", [[0.0009, 0.0009, 0.0, 0.0009], [0.0] * 4, [0.00004] * 4])
def test_one_that_did_not_wait_means_a_page_cache_on_a_busy_machine(waits: list[float]) -> None:
    pace = after(waits)
    assert not pace.unknown
    assert pace.width.target == Pace().width.target
    assert pace.costs.gap_bytes < 20_000


def test_long_reads_that_copy_all_the_time_do_not_wait() -> None:
    assert after([0.0002] * 4, seconds=0.01).width.target == Pace().width.target


def test_what_was_asked_for_at_another_width_is_not_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = count(0, 0.001)
    monkeypatch.setattr("lakefeed.feed.pace.time", SimpleNamespace(perf_counter=clock.__next__))
    pace = Pace()
    pace.work()
    pace.begin()
    decided = [number for number in range(40) if pace.note(waited())]
    # Four reads tell that the volume waits; eight are under way until eight workers are at it.
    assert decided[:2] == [3, 3 + 8 + 3 * 8]


def waited() -> Task:
    """A task that waited all the time."""
    return Task(READS, 0, 1, None, began=0.0, waited_seconds=1.0)


@pytest.mark.parametrize("processors", [1, 8])
def test_a_width_is_judged_by_what_all_get_done_not_by_reading_alone(
    monkeypatch: pytest.MonkeyPatch, processors: int
) -> None:
    """Reading takes a tenth of the work; two workers share the rest of it, and bring twice. But out
    of a page cache no more of them are of use than there are processors."""
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr("lakefeed.feed.pace.time", SimpleNamespace(perf_counter=lambda: clock.now))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(processors)))
    flight: Any = SimpleNamespace(**{**vars(READS), "counted": True})
    pace = Pace()
    for _ in range(200):
        pace.work()
        clock.now += 0.009 / pace.width.target
        pace.begin()
        clock.now += 0.001  # one reads while the other checks
        pace.note(Task(flight, 0, 1, None, began=clock.now - 0.001))
        pace.rest()
    assert (pace.width.target >= 2) == (processors > 1)


def test_windows_that_grow_say_nothing_about_the_width(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr("lakefeed.feed.pace.time", SimpleNamespace(perf_counter=lambda: clock.now))
    pace = Pace()
    pace.work()
    pace.begin()
    for growth in range(1, 12):
        flight: Any = SimpleNamespace(**{**vars(READS), "slots": [None] * 2**growth})
        for _ in range(100):  # every window is half as dear as the one before
            clock.now += 0.004 / 2**growth
            pace.note(Task(flight, 0, 1, None, began=clock.now))
    assert pace.width.target == Pace().width.target


@pytest.mark.parametrize(("processors", "width"), [(1, 1), (2, 2), (64, 2)])
def test_it_begins_with_two_workers_where_both_can_run(
    monkeypatch: pytest.MonkeyPatch, processors: int, width: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(processors)))
    assert Pace().width.target == width


def counted(fetched: list[bool]) -> Pace:
    """Reads of a disk, whose fetches are counted, that took long on a busy machine."""
    pace = Pace()
    pace.work()
    pace.begin()
    for each in fetched:
        task = done(0.001, 0.0009)
        task.flight = SimpleNamespace(**{**vars(READS), "heard": True, "counted": True})  # type: ignore[assignment]
        task.fetched = each
        pace.note(task)
    return pace


def test_time_is_not_asked_where_the_kernel_counts() -> None:
    pace = counted([False] * 4)
    assert not pace.unknown
    assert not pace.waits
    assert counted([True] * 4).waits
