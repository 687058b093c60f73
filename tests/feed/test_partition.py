"""Ranks share an epoch: disjoint, complete, equally many batches, from any position (I8)."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lakefeed.errors import Invalid
from lakefeed.feed.cursor import Cursor
from lakefeed.feed.order import Shuffle
from lakefeed.feed.partition import LAST, Partition
from lakefeed.feed.planning import EMPTY, Plan

COUNTS = st.integers(1, 400)
BATCHES = st.integers(1, 40)
WORLDS = st.integers(1, 9)
START = Cursor(1, "00000000", "global", 3, 0, 0)


def plan(count: int, partition: Partition, epochs: int | None = 1) -> Plan:
    shuffle = Shuffle(1)
    order = partial(lambda positions, key: shuffle.samples(positions, count, key))
    return Plan(count, partition, epochs, shuffle, order)


def served(plan: Plan, cursor: Cursor, samples: int = 50) -> list[tuple[list[int], int]]:
    """The numbers of each batch, and how many of them are real."""
    batches = []
    draft = plan.draft(cursor, samples)
    while draft is not None:
        for at in range(len(draft)):
            part = draft.numbers[draft.splits[at] : draft.splits[at + 1]]
            batches.append((part.tolist(), draft.real[at]))
        draft = plan.draft(draft.cursors[-1], samples)
    return batches


def ranks_of(count: int, batch_size: int, world_size: int, last: str) -> list:
    return [
        served(plan(count, Partition(batch_size, rank, world_size, last)), START)  # type: ignore[arg-type]
        for rank in range(world_size)
    ]


@given(COUNTS, BATCHES, WORLDS, st.sampled_from(LAST))
def test_every_rank_gets_as_many_batches_as_was_said(
    count: int, batch_size: int, world_size: int, last: str
) -> None:
    for rank, batches in enumerate(ranks_of(count, batch_size, world_size, last)):
        partition = Partition(batch_size, rank, world_size, last)  # type: ignore[arg-type]
        assert len(batches) == partition.batches(count)
        assert Partition(batch_size, 0, world_size, last).batches(count) == len(batches)  # type: ignore[arg-type]


@given(COUNTS, BATCHES, WORLDS, st.sampled_from(["keep", "pad", "repeat"]))
def test_ranks_are_disjoint_and_complete(
    count: int, batch_size: int, world_size: int, last: str
) -> None:
    ranks = ranks_of(count, batch_size, world_size, last)
    numbers = [n for batches in ranks for batch, real in batches for n in batch[:real]]
    assert sorted(numbers) == list(range(count))


@given(COUNTS, BATCHES, WORLDS)
def test_what_is_kept_is_shared_evenly(count: int, batch_size: int, world_size: int) -> None:
    ranks = ranks_of(count, batch_size, world_size, "keep")
    for step in zip(*ranks, strict=True):
        sizes = [len(batch) for batch, _ in step]
        assert max(sizes) - min(sizes) <= 1
        assert max(sizes) <= batch_size + 1
        assert min(sizes) >= 1 or count < world_size


@given(COUNTS, BATCHES, WORLDS)
def test_dropping_the_last_step_leaves_equal_full_batches(
    count: int, batch_size: int, world_size: int
) -> None:
    ranks = ranks_of(count, batch_size, world_size, "drop")
    assert {len(batches) for batches in ranks} == {count // (batch_size * world_size)}
    assert {len(batch) for batches in ranks for batch, _ in batches} <= {batch_size}
    numbers = [n for batches in ranks for batch, _ in batches for n in batch]
    assert len(set(numbers)) == len(numbers)


@given(COUNTS, BATCHES, WORLDS, st.sampled_from(["pad", "repeat"]))
def test_padding_and_repeating_fill_every_batch(
    count: int, batch_size: int, world_size: int, last: str
) -> None:
    ranks = ranks_of(count, batch_size, world_size, last)
    order = Shuffle(1).samples(np.arange(count), count, (3, 0)).tolist()
    assert {len(batch) for batches in ranks for batch, _ in batches} == {batch_size}
    fill = [n for batches in ranks for batch, real in batches for n in batch[real:]]
    if last == "pad":
        assert set(fill) <= {EMPTY}
    else:
        assert fill == [order[at % count] for at in range(len(fill))]


@given(
    COUNTS,
    st.sampled_from([12, 24, 48]),
    st.lists(st.sampled_from([1, 2, 3, 4, 6]), min_size=2),
    st.sampled_from(["keep", "pad", "repeat"]),
)
def test_a_change_of_world_size_repeats_and_misses_nothing(
    count: int, together: int, worlds: list[int], last: str
) -> None:
    """Each world serves one step and hands its cursor to the next one, over two epochs."""
    cursor, seen = START, []
    for world_size in worlds * (2 * count):
        if cursor.epoch == 2:
            break
        after = cursor
        for rank in range(world_size):
            partition = Partition(together // world_size, rank, world_size, last)  # type: ignore[arg-type]
            draft = plan(count, partition, 2).draft(cursor, 1)
            assert draft is not None
            seen += draft.numbers[: draft.real[0]].tolist()
            after = draft.cursors[0]
        cursor = after
    assert cursor == Cursor(1, "00000000", "global", 3, 2, 0)
    assert sorted(seen) == sorted([*range(count), *range(count)])


@given(st.integers(1, 80), st.integers(1, 9), st.integers(2, 20), st.integers(1, 3),
       st.integers(1, 50))  # fmt: skip
def test_a_draft_holds_windows_of_the_order_whole_if_it_holds_several(
    count: int, batch_size: int, window: int, world_size: int, samples: int
) -> None:
    shuffle = Shuffle(2, window)
    order = partial(lambda positions, key: shuffle.samples(positions, count, key))
    partition = Partition(batch_size, 0, world_size)
    whole = Plan(count, partition, 1, shuffle, order)
    cursor, numbers = START, list[int]()
    while (draft := whole.draft(cursor, samples)) is not None:
        first, last = cursor.position // window, (draft.cursors[-1].position or count) // window
        behind = draft.cursors[-1]
        if last > first + 1 and behind.epoch == 0:
            # It ends with the step that crosses the end of a window.
            assert behind.position % window < batch_size * world_size
        assert len(draft) == 1 or draft.splits[-1] < samples + 2 * batch_size
        numbers += draft.numbers.tolist()
        cursor = behind
    alone = [number for batch, _ in served(whole, START, 1) for number in batch]
    assert numbers == alone


@given(COUNTS, BATCHES, st.integers(0, 1 << 32))
def test_each_epoch_has_an_order_of_its_own_and_holds_everything(
    count: int, batch_size: int, seed: int
) -> None:
    start = Cursor(1, "00000000", "global", seed, 0, 0)
    numbers = [
        n for batch, _ in served(plan(count, Partition(batch_size), 3), start) for n in batch
    ]
    epochs = [numbers[at * count : (at + 1) * count] for at in range(3)]
    assert [sorted(epoch) for epoch in epochs] == [list(range(count))] * 3
    if count > 20:
        assert len({tuple(epoch) for epoch in epochs}) == 3


@given(COUNTS, BATCHES, WORLDS, st.integers(1, 300))
def test_drafting_many_batches_at_once_changes_nothing(
    count: int, batch_size: int, world_size: int, samples: int
) -> None:
    one = plan(count, Partition(batch_size, 0, world_size, "repeat"), 2)
    assert served(one, START, samples) == served(one, START, 1)


def test_a_state_holds_any_seed_and_other_numbers_only_below_2_62() -> None:
    for name, end in (("seed", 1 << 64), ("epoch", 1 << 62), ("position", 1 << 62)):
        state = {**START.state(), name: end - 1}
        assert Cursor.of(state).state() == state
        for number in (end, -1, 1.0, True):
            with pytest.raises(Invalid, match=name):
                Cursor.of({**state, name: number})


def test_a_rank_that_would_wait_for_ever_is_refused() -> None:
    for partition, count in (
        (Partition(32, last="drop"), 10),
        (Partition(32, 3, 4), 3),
        (Partition(32, 0, 4), 3),
    ):
        with pytest.raises(Invalid, match="at least one batch"):
            partition.check(count)
    Partition(32, 3, 4, "repeat").check(3)
    Partition(1, 3, 4, "keep").check(4)


@pytest.mark.parametrize(
    ("batch", "rank", "world", "blamed"),
    [
        (0, 0, 1, "batch_size"),
        (1, 1, 1, "rank"),
        (1, -1, 2, "rank"),
        (1, 0, 0, "world_size"),
        (1, 0, -1, "world_size"),
    ],
)
def test_an_impossible_share_is_refused(batch: int, rank: int, world: int, blamed: str) -> None:
    with pytest.raises(Invalid, match=f"^Invalid: {blamed}, expected "):
        Partition(batch, rank, world)


def test_an_unknown_rule_for_the_last_step_is_refused() -> None:
    with pytest.raises(Invalid, match="keep, drop, pad, repeat"):
        Partition(1, last="most")  # type: ignore[arg-type]
