"""Merge plans: bounded whatever the size of the lake, geometric, and levels stay runs.

States are simulated: a merge is applied to the state as if every row survived, so that a lake of a
billion rows costs milliseconds.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lakefeed.format.commit import PackInfo, SegmentInfo, State
from lakefeed.format.pack import PackSealed
from lakefeed.lake import leveling
from lakefeed.lake.leveling import (
    GROWTH,
    MERGE_PACKS,
    MERGE_ROWS,
    SEGMENT_ROWS,
    SPREAD,
    MergePlan,
    plan_merge,
    plan_new,
    runs_of,
)

WIDTH = 12


def path(place: float) -> str:
    """Return a path at a share of the way through all paths."""
    return f"{int(place * 10**WIDTH):0{WIDTH}d}"


def pack(number: int, rows: int, span: tuple[float, float] = (0.0, 0.999)) -> PackInfo:
    id_ = f"{number:032x}"
    sealed = PackSealed(id_, 100, 4, 50, rows, 0, path(span[0]), path(span[1]), ())
    return PackInfo(sealed, number)


def segment(
    number: int, rows: int, span: tuple[float, float], level: int, seqs: tuple[int, int] = (1, 1)
) -> SegmentInfo:
    first, last = path(span[0]), path(span[1])
    return SegmentInfo(f"{number:032x}", 100, 50, rows, 0, first, last, *seqs, level)


def run(number: int, level: int, segments: int, rows: int) -> dict[str, SegmentInfo]:
    """Return a run of equal segments that cover all paths."""
    made = [
        segment(number + at, rows, (at / segments, (at + 0.999) / segments), level)
        for at in range(segments)
    ]
    return {one.id: one for one in made}


class Simulated:
    """A lake of rows spread evenly over its sources' ranges; merges keep all rows."""

    def __init__(self) -> None:
        self.state = State()
        self.ids = 10**9
        self.costs: list[int] = []

    def add(self, rows: int, span: tuple[float, float] = (0.0, 0.999)) -> None:
        number = self.state.number + 1
        made = pack(number, rows, span)
        packs = {**self.state.packs, made.sealed.id: made}
        self.state = replace(self.state, number=number, packs=packs)

    def merge(self) -> MergePlan:
        plan = plan_merge(self.state)
        if plan.empty:
            return plan
        packs = {
            id_: replace(info, indexed=info.indexed or id_ in plan.packs)
            for id_, info in self.state.packs.items()
        }
        spans = [(int(i.sealed.first), int(i.sealed.last), i.sealed.rows)
                 for id_, i in self.state.packs.items() if id_ in plan.packs]  # fmt: skip
        spans += [(int(one.first), int(one.last), one.rows)
                  for id_, one in self.state.segments.items() if id_ in plan.segments]  # fmt: skip
        segments = {id_: one for id_, one in self.state.segments.items()
                    if id_ not in plan.segments}  # fmt: skip
        for id_ in plan.moved:
            segments[id_] = replace(segments[id_], level=plan.level)
        for made in self.written(spans, plan):
            segments[made.id] = made
        self.costs.append(plan.rows)
        number = self.state.number + 1
        self.state = replace(self.state, number=number, packs=packs, segments=segments)
        return plan

    def written(self, spans: list[tuple[int, int, int]], plan: MergePlan) -> list[SegmentInfo]:
        """Cut what the spans hold into segments as `lake.segments` does."""
        cuts = {int(cut) for cut in plan.cuts}
        edges = sorted({*cuts, *(edge for a, b, _ in spans for edge in (a, b + 1))})
        made: list[SegmentInfo] = []
        begin, end, held = -1, -1, 0.0
        for left, right in pairwise(edges):
            rows = sum(n * (right - left) / (b + 1 - a) for a, b, n in spans if a <= left <= b)
            at = left
            while rows and at < right:
                crossed = any(end < cut <= at for cut in cuts)
                if begin >= 0 and (crossed or held >= leveling.SEGMENT_ROWS):
                    made.append(self.one(held, (begin, end), plan.level))
                    begin, held = -1, 0.0
                begin = at if begin < 0 else begin
                share = min((leveling.SEGMENT_ROWS - held) / rows, 1.0)
                end = right - 1 if share == 1 else min(at + int((right - at) * share), right - 1)
                held += rows * (end + 1 - at) / (right - at)
                rows -= rows * (end + 1 - at) / (right - at)
                at = end + 1
        if begin >= 0:
            made.append(self.one(held, (begin, end), plan.level))
        return made

    def one(self, rows: float, span: tuple[int, int], level: int) -> SegmentInfo:
        self.ids += 1
        made = segment(self.ids, max(round(rows), 1), (0, 0), level)
        first, last = (f"{at:0{WIDTH}d}" for at in span)
        return replace(made, first=first, last=last)

    def settle(self) -> None:
        for _ in range(1000):
            if self.merge().empty:
                return
        raise AssertionError("merging never ends")

    def check(self) -> None:
        for one in runs_of(self.state):
            for left, right in pairwise(one.segments):
                assert left.last < right.first, "a level is no run any more"


