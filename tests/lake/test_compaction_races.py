"""Compaction beside writers, merges and another compaction.

Other writers run inside the progress callback: between the plan and the copying, or between the
index and the commit. Whoever loses leaves nothing behind (I4).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from lakefeed import Lake
from lakefeed.errors import Conflict
from lakefeed.format.commit import State
from lakefeed.format.rows import Kind, rows_from_table
from lakefeed.lake.compaction import CompactionOptions
from lakefeed.lake.compactor import compact
from lakefeed.lake.garbage import Retention, collect
from lakefeed.lake.lake import Lake as OpenLake
from lakefeed.lake.writer import Writer
from tests.lake.compacting import AT_ONCE, FILES, STAGES, during, filled, sound
from tests.lake.tools import QUIET, contents, new_lake, small_groups, write


@pytest.fixture
def lake() -> Iterator[OpenLake]:
    with Lake.open(filled()) as lake:
        yield lake


def changed(lake: OpenLake, change: Callable[[Writer], object]) -> Callable[[], None]:
    def act() -> None:
        with Lake.open(lake.volume) as other, other.writer(QUIET) as writer:
            change(writer)

    return act


@pytest.mark.parametrize("stage", STAGES)
def test_puts_and_deletes_always_win(lake: OpenLake, stage: str) -> None:
    def change(writer: Writer) -> None:
        writer.put("1", b"overwritten")
        writer.put("new", b"new")
        writer.delete("2")

    compact(lake, progress=during(stage, changed(lake, change)))
    expected = {**FILES, "1": b"overwritten", "new": b"new"}
    del expected["2"]
    assert contents(lake.snapshot()) == expected
    sound(lake)
    # Packs alone say the same: their newest rows are not those of the newest pack.
    snapshot = lake.snapshot()
    tables = snapshot.scan_packs([*snapshot.state.packs], "", None)
    rows = [row for table in tables for row in rows_from_table(table)]
    assert {row.path for row in rows if row.kind is not Kind.TOMBSTONE} == expected.keys()
    assert {row.path: row.seq for row in rows}["1"] == snapshot.stat("1").seq
    lake.merge_index(everything=True)
    compact(lake)
    assert contents(lake.snapshot()) == expected
    sound(lake)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("verb", ["rename", "copy"])
def test_a_new_reference_to_an_input_wins_and_nothing_is_left(
    lake: OpenLake, stage: str, verb: str
) -> None:
    def change(writer: Writer) -> None:
        writer.rename("1", "one") if verb == "rename" else writer.copy("1", "one")

    with pytest.raises(Conflict):
        compact(lake, progress=during(stage, changed(lake, change)))
    assert lake.snapshot().get("one") == FILES["1"]
    sound(lake)
    compact(lake)
    assert lake.snapshot().get("one") == FILES["1"]
    assert lake.snapshot().exists("1") == (verb == "copy")
    sound(lake)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("everything", [False, True])
def test_a_merge_in_between_costs_only_the_index(
    lake: OpenLake, stage: str, everything: bool
) -> None:
    def act() -> None:
        with Lake.open(lake.volume) as other:
            write(other, {"6": b"6"}, delete=["0", "4"])
            other.merge_index(everything=everything)

    done = compact(lake, progress=during(stage, act))
    assert done.snapshot is not None
    expected = {**FILES, "6": b"6"}
    del expected["0"], expected["4"]  # their tombstones may be merged away: they stay deleted
    assert contents(lake.snapshot()) == expected
    sound(lake)


@pytest.mark.parametrize("stage", STAGES)
def test_what_is_deleted_meanwhile_stays_deleted_where_its_tombstone_is_merged_away(
    lake: OpenLake, stage: str
) -> None:
    lake.merge_index(everything=True)  # nothing is left to merge, so nothing else gives notice

    def act() -> None:
        with Lake.open(lake.volume) as other:
            write(other, {}, delete=["1"])
            other.merge_index(everything=True)
            assert not any(source.tombstones for source in other.snapshot().sources)

    done = compact(lake, progress=during(stage, act))
    assert done.snapshot is not None
    assert contents(lake.snapshot()) == {path: data for path, data in FILES.items() if path != "1"}
    sound(lake)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("verb", ["rename", "copy"])
def test_a_new_reference_wins_also_where_its_row_is_merged_already(
    lake: OpenLake, stage: str, verb: str
) -> None:
    lake.merge_index(everything=True)

    def act() -> None:
        with Lake.open(lake.volume) as other:
            with other.writer(QUIET) as writer:
                writer.rename("1", "one") if verb == "rename" else writer.copy("1", "one")
            other.merge_index(everything=True)

    with pytest.raises(Conflict):
        compact(lake, progress=during(stage, act))
    assert lake.snapshot().get("one") == FILES["1"]
    sound(lake)


def test_levels_pushed_down_meanwhile_cost_nothing() -> None:
    with small_groups(), new_lake() as lake:
        for number in range(6):
            write(lake, {f"{n:02}": bytes([n + 1]) * 40 for n in range(number, 60, 6)})
            lake.merge_index()
        before = contents(lake.snapshot())

        def act() -> None:
            with Lake.open(lake.volume) as other:
                write(other, {"05": b"overwritten", "new": b"new"})
                other.merge_index()

        compact(lake, progress=during("index", act))
        expected = {**before, "05": b"overwritten", "new": b"new"}
        assert contents(lake.snapshot()) == expected
        sound(lake)
        lake.merge_index(everything=True)
        assert contents(lake.snapshot()) == expected
        sound(lake)


def test_merges_that_never_stop_are_a_conflict(lake: OpenLake) -> None:
    def progress(stage: str, done: int, total: int) -> None:
        if stage == "index":
            write(lake, {"again": b"1"})
            lake.merge_index(everything=True)

    with pytest.raises(Conflict, match="merges"):
        compact(lake, progress=progress)
    assert contents(lake.snapshot()) == {**FILES, "again": b"1"}
    sound(lake)


@pytest.mark.parametrize("stage", STAGES)
def test_of_two_compactions_one_wins_and_the_other_leaves_nothing(
    lake: OpenLake, stage: str
) -> None:
    def act() -> None:
        with Lake.open(lake.volume) as other:
            compact(other)
            collect(other, Retention(keep_seconds=0))

    with pytest.raises(Conflict, match="compacted by another"):
        compact(lake, progress=during(stage, act))
    assert contents(lake.snapshot()) == FILES
    assert len(lake.snapshot().state.packs) == 1
    sound(lake)


def test_two_compactions_of_different_packs_both_win() -> None:
    with new_lake() as lake:
        for number in range(4):
            write(lake, {f"{number}/a": bytes(3000), f"{number}/b": bytes(3000)})
        write(lake, {}, delete=["0/a", "0/b", "1/a", "1/b"])
        lake.merge_index(everything=True)
        before = contents(lake.snapshot())
        only = CompactionOptions(target_bytes=1, rows_max=1)

        def act() -> None:
            write(lake, {"s1": b"1"})
            write(lake, {"s2": b"2"})
            with Lake.open(lake.volume) as second:
                done = compact(second, CompactionOptions(target_bytes=6000, live_ratio=0))
                assert len(done.packs_removed) >= 2

        done = compact(lake, only, progress=during("index", act))
        assert len(done.packs_removed) == 1
        assert contents(lake.snapshot()) == {**before, "s1": b"1", "s2": b"2"}
        sound(lake)


def test_an_index_merge_planned_before_a_compaction_brings_nothing_deleted_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with new_lake() as lake, Lake.open(lake.volume) as other:
        kept = {f"big/{n:02}": bytes(1000) for n in range(40)}
        small = {f"small/{n}": b"1" for n in range(4)}
        write(lake, kept)
        write(lake, dict(list(small.items())[:2]))
        write(lake, dict(list(small.items())[2:]))
        lake.merge_index(everything=True)
        publish, published = lake.log.commit, []

        def commit_compaction(*what: Any) -> State:
            # The compaction is written. Now files are deleted, and their tombstones are merged
            # away by a merge whose commit comes behind that of the compaction.
            write(other, {}, delete=[*small, *list(kept)[:8]])
            merge = other.log.commit

            def commit_merge(*merged: Any) -> State:
                published.append(publish(*what))
                return merge(*merged)

            monkeypatch.setattr(other.log, "commit", commit_merge)
            with pytest.raises(Conflict, match="above"):
                other.merge_index()
            monkeypatch.setattr(other.log, "commit", merge)
            return published[0]

        monkeypatch.setattr(lake.log, "commit", commit_compaction)
        done = compact(lake, CompactionOptions(target_bytes=40_000))
        assert done.snapshot == published[0].number
        expected = dict(list(kept.items())[8:])
        for _ in range(2):
            assert contents(other.snapshot()) == expected
            other.merge_index(everything=True)
        sound(other)


def test_a_compaction_whose_rows_refer_to_a_pack_that_another_took_gives_up() -> None:
    with new_lake() as lake:
        write(lake, {f"big/{n:02}": b"%d" % n * 1000 for n in range(40)})
        for name in ("one", "two"):
            with lake.writer(QUIET) as writer:
                writer.copy("big/00", name)
        small_ones = CompactionOptions(target_bytes=30_000)

        def act() -> None:
            with Lake.open(lake.volume) as other:
                write(other, {}, delete=[f"big/{n:02}" for n in range(2, 40)])
                done = compact(other, CompactionOptions(target_bytes=2))
                assert len(done.packs_removed) == 1

        with pytest.raises(Conflict, match="referred to"):
            compact(lake, small_ones, progress=during("index", act))
        collect(lake, AT_ONCE)
        expected = {"big/00": b"0" * 1000, "big/01": b"1" * 1000}
        expected |= {"one": b"0" * 1000, "two": b"0" * 1000}
        with Lake.open(lake.volume) as fresh:
            assert contents(fresh.snapshot()) == expected
        sound(lake)
