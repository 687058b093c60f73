"""A user's function beside the feed, in threads and in processes: order, errors, bounds, an end."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from pathlib import Path

import pytest

from lakefeed.adapters.decode import Samples, mapped
from lakefeed.errors import Invalid
from lakefeed.feed.feed import Feed, FeedOptions
from lakefeed.lake.lake import Lake
from tests.feed.lakes import lake_of, some_files
from tests.support.threads import Threads

pytestmark = pytest.mark.slow

FILES = some_files(60)
OPTIONS = FeedOptions(batch_size=7, seed=3)


@pytest.fixture(scope="module")
def lake() -> Iterator[Lake]:
    with lake_of(FILES) as lake:
        yield lake


def sizes(samples: Samples) -> list[tuple[str, int, int]]:
    """What a user does with bytes, and where it was done."""
    views = zip(samples.paths, samples.views, strict=True)
    return [(path, len(bytes(view)), os.getpid()) for path, view in views]


def fail_late(samples: Samples) -> int:
    """Fail in the third batch."""
    if samples.positions[0] == 14:
        raise ZeroDivisionError(f"with {samples.paths[0]}")
    return len(samples)


def give_up(samples: Samples) -> int:
    """Ask an iterator for more than it has."""
    empty: list[int] = []
    return next(iter(empty))


def positions(samples: Samples) -> list[tuple[str, int]]:
    return list(zip(samples.paths, samples.positions.tolist(), strict=True))


def placed(samples: Samples) -> tuple[int, list[tuple[str, int]]]:
    return samples.epoch, positions(samples)


def die(samples: Samples) -> int:
    """What a segmentation fault or the kernel's memory killer does."""
    os.kill(os.getpid(), signal.SIGKILL)
    return len(samples)


@pytest.mark.parametrize("processes", [False, True])
def test_results_come_in_the_order_of_the_feed(lake: Lake, processes: bool) -> None:
    with Feed(lake.snapshot(), "", OPTIONS) as feed:
        wanted = [[(path, len(FILES[path])) for path in batch.paths] for batch in feed]
    with (
        Feed(lake.snapshot(), "", OPTIONS) as feed,
        mapped(feed, sizes, workers=2, processes=processes) as results,
    ):
        assert len(results) == 9
        found = list(results)
        state = results.state()
    assert [[(path, size) for path, size, _ in batch] for batch in found] == wanted
    assert ({pid for batch in found for _, _, pid in batch} == {os.getpid()}) is not processes
    assert (state["epoch"], state["position"]) == (1, 0)


@pytest.mark.parametrize("processes", [False, True])
def test_an_error_comes_out_of_next_in_its_place(lake: Lake, processes: bool) -> None:
    with (
        Feed(lake.snapshot(), "", OPTIONS) as feed,
        mapped(feed, fail_late, workers=2, processes=processes) as results,
    ):
        assert [next(results), next(results)] == [7, 7]
        with pytest.raises(ZeroDivisionError, match="with train/"):
            next(results)
        with pytest.raises(Invalid, match="closed"):
            next(results)
        assert results.state()["position"] == 14  # what was taken


@pytest.mark.parametrize("processes", [False, True])
def test_a_function_that_lets_out_a_stop_iteration_does_not_end_the_epoch(
    lake: Lake, processes: bool
) -> None:
    with (
        Feed(lake.snapshot(), "", OPTIONS) as feed,
        mapped(feed, give_up, workers=1, processes=processes) as results,
        pytest.raises(RuntimeError, match="the transform raised StopIteration"),
    ):
        list(results)


@pytest.mark.parametrize("batch_size", [3, 6, 60])
def test_samples_behind_a_damaged_one_keep_their_positions(tmp_path: Path, batch_size: int) -> None:
    files = {f"{at:03d}": b"%03d unlike any other" % at for at in range(60)}
    with Lake.create(tmp_path) as lake, lake.writer() as writer:
        for path, data in files.items():
            writer.put(path, data)
    (pack,) = (tmp_path / "packs").rglob("*.pack")
    pack.write_bytes(pack.read_bytes().replace(b"007 unlike", b"007 UNLIKE"))
    options = FeedOptions(batch_size, shuffle=None, on_corrupt="skip")
    with Feed(tmp_path, "", options) as feed, mapped(feed, positions, workers=1) as results:
        found = dict(pair for batch in results for pair in batch)
    assert found == {path: int(path) for path in files if path != "007"}


