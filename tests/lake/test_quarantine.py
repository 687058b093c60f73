"""What is damaged in a log goes to quarantine, and nothing else ever does."""

from __future__ import annotations

import pytest

from lakefeed.errors import Conflict, Corrupt
from lakefeed.format.envelope import seal
from lakefeed.lake import layout, repair
from lakefeed.lake.check import check
from lakefeed.lake.lake import Lake
from lakefeed.lake.log import CHECKPOINT_EVERY
from lakefeed.lake.repair import damaged_head, quarantine_head
from lakefeed.volume.base import read_file
from lakefeed.volume.memory import MemoryVolume
from tests.lake.tools import contents, new_lake, put_bytes, write


def test_a_damaged_newest_commit_is_moved_away_and_the_lake_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with new_lake() as lake:
        write(lake, {"a": b"1"})
        write(lake, {"b": b"2"})
        assert damaged_head(lake.volume) is None
        put_bytes(lake.volume, layout.commit_path(2), b"\0" * 100)
    with Lake.open(lake.volume) as lake:
        with pytest.raises(Corrupt):
            write(lake, {"c": b"3"})
        assert damaged_head(lake.volume) == 2
        moved = quarantine_head(lake.volume, 2)
        assert lake.volume.stat(moved).size == 100
        assert damaged_head(lake.volume) is None
        assert write(lake, {"c": b"3"}) == 2
        assert contents(lake.snapshot()) == {"a": b"1", "c": b"3"}
        # A second repair that had looked at the same time moves nothing,
        with monkeypatch.context() as patched, pytest.raises(Conflict, match="sound"):
            patched.setattr(lake.volume, "replace", None)
            quarantine_head(lake.volume, 2)
        # or puts back what came between its look and its move.
        looks = iter([False, True])
        with monkeypatch.context() as patched, pytest.raises(Conflict, match="sound"):
            patched.setattr(repair, "_is_sound", lambda *_: next(looks))
            quarantine_head(lake.volume, 2)
    with Lake.open(lake.volume) as lake:  # the other one remembers its head
        assert contents(lake.snapshot()) == {"a": b"1", "c": b"3"}
        assert check(lake, deep=True).clean


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


@pytest.mark.parametrize("looks", [[True], [False, True]])
def test_a_commit_of_a_newer_version_is_never_moved_away(
    monkeypatch: pytest.MonkeyPatch, looks: list[bool]
) -> None:
    path = layout.commit_path(1)
    with new_lake() as lake:
        write(lake, {"a": b"1"})
        newer = seal({"type": "commit"}, version=2)
        put_bytes(lake.volume, path, newer)
        found, is_sound = iter(looks), repair._is_sound
        monkeypatch.setattr(repair, "_is_sound", lambda *where: next(found) and is_sound(*where))
        with pytest.raises(Conflict, match="sound"):
            quarantine_head(lake.volume, 1)
        assert read_file(lake.volume, path) == newer
