"""A damaged newest commit is moved out of the way, and nothing else is."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from lakefeed.errors import Conflict, Corrupt, VolumeFailed
from lakefeed.format.envelope import seal
from lakefeed.lake import layout, repair
from lakefeed.lake.lake import Lake
from lakefeed.lake.leases import Leases
from lakefeed.lake.log import CHECKPOINT_EVERY, Log
from lakefeed.lake.repair import damaged_head, quarantine_head
from lakefeed.volume.base import Volume, read_file
from lakefeed.volume.memory import MemoryVolume
from tests.lake.test_repair import clean
from tests.lake.tools import contents, new_lake, put_bytes, write


def test_a_damaged_newest_commit_is_moved_away_and_the_lake_goes_on() -> None:
    with torn_lake() as lake:
        with pytest.raises(Corrupt):
            write(lake, {"c": b"3"})
        assert damaged_head(lake.volume) == 2
        moved = quarantine_head(lake.volume, 2)
        assert lake.volume.stat(moved).size == 100
        assert damaged_head(lake.volume) is None
        # A second repair that had looked at the same time moves nothing.
        with pytest.raises(Conflict, match="or none"):
            quarantine_head(lake.volume, 2)
        assert write(lake, {"c": b"3"}) == 2
        with pytest.raises(Conflict, match="a sound one"):
            quarantine_head(lake.volume, 2)
        assert contents(lake.snapshot()) == {"a": b"1", "c": b"3"}
        clean(lake)


@contextmanager
def torn_lake() -> Iterator[Lake]:
    """Make a lake whose second and newest commit is damaged."""
    with new_lake() as lake:
        write(lake, {"a": b"1"})
        write(lake, {"b": b"2"})
        assert damaged_head(lake.volume) is None
        put_bytes(lake.volume, layout.commit_path(2), b"\0" * 100)
    with Lake.open(lake.volume) as lake:
        yield lake


def test_of_two_repairs_one_moves_the_damaged_commit_and_the_other_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Between the look of one and its move, another could make room for a sound commit.
    with torn_lake() as lake:
        sound = repair._is_sound

        def slow(volume: Volume, path: str) -> bool:
            found = sound(volume, path)
            monkeypatch.setattr(repair, "_is_sound", sound)
            with pytest.raises(Conflict, match="has it"):
                quarantine_head(volume, 2)
            return found

        monkeypatch.setattr(repair, "_is_sound", slow)
        quarantine_head(lake.volume, 2)
        assert write(lake, {"c": b"3"}) == 2
        clean(lake)


def test_who_waits_for_a_repair_that_was_killed_is_told_whose_it_was_and_how_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with torn_lake() as lake:
        with monkeypatch.context() as patched, pytest.raises(VolumeFailed):
            patched.setattr(Leases, "release", lambda *_: None)
            patched.setattr(repair, "_is_sound", failing)
            quarantine_head(lake.volume, 2)
        who = f"{os.uname().nodename}/{os.getpid()}/[0-9a-f]{{32}}"
        with pytest.raises(Conflict, match=f"{who} has it; wait; it runs out in [0-9]+ s"):
            quarantine_head(lake.volume, 2)
        assert damaged_head(lake.volume) == 2


def failing(volume: Volume, path: str) -> bool:
    raise VolumeFailed(f"read of {path}")


def test_who_saw_a_commit_that_a_repair_moved_away_sees_those_that_came_instead(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with torn_lake() as lake:
        log, exists = Log(lake.volume), Log._exists

        def late(self: Log, number: int) -> bool:
            monkeypatch.setattr(Log, "_exists", exists)
            quarantine_head(lake.volume, 2)
            write(lake, {"c": b"3"})
            write(lake, {"d": b"4"})
            return exists(self, number)

        monkeypatch.setattr(Log, "_exists", late)
        assert log.head().number == 3


def test_a_damaged_newest_commit_stays_away_after_a_power_cut_and_its_checkpoint_with_it() -> None:
    with new_lake() as lake:
        for number in range(CHECKPOINT_EVERY):
            write(lake, {f"{number}": b"1"})
        put_bytes(lake.volume, layout.commit_path(CHECKPOINT_EVERY), b"\0" * 100)
        lake.volume.sync_directory(layout.LOG)
        moved = quarantine_head(lake.volume, CHECKPOINT_EVERY)
        assert isinstance(lake.volume, MemoryVolume)
        left = lake.volume.power_cut()
    assert left.stat(moved).size == 100
    names = {entry.name for entry in left.list(layout.LOG)}
    for path in (layout.commit_path(CHECKPOINT_EVERY), layout.checkpoint_path(CHECKPOINT_EVERY)):
        assert path.rpartition("/")[2] not in names


def test_a_commit_of_a_newer_version_is_never_moved_away() -> None:
    path = layout.commit_path(1)
    with new_lake() as lake:
        write(lake, {"a": b"1"})
        newer = seal({"type": "commit"}, version=2)
        put_bytes(lake.volume, path, newer)
        with pytest.raises(Conflict, match="sound"):
            quarantine_head(lake.volume, 1)
        assert read_file(lake.volume, path) == newer
