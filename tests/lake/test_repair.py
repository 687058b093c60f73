"""A lake is mended from its packs: its index, its log."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from lakefeed.errors import Conflict, Corrupt, NotFound, VolumeFailed
from lakefeed.format.commit import SegmentInfo
from lakefeed.lake import layout, repair
from lakefeed.lake.check import check
from lakefeed.lake.compactor import compact
from lakefeed.lake.garbage import Retention, collect
from lakefeed.lake.lake import Lake
from lakefeed.lake.repair import rebuild_index, rebuild_log
from lakefeed.lake.segments import write_segments
from lakefeed.volume.posix import PosixVolume
from tests.lake.tools import (
    QUIET,
    GatedVolume,
    all_rows,
    contents,
    damage,
    new_lake,
    write,
)
from tests.support.faulty import FaultyVolume, Mode, every_fault


def clean(lake: Lake) -> None:
    report = check(lake, deep=True)
    assert report.clean, report.findings


# -- segments --------------------------------------------------------------------------------------


def test_i5_the_index_is_rebuilt_from_packs_alone() -> None:
    with new_lake() as lake:
        for number in range(6):
            write(lake, {f"{number}/a": b"%d" % number, "same": b"%d" % number})
        write(lake, {}, delete=["0/a"])
        lake.merge_index()
        compact(lake)
        write(lake, {"late": b"x"})
        lake.merge_index()
        rows, files = all_rows(lake.snapshot()), contents(lake.snapshot())
        for segment in lake.snapshot().state.segments:
            lake.volume.unlink(layout.segment_path(segment))
    with Lake.open(lake.volume) as lake:
        done = rebuild_index(lake)
        assert done.rows == len(rows)
        assert all_rows(lake.snapshot()) == rows
        assert contents(lake.snapshot()) == files
        clean(lake)


def test_more_packs_than_are_merged_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repair, "RUNS_MAX", 3)
    with new_lake() as lake:
        for number in range(20):
            write(lake, {f"{number % 7}": b"%d" % number}, delete=[f"{(number + 3) % 7}"]
                  if number > 10 else [])  # fmt: skip
        rows = all_rows(lake.snapshot())
        rebuild_index(lake)
        assert all_rows(lake.snapshot()) == rows
        clean(lake)
        assert len(list(lake.volume.list(layout.INDEX))) == len(lake.snapshot().state.segments)


def test_a_new_index_stays_where_only_the_answer_to_its_commit_was_lost() -> None:
    with new_lake() as lake:
        write(lake, {"a": b"1"})
        write(lake, {"b": b"2"})
        count = 0
        for volume in every_fault(lake.volume.power_cut, "after", verbs=["sync_directory", "link"]):
            with Lake.open(volume) as faulty, suppress(VolumeFailed):
                rebuild_index(faulty)
            with Lake.open(volume.inner) as left:
                assert contents(left.snapshot()) == {"a": b"1", "b": b"2"}
            count += volume.fired
        assert count > 2


@pytest.mark.parametrize("others", [Lake.merge_index, compact])
def test_a_new_index_that_others_overtake_is_given_up_and_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, others: Callable[[Lake], object]
) -> None:
    def overtaken(*args: Any) -> Iterator[SegmentInfo]:
        yield from write_segments(*args)
        write(lake, {"c": b"3"})
        others(lake)

    with new_lake() as lake:
        for path in ("a", "b"):
            write(lake, {path: b"1"})
        with monkeypatch.context() as patched, pytest.raises(Conflict, match="repeat"):
            patched.setattr(repair, "write_segments", overtaken)
            rebuild_index(lake)
        assert contents(lake.snapshot()) == {"a": b"1", "b": b"1", "c": b"3"}
        clean(lake)
        assert len(list(lake.volume.list(layout.INDEX))) == len(lake.snapshot().state.segments)


def test_a_pack_that_is_damaged_is_named_and_nothing_is_left_behind() -> None:
    with new_lake() as lake:
        write(lake, {"a": b"1"})
        lake.merge_index()
        (pack,) = lake.snapshot().state.packs
        before = lake.snapshot().number
        damage(lake.volume, layout.pack_path(pack), -1)
        with Lake.open(lake.volume) as other, pytest.raises(Corrupt) as told:
            rebuild_index(other)
        assert pack in told.value.subject
        assert lake.snapshot().number == before
        assert len(list(lake.volume.list(layout.INDEX))) == 1


# -- the log ---------------------------------------------------------------------------------------


def story(lake: Lake) -> None:
    """Puts, overwrites, deletions, a rename, merges and a compaction."""
    for number in range(8):
        write(lake, {f"{number}/a": b"%d" % number, "same": b"%d" % number, f"{number}/b": b"b"})
    write(lake, {}, delete=["0/a", "1/b"])
    with lake.writer(QUIET) as writer:
        writer.rename("2/a", "renamed")
    lake.merge_index()
    compact(lake)
    write(lake, {"late": b"x", "same": b"newest"}, delete=["3/a"])


@pytest.fixture
def lake_path(tmp_path: Path) -> Path:
    with Lake.create(tmp_path / "lake") as lake:
        story(lake)
    return tmp_path / "lake"


def lose_log(lake_path: Path) -> None:
    shutil.rmtree(lake_path / "log")


def test_a_lost_log_names_what_mends_it(lake_path: Path) -> None:
    lose_log(lake_path)
    with Lake.open(lake_path) as lake, pytest.raises(NotFound, match="lakefeed repair --log"):
        lake.snapshot()


@pytest.mark.parametrize("segments", ["sound", "damaged", "lost"])
@pytest.mark.parametrize("collected", [True, False])
def test_a_lake_whose_log_was_lost_shows_what_it_showed(
    lake_path: Path, segments: str, collected: bool
) -> None:
    with Lake.open(lake_path) as lake:
        if collected:
            collect(lake, Retention(0, 0))
        files = contents(lake.snapshot())
    lose_log(lake_path)
    if segments == "damaged":
        for path in (lake_path / "index").iterdir():
            path.write_bytes(path.read_bytes()[:-1])
    elif segments == "lost":
        shutil.rmtree(lake_path / "index")
        (lake_path / "index").mkdir()
    rebuilt, place = rebuild_log(PosixVolume(lake_path))
    assert rebuilt.unreadable == ()
    assert (lake_path / place).is_dir()
    with Lake.open(lake_path) as lake:
        assert contents(lake.snapshot()) == files
        rebuild_index(lake)
        assert contents(lake.snapshot()) == files
        clean(lake)
        write(lake, {"after": b"1", "same": b"after"})
        assert contents(lake.snapshot()) == {**files, "after": b"1", "same": b"after"}


@pytest.mark.parametrize("newest", [b"torn", None])
def test_a_log_damaged_in_the_middle_is_mended_from_its_checkpoint(
    tmp_path: Path, newest: bytes | None
) -> None:
    with Lake.create(tmp_path / "lake") as lake:
        for number in range(40):
            write(lake, {f"{number % 10}": b"%d" % number})
        lake.merge_index()
        files, rows = contents(lake.snapshot()), all_rows(lake.snapshot())
    if newest is not None:
        (tmp_path / "lake" / layout.checkpoint_path(64)).write_bytes(newest)
    (tmp_path / "lake" / layout.commit_path(7)).write_bytes(b"torn")
    (tmp_path / "lake" / layout.HEAD_HINT).unlink()
    rebuilt, _ = rebuild_log(PosixVolume(tmp_path / "lake"))
    assert (rebuilt.exact, rebuilt.guessed) == (40, 0)
    with Lake.open(tmp_path / "lake") as lake:
        assert all_rows(lake.snapshot()) == rows
        assert contents(lake.snapshot()) == files
        clean(lake)


def test_what_was_added_after_the_last_checkpoint_is_not_lost_with_its_commits(
    tmp_path: Path,
) -> None:
    with Lake.create(tmp_path / "lake") as lake:
        for number in range(36):
            write(lake, {f"{number % 10}": b"%d" % number})
        files = contents(lake.snapshot())
    for number in range(33, 37):
        (tmp_path / "lake" / layout.commit_path(number)).unlink()
    (tmp_path / "lake" / layout.commit_path(20)).unlink()
    rebuild_log(PosixVolume(tmp_path / "lake"))
    with Lake.open(tmp_path / "lake") as lake:
        assert contents(lake.snapshot()) == files
        clean(lake)


@pytest.mark.parametrize("number", [33, 34, 36])
@pytest.mark.parametrize("torn", [True, False])
def test_a_log_damaged_behind_its_checkpoint_is_mended_from_what_is_there(
    tmp_path: Path, number: int, torn: bool
) -> None:
    where = tmp_path / "lake"
    with Lake.create(where) as lake:
        for count in range(33):
            write(lake, {f"{count % 10}": b"%d" % count})
        lake.merge_index()
        write(lake, {}, delete=["3"])
        compact(lake)
        collect(lake, Retention(0, 0))
        write(lake, {"late": b"1"})
        files = contents(lake.snapshot())
    damaged = where / layout.commit_path(number)
    damaged.unlink()
    if torn:
        damaged.write_bytes(b"torn")
    rebuilt, _ = rebuild_log(PosixVolume(where))
    assert not any((where / path).exists() for path in rebuilt.gone)
    with Lake.open(where) as lake:
        assert contents(lake.snapshot()) == files
        rebuild_index(lake)
        assert contents(lake.snapshot()) == files
        clean(lake)


@pytest.mark.parametrize("before", [3, 31])
def test_a_readable_commit_behind_a_lost_one_says_what_its_packs_are(
    tmp_path: Path, before: int
) -> None:
    where = tmp_path / "lake"
    with Lake.create(where) as lake:
        for count in range(before):
            write(lake, {f"{count}": b"1"})
        gated = GatedVolume(PosixVolume(where))
        with Lake.open(gated) as other, other.writer(QUIET) as slow:
            for path in ("0", "slow"):
                slow.put(path, b"newest")
            handle = threading.Thread(target=slow.flush)
            handle.start()
            assert gated.reached.wait(60)
            # Its pack is finished already; these two commits come before its own all the same.
            write(lake, {"0": b"older"})
            write(lake, {"lost": b"2"})
            gated.gate.set()
            handle.join()
        lake.merge_index()
        lake.tag("merged")
        files = contents(lake.snapshot())
    (where / layout.commit_path(before + 2)).unlink()
    rebuild_log(PosixVolume(where))
    with Lake.open(where) as lake:
        assert contents(lake.snapshot()) == files
        rebuild_index(lake)
        clean(lake)


def test_what_a_readable_commit_removed_does_not_come_back(tmp_path: Path) -> None:
    where = tmp_path / "lake"
    with Lake.create(where) as lake:
        write(lake, {"deleted": b"1", "kept": b"1"})
        lake.tag("old")
        for count in range(31):
            write(lake, {"kept": b"%d" % count})
        number = write(lake, {}, delete=["deleted"])
        compact(lake)
        collect(lake, Retention(0, 0))
        write(lake, {"late": b"1"})
    (where / layout.commit_path(number)).unlink()
    rebuild_log(PosixVolume(where))
    with Lake.open(where) as lake:
        assert contents(lake.snapshot()) == {"kept": b"30", "late": b"1"}


def test_what_replaced_a_pack_and_is_gone_puts_nothing_out(tmp_path: Path) -> None:
    where = tmp_path / "lake"
    with Lake.create(where) as lake:
        for path in ("a", "b"):
            write(lake, {path: b"1"})
        (made,) = compact(lake).packs_added
        write(lake, {"late": b"1"})
    (where / layout.pack_path(made)).unlink()
    (where / layout.commit_path(1)).unlink()
    rebuild_log(PosixVolume(where))
    with Lake.open(where) as lake:
        assert contents(lake.snapshot()) == {"a": b"1", "b": b"1", "late": b"1"}


def test_what_was_renamed_by_a_readable_commit_does_not_come_back(tmp_path: Path) -> None:
    where = tmp_path / "lake"
    with Lake.create(where) as lake:
        write(lake, {"old": b"1"})
        with lake.writer(QUIET) as writer:
            writer.rename("old", "new")
        # All that the index says of the first pack now is the number of the rename.
        lake.merge_index()
    (where / layout.commit_path(1)).unlink()
    rebuild_log(PosixVolume(where))
    with Lake.open(where) as lake:
        assert contents(lake.snapshot()) == {"new": b"1"}
        rebuild_index(lake)
        clean(lake)


@pytest.mark.parametrize(("commits", "torn"), [(32, 9), (12, 3), (40, 34)])
def test_a_pack_that_is_gone_is_named(tmp_path: Path, commits: int, torn: int) -> None:
    with Lake.create(tmp_path / "lake") as lake:
        for count in range(commits):
            write(lake, {f"{count}": b"1"})
        paths = [f"{number}" for number in (7, commits - 1)]
        lost = sorted(layout.pack_path(lake.snapshot().stat(path).pack) for path in paths)
    for path in lost:
        (tmp_path / "lake" / path).unlink()
    (tmp_path / "lake" / layout.commit_path(torn)).write_bytes(b"torn")
    rebuilt, _ = rebuild_log(PosixVolume(tmp_path / "lake"))
    assert sorted(rebuilt.gone) == lost
    with Lake.open(tmp_path / "lake") as lake:
        assert len(contents(lake.snapshot())) == commits - 2
        clean(lake)


def test_a_checkpoint_of_another_commit_is_no_evidence_for_a_new_log(tmp_path: Path) -> None:
    path = tmp_path / "lake" / layout.checkpoint_path(32)
    with Lake.create(tmp_path / "lake") as lake:
        for number in range(32):
            write(lake, {f"{number}": b"1"})
    stale = path.read_bytes()
    (tmp_path / "lake" / layout.commit_path(32)).unlink()  # as in a copy that ended early
    with Lake.open(tmp_path / "lake") as lake:
        for name in ("one", "two"):
            write(lake, {name: b"2"})
        files = contents(lake.snapshot())
    path.write_bytes(stale)
    (tmp_path / "lake" / layout.commit_path(7)).write_bytes(b"torn")
    rebuild_log(PosixVolume(tmp_path / "lake"))
    with Lake.open(tmp_path / "lake") as lake:
        # What the lost commit had added may come back: nobody knows that it is not wanted.
        assert contents(lake.snapshot()) == {**files, "31": b"1"}


@pytest.mark.parametrize(("call", "mode"), [(1, "before"), (1, "after"), (2, "before")])
def test_a_repair_that_ended_at_one_of_its_renames_is_repeated_as_if_it_had_not_been(
    tmp_path: Path, call: int, mode: Mode
) -> None:
    volume = PosixVolume(tmp_path / "lake")
    with Lake.create(volume) as lake:
        write(lake, {"deleted": b"1"})
        lake.tag("old")  # keeps the file's pack, which only the old log's checkpoint knows is out
        write(lake, {"kept": b"2"}, delete=["deleted"])
        compact(lake)
        collect(lake, Retention(0, 0))
        while lake.log.head().number < 33:
            write(lake, {"kept": b"3"})
    (tmp_path / "lake" / layout.commit_path(7)).write_bytes(b"torn")
    with pytest.raises(VolumeFailed):
        rebuild_log(FaultyVolume(volume, call, mode, verbs=["replace"]))
    rebuild_log(volume)
    with Lake.open(volume) as lake:
        assert contents(lake.snapshot()) == {"kept": b"3"}


def test_an_unfinished_pack_is_left_out_and_named(lake_path: Path) -> None:
    with Lake.open(lake_path) as lake:
        files = contents(lake.snapshot())
    lose_log(lake_path)
    half = lake_path / layout.pack_path("ab" * 16)
    half.parent.mkdir(exist_ok=True)
    half.write_bytes(b"PAR1half")
    rebuilt, _ = rebuild_log(PosixVolume(lake_path))
    assert rebuilt.unreadable == (layout.pack_path("ab" * 16),)
    with Lake.open(lake_path) as lake:
        assert contents(lake.snapshot()) == files
