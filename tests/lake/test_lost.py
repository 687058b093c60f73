"""Garbage collection on a lake whose log lost commits: `repair --log` needs the packs."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from lakefeed.errors import Corrupt
from lakefeed.format.commit import Changes
from lakefeed.lake import layout
from lakefeed.lake.check import check
from lakefeed.lake.garbage import GRACE_SECONDS, Retention, collect, orphans_of
from lakefeed.lake.lake import Lake
from lakefeed.lake.log import CHECKPOINT_EVERY, Draft
from lakefeed.lake.packing import new_pack
from lakefeed.lake.repair import rebuild_index, rebuild_log
from lakefeed.volume.base import Volume
from lakefeed.volume.memory import MemoryVolume
from lakefeed.volume.posix import PosixVolume
from tests.lake.test_garbage import AT_ONCE, drop_pack, on_volume
from tests.lake.tools import contents, new_lake, write

FILES = {f"{number}": b"%d" % number for number in range(1, 4)}


def without(*lost: int, volume: Volume | None = None) -> Volume:
    """Return a lake of three commits, one for each file, without some of them."""
    volume = volume or MemoryVolume()
    with new_lake(volume) as lake:
        for path, data in FILES.items():
            write(lake, {path: data})
    for number in lost:
        volume.unlink(layout.commit_path(number))
    return volume


@pytest.mark.parametrize("lost", [(1,), (2,), (1, 2)])
def test_nothing_goes_while_there_is_a_gap_in_the_log(lost: tuple[int, ...]) -> None:
    with Lake.open(without(*lost)) as lake:
        before = on_volume(lake)
        with pytest.raises(Corrupt, match="without a gap up to 3"):
            collect(lake, AT_ONCE)
        assert on_volume(lake) == before


@pytest.mark.parametrize("lost", [(1, 2, 3), (2, 3)])
def test_packs_stay_whose_commits_a_log_lost_at_its_end_until_it_is_written_anew(
    lost: tuple[int, ...], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    volume = without(*lost, volume=PosixVolume(tmp_path))
    with Lake.open(volume) as lake, caplog.at_level(logging.WARNING, "lakefeed"):
        assert collect(lake, AT_ONCE).deleted == 0
        assert "was a part of the log lost?" in caplog.text
    rebuild_log(volume)
    with Lake.open(volume) as lake:
        assert contents(lake.snapshot()) == FILES


def test_a_young_pack_tells_for_an_old_one_that_the_log_lost_its_end() -> None:
    now_ns = 10**18
    volume = MemoryVolume(clock_ns=lambda: now_ns)
    with new_lake(volume) as lake:
        for path, data in FILES.items():
            write(lake, {path: data})
            now_ns += int(GRACE_SECONDS * 1e9)
        write(lake, {"young": b"1"})
    for number in (3, 4):
        volume.unlink(layout.commit_path(number))
    with Lake.open(volume) as lake:
        assert collect(lake, Retention(keep_seconds=0)).deleted == 0
        assert lake.log.head().number == 2


def test_garbage_collection_takes_no_number_where_the_log_lost_its_end() -> None:
    with Lake.open(without(2, 3)) as lake:
        with lake.volume.create(layout.pack_path(layout.new_id())) as file:
            file.write([b"left by a writer that died"])
        assert collect(lake, AT_ONCE).deleted == 1
        assert lake.log.head().number == 1
        assert check(lake).counters.ahead == 2


def test_the_order_of_packs_stays_known_where_segments_tell_it(tmp_path: Path) -> None:
    volume = without(volume=PosixVolume(tmp_path))
    with Lake.open(volume) as lake:
        rebuild_index(lake)
        for number in range(1, lake.log.head().number + 1):
            volume.unlink(layout.commit_path(number))
    with Lake.open(volume) as lake:
        assert collect(lake, AT_ONCE).deleted == 0
    rebuilt, _ = rebuild_log(volume)
    assert (rebuilt.exact, rebuilt.guessed) == (3, 0)


def test_a_pack_goes_once_the_log_has_come_as_far_as_its_writer_saw() -> None:
    with Lake.open(without()) as lake:
        pack = new_pack(lake.volume, 4, lambda writer, now_ns: None)
        collect(lake, AT_ONCE)
        assert layout.pack_path(pack.id) in on_volume(lake)
        lake.log.commit(Draft("test"), lambda state: Changes())
        collect(lake, AT_ONCE)
        assert not orphans_of(lake).files
        assert contents(lake.snapshot()) == FILES


def test_what_was_given_up_goes_from_a_copy_whose_packs_are_newer_than_its_log() -> None:
    with Lake.open(without()) as lake:
        path = drop_pack(lake, 1)
        with lake.volume.open(path) as file:
            data = file.read_at(0, file.size)
        assert collect(lake, AT_ONCE).deleted == 1
        with lake.volume.create(path) as file:
            file.write([data])  # the copy had it already, and nobody tells it to give it up
        newer = new_pack(lake.volume, lake.log.head().number + 1, lambda writer, now_ns: None)
        assert collect(lake, AT_ONCE).deleted == 1
        left = on_volume(lake)
        assert path not in left and layout.pack_path(newer.id) in left


def test_looking_at_packs_that_no_commit_names_is_told_of_and_can_be_ended() -> None:
    told: list[tuple[str, int, int]] = []

    def tell(stage: str, done: int, total: int) -> None:
        told.append((stage, done, total))
        if stage.startswith("reading packs") and done == 2:
            raise KeyboardInterrupt

    with Lake.open(without(1, 2, 3)) as lake, pytest.raises(KeyboardInterrupt):
        collect(lake, AT_ONCE, progress=tell)
    assert told[-2:] == [("reading packs that no commit names", done, 3) for done in (1, 2)]


def test_fsck_tells_packs_of_a_log_that_is_gone_from_leftovers() -> None:
    with Lake.open(without(1, 2, 3)) as lake:
        (finding,) = check(lake).findings
        assert (finding.kind, finding.expected) == ("log", "the commits of 3 packs")
    with new_lake() as lake:
        with lake.volume.create(layout.pack_path(layout.new_id())) as file:
            file.write([b"left by a writer that died"])
        assert check(lake).clean
        assert collect(lake, AT_ONCE).deleted == 1


def test_fsck_counts_packs_of_commits_that_a_log_lost_at_its_end() -> None:
    with Lake.open(without(2, 3)) as lake:
        report = check(lake)
        assert (report.clean, report.counters.orphans, report.counters.ahead) == (True, 2, 2)
    # Only what the very last commit named looks like the leftovers of a writer that died.
    with Lake.open(without(3)) as lake:
        report = check(lake)
        assert (report.clean, report.counters.orphans, report.counters.ahead) == (True, 1, 0)


def test_fsck_counts_such_packs_beside_a_damaged_checkpoint() -> None:
    volume = MemoryVolume()
    with new_lake(volume) as lake:
        for _ in range(CHECKPOINT_EVERY):
            lake.log.commit(Draft("test"), lambda state: Changes())
        for path, data in FILES.items():
            write(lake, {path: data})
    for number in range(CHECKPOINT_EVERY + 1, CHECKPOINT_EVERY + 1 + len(FILES)):
        volume.unlink(layout.commit_path(number))
    volume.unlink(layout.checkpoint_path(CHECKPOINT_EVERY))
    with volume.create(layout.checkpoint_path(CHECKPOINT_EVERY)) as file:
        file.write([b"damaged"])
    with Lake.open(volume) as lake:
        report = check(lake)
    assert [finding.kind for finding in report.findings] == ["checkpoint"]
    assert (report.snapshot, report.counters.ahead) == (CHECKPOINT_EVERY, len(FILES))


def test_whoever_opens_a_lake_whose_log_is_gone_is_warned_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with Lake.open(without(1, 2, 3)) as lake, caplog.at_level(logging.WARNING, "lakefeed"):
        for _ in range(2):
            assert contents(lake.snapshot()) == {}
    assert [one.getMessage().count("was its log lost?") for one in caplog.records] == [1]


def test_nobody_is_warned_of_a_lake_that_is_new(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "lakefeed"), new_lake() as lake:
        assert contents(lake.snapshot()) == {}
        write(lake, {"a": b"1"})
    assert not caplog.records


def test_whoever_commits_the_first_packs_of_a_lake_is_not_warned_of_them(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Lake.create(tmp_path / "lake").close()
    with caplog.at_level(logging.WARNING, "lakefeed"):
        with Lake.open(tmp_path / "lake") as lake:
            sealed = new_pack(lake.volume, 0, lambda writer, now_ns: None)
            lake.append([sealed], Draft("test"))
        Lake.create(tmp_path / "other").close()
        with Lake.open(tmp_path / "other") as lake, lake.writer() as writer:
            writer.put("a", b"1").wait()
    assert not caplog.records
