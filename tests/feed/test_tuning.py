"""Windows grow to what is worth reading at once, and gaps are read where that is cheaper."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from lakefeed.feed.order import Shuffle
from lakefeed.feed.pace import Pace
from lakefeed.feed.partition import Partition
from lakefeed.feed.planning import Plan
from lakefeed.feed.slots import Limits
from lakefeed.feed.stats import Recorder
from lakefeed.feed.tuning import Tuner

GIB = 1 << 30
BATCH = 4


def plan(count: int, shuffle: Shuffle, world_size: int = 1) -> Plan:
    partition = Partition(BATCH, world_size=world_size)
    return Plan(count, partition, None, shuffle, lambda positions, key: positions)


def grown(
    sample_bytes: int,
    count: int = 10**9,
    mixed: int = 0,
    memory_bytes: int = GIB,
    depth: int = 10**9,
) -> Tuner:
    """A tuner whose windows had all the time to grow, on a volume that does not make wait."""
    limits, shuffle = Limits(depth, memory_bytes), Shuffle(8 if mixed else 1, mixed)
    return grow(Tuner(limits, Recorder(None), plan(count, shuffle)), sample_bytes)


def grow(tuner: Tuner, sample_bytes: int, beside_bytes: int = 0) -> Tuner:
    """`beside_bytes` is what each batch takes beside its samples."""
    for _ in range(40):
        batches = -(-tuner.samples() // BATCH)
        samples = batches * BATCH
        held: Any = SimpleNamespace(rows=range(samples),
                                    held_bytes=[sample_bytes * BATCH + beside_bytes] * batches,
                                    needed_bytes=sample_bytes * samples,
                                    batch_bytes=[sample_bytes * BATCH] * batches)  # fmt: skip
        tuner.planned(held)
    return tuner


def test_the_first_window_is_one_batch() -> None:
    assert Tuner(Limits(100, GIB), Recorder(None), plan(10**6, Shuffle(1))).samples() == 1


@pytest.mark.parametrize(("depth", "samples"), [(1, 1), (2, 1), (8, 4)])
def test_no_more_batches_are_planned_than_a_window_may_have(depth: int, samples: int) -> None:
    """What is more would be planned for nothing, again and again."""
    assert grown(4096, depth=depth).samples() == samples * BATCH


@pytest.mark.parametrize("sample_bytes", [4096, 110_000, 3_000_000])
def test_quick_reads_have_windows_of_some_megabytes(sample_bytes: int) -> None:
    assert 32 << 20 <= grown(sample_bytes).samples() * sample_bytes <= 40 << 20


@pytest.mark.parametrize(
    ("count", "mixed", "whole"),
    [(90, 0, 4 << 20), (2500, 0, 10 << 20), (10**6, 0, 40 << 20),
     (90, 16384, 4 << 20), (2500, 16384, 10 << 20)],
)  # fmt: skip
def test_a_window_holds_a_small_selection_once_and_not_many_epochs_of_it(
    count: int, mixed: int, whole: int
) -> None:
    tuner = grown(4096, count, mixed)
    assert 0.9 * whole <= tuner.window_bytes <= whole
    assert tuner.ahead_bytes <= 2 * whole


@pytest.mark.parametrize(
    ("memory_bytes", "window_bytes"), [(GIB, 16 << 20), (64 << 20, 16 << 20), (8 << 20, 2 << 20)]
)
def test_big_samples_that_come_slowly_have_windows_of_a_few_batches(
    memory_bytes: int, window_bytes: int
) -> None:
    tuner = grown(110_000, memory_bytes=memory_bytes)
    slow: Any = SimpleNamespace(unknown=False, waits=True, announces=False,
                                costs=SimpleNamespace(gap_bytes=0),
                                width=SimpleNamespace(target=64))  # fmt: skip
    tuner._recorder = cast("Recorder", SimpleNamespace(read_seconds=lambda share: 0.01))
    tuner.tuning(slow)
    assert tuner.samples() == window_bytes // 110_000
    assert window_bytes <= tuner.ahead_bytes == memory_bytes // 4


@pytest.mark.parametrize("mixed", [8192, 16384])
def test_small_samples_that_are_mixed_together_are_read_together(mixed: int) -> None:
    assert mixed <= grown(4500, mixed=mixed).samples() < 2 * mixed


def test_but_not_if_they_take_more_than_the_budget_or_a_cache_of_memory_has() -> None:
    assert grown(4096, mixed=16384, memory_bytes=64 << 20).samples() * 4096 <= 16 << 20
    assert grown(4096, mixed=10**6).samples() * 4096 <= 40 << 20
    assert grown(110_000, mixed=512).samples() * 110_000 <= 40 << 20


def announcing(shuffle: str | None, world_size: int = 1) -> Tuner:
    """A tuner on a volume whose reads would have to wait."""
    limits, order = Limits(10**9, GIB), Shuffle.parse(shuffle)
    tuner = Tuner(limits, Recorder(None), plan(10**9, order, world_size))
    announced: Any = SimpleNamespace(unknown=False, waits=True, announces=True,
                                     costs=SimpleNamespace(gap_bytes=0),
                                     width=SimpleNamespace(target=2))  # fmt: skip
    tuner.tuning(announced)
    return tuner


@pytest.mark.parametrize(
    ("shuffle", "sample_bytes", "world_size", "window_bytes"),
    [
        ("global", 4096, 1, GIB // 4),  # neighbours are as many as a window is big
        ("runs=8", 4096, 1, GIB // 4),
        ("runs=64", 4096, 1, 40 << 20),  # a run is worth a call by itself
        (None, 4096, 1, 40 << 20),
        ("runs=64", 4096, 8, GIB // 4),  # of which every rank has a share
        ("runs=64,window=16384", 4096, 1, 64 << 20),  # all that is mixed, so that runs are whole
        ("runs=64,window=100000", 4096, 1, GIB // 4),  # which this window is too big for
        ("runs=64,window=2048", 110_000, 1, 2048 * 110_000),
        ("global", 110_000, 1, 40 << 20),  # nothing is shared
    ],
)
def test_waiting_is_worth_big_windows_where_neighbours_are_found_in_them(
    shuffle: str | None, sample_bytes: int, world_size: int, window_bytes: int
) -> None:
    tuner = announcing(shuffle, world_size)
    assert grow(tuner, sample_bytes).samples() == window_bytes // sample_bytes


def test_what_small_batches_take_beside_their_samples_makes_no_run_worth_a_call() -> None:
    tuner = grow(announcing("runs=256"), 100, beside_bytes=4096)
    assert tuner.window_bytes == GIB // 4


@pytest.mark.parametrize(("count", "samples"), [(60_000, 30_000), (125_000, 62_500)])
def test_a_selection_that_is_small_beside_the_budget_is_read_by_halves(
    count: int, samples: int
) -> None:
    assert grown(4096, count).samples() == samples
    assert grown(4096, 4 * count, memory_bytes=GIB).samples() < samples


def test_gaps_are_wide_until_something_is_known_and_short_in_a_page_cache() -> None:
    tuner, pace = grown(4096), Pace()
    assert tuner.tuning(pace).gap_bytes == 256 << 10
    cached: Any = SimpleNamespace(unknown=False, waits=False, announces=False, width=pace.width,
                                  costs=SimpleNamespace(gap_bytes=10**9))  # fmt: skip
    assert tuner.tuning(cached).gap_bytes == 16 << 10
    waiting: Any = SimpleNamespace(**{**vars(cached), "waits": True})
    assert tuner.tuning(waiting).gap_bytes == 1 << 20
