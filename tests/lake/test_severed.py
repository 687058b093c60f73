"""A log written anew from packs some of which refer to bytes that compaction moved since.

Their rows lead nowhere: none of them may take the place of one that is there.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from lakefeed.errors import VolumeFailed
from lakefeed.lake import layout
from lakefeed.lake.check import check
from lakefeed.lake.compaction import CompactionOptions
from lakefeed.lake.compactor import compact
from lakefeed.lake.garbage import Retention, collect
from lakefeed.lake.lake import Lake
from lakefeed.lake.log import Log
from lakefeed.lake.repair import rebuild_log
from lakefeed.volume.posix import PosixVolume
from tests.lake.tools import QUIET, contents, new_lake, write
from tests.service.tools import dying

# What no commit names stays, as it is young; what no snapshot needs goes.
YOUNG = Retention(keep_seconds=0)
# Takes packs of which most is dead.
MOSTLY_DEAD = CompactionOptions(target_bytes=1, live_ratio=0.8)
BYTES = b"bytes of a"
LOST = ("none", "first", "later", "all")


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    """Return a lake whose first pack holds `a` and is worth compacting."""
    with new_lake(PosixVolume(tmp_path / "lake")) as made:
        write(made, {"a": BYTES, "dead": b"dead" * 100})
        write(made, {"z": b"bytes of z"}, delete=["dead"])
        return made


def die_before_commit(
    lake: Lake, monkeypatch: pytest.MonkeyPatch, renamed: tuple[str, ...] = (), **puts: bytes
) -> None:
    """Leave the pack of a batch whose writer died."""
    dying(monkeypatch, Log, "commit", after=False)
    with pytest.raises(VolumeFailed), Lake.open(lake.volume) as own, own.writer(QUIET) as writer:
        if renamed:
            writer.rename(*renamed)
        for path, data in puts.items():
            writer.put(path, data)
        writer.flush()


def repaired(lake: Lake, lost: str) -> dict[str, bytes]:
    """Compact, collect, lose commits, and return what the log shows that is written anew."""
    assert compact(lake, MOSTLY_DEAD).packs_removed
    assert collect(lake, YOUNG).deleted
    numbers = range(1, lake.log.head().number + 1)
    for number in {"none": (), "first": (1,), "later": numbers[1:], "all": numbers}[lost]:
        lake.volume.unlink(layout.commit_path(number))
    rebuild_log(lake.volume)
    with Lake.open(lake.volume) as again:
        assert check(again, deep=True).clean
        return contents(again.snapshot())


@pytest.mark.parametrize("lost", LOST)
@pytest.mark.parametrize("puts", [{}, {"c": b"never acknowledged"}])
def test_a_rename_that_was_never_made_hides_nothing(
    lake: Lake, monkeypatch: pytest.MonkeyPatch, puts: dict[str, bytes], lost: str
) -> None:
    die_before_commit(lake, monkeypatch, ("a", "b"), **puts)
    assert repaired(lake, lost) == {"a": BYTES, "z": b"bytes of z"}


@pytest.mark.parametrize("lost", LOST)
def test_a_rename_whose_bytes_were_moved_since_shows_them(
    lake: Lake, monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    # Both see the same snapshot, so that their order is a guess: the one that dies is first.
    with lake.writer(QUIET) as writer:
        die_before_commit(lake, monkeypatch, c=b"never acknowledged")
        writer.rename("a", "b")
    found = repaired(lake, lost)
    found.pop("c", None)
    assert found == {"b": BYTES, "z": b"bytes of z"}


@pytest.mark.parametrize("lost", LOST)
def test_a_file_put_with_a_rename_stays_when_that_ones_bytes_were_moved(
    lake: Lake, lost: str
) -> None:
    with lake.writer(QUIET) as writer:
        writer.rename("a", "b")
        writer.put("c", b"bytes of c")
    write(lake, {"b": b"newer"})
    wanted = {"b": b"newer", "c": b"bytes of c", "z": b"bytes of z"}
    assert repaired(lake, lost) == wanted
