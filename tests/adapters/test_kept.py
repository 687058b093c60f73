"""A feed between two epochs: taken up where it stands, and never left behind."""

from __future__ import annotations

import _thread
import contextlib
import gc
import multiprocessing
import queue
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from lakefeed.adapters import _kept
from lakefeed.adapters._kept import Kept, OpenedFeed
from lakefeed.adapters._places import Place
from lakefeed.errors import Invalid
from lakefeed.feed.feed import FeedOptions
from lakefeed.feed.slots import Slots
from lakefeed.lake.lake import Lake
from tests.feed.lakes import lake_of, some_files
from tests.support.threads import Threads

OPTIONS = FeedOptions(batch_size=8, epochs=None)


class Owner:
    """Whoever keeps a feed."""


@pytest.fixture
def lake() -> Iterator[Lake]:
    with lake_of(some_files(40)) as lake:
        yield lake


def running(lake: Lake) -> OpenedFeed:
    opened = OpenedFeed(Place.of(lake), "", OPTIONS)
    next(opened.feed)
    return opened


def test_a_kept_feed_goes_on_reading_and_is_taken_once(lake: Lake, threads: Threads) -> None:
    kept = Kept()
    opened = running(lake)
    state = opened.feed.state()
    kept.keep(opened)
    assert kept.take(OPTIONS) is opened
    assert kept.take(OPTIONS) is None
    opened.stand_at(state)
    assert len(next(opened.feed)) == 8
    opened.close()
    assert threads.left() == []


def test_threads_that_are_not_pythons_own_are_not_kept_count_of(lake: Lake) -> None:
    """Python never forgets one that asked who it is, and frameworks make others all the time."""
    kept, opened = Kept(), running(lake)
    taken: queue.SimpleQueue[OpenedFeed | None] = queue.SimpleQueue()

    def foreign() -> None:
        kept.keep(opened)
        taken.put(kept.take(OPTIONS))
        asked.wait(120.0)  # while it runs it could not have been forgotten

    asked, known = threading.Event(), set(threading.enumerate())
    number = _thread.start_new_thread(foreign, ())
    assert taken.get(timeout=120.0) is opened
    assert number not in {thread.ident for thread in set(threading.enumerate()) - known}
    asked.set()
    opened.close()


def test_a_feed_of_other_options_is_closed(lake: Lake, threads: Threads) -> None:
    kept = Kept()
    kept.keep(running(lake))
    assert kept.take(FeedOptions(batch_size=4)) is None
    assert threads.left() == []


def test_a_feed_that_is_closed_is_not_taken(lake: Lake, threads: Threads) -> None:
    """An iteration that is broken off closes its feed while a thread of its own keeps it."""
    kept = Kept()
    opened = running(lake)
    kept.keep(opened)
    opened.close()
    assert kept.take(OPTIONS) is None
    assert threads.left() == []


def test_a_feed_whose_user_is_collected_in_its_own_thread_is_closed(
    lake: Lake, monkeypatch: pytest.MonkeyPatch, threads: Threads
) -> None:
    """The collector runs wherever it pleases: here in a worker that holds the lock of all."""
    opened, usual = running(lake), Slots.fewer_than
    collected: list[threading.Thread] = []

    def collect(slots: Slots, ahead_bytes: int) -> bool:
        if threading.current_thread().name == "lakefeed-feed" and not collected:
            collected.append(threading.current_thread())
            opened.close()
        return usual(slots, ahead_bytes)

    monkeypatch.setattr(Slots, "fewer_than", collect)
    with contextlib.suppress(Invalid):  # it is closed when it gets there
        next(opened.feed, None)
    assert threads.left() == []
    assert collected


def test_a_feed_that_nobody_can_watch_is_closed(
    lake: Lake, monkeypatch: pytest.MonkeyPatch, threads: Threads
) -> None:
    def cannot_start(thread: threading.Thread) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    kept, opened = Kept(), running(lake)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", cannot_start)
        kept.keep(opened)
    assert opened.closed
    assert kept.take(OPTIONS) is None
    kept.close()
    assert threads.left() == []


def test_one_feed_is_kept_at_a_time(lake: Lake, threads: Threads) -> None:
    kept = Kept()
    kept.keep(running(lake))
    second = running(lake)
    kept.keep(second)
    assert kept.take(OPTIONS) is second
    second.close()
    assert threads.left() == []


def test_the_feed_goes_with_its_owner_in_a_cycle_too(lake: Lake, threads: Threads) -> None:
    owner: Any = Owner()
    owner.itself = owner
    kept = Kept()
    kept.follow(owner)
    kept.keep(running(lake))
    assert threads.running()
    del owner
    gc.collect()
    assert threads.left() == []


def test_nobody_takes_it_up_and_it_is_closed(
    lake: Lake, threads: Threads, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_kept, "IDLE_SECONDS", 0.01)
    kept = Kept()
    kept.keep(running(lake))
    assert threads.left() == []
    assert kept.take(OPTIONS) is None


def test_a_fork_finds_no_thread_running(lake: Lake, threads: Threads) -> None:
    kept = Kept()
    kept.keep(running(lake))
    child = multiprocessing.get_context("fork").Process(target=_count, args=(kept, lake))
    child.start()
    assert threads.left() == []
    child.join(60)
    assert child.exitcode == 0


def _count(kept: Kept, lake: Lake) -> None:
    assert kept.take(OPTIONS) is None
    with running(lake) as opened:
        assert len(next(opened.feed)) == 8
