"""The room for batches to come, their order, and how much of the time one was ready."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from lakefeed.errors import Corrupt
from lakefeed.feed import slots as slots_module
from lakefeed.feed.slots import Limits, Readiness, Slot, Slots

BATCH: Any = SimpleNamespace(number=0)


class Clock:
    """Time that passes when it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(slots_module, "time", SimpleNamespace(perf_counter=lambda: self.now))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def test_readiness_is_the_share_of_time_in_which_something_was_ready(clock: Clock) -> None:
    readiness = Readiness()
    # Seconds, and what is told at their end: one more that is ready begins nothing anew.
    for seconds, ready in [
        (2, False),
        (1, True),
        (3, True),
        (1, False),
        (2, False),
        (1, True),
        (1, False),
    ]:
        clock.now += seconds
        readiness.note(ready)
    assert readiness.share == pytest.approx(5 / 11)
    readiness.note(True)
    clock.now += 9  # and it is still there
    assert readiness.share == pytest.approx(14 / 20)


def test_slots_say_how_much_of_the_time_the_next_batch_was_ready(clock: Clock) -> None:
    slots = Slots(Limits(8, 1000))
    first, second = Slot(0), Slot(0)
    slots.append([first, second], 0)
    clock.now += 1
    slots.put(second, BATCH)  # the next one is not there
    clock.now += 1
    slots.put(first, BATCH)
    clock.now += 3
    slots.take()
    slots.take()
    clock.now += 5
    assert slots.occupancy == pytest.approx(3 / 10)
    slots.append([Slot(0)], 0)
    slots.fail(slots, Corrupt("a"))
    clock.now += 2
    assert slots.occupancy == pytest.approx(5 / 12)


def test_there_is_room_for_as_many_batches_and_bytes_as_are_allowed() -> None:
    slots = Slots(Limits(4, 1000))
    assert slots.fit(4, 1000)
    assert not slots.fit(5, 0)
    assert not slots.fit(1, 1001)
    slots.append([Slot(300), Slot(300)], 700)
    assert slots.free_bytes == 300
    assert slots.fit(2, 300)
    assert not slots.fit(3, 300)
    assert not slots.fit(2, 301)
    for slot in slots:
        slots.put(slot, BATCH)
    slots.take()
    assert (slots.free_bytes, len(slots)) == (600, 1)
    assert slots.fit(3, 600)
    assert not slots.fit(4, 600)
    slots.hold(-400)
    assert (slots.held_bytes, slots.peak_bytes) == (0, 700)


def test_more_is_wanted_until_enough_is_under_way() -> None:
    slots = Slots(Limits(3, 1000))
    slots.hold(500)  # no batch yet, though room is taken
    assert slots.fewer_than(100)
    slots.append([Slot(100)], 100)
    assert slots.fewer_than(601)
    assert not slots.fewer_than(600)
    slots.append([Slot(0), Slot(0)], 0)
    assert not slots.fewer_than(1000)  # as many batches as are allowed


def test_an_error_takes_no_place_that_a_batch_has_and_no_batch_takes_its_own() -> None:
    slots = Slots(Limits(8, 1000))
    good, bad = Slot(0), Slot(0)
    slots.append([good, bad], 0)
    slots.put(good, BATCH)
    assert not slots.all_ready
    slots.fail([good, bad], Corrupt("a"))
    slots.put(bad, BATCH)
    slots.fail([bad], Corrupt("b"))
    assert slots.all_ready
    assert slots.take() is BATCH
    for _ in range(2):
        with pytest.raises(Corrupt) as caught:
            slots.take()
        assert caught.value.subject == "a"
    slots.clear()
    assert slots.first is None
