"""Threads that share a feed: each batch goes to one of them, and nothing stays behind."""

from __future__ import annotations

import threading
from collections import Counter

import pytest

from lakefeed.errors import Invalid
from lakefeed.feed.feed import Feed, FeedOptions
from tests.feed.lakes import lake_of, some_files
from tests.support.patience import PATIENCE_SECONDS
from tests.support.threads import Threads

FILES = some_files(120)
CONSUMERS = 8


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
