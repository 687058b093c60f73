"""gc deletes what no kept snapshot reaches, and nothing else (I3, I6)."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lakefeed.errors import Corrupt, SnapshotExpired, VolumeFailed
from lakefeed.format.commit import Changes
from lakefeed.lake import garbage, layout
from lakefeed.lake.check import check
from lakefeed.lake.garbage import (
    Facts,
    Reach,
    Retention,
    Stored,
    collect,
    plan_garbage,
    stored_files,
)
from lakefeed.lake.lake import Lake
from lakefeed.lake.log import Draft
from lakefeed.volume.base import FileStat
from lakefeed.volume.memory import MemoryVolume
from tests.lake.tools import contents, damage, new_lake, write
from tests.support.faulty import FaultyVolume

AT_ONCE = Retention(keep_seconds=0, grace_seconds=0)
DAY_NS = 24 * 3600 * 10**9


class Clock:
    """The server's time, moved by hand."""

    def __init__(self) -> None:
        self.now_ns = 1_700_000_000 * 10**9

    def __call__(self) -> int:
        self.now_ns += 1000
        return self.now_ns

    def pass_days(self, days: float) -> None:
        self.now_ns += int(days * DAY_NS)


def timed_lake() -> tuple[Lake, Clock]:
    clock = Clock()
    return Lake.create(MemoryVolume(clock_ns=clock)), clock


def drop_pack(lake: Lake, seq: int) -> str:
    """Remove the pack of one commit from the state, as compaction does; return its path."""
    (gone,) = [id_ for id_, info in lake.snapshot().state.packs.items() if info.seq == seq]
    lake.log.commit(Draft("test"), lambda state: Changes(remove_packs=(gone,)))
    return layout.pack_path(gone)


def on_volume(lake: Lake) -> set[str]:
    return set(stored_files(lake.volume))


def test_nothing_goes_while_snapshots_are_young() -> None:
    lake, clock = timed_lake()
    with lake:
        write(lake, {"a": b"1"})
        write(lake, {"a": b"2"})
        drop_pack(lake, 1)
        clock.pass_days(6)
        assert not collect(lake).plan.files
        assert contents(lake.snapshot(2)) == {"a": b"2"}
        assert lake.snapshot().state.horizon == 0


def test_what_only_given_up_snapshots_need_goes_and_they_say_so() -> None:
    lake, clock = timed_lake()
    with lake:
        write(lake, {"a": b"1"})
        write(lake, {"a": b"2"})
        path = drop_pack(lake, 1)
        clock.pass_days(8)
        write(lake, {"b": b"3"})
        done = collect(lake)
        assert [file.path for file in done.plan.files] == [path]
        assert (done.deleted, done.spared) == (1, 0)
        assert path not in on_volume(lake)
        head = lake.snapshot()
        assert head.state.horizon == 3  # it was the newest seven days ago
        assert contents(head) == {"a": b"2", "b": b"3"}
        with pytest.raises(SnapshotExpired):
            lake.snapshot(2)
        assert check(lake, deep=True).clean


def test_snapshots_are_not_given_up_for_nothing() -> None:
    with new_lake() as lake:
        write(lake, {"a": b"1"})
        write(lake, {"a": b"2"})
        assert collect(lake, AT_ONCE).plan.horizon is None
        assert contents(lake.snapshot(1)) == {"a": b"1"}
        assert lake.snapshot().number == 2


def test_a_dry_run_says_what_would_go_and_changes_nothing() -> None:
    with new_lake() as lake:
        write(lake, {"a": b"1"})
        path = drop_pack(lake, 1)
        before = on_volume(lake)
        done = collect(lake, AT_ONCE, dry_run=True)
        assert [file.path for file in done.plan.files] == [path]
        assert (done.deleted, done.dry_run) == (0, True)
        assert done.plan.bytes > 0
        assert on_volume(lake) == before
        assert lake.snapshot().number == 2
        assert collect(lake, AT_ONCE).plan == done.plan


@pytest.mark.parametrize("how", ["tag", "pin"])
def test_a_tagged_or_pinned_snapshot_stays_wholly_readable(how: str) -> None:
    lake, clock = timed_lake()
    with lake:
        write(lake, {"a": b"1", "b": b"2"})
        lake.merge_index()
        if how == "tag":
            lake.tag("keep", 2)
        else:
            lake.pin(2, holder="test", lifetime_seconds=3600)
        write(lake, {"a": b"3"})
        lake.merge_index(everything=True)
        drop_pack(lake, 1)
        collect(lake, AT_ONCE)
        assert contents(lake.snapshot(2)) == {"a": b"1", "b": b"2"}
        if how == "tag":
            lake.refs.delete("keep")
        clock.pass_days(1)
        assert collect(lake, AT_ONCE).deleted >= 2
        # An expired pin may still name the snapshot; its bytes are gone all the same.
        with pytest.raises(SnapshotExpired):
            contents(lake.snapshot(2))


