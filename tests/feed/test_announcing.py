"""Reads are announced where a volume makes its callers wait, and left alone in a page cache."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

from lakefeed.feed import flights, tuning, window
from lakefeed.feed.feed import Feed, FeedOptions
from lakefeed.feed.flights import Flight
from lakefeed.feed.reads import Reads
from lakefeed.lake.lake import Lake
from lakefeed.volume.memory import MemoryVolume
from tests.feed.lakes import QUIET
from tests.feed.volumes import HintedVolume

FILES = {f"train/{at:04d}": bytes([at % 251]) * 20_000 for at in range(400)}


@pytest.fixture(scope="module")
def packed() -> MemoryVolume:
    volume = MemoryVolume()
    with Lake.create(volume) as lake, lake.writer(QUIET) as writer:
        for path, data in FILES.items():
            writer.put(path, data)
    return volume


@pytest.fixture
def volume(packed: MemoryVolume, monkeypatch: pytest.MonkeyPatch) -> MemoryVolume:
    """A lake of which each sample is a read of its own."""
    monkeypatch.setattr(tuning, "_GAP_BYTES_MIN", 0)
    monkeypatch.setattr(tuning, "_GAP_BYTES_MAX", 0)
    return packed


def served(volume: object) -> dict[str, bytes]:
    with Lake.open(volume) as lake, Feed(lake, "train", FeedOptions(20)) as feed:  # type: ignore[arg-type]
        return {path: data for b in feed for path, data in zip(b.paths, b.bytes(), strict=True)}


def test_a_volume_that_waits_hears_of_every_read_but_the_first(volume: MemoryVolume) -> None:
    hinted = HintedVolume(volume, 0.002)
    assert served(hinted) == FILES
    assert not any(hinted.announced[:4])
    assert len(hinted.announced) == len(FILES)
    # The windows behind the first are opened while its first reads are under way.
    assert sum(hinted.announced) >= len(FILES) - 12
    assert len(hinted.hints) == len(set(hinted.hints))


def test_a_page_cache_hears_of_the_first_window_only(volume: MemoryVolume) -> None:
    hinted = HintedVolume(volume, 0)
    assert served(hinted) == FILES
    assert len(hinted.hints) <= len(FILES) // 2
    assert not all(hinted.announced[-100:])


def test_what_leaves_the_page_cache_is_announced_from_then_on(volume: MemoryVolume) -> None:
    hinted = HintedVolume(volume, 0)
    options = FeedOptions(20, epochs=20)
    with Lake.open(hinted) as lake, Feed(lake, "train", options) as feed:  # type: ignore[arg-type]
        next(feed)
        hinted.seconds = 0.002
        for _ in feed:
            pass
    assert not all(hinted.announced[:20])
    assert all(hinted.announced[-len(FILES) :])


def test_what_is_needed_later_is_announced_later(volume: MemoryVolume) -> None:
    """Where a volume has many announcements to see to, they wait for it."""
    hinted, others = HintedVolume(volume, 0.002), threading.Event()

    def busy() -> None:
        if len(hinted.hints) == 40:  # in the midst of a window; in its place another would be heard
            others.wait(0.2)
        elif len(hinted.hints) > 40:
            others.set()

    hinted.hear = busy
    options = FeedOptions(20, shuffle=None)
    with Lake.open(hinted) as lake, Feed(lake, "train", options) as feed:  # type: ignore[arg-type]
        assert sum(len(batch) for batch in feed) == len(FILES)
    assert len(hinted.hints) > 100
    assert hinted.hints == sorted(hinted.hints)


PACKS = [f"train/{at:02d}" for at in range(40)]


@pytest.fixture
def many_packs(monkeypatch: pytest.MonkeyPatch) -> MemoryVolume:
    """A pack for each file, on a volume where opening takes long."""
    monkeypatch.setattr(window, "_OPENING_SECONDS", -1.0)
    volume = MemoryVolume()
    with Lake.create(volume) as lake:
        for path in PACKS:
            with lake.writer(QUIET) as writer:
                writer.put(path, path.encode() * 5_000)
        lake.merge_index(everything=True)  # else the packs are opened for their rows
    return volume


def test_a_window_of_many_packs_is_left_to_threads(many_packs: MemoryVolume) -> None:
    hinted = HintedVolume(many_packs, 0.002)
    with Lake.open(hinted) as lake, Feed(lake, "train", FeedOptions(40)) as feed:  # type: ignore[arg-type]
        assert [len(batch) for batch in feed] == [40]
    assert hinted.hints == []


def test_many_packs_are_opened_by_threads_and_announced_once_they_are_open(
    many_packs: MemoryVolume,
) -> None:
    hinted = HintedVolume(many_packs, 0.002)
    options = FeedOptions(40, epochs=20)
    with Lake.open(hinted) as lake, Feed(lake, "train", options) as feed:  # type: ignore[arg-type]
        served = [data for batch in feed for data in batch.bytes()]
    assert sorted(served) == sorted(path.encode() * 5_000 for path in PACKS * 20)
    assert not any(hinted.announced[:40])
    assert any(hinted.announced)


class FakeWindow:
    """Reads of a mebibyte, and what was announced of them."""

    def __init__(self, count: int) -> None:
        numbers = list(range(count))
        offsets = [at << 20 for at in numbers]
        order = np.array(numbers)
        self.reads = Reads(order, [0] * count, offsets, [1 << 20] * count, numbers, offsets)
        self.hedged, self.held_bytes, self.extra_bytes = False, list[int](), 0
        self.told: list[tuple[int, int]] = []
        self.cached: float | None = None

    def open(self) -> None: ...

    def heard_and_counted(self) -> tuple[bool, bool]:
        return True, False

    def cached_share(self, start: int, end: int) -> float | None:
        return self.cached

    def announce(self, start: int, end: int) -> bool:
        self.told.append((start, end))
        return True


def test_no_more_is_announced_than_is_read_soon() -> None:
    fake: Any = FakeWindow(100)
    flight = Flight(fake)
    flight.open(4)
    ahead = flights._ANNOUNCED_BYTES >> 20
    assert fake.told == [(4, ahead + 1)]
    for number, task in enumerate(flight.tasks(50, one_by_one=False)):
        flight.announce(*flight.ahead_of(task.read_bytes))
        assert fake.told[-1][1] == min(2 * number + ahead + 3, 100)
    heard = [read for start, end in fake.told for read in range(start, end)]
    assert heard == list(range(4, 100))


def test_nothing_is_announced_unless_asked_for() -> None:
    fake: Any = FakeWindow(10)
    flight = Flight(fake)
    flight.open(None)
    flight.announce(*flight.ahead_of(1 << 20))
    assert fake.told == []
    assert flight.announceable


def test_a_flight_knows_whether_its_tasks_mostly_waited() -> None:
    fake: Any = FakeWindow(0)
    flight = Flight(fake)
    for waited in (True, False, True, True, True, True):
        flight.note(waited=waited)
    assert flight.mostly_waited
    flight.note(waited=False)
    assert not flight.mostly_waited


@pytest.mark.parametrize(
    ("lengths", "seconds", "there"),
    [
        ([110_000] * 100, 80e-6, True),
        ([110_000] * 100, 750e-6, False),
        ([1 << 20] * 20, 100e-6, True),
        ([4096] * 100, 1e-6, False),
        ([], 0.0, False),
    ],
)
def test_announcing_what_is_in_memory_takes_no_time(
    lengths: list[int], seconds: float, there: bool
) -> None:
    assert flights.were_in_memory(lengths, seconds) == there


@pytest.mark.parametrize(("workers", "megabytes"), [(1, 16), (2, 16), (4, 13), (8, 7), (64, 2)])
def test_tasks_are_few_but_every_worker_finds_some(workers: int, megabytes: int) -> None:
    fake: Any = FakeWindow(100)
    tasks = Flight(fake).tasks(workers, one_by_one=False)
    assert [task.read_bytes for task in tasks[:-1]] == [megabytes << 20] * (len(tasks) - 1)
    assert [task.start for task in tasks[1:]] == [task.end for task in tasks[:-1]]
    assert (tasks[0].start, tasks[-1].end) == (0, 100)
    assert [task.reads for task in Flight(fake).tasks(workers, one_by_one=True)] == [1] * 100


@pytest.mark.parametrize(("share", "in_memory"), [(0.0, False), (0.8, False), (1.0, True)])
def test_where_the_kernel_tells_what_it_has_time_is_not_asked(
    share: float, in_memory: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flights, "were_in_memory", lambda lengths, seconds: not in_memory)
    fake: Any = FakeWindow(10)
    fake.cached = share
    flight = Flight(fake)
    flight.open(0)
    assert flight.in_memory == in_memory
