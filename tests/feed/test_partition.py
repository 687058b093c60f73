"""Ranks share an epoch: disjoint, complete, the same for the same seed (I8), from any position."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lakefeed.errors import Invalid
from lakefeed.feed.batch import Cursor
from lakefeed.feed.order import Partition
from lakefeed.feed.planning import Plan

COUNTS = st.integers(1, 400)
BATCHES = st.integers(1, 40)
WORLDS = st.integers(1, 9)
START = Cursor(1, "00000000", "global", 3, 0, 0)


def served(plan: Plan, cursor: Cursor) -> list[list[int]]:
    """The numbers of each batch; a rank that would get nothing gets an empty list."""
    if not plan.partition.batches(plan.count):
        return []
    return [part.numbers.tolist() for part in plan.assignments(cursor)]


@given(COUNTS, BATCHES, WORLDS)
def test_ranks_are_disjoint_and_complete(count: int, batch_size: int, world_size: int) -> None:
    ranks = [Partition(batch_size, rank, world_size) for rank in range(world_size)]
    numbers = [n for part in ranks for b in served(Plan(count, part, 1), START) for n in b]
    assert sorted(numbers) == list(range(count))


@given(COUNTS, BATCHES, WORLDS)
def test_dropping_the_last_step_leaves_equal_full_batches(
    count: int, batch_size: int, world_size: int
) -> None:
    ranks = [Partition(batch_size, rank, world_size, True) for rank in range(world_size)]
    batches = [served(Plan(count, part, 1), START) for part in ranks]
    assert {len(each) for each in batches} == {count // (batch_size * world_size)}
    assert {len(batch) for each in batches for batch in each} <= {batch_size}
    numbers = [n for each in batches for batch in each for n in batch]
    assert len(set(numbers)) == len(numbers)


@given(COUNTS, BATCHES, WORLDS, st.booleans())
def test_the_number_of_batches_is_known_beforehand(
    count: int, batch_size: int, world_size: int, drop_last: bool
) -> None:
    for rank in range(world_size):
        partition = Partition(batch_size, rank, world_size, drop_last)
        assert partition.batches(count) == len(served(Plan(count, partition, 1), START))


@given(
    COUNTS, st.sampled_from([12, 24, 48]), st.lists(st.sampled_from([1, 2, 3, 4, 6]), min_size=2)
)
def test_a_change_of_world_size_repeats_and_misses_nothing(
    count: int, together: int, worlds: list[int]
) -> None:
    """Each world serves one step and hands its cursor to the next one, over two epochs."""
    cursor, seen = START, []
    for world_size in (worlds * (2 * count))[: 2 * (-(-count // together))]:
        after = cursor
        for rank in range(world_size):
            plan = Plan(count, Partition(together // world_size, rank, world_size), 2)
            step = plan.partition.step(cursor.position, count)
            assert step is not None
            if step.high > step.low:
                part = next(iter(plan.assignments(cursor)))
                seen += part.numbers.tolist()
                after = part.cursor if rank == 0 else after
        cursor = after
    assert cursor == Cursor(1, "00000000", "global", 3, 2, 0)
    assert sorted(seen) == sorted([*range(count), *range(count)])


@given(COUNTS, BATCHES, WORLDS)
def test_the_first_rank_is_never_the_one_without_samples(
    count: int, batch_size: int, world_size: int
) -> None:
    steps = -(-count // (batch_size * world_size))
    assert Partition(batch_size, 0, world_size).batches(count) == steps


@given(COUNTS, BATCHES, st.integers(0, 1 << 32))
def test_each_epoch_has_an_order_of_its_own_and_holds_everything(
    count: int, batch_size: int, seed: int
) -> None:
    plan = Plan(count, Partition(batch_size), 3)
    start = Cursor(1, "00000000", "global", seed, 0, 0)
    numbers = np.concatenate([part.numbers for part in plan.assignments(start)])
    epochs = [numbers[at * count : (at + 1) * count].tolist() for at in range(3)]
    assert [sorted(epoch) for epoch in epochs] == [list(range(count))] * 3
    if count > 20:
        assert len({tuple(epoch) for epoch in epochs}) == 3


def test_a_rank_that_would_wait_for_ever_is_refused() -> None:
    with pytest.raises(Invalid, match="at least one batch"):
        next(Plan(10, Partition(32, drop_last=True), None).assignments(START))
    with pytest.raises(Invalid, match="rank 3 of 4"):
        next(Plan(3, Partition(32, 3, 4), None).assignments(START))


@pytest.mark.parametrize(("batch", "rank", "world"), [(0, 0, 1), (1, 1, 1), (1, -1, 2), (1, 0, 0)])
def test_an_impossible_share_is_refused(batch: int, rank: int, world: int) -> None:
    with pytest.raises(Invalid, match=r"batch_size|rank"):
        Partition(batch, rank, world)