@given(
    runs=st.lists(st.tuples(st.integers(1, 30), st.integers(1, SEGMENT_ROWS)), max_size=4),
    packs=st.lists(st.integers(1, 1 << 20), max_size=8),
)
def test_a_plan_takes_the_oldest_packs_and_the_newest_whole_runs(
    runs: list[tuple[int, int]], packs: list[int]
) -> None:
    segments: dict[str, SegmentInfo] = {}
    for level, (count, rows) in enumerate(runs, 1):
        segments.update(run(1000 * level, level, count, rows))
    made = {info.sealed.id: info for info in (pack(9 + n, rows) for n, rows in enumerate(packs))}
    state = State(number=99, packs=made, segments=segments)
    plan = plan_new(state)
    assert plan.packs == tuple(made)
    taken = {state.segments[id_].level for id_ in plan.segments}
    below = {one.level for one in segments.values()} - taken
    assert not taken or not below or min(taken) > max(below)
    assert plan.level == min(taken, default=max(below, default=0) + 1)
    assert plan.drops_tombstones == (not below)
    assert plan.rows <= max(MERGE_ROWS, sum(packs))
    if below and plan.rows:
        rows = sum(one.rows for one in segments.values() if one.level == max(below))
        assert rows > GROWTH * plan.rows or rows + plan.rows > MERGE_ROWS


def test_too_many_packs_are_merged_a_share_at_a_time_the_oldest_first() -> None:
    made = [pack(number, 10) for number in range(1, 3 * MERGE_PACKS)]
    state = State(number=9999, packs={info.sealed.id: info for info in made})
    assert plan_merge(state).packs == tuple(info.sealed.id for info in made[:MERGE_PACKS])
    assert len(plan_new(state, ()).packs) == len(made)


def test_packs_of_one_commit_are_merged_together() -> None:
    made = [replace(pack(n, MERGE_ROWS), seq=1 + n // 3) for n in range(6)]
    state = State(number=9, packs={info.sealed.id: info for info in made})
    assert len(plan_merge(state).packs) == 3


def test_packs_of_later_commits_wait() -> None:
    state = State(number=7, packs={pack(7, 5).sealed.id: pack(7, 5)})
    assert plan_merge(state, 6).empty
    assert not plan_merge(state, 7).empty


def test_a_big_run_is_pushed_down_where_it_overlaps_the_least() -> None:
    lower = run(1, 1, 400, SEGMENT_ROWS)
    crowded = [segment(9000 + n, SEGMENT_ROWS, (n / 100, (n + 0.9) / 100), 2) for n in range(99)]
    sparse = segment(9999, SEGMENT_ROWS, (0.9911, 0.9912), 2)
    upper = {one.id: one for one in (*crowded, sparse)}
    plan = plan_merge(State(number=3, segments={**lower, **upper}))
    assert sparse.id in plan.segments
    assert plan.rows <= MERGE_ROWS
    assert plan.level == 1
    assert plan.drops_tombstones


def test_a_segment_that_overlaps_nothing_is_not_rewritten() -> None:
    lower = {one.id: one for one in [segment(1, 40 * SEGMENT_ROWS, (0.0, 0.5), 1)]}
    upper = {one.id: one for one in [segment(2, 20 * SEGMENT_ROWS, (0.6, 0.9), 2)]}
    plan = plan_merge(State(number=3, segments={**lower, **upper}))
    assert (plan.segments, plan.moved, plan.level) == ((), (f"{2:032x}",), 1)


def test_everything_is_one_run() -> None:
    lower, upper = run(1, 3, 10, 9 * SEGMENT_ROWS), run(100, 5, 3, 1000)
    state = State(number=3, segments={**lower, **upper}, packs={pack(3, 9).sealed.id: pack(3, 9)})
    plan = plan_merge(state, everything=True)
    assert {*plan.segments, *plan.moved} == {*lower, *upper}
    assert (len(plan.packs), plan.drops_tombstones) == (1, True)


def test_runs_without_a_level_come_last_by_their_seq() -> None:
    old = [segment(n, 5, (n / 9, n / 9 + 0.1), 0, (n // 2 * 10 + 1, n // 2 * 10 + 9))
           for n in range(4)]  # fmt: skip
    new = segment(9, 5, (0, 1), 1)
    state = State(number=99, segments={one.id: one for one in (*old, new)})
    runs = runs_of(state)
    assert [one.level for one in runs] == [1, 0, 0]
    assert [one.segments[0].seq_max for one in runs] == [1, 19, 9]
    assert plan_merge(state).level == 1


@pytest.mark.slow
@pytest.mark.parametrize("spread", [0.999, 0.01], ids=["anywhere", "neighbours"])
def test_a_lake_that_grows_to_a_billion_rows_never_merges_more_than_a_bounded_share(
    spread: float,
) -> None:
    lake = Simulated()
    written = 0
    for number in range(250):
        start = (number * 0.617) % max(1 - spread, 1e-9)
        for _ in range(4):
            lake.add(1 << 20, (start, start + spread))
            written += 1 << 20
        lake.settle()
        lake.check()
    assert written > 10**9
    rows = sum(one.rows for one in lake.state.segments.values())
    assert abs(rows - written) < written / 100
    assert max(lake.costs) <= MERGE_ROWS + (1 + SPREAD) * 2 * SEGMENT_ROWS
    runs = runs_of(lake.state)
    for upper, lower in pairwise(runs):
        assert lower.rows > GROWTH * upper.rows
    assert len(runs) <= 5
    # Each row is rewritten a few times for each level it goes down.
    assert sum(lake.costs) / written < 5 * GROWTH


@settings(max_examples=30)
@given(
    st.lists(
        st.tuples(st.integers(1, 400), st.floats(0, 0.9), st.sampled_from([0.001, 0.05, 0.099])),
        min_size=1,
        max_size=25,
    )
)
def test_levels_stay_runs_whatever_arrives(packs: list[tuple[int, float, float]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(leveling, "SEGMENT_ROWS", 100)
        patch.setattr(leveling, "MERGE_ROWS", 600)
        patch.setattr(leveling, "SPREAD", 2)
        lake = Simulated()
        for rows, start, width in packs:
            lake.add(rows, (start, start + width))
            lake.settle()
            lake.check()
        assert not [one for one in lake.state.packs.values() if not one.indexed]
