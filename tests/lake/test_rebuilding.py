"""A lost log is guessed from what its packs tell: the numbers of their commits."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lakefeed.errors import NotFound, VolumeFailed
from lakefeed.format.commit import State
from lakefeed.format.pack import PackSealed
from lakefeed.lake import layout
from lakefeed.lake.compaction import CompactionOptions
from lakefeed.lake.compactor import compact
from lakefeed.lake.evidence import Evidence
from lakefeed.lake.garbage import collect
from lakefeed.lake.lake import Lake
from lakefeed.lake.log import Log
from lakefeed.lake.rebuilding import number_packs
from lakefeed.lake.repair import rebuild_index, rebuild_log
from lakefeed.volume.posix import PosixVolume
from tests.lake.compacting import AT_ONCE
from tests.lake.tools import QUIET, contents, made_older, write
from tests.service.tools import dying


def pack(name: str, base: int, mtime_ns: int, implied: bool = True) -> Evidence:
    sealed = PackSealed(name, 100, 50, 20, 1, 0, "a", "a", ())
    return Evidence(sealed, base, mtime_ns, implied)


def test_packs_are_numbered_in_the_order_they_were_finished() -> None:
    found = [pack("c", 2, 30), pack("a", 0, 10), pack("b", 0, 20)]
    assert number_packs(found, {}, 0) == {"a": 1, "b": 2, "c": 3}


def test_a_known_number_bounds_those_around_it() -> None:
    found = [pack("a", 0, 10), pack("b", 0, 20), pack("c", 0, 30), pack("d", 0, 40)]
    numbers = number_packs(found, {"c": 7}, 0)
    assert numbers["a"] < numbers["b"] < numbers["c"] == 7 < numbers["d"]


def test_a_guess_is_below_all_that_is_known_of_later_ones() -> None:
    # An import finished "slow" first and committed it late, as number 5.
    found = [pack("slow", 0, 10), pack("a", 1, 20), pack("b", 1, 30), pack("later", 5, 40)]
    numbers = number_packs(found, {"slow": 5, "later": 6}, 0)
    assert 1 < numbers["a"] < numbers["b"] < 5


def test_no_pack_is_moved_above_a_later_one_where_there_are_more_packs_than_numbers() -> None:
    # One of the first two was never committed: both saw 2, and the next one is 4.
    found = [pack("x", 2, 10), pack("y", 2, 20), pack("later", 3, 30)]
    assert number_packs(found, {"later": 4}, 0) == {"x": 2, "y": 3, "later": 4}


def test_packs_without_a_path_in_common_may_share_a_number() -> None:
    apart = Evidence(replace(pack("x", 0, 0).sealed, first="b", last="c"), 0, 10, True)
    found = [apart, pack("y", 0, 20), pack("later", 1, 30)]
    assert number_packs(found, {"later": 2}, 0) == {"x": 1, "y": 1, "later": 2}


@pytest.mark.parametrize("lost", [(3,), (1, 2, 3)])
def test_what_a_writer_left_that_died_moves_no_older_version_over_a_newer_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lost: tuple[int, ...]
) -> None:
    with Lake.create(tmp_path / "lake") as lake:
        write(lake, {"c": b"1"})
        lake.merge_index()
        with pytest.raises(VolumeFailed), lake.writer(QUIET) as writer:
            writer.put("a", b"never acknowledged")
            dying(monkeypatch, Log, "commit", after=False)
            writer.flush()
        made_older(lake)
        write(lake, {"a": b"old"})
        write(lake, {"a": b"new"})
        for number in lost:
            lake.volume.unlink(layout.commit_path(number))
        rebuild_log(lake.volume)
    with Lake.open(tmp_path / "lake") as lake:
        assert contents(lake.snapshot()) == {"a": b"new", "c": b"1"}


def test_a_pack_that_nobody_repeated_was_committed_behind_what_is_known() -> None:
    found = [pack("slow", 2, 10), pack("known", 2, 20)]
    assert number_packs(found, {"known": 3}, 0, lambda *_: ()) == {"slow": 4, "known": 3}


def test_a_pack_that_was_repeated_and_has_no_place_is_out() -> None:
    assert number_packs([pack("died", 0, 10), pack("known", 0, 20)], {"known": 1}, 0) == {
        "known": 1
    }


def test_a_slow_writer_whose_commit_is_lost_goes_above_what_it_saw(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Lake.create(tmp_path / "lake") as lake:
        write(lake, {"b": b"1"})
        write(lake, {"x": b"old"})
        commit = Log.commit

        def after_another(self: Log, *args: Any) -> State:
            monkeypatch.setattr(Log, "commit", commit)
            with Lake.open(lake.volume) as other:
                write(other, {"a": b"1", "z": b"1"})
            return commit(self, *args)

        monkeypatch.setattr(Log, "commit", after_another)
        last = write(lake, {"x": b"new", "y": b"new"})
        wanted = contents(lake.snapshot())
        lake.volume.unlink(layout.commit_path(last))
        rebuild_log(lake.volume)
    with Lake.open(tmp_path / "lake") as lake:
        assert contents(lake.snapshot()) == wanted


@pytest.mark.parametrize("deleted", [False, True])
def test_what_a_first_writer_left_that_died_hides_nothing_of_its_next_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, deleted: bool
) -> None:
    with Lake.create(tmp_path / "lake") as lake:
        with pytest.raises(VolumeFailed), lake.writer(QUIET) as writer:
            writer.put("a", b"never acknowledged")
            if deleted:
                writer.delete("a")
            dying(monkeypatch, Log, "commit", after=False)
            writer.flush()
        made_older(lake)
        write(lake, {"a": b"acknowledged"})
        lake.volume.unlink(layout.commit_path(write(lake, {"z": b"1"})))
        rebuilt, _ = rebuild_log(lake.volume)
        assert len(rebuilt.over) == 1
    with Lake.open(tmp_path / "lake") as lake:
        assert contents(lake.snapshot()) == {"a": b"acknowledged", "z": b"1"}


def test_a_pack_comes_after_the_snapshot_its_writer_saw() -> None:
    assert number_packs([pack("a", 9, 10)], {}, 0) == {"a": 10}
    assert number_packs([pack("a", 3, 10)], {}, 20) == {"a": 21}


def test_packs_of_compaction_take_no_number_away() -> None:
    found = [pack("old", 0, 10), pack("compacted", 1, 20, False), pack("new", 2, 30)]
    assert number_packs(found, {}, 0) == {"old": 1, "compacted": 2, "new": 3}


def test_what_a_rename_replaced_or_moved_is_not_taken_for_newer_than_what_came_behind_it(
    tmp_path: Path,
) -> None:
    where = tmp_path / "lake"
    with Lake.create(where) as lake:
        write(lake, {"a": b"old", "b": b"old"})
        with lake.writer(QUIET) as writer:
            writer.rename("a", "c")
            writer.rename("b", "d")
        write(lake, {"a": b"new", "d": b"new"})
        # The index says of the first pack but the number of the rename, whose own is left to guess.
        lake.merge_index()
        files = contents(lake.snapshot())
    shutil.rmtree(where / layout.LOG)
    rebuild_log(PosixVolume(where))
    with Lake.open(where) as lake:
        assert contents(lake.snapshot()) == files == {"a": b"new", "c": b"old", "d": b"new"}
        rebuild_index(lake)
        assert contents(lake.snapshot()) == files


def test_what_a_lost_commit_removed_does_not_come_back_while_its_tombstone_is_there(
    tmp_path: Path,
) -> None:
    where = tmp_path / "lake"
    with Lake.create(where) as lake:
        for path in ("deleted", "a"):
            write(lake, {path: b"1"})
        lost = compact(lake).snapshot
        assert lost is not None
        write(lake, {}, delete=["deleted"])
        # The tombstone hides nothing any more, as far as this one knows.
        compact(lake, CompactionOptions(live_ratio=0.8))
        write(lake, {"late": b"1"})
        assert contents(lake.snapshot()) == {"a": b"1", "late": b"1"}
    (where / layout.commit_path(lost)).unlink()
    rebuild_log(PosixVolume(where))
    with Lake.open(where) as lake:
        assert contents(lake.snapshot()) == {"a": b"1", "late": b"1"}
        rebuild_index(lake)
        assert contents(lake.snapshot()) == {"a": b"1", "late": b"1"}


@pytest.mark.parametrize("gone", ["collected", "lost"])
def test_what_a_commit_removed_stays_out_where_the_pack_of_its_tombstone_is_gone(
    tmp_path: Path, gone: str
) -> None:
    where = tmp_path / "lake"
    with Lake.create(where) as lake:
        write(lake, {"a": b"1", "deleted": b"1"})
        lake.tag("old")
        write(lake, {}, delete=["deleted"])
        write(lake, {"a": b"2"})
        (tombstone,) = (pack.id for pack in lake.log.read(2).changes.add_packs)
        lost = lake.merge_index().number
        # Takes out the first pack, of which nothing is left.
        assert compact(lake, CompactionOptions(target_bytes=1)).packs_removed
        if gone == "collected":
            compact(lake, CompactionOptions(live_ratio=0.8))
            collect(lake, AT_ONCE)
        else:
            lake.volume.unlink(layout.pack_path(tombstone))
        assert not (where / layout.pack_path(tombstone)).exists()
    (where / layout.commit_path(lost)).unlink()
    rebuild_log(PosixVolume(where))
    with Lake.open(where) as lake:
        assert contents(lake.snapshot()) == {"a": b"2"}


def test_no_log_is_written_for_a_lake_whose_packs_went_away(tmp_path: Path) -> None:
    where = tmp_path / "lake"
    with Lake.create(where) as lake:
        write(lake, {"a": b"1"})
    shutil.rmtree(where / layout.LOG)
    (where / layout.PACKS).rename(tmp_path / "elsewhere")
    with pytest.raises(NotFound, match="is their volume mounted"):
        rebuild_log(PosixVolume(where))
    assert not (where / layout.LOG).exists()
    (tmp_path / "elsewhere").rename(where / layout.PACKS)
    rebuild_log(PosixVolume(where))
    with Lake.open(where) as lake:
        assert contents(lake.snapshot()) == {"a": b"1"}
