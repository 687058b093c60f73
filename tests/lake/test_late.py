"""A log that lost its end, and packs older than the newest commit that is known: are they of a lost
commit, or of none? The writer of the last pack saw another commit that is lost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lakefeed.errors import VolumeFailed
from lakefeed.format.commit import State
from lakefeed.lake import layout
from lakefeed.lake.compactor import compact
from lakefeed.lake.garbage import collect
from lakefeed.lake.lake import Lake
from lakefeed.lake.log import Log
from lakefeed.lake.repair import rebuild_log
from lakefeed.volume.posix import PosixVolume
from tests.lake.compacting import AT_ONCE
from tests.lake.tools import QUIET, contents, made_older, new_lake, write
from tests.service.tools import dying


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    with new_lake(PosixVolume(tmp_path / "lake")) as made:
        write(made, {"x": b"old"})
        return made


def repaired(lake: Lake, known: int) -> dict[str, bytes]:
    """Lose what came behind a snapshot, and return what the log shows that is written anew."""
    lake.log.write_checkpoint(known)
    for number in range(known + 1, lake.log.head().number + 1):
        lake.volume.unlink(layout.commit_path(number))
    rebuild_log(lake.volume)
    with Lake.open(lake.volume) as again:
        return contents(again.snapshot())


def test_what_a_slow_writer_committed_behind_what_is_known_is_there(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = Log.commit

    def after_another(self: Log, *args: Any) -> State:
        monkeypatch.setattr(Log, "commit", commit)
        made_older(lake)
        with Lake.open(lake.volume) as other:
            write(other, {"a": b"1", "z": b"1"})
        return commit(self, *args)

    monkeypatch.setattr(Log, "commit", after_another)
    assert write(lake, {"x": b"new", "y": b"new"}) == 3
    write(lake, {"last": b"1"})
    before = contents(lake.snapshot())
    assert repaired(lake, 2) == before


def test_what_a_writer_left_that_died_does_not_replace_what_its_next_run_wrote(
    lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    dying(monkeypatch, Log, "commit", after=False)
    with pytest.raises(VolumeFailed), lake.writer(QUIET) as writer:
        writer.put("x", b"never acknowledged")
        writer.flush()
    made_older(lake)
    known = write(lake, {"x": b"acknowledged"})
    for name in ("lost", "last"):
        write(lake, {name: b"1"})
    assert repaired(lake, known) == {"x": b"acknowledged", "lost": b"1", "last": b"1"}


def test_what_compaction_took_out_does_not_come_back_without_its_tombstone(lake: Lake) -> None:
    lake.tag("old")
    write(lake, {}, delete=["x"])
    lake.merge_index(everything=True)
    assert compact(lake).packs_removed
    assert collect(lake, AT_ONCE).deleted
    known = lake.log.head().number
    made_older(lake)
    for name in ("lost", "last"):
        write(lake, {name: b"1"})
    assert repaired(lake, known) == {"lost": b"1", "last": b"1"}
