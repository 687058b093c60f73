"""An interrupt of whoever waits for a batch is one, at whatever step of the wait it comes."""

from __future__ import annotations

import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from typing import Any

import pytest

from lakefeed.feed.ahead import Ahead
from lakefeed.feed.bell import Bell
from lakefeed.feed.feed import Feed, FeedOptions
from lakefeed.lake.lake import Lake
from tests.feed.lakes import lake_of, some_files
from tests.feed.volumes import TroubledVolume
from tests.support.patience import PATIENCE_SECONDS
from tests.support.threads import Threads

MAIN = threading.main_thread().ident


@pytest.fixture
def slow_to_take_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Conditions whose lock another thread has for as long as it takes to interrupt once more."""

    def take_back(condition: Any, state: Any) -> None:
        if threading.get_ident() == MAIN and waits_for_a_batch():
            raise KeyboardInterrupt
        whole(condition, state)

    whole = threading.Condition._acquire_restore  # type: ignore[attr-defined]
    monkeypatch.setattr(threading.Condition, "_acquire_restore", take_back)


def waits_for_a_batch(thread: int | None = MAIN) -> bool:
    """Tell whether a thread waits for a batch, or comes back from there."""
    frame, names = sys._current_frames().get(thread or 0), []
    while frame is not None:
        names.append(frame.f_code.co_name)
        frame = frame.f_back
    return "wait" in names and "next" in names[names.index("wait") :]


class Interrupting:
    """Interrupts the main thread once, when it waits for a batch."""

    def __init__(self) -> None:
        self._first = threading.Lock()
        self.done = threading.Event()

    def wait(self) -> None:
        while not self.done.wait(0.001):
            if waits_for_a_batch() and self._first.acquire(blocking=False):
                signal.pthread_kill(MAIN or 0, signal.SIGINT)
                self.done.set()  # behind it: a read that goes on may give the batch


@pytest.mark.usefixtures("slow_to_take_back")
def test_a_feed_is_interrupted_while_it_waits_and_goes_on(threads: Threads) -> None:
    files, interrupting = some_files(30), Interrupting()
    with lake_of(files) as lake:
        volume = TroubledVolume(lake.volume, lambda path, offset: interrupting.wait())
        with Lake.open(volume) as slow, Feed(slow.snapshot(), "", FeedOptions(9)) as feed:
            with pytest.raises(KeyboardInterrupt):
                next(feed)
            assert threads.left() == []
            assert sorted(path for batch in feed for path in batch.paths) == sorted(files)


def test_an_interrupt_while_one_before_it_stops_the_workers_loses_no_batch(
    monkeypatch: pytest.MonkeyPatch, threads: Threads
) -> None:
    interrupts = 0

    def interrupt(name: str, calls: int) -> None:
        whole, called = getattr(Ahead, name), count(1)

        def interrupted(ahead: Ahead) -> Any:
            nonlocal interrupts
            done = whole(ahead) if name == "next" else None
            if next(called) == calls:
                interrupts += 1
                raise KeyboardInterrupt
            return done if name == "next" else whole(ahead)

        monkeypatch.setattr(Ahead, name, interrupted)

    interrupt("next", 2)
    interrupt("close", 1)
    files = some_files(30)
    with lake_of(files) as lake, Feed(lake, "", FeedOptions(3)) as feed:
        paths = next(feed).paths
        with pytest.raises(KeyboardInterrupt):
            next(feed)
        assert interrupts == 2
        paths += [path for batch in feed for path in batch.paths]
        assert sorted(paths) == sorted(files)


def test_rings_that_nobody_waited_for_are_one() -> None:
    bell = Bell()
    for _ in range(3):
        bell.ring()
    bell.wait()
    waiting = threading.Thread(target=bell.wait)
    waiting.start()
    bell.ring()
    waiting.join()


def test_one_ring_for_many_batches_is_heard_by_all_who_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole, rung, go = Bell.ring, set(), threading.Event()

    def ring(bell: Bell) -> None:
        if threading.current_thread().name == "lakefeed-feed":
            rung.add(bell)  # nobody who waits has come to see it yet
        else:
            whole(bell)

    def wait(path: str, offset: int) -> None:
        go.wait()

    def take() -> int:
        begun.append(threading.get_ident())
        return len(next(feed))

    monkeypatch.setattr(Bell, "ring", ring)
    with lake_of(some_files(30)) as lake, ThreadPoolExecutor(4) as pool:
        volume = TroubledVolume(lake.volume, wait)
        with Lake.open(volume) as slow, Feed(slow.snapshot(), "", FeedOptions(9)) as feed:
            taken, begun = [], list[int]()
            for number in range(1, 5):
                taken.append(pool.submit(take))
                while len(begun) < number or not waits_for_a_batch(begun[-1]):
                    assert not taken[-1].done()
            go.set()
            for worker in threading.enumerate():
                if worker.name == "lakefeed-feed":
                    worker.join()
            for bell in rung:
                whole(bell)
            assert sorted(each.result(PATIENCE_SECONDS) for each in taken) == [3, 9, 9, 9]