def test_an_orphan_goes_only_after_the_grace() -> None:
    lake, clock = timed_lake()
    with lake:
        write(lake, {"a": b"1"})
        orphans = [layout.pack_path(layout.new_id()), layout.segment_path(layout.new_id()),
                   layout.tmp_path(layout.new_id())]  # fmt: skip
        for path in orphans:
            with lake.volume.create(path) as file:
                file.write([b"left by a writer that died"])
        clock.pass_days(0.9)
        assert not collect(lake).plan.files
        clock.pass_days(0.2)
        assert {file.path for file in collect(lake).plan.files} == set(orphans)
        assert contents(lake.snapshot()) == {"a": b"1"}


def test_what_goes_away_between_listing_and_looking_is_passed_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lake, clock = timed_lake()
    with lake:
        write(lake, {"a": b"1"})
        orphans = [layout.pack_path(layout.new_id()), layout.tmp_path(layout.new_id())]
        for path in orphans:
            lake.volume.create(path).close()
        clock.pass_days(2)
        stat = lake.volume.stat

        def removed(path: str) -> FileStat:
            if path == orphans[0]:
                lake.volume.unlink(path)  # by another collection
            return stat(path)

        monkeypatch.setattr(lake.volume, "stat", removed)
        assert [file.path for file in collect(lake).plan.files] == orphans[1:]


def test_a_file_that_nfs_is_about_to_make_is_not_old(tmp_path: Path) -> None:
    # Between CREATE and SETATTR of O_EXCL the client's verifier is its mtime.
    with Lake.create(tmp_path / "lake") as lake:
        path = layout.tmp_path(layout.new_id())
        with lake.volume.create(path):
            os.utime(tmp_path / "lake" / path, (0, 0))
        assert not collect(lake).plan.files


def test_a_directory_among_the_temporary_files_stays(tmp_path: Path) -> None:
    with Lake.create(tmp_path / "lake") as lake:
        write(lake, {"a": b"1"})
        (tmp_path / "lake/tmp/mine").mkdir()
        assert not collect(lake, AT_ONCE).plan.files
        assert (tmp_path / "lake/tmp/mine").is_dir()


def test_segments_go_before_packs() -> None:
    with new_lake() as lake:
        write(lake, {"a": b"1"})
        lake.merge_index()
        write(lake, {"b": b"1"})
        lake.merge_index(everything=True)
        drop_pack(lake, 1)
        kinds = [file.kind for file in collect(lake, AT_ONCE).plan.files]
        assert kinds == ["segment", "pack"]


def test_packs_that_renames_refer_to_stay() -> None:
    with new_lake() as lake:
        write(lake, {"old/name": b"bytes"})
        with lake.writer() as writer:
            writer.rename("old", "new")
        lake.merge_index(everything=True)
        collect(lake, AT_ONCE)
        assert contents(lake.snapshot()) == {"new/name": b"bytes"}
        assert check(lake, deep=True).clean


