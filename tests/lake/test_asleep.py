"""Who sleeps between the last byte of a pack or segment and its commit, longer than the grace of
garbage collection, is refused: a commit never names what is gone (I2)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest

from lakefeed.errors import Conflict
from lakefeed.lake import layout
from lakefeed.lake.compactor import compact
from lakefeed.lake.garbage import GRACE_SECONDS, collect
from lakefeed.lake.lake import Lake
from lakefeed.lake.repair import rebuild_index
from lakefeed.transfer.importing import import_tree
from lakefeed.volume.base import FileStat, Volume
from lakefeed.volume.memory import MemoryVolume
from tests.lake.compacting import filled, sound
from tests.lake.tools import contents, write
from tests.service.tools import Service, drop
from tests.support.faulty import FaultyVolume

T = TypeVar("T")


class Clock:
    """A file server's clock that somebody else moves."""

    def __init__(self) -> None:
        self.now_ns = 10**18

    def __call__(self) -> int:
        return self.now_ns


WRITTEN = ("create", layout.TMP)
LINKED = ("link", layout.LOG)


class SleepyVolume(FaultyVolume):
    """Sleeps for two graces before the first commit after a new pack or segment, or in its link;
    meanwhile others collect garbage. Later commits find it awake. As on NFS, a stat tells what it
    knew before."""

    def __init__(self, inner: Volume, clock: Clock, call: tuple[str, str] = WRITTEN) -> None:
        super().__init__(inner)
        self._clock = clock
        self._call = call
        self._has_slept = False
        self._made: list[str] = []
        self._known: dict[str, FileStat] = {}

    def stat(self, path: str) -> FileStat:
        """Return what is known of a file, without asking whether it is there."""
        return self._known.get(path) or super().stat(path)

    def run(
        self,
        verb: str,
        path: str,
        effect: Callable[[], T],
        half: Callable[[], object] | None = None,
    ) -> T:
        """Make the call, after a sleep where it is time for one."""
        place = path.partition("/")[0]
        if self._made and not self._has_slept and (verb, place) == self._call:
            self._has_slept = True
            self._known = {made: self.inner.stat(made) for made in self._made}
            self._clock.now_ns += int(2 * GRACE_SECONDS * 1e9)
            with Lake.open(self.inner) as other:
                assert collect(other).deleted
        if verb == "create" and place in (layout.PACKS, layout.INDEX):
            self._made.append(path)
        return effect()


Work = Callable[[Lake, Path], object]
WORK: dict[str, Work] = {
    "writer": lambda lake, place: write(lake, {"new": b"bytes"}),
    "import": lambda lake, place: import_tree(lake, place),
    "merge": lambda lake, place: lake.merge_index(everything=True),
    "compaction": lambda lake, place: compact(lake),
    "repair": lambda lake, place: rebuild_index(lake),
}


@pytest.mark.parametrize("call", [WRITTEN, LINKED])
@pytest.mark.parametrize("work", WORK)
def test_a_commit_that_would_name_what_was_collected_is_a_conflict(
    work: str, call: tuple[str, str], tmp_path: Path
) -> None:
    (tmp_path / "imported").write_bytes(b"bytes")
    clock = Clock()
    volume = filled(MemoryVolume(clock_ns=clock))
    with Lake.open(volume) as lake:
        before = contents(lake.snapshot())
    with Lake.open(SleepyVolume(volume, clock, call)) as lake:
        with pytest.raises(Conflict, match="garbage collection took it"):
            WORK[work](lake, tmp_path)
        assert contents(lake.snapshot()) == before
        sound(lake)
        WORK[work](lake, tmp_path)
        sound(lake)


def test_an_inbox_takes_in_anew_what_was_collected_before_its_commit(tmp_path: Path) -> None:
    clock = Clock()
    volume = filled(MemoryVolume(clock_ns=clock))
    drop(tmp_path, "a", b"dropped")
    with Lake.open(SleepyVolume(volume, clock)) as lake:
        made = Service(lake, tmp_path)
        with pytest.raises(Conflict, match="garbage collection took it"):
            made.take()
        assert (tmp_path / "a").exists()
        made.take()
        assert lake.snapshot().get("a") == b"dropped"
        assert not (tmp_path / "a").exists()
        sound(lake)
