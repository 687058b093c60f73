"""An interrupt of whoever waits for a batch is one, at whatever step of the wait it comes."""

from __future__ import annotations

import signal
import sys
import threading
from typing import Any

import pytest

from lakefeed.feed.bell import Bell
from lakefeed.feed.feed import Feed, FeedOptions
from lakefeed.lake.lake import Lake
from tests.feed.lakes import lake_of, some_files
from tests.feed.volumes import TroubledVolume
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


def waits_for_a_batch() -> bool:
    """Tell whether the main thread waits for a batch, or comes back from there."""
    frame, names = sys._current_frames().get(MAIN or 0), []
    while frame is not None:
        names.append(frame.f_code.co_name)
        frame = frame.f_back
    return "wait" in names and "next" in names[names.index("wait") :]


class Interrupting:
    """Interrupts the main thread once, when it waits for a batch."""

    def __init__(self) -> None:
        self.done = threading.Event()

    def wait(self) -> None:
        while not self.done.wait(0.001):
            if waits_for_a_batch():
                self.done.set()
                signal.pthread_kill(MAIN or 0, signal.SIGINT)


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


def test_rings_that_nobody_waited_for_are_one() -> None:
    bell = Bell()
    for _ in range(3):
        bell.ring()
    bell.wait()
    waiting = threading.Thread(target=bell.wait)
    waiting.start()
    bell.ring()
    waiting.join()
