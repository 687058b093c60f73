"""Threads that share a feed: each batch goes to one of them, and nothing stays behind."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import count

import pytest

from lakefeed.errors import Invalid
from lakefeed.feed.ahead import Ahead
from lakefeed.feed.batch import Batch
from lakefeed.feed.feed import Feed, FeedOptions
from lakefeed.lake.lake import Lake
from tests.feed.lakes import lake_of, some_files
from tests.feed.volumes import TroubledVolume
from tests.support.patience import PATIENCE_SECONDS
from tests.support.threads import Threads

FILES = some_files(120)
CONSUMERS = 8


class Nobody:
    """An observer that is not interested."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *told: None


@pytest.mark.parametrize("begun", [False, True])
def test_each_batch_goes_to_one_thread(begun: bool, threads: Threads) -> None:
    together = threading.Barrier(CONSUMERS)
    seen: list[str] = []

    def take(feed: Feed) -> None:
        together.wait(PATIENCE_SECONDS)
        for batch in feed:
            seen.extend(batch.paths)

    for _ in range(5):
        with lake_of(FILES) as lake, Feed(lake, "train", FeedOptions(3)) as feed:
            seen[:] = next(feed).paths if begun else []
            consumers = [threading.Thread(target=take, args=(feed,)) for _ in range(CONSUMERS)]
            for consumer in consumers:
                consumer.start()
            for consumer in consumers:
                consumer.join(PATIENCE_SECONDS)
            assert not any(consumer.is_alive() for consumer in consumers)
            assert feed.stats().samples == len(FILES)
        assert Counter(seen) == Counter(list(FILES))
        assert threads.left() == []


def test_closing_answers_all_threads_that_wait(threads: Threads) -> None:
    answers: list[str] = []

    def take(feed: Feed) -> None:
        try:
            for _ in feed:
                pass
        except Invalid as error:
            answers.append(str(error.found))

    with lake_of(FILES) as lake, Feed(lake, "train", FeedOptions(3, epochs=None)) as feed:
        consumers = [threading.Thread(target=take, args=(feed,)) for _ in range(CONSUMERS)]
        next(feed)
        for consumer in consumers:
            consumer.start()
        feed.close()
        for consumer in consumers:
            consumer.join(PATIENCE_SECONDS)
    assert len(answers) == CONSUMERS
    assert threads.left() == []


def test_an_interrupt_of_one_thread_is_no_end_for_the_others(
    monkeypatch: pytest.MonkeyPatch, threads: Threads
) -> None:
    go, asked, whole = threading.Event(), threading.Event(), Ahead.next

    def interrupted(ahead: Ahead) -> Batch | None:
        if threading.current_thread() is threading.main_thread():
            raise KeyboardInterrupt
        asked.set()
        return whole(ahead)

    def wait(path: str, offset: int) -> None:
        assert go.wait(PATIENCE_SECONDS)

    def take(feed: Feed) -> list[str]:
        return [path for batch in feed for path in batch.paths]

    monkeypatch.setattr(Ahead, "next", interrupted)
    with (
        lake_of(FILES) as lake,
        ThreadPoolExecutor(1) as pool,
        Lake.open(TroubledVolume(lake.volume, wait)) as slow,
        Feed(slow, "train") as feed,
    ):
        taken = pool.submit(take, feed)
        assert asked.wait(PATIENCE_SECONDS)
        with pytest.raises(KeyboardInterrupt):
            next(feed)
        go.set()
        assert sorted(taken.result(PATIENCE_SECONDS)) == sorted(FILES)
    assert threads.left() == []


def test_whoever_closes_a_feed_waits_for_workers_that_another_thread_is_stopping(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stopping, go, whole = threading.Semaphore(0), threading.Event(), Ahead.close
    plans, planned = count(), threading.Event()
    ended: list[str] = []

    class Observer(Nobody):
        """Holds up the worker that plans on, and interrupts whoever took the first batch."""

        def stage(self, name: str, seconds: float) -> None:
            if name == "index" and next(plans) == 1:
                planned.set()
                assert go.wait(PATIENCE_SECONDS)
                ended.append("worker")

        def step(self, wait_seconds: float, compute_seconds: float) -> None:
            assert planned.wait(PATIENCE_SECONDS)
            raise KeyboardInterrupt

    def close(ahead: Ahead) -> None:
        stopping.release()
        whole(ahead)

    def end(feed: Feed) -> None:
        feed.close()
        ended.append("close")
        stopping.release()

    def take(feed: Feed) -> None:
        with pytest.raises(KeyboardInterrupt):
            next(feed)

    monkeypatch.setattr(Ahead, "close", close)
    with lake_of(FILES) as lake, ThreadPoolExecutor(2) as pool:
        feed = Feed(lake, "train", FeedOptions(3, observer=Observer()))
        works = [pool.submit(take, feed)]
        assert stopping.acquire(timeout=PATIENCE_SECONDS)
        works.append(pool.submit(end, feed))
        assert stopping.acquire(timeout=PATIENCE_SECONDS)
        go.set()
        for work in works:
            work.result(PATIENCE_SECONDS)
    assert ended == ["worker", "close"]


def test_the_state_is_behind_the_furthest_batch_whoever_took_it() -> None:
    second = threading.Event()

    class Observer(Nobody):
        """Holds up whoever took the first batch until another thread has the second."""

        def delivered(self, samples: int, sample_bytes: int, epoch: int) -> None:
            if threading.current_thread() is not threading.main_thread():
                taken.set()
                assert second.wait(PATIENCE_SECONDS)

    taken = threading.Event()
    options = FeedOptions(3, observer=Observer())
    with (
        lake_of(FILES) as lake,
        Feed(lake, "train", options) as feed,
        ThreadPoolExecutor(1) as pool,
    ):
        first = pool.submit(next, feed)
        assert taken.wait(PATIENCE_SECONDS)
        behind = next(feed).state
        second.set()
        assert first.result(PATIENCE_SECONDS).state != behind
        assert feed.state() == behind
