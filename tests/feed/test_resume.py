"""A saved state means "consumed": going on from it equals never having stopped."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lakefeed.errors import Invalid
from lakefeed.feed.feed import Feed, FeedOptions
from lakefeed.feed.labels import Labelling
from lakefeed.feed.selection import Selection, resolve
from lakefeed.lake.federation import Federation
from lakefeed.lake.lake import Lake
from lakefeed.lake.mounts import Mount, Mounts
from lakefeed.volume.memory import MemoryVolume
from tests.feed.lakes import QUIET, lake_of, some_files

FILES = some_files(70)
OPTIONS = FeedOptions(8, epochs=3, labels="parent")


@pytest.fixture(scope="module")
def lake() -> Iterator[Lake]:
    with lake_of(FILES) as lake:
        yield lake


@pytest.fixture(scope="module")
def selection(lake: Lake) -> Selection:
    """Resolved once: hundreds of feeds share it."""
    return resolve(lake.snapshot(), "train", Labelling())


@pytest.mark.slow
@settings(max_examples=40)
@given(st.integers(0, 27), st.sampled_from(["global", "runs=4", None]))
def test_going_on_equals_never_having_stopped(
    lake: Lake, selection: Selection, stop: int, shuffle: str | None
) -> None:
    options = FeedOptions(8, shuffle, epochs=3)
    with Feed(lake.snapshot(), selection, options) as feed:
        whole = [batch.paths for batch in feed]
    with Feed(lake.snapshot(), selection, options) as feed:
        for _ in range(min(stop, len(whole))):
            next(feed)
        saved = json.dumps(feed.state())
    with Feed(lake.snapshot(), selection, options) as feed:
        feed.restore(json.loads(saved))
        assert [batch.paths for batch in feed] == whole[stop:]


@pytest.mark.slow
@settings(max_examples=40)
@given(st.integers(0, 8), st.sampled_from([1, 2, 3, 4, 6, 12]), st.sampled_from([1, 2, 3, 4]))
def test_another_world_size_goes_on_where_the_first_stopped(
    lake: Lake, selection: Selection, stop: int, first: int, second: int
) -> None:
    """12 samples a step together; `first` ranks take some steps, `second` ranks the rest."""
    seen: list[str] = []
    states = []
    for rank in range(first):
        with Feed(lake.snapshot(), selection, world(first, rank)) as feed:
            for _ in range(min(stop, len(feed))):
                seen += next(feed).paths
            states.append(feed.state())
    for rank in range(second):
        with Feed(lake.snapshot(), selection, world(second, rank)) as feed:
            feed.restore(states[0])
            seen += [path for batch in feed for path in batch.paths]
    assert Counter(seen) == dict.fromkeys(FILES, 1)


def world(size: int, rank: int) -> FeedOptions:
    return FeedOptions(12 // size, rank=rank, world_size=size)


def test_restoring_rewinds_a_feed_that_has_gone_on(lake: Lake) -> None:
    with Feed(lake.snapshot(), "train", OPTIONS) as feed:
        next(feed)
        state = feed.state()
        first = [next(feed).paths for _ in range(5)]
        feed.restore(state)
        assert [next(feed).paths for _ in range(5)] == first


def test_a_finished_feed_stays_finished(lake: Lake) -> None:
    with Feed(lake.snapshot(), "train", OPTIONS) as feed:
        assert sum(map(len, feed)) == 3 * len(FILES)
        assert list(feed) == []
        state = feed.state()
    with Feed(lake.snapshot(), "train", OPTIONS) as feed:
        feed.restore(state)
        assert list(feed) == []


def test_a_newer_snapshot_with_the_same_files_goes_on(lake: Lake) -> None:
    with Feed(lake.snapshot(), "train", OPTIONS) as feed:
        next(feed)
        state = feed.state()
    with lake.writer(QUIET) as writer:
        writer.put("elsewhere", b"")
    with Feed(lake.snapshot(), "train", OPTIONS) as feed:
        feed.restore(state)
        assert next(feed).cursor.position == 16


@pytest.mark.parametrize(
    ("other", "word"),
    [
        (FeedOptions(8, seed=1), "seed"),
        (FeedOptions(8, None), "shuffle"),
        (FeedOptions(8, "runs=2"), "shuffle"),
        (FeedOptions(8, "runs=2", window=9), "shuffle"),
    ],
)
def test_a_state_of_another_order_is_refused(lake: Lake, other: FeedOptions, word: str) -> None:
    with Feed(lake.snapshot(), "train", OPTIONS) as feed:
        state = feed.state()
    with Feed(lake.snapshot(), "train", other) as feed, pytest.raises(Invalid, match=word):
        feed.restore(state)


def test_a_state_of_other_files_is_refused(lake: Lake) -> None:
    with Feed(lake.snapshot(), "train/class0", OPTIONS) as feed:
        state = feed.state()
    with Feed(lake.snapshot(), "train", OPTIONS) as feed, pytest.raises(Invalid, match="selection"):
        feed.restore(state)


def test_a_feed_over_lakes_goes_on_with_the_same_files_and_no_others() -> None:
    volumes = {"/lake": MemoryVolume(), "/beside": MemoryVolume()}
    for volume in volumes.values():
        with lake_of(some_files(6), volume):
            pass
    mounts = Mounts((Mount("beside", "/beside"), Mount("lake", "/lake")))
    with (
        Federation("all", mounts, "/", volumes.__getitem__) as lakes,
        lakes.writer(QUIET) as writer,
    ):

        def feed() -> Feed:
            return Feed(lakes.snapshot(), "lake", FeedOptions(1))

        with feed() as first:
            state = next(first).state
            rest = [batch.paths for batch in first]
        writer.put("beside/new", b"1")
        writer.flush()
        with feed() as same:
            same.restore(state)
            assert [batch.paths for batch in same] == rest
        writer.put("lake/new", b"1")
        writer.flush()
        with feed() as other, pytest.raises(Invalid, match="selection"):
            other.restore(state)


@pytest.mark.parametrize(
    "change",
    [
        {"position": 10**6},
        {"position": -1},
        {"epoch": "0"},
        {"seed": True},
        {"more": 1},
        {"epoch": 1 << 64},
    ],
)
def test_a_damaged_state_is_refused(lake: Lake, change: dict[str, object]) -> None:
    with Feed(lake.snapshot(), "train", OPTIONS) as feed, pytest.raises(Invalid, match="state"):
        feed.restore({**feed.state(), **change})
    with Feed(lake.snapshot(), "train", OPTIONS) as feed, pytest.raises(Invalid, match="state"):
        feed.restore({"epoch": 0})


@pytest.mark.parametrize("state", [None, '{"epoch": 0}', {1: 2, "a": 3}, ["epoch"]])
def test_what_is_no_state_is_refused(lake: Lake, state: Any) -> None:
    with Feed(lake.snapshot(), "train", OPTIONS) as feed, pytest.raises(Invalid, match="mapping"):
        feed.restore(state)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_goes_on_from_where_its_parent_stood(lake: Lake) -> None:
    with Feed(lake.snapshot(), "train", OPTIONS) as feed:
        next(feed)
        read_end, write_end = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                os.write(write_end, json.dumps(next(feed).paths).encode())
            finally:
                os._exit(0)
        os.close(write_end)
        with os.fdopen(read_end) as answer:
            theirs = json.loads(answer.read())
        os.waitpid(child, 0)
        assert theirs == next(feed).paths


@pytest.mark.parametrize("every", [1, 2, 3, 7])
def test_feeds_that_take_turns_are_one_feed(lake: Lake, selection: Selection, every: int) -> None:
    options = FeedOptions(8, epochs=2)
    with Feed(lake.snapshot(), selection, options) as feed:
        whole = [(batch.paths, batch.state) for batch in feed]
    for skip in range(every):
        with Feed(lake.snapshot(), selection, options) as feed:
            feed.take_turns(skip, every)
            mine = [(batch.paths, batch.state) for batch in feed]
        assert mine == whole[skip::every]
        if len(mine) < 2:
            continue
        with Feed(lake.snapshot(), selection, options) as feed:
            feed.restore(mine[0][1])
            feed.take_turns(every - 1, every)
            assert [(batch.paths, batch.state) for batch in feed] == mine[1:]


def test_turns_that_cannot_be_are_refused(lake: Lake, selection: Selection) -> None:
    with Feed(lake.snapshot(), selection) as feed, pytest.raises(Invalid, match="turns"):
        feed.take_turns(0, 0)