@pytest.mark.parametrize("how", ["tag", "pin"])
def test_a_tag_or_pin_written_during_collection_keeps_its_snapshot(
    how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with new_lake() as lake:
        write(lake, {"a": b"1"})
        drop_pack(lake, 1)
        gather = garbage._gather

        def gather_then_keep(*args: object) -> Facts:
            facts = gather(*args)  # type: ignore[arg-type]
            if how == "tag":
                lake.tag("in-time", 1)
            else:
                lake.pin(1, holder="in-time", lifetime_seconds=3600)
            return facts

        monkeypatch.setattr(garbage, "_gather", gather_then_keep)
        done = collect(lake, AT_ONCE)
        assert (done.deleted, done.spared) == (0, 1)
        assert contents(lake.snapshot(1)) == {"a": b"1"}


def test_a_tag_that_comes_too_late_is_refused_and_leaves_nothing() -> None:
    volume = MemoryVolume()
    with new_lake(volume) as lake, Lake.open(volume) as other:
        write(lake, {"a": b"1"})
        drop_pack(lake, 1)
        snapshot = other.snapshot

        def snapshot_then_collect(at: int | str | None = None) -> object:
            found = snapshot(at)
            collect(lake, AT_ONCE)  # after the check, before the tag is written
            return found

        other.snapshot = snapshot_then_collect  # type: ignore[method-assign,assignment]
        with pytest.raises(SnapshotExpired):
            other.tag("late", 1)
        assert lake.refs.tags() == []
        assert lake.refs.pins() == []


def test_moving_a_tag_to_an_expired_snapshot_leaves_it_where_it_was() -> None:
    with new_lake() as lake:
        write(lake, {"a": b"1"})
        lake.tag("v", 1)
        drop_pack(lake, 1)
        write(lake, {"b": b"1"})
        lake.merge_index()
        write(lake, {"c": b"1"})
        lake.merge_index(everything=True)
        collect(lake, AT_ONCE)
        with pytest.raises(SnapshotExpired):
            lake.tag("v", 4, move=True)
        assert lake.refs.read("v").snapshot == 1
        assert lake.tag("w", "v").snapshot == 1


def test_a_pin_can_be_renewed_in_time_and_not_after_collection() -> None:
    lake, clock = timed_lake()
    with lake:
        write(lake, {"a": b"1"})
        pin = lake.pin(1, holder="test", lifetime_seconds=60)
        drop_pack(lake, 1)
        pin = lake.renew(pin, 3600)
        collect(lake, AT_ONCE)
        assert contents(lake.snapshot(1)) == {"a": b"1"}
        clock.pass_days(1)
        collect(lake, AT_ONCE)
        with pytest.raises(SnapshotExpired):
            lake.renew(pin, 60)
        assert lake.refs.pins() == []


def test_pins_long_expired_are_removed() -> None:
    lake, clock = timed_lake()
    with lake:
        write(lake, {"a": b"1"})
        lake.pin(1, holder="test", lifetime_seconds=60)
        clock.pass_days(0.5)
        assert not collect(lake).plan.files
        clock.pass_days(1)
        assert [file.kind for file in collect(lake).plan.files] == ["pin"]
        assert lake.refs.pins() == []


@pytest.mark.parametrize("what", ["tag", "pin", "head", "history"])
def test_nothing_goes_while_anything_that_names_files_is_damaged(what: str) -> None:
    volume = MemoryVolume()
    with new_lake(volume) as lake:
        write(lake, {"a": b"1"})
        drop_pack(lake, 1)
        lake.tag("t", 2)
        pin = lake.pin(2, holder="test", lifetime_seconds=3600)
        write(lake, {"b": b"2"})
    paths = {
        "tag": layout.ref_path("t"),
        "pin": layout.pin_path(pin.id),
        "head": layout.commit_path(3),
        "history": layout.commit_path(1),
    }
    damage(volume, paths[what], 90)
    before = {path: volume.stat(path).size for path in stored_files(volume)}
    with Lake.open(volume) as lake, pytest.raises(Corrupt):
        collect(lake, AT_ONCE)
    assert {path: volume.stat(path).size for path in stored_files(volume)} == before


def test_packs_of_a_damaged_head_are_no_orphans() -> None:
    volume = MemoryVolume()
    with new_lake(volume) as lake:
        write(lake, {"a": b"1"})
        write(lake, {"b": b"2"})
    damage(volume, layout.commit_path(2), 90)
    before = set(stored_files(volume))
    with Lake.open(volume) as lake, pytest.raises(Corrupt):
        collect(lake, Retention(keep_seconds=1e9, grace_seconds=0))
    assert set(stored_files(volume)) == before


@pytest.mark.slow
def test_a_failed_collection_leaves_a_sound_lake_at_every_call() -> None:
    def build() -> MemoryVolume:
        volume = MemoryVolume()
        with new_lake(volume) as lake:
            write(lake, {"a": b"1"})
            lake.merge_index()
            write(lake, {"a": b"2"})
            lake.merge_index(everything=True)
            drop_pack(lake, 1)
        return volume

    calls = FaultyVolume(build())
    with Lake.open(calls) as lake:
        collect(lake, AT_ONCE)
    for number in range(3, len(calls.calls) + 1, 3):
        volume = build()
        try:
            with Lake.open(FaultyVolume(volume, number, dead=True)) as lake:
                collect(lake, AT_ONCE)
        except VolumeFailed:
            pass
        with Lake.open(volume) as lake:
            assert contents(lake.snapshot()) == {"a": b"2"}
            assert check(lake, deep=True).clean
            collect(lake, AT_ONCE)
            assert len(on_volume(lake)) == 2


IDS = st.sets(st.sampled_from("abcdefgh"))


@given(
    now=IDS,
    wanted=IDS,
    named=IDS,
    stored=st.dictionaries(st.sampled_from("abcdefgh"), st.integers(0, 9)),
)
def test_the_plan_never_holds_what_is_reached_or_young_and_unnamed(
    now: set[str], wanted: set[str], named: set[str], stored: dict[str, int]
) -> None:
    # A higher horizon keeps less.
    facts = Facts(
        now=Reach(1, frozenset(now | wanted)),
        wanted=Reach(5, frozenset(wanted)),
        named=frozenset(named),
        stored=tuple(Stored("pack", id_, id_, 1, age) for id_, age in stored.items()),
        old_before_ns=4,
    )
    plan = plan_garbage(facts)
    kept = wanted if plan.horizon else now | wanted
    for file in plan.files:
        assert file.id not in kept
        assert file.id in named or file.changed_ns <= 4
    left = stored.keys() - {file.id for file in plan.files}
    for id_ in left - kept:
        assert id_ not in named
        assert stored[id_] > 4
    assert (plan.horizon is not None) == any(file.id in now for file in plan.files)
