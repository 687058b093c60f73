"""A child that is forked while other threads work waits for none of them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray

from lakefeed.feed.feed import Feed, FeedOptions
from lakefeed.feed.indexed import Indexed
from lakefeed.forking import Lazy, new_lock
from lakefeed.lake.lake import Lake
from lakefeed.lake.once import Once
from lakefeed.lake.snapshot import Snapshot
from tests.feed.lakes import lake_of, some_files
from tests.support.forks import in_child

pytestmark = pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")

OPTIONS = FeedOptions(8, seed=3)


class Gate:
    """Holds the first who comes through; those in a forked child come after him."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.opened = threading.Event()

    def pass_through(self) -> None:
        if not self.reached.is_set():
            self.reached.set()
            assert self.opened.wait(60.0)


@contextmanager
def held_up(gate: Gate, action: Callable[[], object]) -> Iterator[None]:
    """Inside of the block a thread that does something is at the gate."""
    thread = threading.Thread(target=action)
    thread.start()
    try:
        assert gate.reached.wait(60.0)
        yield
    finally:
        gate.opened.set()
        thread.join()


@pytest.fixture(scope="module")
def lake() -> Iterator[Lake]:
    with lake_of(some_files(200)) as lake:
        lake.merge_index(everything=True)
        yield lake


def test_a_lock_is_free() -> None:
    lock, gate = new_lock(), Gate()

    def hold() -> None:
        with lock:
            gate.pass_through()

    def take() -> None:
        with lock:
            assert lock.locked()
        assert not lock.locked()

    with held_up(gate, hold):
        assert in_child(take)
        assert lock.locked()


def test_a_value_that_a_thread_computes_is_computed() -> None:
    gate = Gate()

    class Owner:
        @Lazy
        def value(self) -> int:
            gate.pass_through()
            return 7

    owner, other = Owner(), Owner()
    with held_up(gate, lambda: owner.value):
        assert in_child(lambda: [owner.value, other.value].index(7))


def test_a_value_that_several_threads_compute_is_one_for_all_of_them() -> None:
    gate = Gate()
    seen: list[object] = []

    class Owner:
        @Lazy
        def value(self) -> object:
            gate.pass_through()
            return object()

    owner = Owner()
    with held_up(gate, lambda: seen.append(owner.value)):
        first = owner.value
    assert seen == [first]
    assert owner.value is first


def test_a_value_that_a_thread_makes_once_is_made() -> None:
    gate = Gate()

    def make() -> int:
        gate.pass_through()
        return 7

    once = Once(make)
    with held_up(gate, once.get):
        assert in_child(lambda: [once.get(), once.peek()].index(7, 1))


def test_a_feed_in_use_goes_on_while_its_index_is_being_read(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Feed(lake.snapshot(), "train", OPTIONS) as feed:
        expected = next(feed).bytes()
    gate, usual = Gate(), Snapshot.read_extents

    def gated(snapshot: Snapshot, *wanted: object) -> pa.Table:
        gate.pass_through()
        return usual(snapshot, *wanted)  # type: ignore[arg-type]

    monkeypatch.setattr(Snapshot, "read_extents", gated)
    with Feed(lake.snapshot(), "train", OPTIONS) as feed:
        assert isinstance(feed.selection, Indexed)

        def first_batch() -> None:
            assert next(feed).bytes() == expected

        with held_up(gate, first_batch):
            assert in_child(first_batch)


def test_the_paths_of_a_batch_are_told_while_those_of_another_are_looked_up(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, usual = Gate(), Indexed.paths

    def gated(selection: Indexed, numbers: NDArray[np.int64]) -> pa.Array:
        gate.pass_through()
        return usual(selection, numbers)

    monkeypatch.setattr(Indexed, "paths", gated)
    with Feed(lake.snapshot(), "train", OPTIONS) as feed:
        mine, other = next(feed), next(feed)
        with held_up(gate, lambda: other.paths):
            assert in_child(lambda: mine.paths[7])


def test_a_feed_in_use_answers_and_closes(lake: Lake) -> None:
    with Feed(lake.snapshot(), "train", OPTIONS) as feed:
        next(feed)

        def look_and_close() -> None:
            assert not feed.is_ready
            assert feed.stats().batches == 1
            feed.close()

        assert feed._ahead is not None
        with feed._ahead._lock:
            assert in_child(look_and_close)