def test_samples_of_the_next_epoch_have_its_positions(lake: Lake) -> None:
    """A feed that is restored at another batch size may find a rest that fills no step."""
    options = FeedOptions(8, last="drop", epochs=2)
    with Feed(lake.snapshot(), "", options) as feed:
        state = [next(feed).state for _ in range(5)][-1]
    wider = replace(options, batch_size=32)
    with Feed(lake.snapshot(), "", wider) as feed, mapped(feed, placed, workers=1) as results:
        straight = list(results)
    with Feed(lake.snapshot(), "", wider) as feed, mapped(feed, placed, workers=1) as results:
        feed.restore(state)
        assert list(results) == straight[1:]


def test_samples_of_a_worker_that_takes_turns_have_their_own_positions(lake: Lake) -> None:
    with Feed(lake.snapshot(), "", OPTIONS) as feed, mapped(feed, placed, workers=1) as results:
        straight = list(results)
    for worker in range(4):
        with Feed(lake.snapshot(), "", OPTIONS) as feed:
            feed.take_turns(worker, 4)
            with mapped(feed, placed, workers=1) as results:
                assert list(results) == straight[worker::4]


def test_a_process_that_dies_is_an_error_not_a_hang(lake: Lake) -> None:
    with (
        Feed(lake.snapshot(), "", OPTIONS) as feed,
        mapped(feed, die, workers=1, processes=True) as results,
        pytest.raises(BrokenProcessPool),
    ):
        next(results)


def test_no_more_batches_than_asked_are_in_the_works(lake: Lake) -> None:
    taken, started = 0, []
    gates = {position: threading.Event() for position in range(0, len(FILES), 7)}

    def slow(samples: Samples) -> int:
        position = int(samples.positions[0])
        started.append(position)
        assert gates[position].wait(60)
        return len(samples)

    with (
        Feed(lake.snapshot(), "", OPTIONS) as feed,
        mapped(feed, slow, workers=8, ahead=3) as results,
    ):
        for gate in gates.values():
            gate.set()
            next(results)
            taken += 1
            assert len(started) <= taken + 3
            assert int(feed.state()["position"] or 60) <= 7 * (taken + 3)  # type: ignore[arg-type]


def test_closing_early_leaves_no_thread_and_begins_nothing_more(
    lake: Lake, threads: Threads
) -> None:
    turns, begun = threading.Semaphore(1), []

    def slow(samples: Samples) -> int:
        begun.append(1)
        assert turns.acquire(timeout=60)
        return len(samples)

    with Feed(lake.snapshot(), "", OPTIONS) as feed:
        results = mapped(feed, slow, workers=1, ahead=4)
        next(results)
        shutdown = results._executor.shutdown

        def shut_down(**how: bool) -> None:
            # The second goes on once nobody can tell any more that the others were not dropped.
            shutdown(**{**how, "wait": False})
            turns.release(len(FILES))
            shutdown(**how)

        results._executor.shutdown = shut_down  # type: ignore[method-assign]
        results.close()
        results.close()
        assert len(begun) <= 2
    assert threads.left() == []


def test_serving_again_from_the_state_of_what_was_taken(lake: Lake) -> None:
    with (
        Feed(lake.snapshot(), "", OPTIONS) as feed,
        mapped(feed, sizes, workers=2, ahead=5) as results,
    ):
        taken = [next(results) for _ in range(4)]
        state = results.state()
    with Feed(lake.snapshot(), "", OPTIONS) as feed:
        feed.restore(state)
        with mapped(feed, sizes, workers=3) as results:
            taken += list(results)
    paths = [path for batch in taken for path, _, _ in batch]
    assert sorted(paths) == sorted(FILES)
