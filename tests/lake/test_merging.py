"""Index merges change no view and lose no tombstone; the loser of two leaves nothing (I4)."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lakefeed.errors import Conflict, VolumeFailed
from lakefeed.format.commit import SegmentInfo, State
from lakefeed.lake import merging
from lakefeed.lake.catalogue import sources_of
from lakefeed.lake.check import check
from lakefeed.lake.garbage import stored_files
from lakefeed.lake.lake import Lake
from lakefeed.lake.leveling import MergePlan
from lakefeed.lake.writer import WriterOptions
from lakefeed.volume.memory import MemoryVolume
from tests.lake.test_views import STEPS, replay
from tests.lake.tools import all_rows, contents, new_lake, small_groups, unmerged, write
from tests.support.faulty import FaultyVolume


@pytest.mark.slow
@settings(max_examples=25)
@given(STEPS, st.booleans())
def test_a_merge_changes_no_row(steps: list[object], everything: bool) -> None:
    with small_groups(), new_lake() as lake:
        replay(lake, steps)
        before = all_rows(lake.snapshot())
        lake.merge_index(everything=everything)
        after = lake.snapshot()
        assert all_rows(after) == before
        assert unmerged(after) == 0
        if everything:
            assert len({segment.level for segment in after.state.segments.values()}) <= 1
            assert not any(source.tombstones for source in sources_of(after.state))


def test_tombstones_stay_while_an_older_run_has_the_path() -> None:
    with new_lake() as lake:
        write(lake, {f"{number:03d}": b"x" for number in range(50)})
        lake.merge_index()
        write(lake, {}, delete=["007"])
        lake.merge_index()
        state = lake.snapshot().state
        assert sorted(info.tombstones for info in state.segments.values()) == [0, 1]
        assert not lake.snapshot().exists("007")
        lake.merge_index(everything=True)
        state = lake.snapshot().state
        assert [info.tombstones for info in state.segments.values()] == [0]
        assert [info.rows for info in state.segments.values()] == [49]


def test_the_losing_one_of_two_merges_is_a_conflict_and_leaves_no_orphan(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with new_lake() as lake:
        write(lake, {"a": b"1"})
        plan = merging.plan_merge

        def merge_in_between(*args: object, **kwargs: object) -> object:
            decided = plan(*args, **kwargs)  # type: ignore[arg-type]
            monkeypatch.setattr(merging, "plan_merge", plan)
            lake.merge_index()
            return decided

        monkeypatch.setattr(merging, "plan_merge", merge_in_between)
        with pytest.raises(Conflict):
            lake.merge_index()
        assert len(lake.snapshot().state.segments) == 1
        assert check(lake).counters.orphans == 0
        assert len(list(stored_files(lake.volume))) == 2


def test_of_two_merges_that_leave_nothing_the_second_is_a_conflict(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nothing of theirs overlaps: only the second one's inputs are gone."""
    volume = MemoryVolume()
    with new_lake(volume) as lake:
        write(lake, {"a": b"1", "b": b"1"})
        lake.merge_index()
        write(lake, {}, delete=["a", "b"])
        plan = merging.plan_merge

        def merge_in_between(*args: object, **kwargs: object) -> object:
            decided = plan(*args, **kwargs)  # type: ignore[arg-type]
            assert decided is not None and decided.segments
            monkeypatch.setattr(merging, "plan_merge", plan)
            lake.merge_index(everything=True)
            return decided

        monkeypatch.setattr(merging, "plan_merge", merge_in_between)
        with pytest.raises(Conflict, match="its inputs"):
            lake.merge_index(everything=True)
        assert not lake.snapshot().state.segments
    with Lake.open(volume) as lake:
        write(lake, {"c": b"2"})
        assert contents(lake.snapshot()) == {"c": b"2"}


def test_a_commit_during_a_merge_stays_unmerged_and_newest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with new_lake() as lake:
        write(lake, {"a": b"1", "b": b"1"})
        plan = merging.plan_merge

        def write_in_between(*args: object, **kwargs: object) -> object:
            decided = plan(*args, **kwargs)  # type: ignore[arg-type]
            monkeypatch.setattr(merging, "plan_merge", plan)
            write(lake, {"a": b"2"}, delete=["b"])
            return decided

        monkeypatch.setattr(merging, "plan_merge", write_in_between)
        lake.merge_index()
        assert unmerged(lake.snapshot()) == 1
        assert contents(lake.snapshot()) == {"a": b"2"}
        assert check(lake, deep=True).clean
        lake.merge_index()
        assert contents(lake.snapshot()) == {"a": b"2"}


def test_many_packs_are_merged_by_the_writer_itself() -> None:
    volume = MemoryVolume()
    with new_lake(volume) as lake:
        with lake.writer(WriterOptions(flush_age_seconds=1e9, merge_after=4)) as writer:
            for number in range(10):
                writer.put(f"{number}", b"x")
                writer.flush()
        assert unmerged(lake.snapshot()) < 4
        assert len(contents(lake.snapshot())) == 10
        assert check(lake, deep=True).clean


def test_a_segment_that_was_never_made_is_not_told_as_left_behind(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with new_lake() as lake:
        write(lake, {"a": b"1"})
        volume = FaultyVolume(lake.volume, 1, verbs=["create"])
        with Lake.open(volume) as refused, pytest.raises(VolumeFailed):
            refused.merge_index(everything=True)
    assert volume.fired
    assert caplog.text == ""


def test_an_empty_lake_merges_to_nothing() -> None:
    with new_lake() as lake:
        assert lake.merge_index(everything=True).number == 0
        write(lake, {"a": b""})
        write(lake, {}, delete=["a"])
        lake.merge_index(everything=True)
        assert contents(lake.snapshot()) == {}
        assert check(lake).clean
        write(lake, {"a": b"again"})
        assert contents(lake.snapshot()) == {"a": b"again"}


def test_a_few_new_rows_lie_above_the_many_old_ones() -> None:
    with new_lake() as lake:
        write(lake, {f"{number:02d}": b"old" for number in range(50)})
        lake.merge_index()
        write(lake, {"07": b"new"})
        lake.merge_index()
        levels = {one.rows: one.level for one in lake.snapshot().state.segments.values()}
        assert levels == {50: 1, 1: 2}
        assert lake.snapshot().get("07") == b"new"


@pytest.mark.parametrize("overlaps", [True, False])
def test_segments_that_meet_in_one_path_are_not_put_on_one_level(overlaps: bool) -> None:
    def segment(name: str, first: str, last: str) -> SegmentInfo:
        return SegmentInfo(name, 1, 1, 2, 0, first, last, 1, 1, level=1)

    there, moved = segment("there", "k", "p"), segment("moved", "a", "c")
    state = State(segments={"there": there, "moved": replace(moved, level=2)})
    plan = MergePlan(moved=("moved",), level=1)
    new = segment("new", "d", "k" if overlaps else "j")
    if overlaps:
        with pytest.raises(Conflict):
            merging.replacing(state, plan, [new])
    else:
        changes = merging.replacing(state, plan, [new])
        assert changes.add_segments == (moved, new)
        assert changes.remove_segments == ("moved",)
