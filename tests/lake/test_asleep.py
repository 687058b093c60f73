"""Who sleeps between the last byte of a pack or segment and its commit, longer than the grace of
garbage collection, is refused: a commit never names what is gone (I2)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from threading import Event, Thread

import pytest

from lakefeed.errors import Conflict
from lakefeed.format.commit import Changes
from lakefeed.format.pack import Meta
from lakefeed.format.payload import encode
from lakefeed.lake import layout
from lakefeed.lake.compactor import compact
from lakefeed.lake.garbage import GRACE_SECONDS, collect
from lakefeed.lake.lake import Lake
from lakefeed.lake.log import CATCHING_UP_MAX, Draft
from lakefeed.lake.packing import new_pack
from lakefeed.lake.repair import rebuild_index
from lakefeed.transfer.importing import import_tree
from lakefeed.volume.base import FileStat, Volume
from lakefeed.volume.memory import MemoryVolume
from tests.lake.compacting import filled, sound
from tests.lake.tools import contents, write
from tests.service.tools import Service, drop
from tests.support.faulty import HookedVolume
from tests.support.patience import PATIENCE_SECONDS


class Clock:
    """A file server's clock that somebody else moves."""

    def __init__(self) -> None:
        self.now_ns = 10**18

    def __call__(self) -> int:
        return self.now_ns


WRITTEN = ("create", layout.TMP)
LINKED = ("link", layout.LOG)


class SleepyVolume(HookedVolume):
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

    def before(self, verb: str, path: str) -> None:
        """Sleep where it is time for that."""
        place = path.partition("/")[0]
        if self._made and not self._has_slept and (verb, place) == self._call:
            self._has_slept = True
            self._known = {made: self.inner.stat(made) for made in self._made}
            self._clock.now_ns += int(2 * GRACE_SECONDS * 1e9)
            with Lake.open(self.inner) as other:
                assert collect(other).deleted
        if verb == "create" and place in (layout.PACKS, layout.INDEX):
            self._made.append(path)


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


class WakingVolume(HookedVolume):
    """Somebody wakes up once garbage collection has read the log for the last time, and is about to
    delete."""

    def __init__(self, inner: Volume, wakes: Callable[[], object]) -> None:
        super().__init__(inner)
        self._wakes: Callable[[], object] | None = wakes

    def before(self, verb: str, path: str) -> None:
        """Have whoever wakes up do its part."""
        is_deletion = verb == "unlink" and path.startswith((layout.PACKS, layout.INDEX))
        if is_deletion and self._wakes is not None:
            wakes, self._wakes = self._wakes, None
            wakes()


def two_packs_late(clock: Clock) -> tuple[MemoryVolume, Callable[[Lake], object]]:
    """Return a lake with two old packs that no commit names, and what commits one of them."""
    volume = filled(MemoryVolume(clock_ns=clock))
    with Lake.open(volume) as lake:
        base = lake.log.head().number
        one, _ = [new_pack(volume, base, lambda writer, now_ns: writer.add(
            "late", encode(b"bytes"), Meta(now_ns))) for _ in range(2)]  # fmt: skip
    clock.now_ns += int(2 * GRACE_SECONDS * 1e9)
    changes = Changes(add_packs=(one,))
    return volume, lambda lake: lake.log.commit(Draft("late"), lambda state: changes)


@pytest.mark.parametrize("back_seconds", [0, 3 * GRACE_SECONDS], ids=["on", "back"])
@pytest.mark.parametrize("knows", [True, False])
def test_who_wakes_up_while_garbage_is_being_deleted_comes_too_late(
    knows: bool, back_seconds: float
) -> None:
    clock = Clock()
    volume, commit = two_packs_late(clock)
    refused = list[str]()

    with Lake.open(volume) as lake:
        if knows:
            lake.log.head()

        def wakes() -> None:
            clock.now_ns -= int(back_seconds * 1e9)
            with pytest.raises(Conflict, match="garbage collection") as error:
                commit(lake)
            refused.append(error.value.text)
            write(lake, {"in time": b"bytes"})

        with Lake.open(WakingVolume(volume, wakes)) as other:
            assert collect(other).deleted == 2
    assert len(refused) == 1
    with Lake.open(volume) as lake:
        assert lake.snapshot().get("in time") == b"bytes"
        sound(lake)


def test_a_clock_that_was_wrong_at_a_collection_keeps_nobody_from_committing() -> None:
    clock = Clock()
    volume, _ = two_packs_late(clock)
    clock.now_ns += 10**18
    with Lake.open(volume) as lake:
        assert collect(lake).deleted == 2
        clock.now_ns -= 10**18
        write(lake, {"in time": b"bytes"})
        lake.merge_index(everything=True)
        assert lake.snapshot().get("in time") == b"bytes"
        sound(lake)


def test_a_pack_that_only_its_time_puts_before_a_collection_is_none_that_it_swept() -> None:
    clock, grace_ns = Clock(), int(GRACE_SECONDS * 1e9)
    volume, _ = two_packs_late(clock)
    with Lake.open(volume) as lake:
        assert collect(lake).deleted == 2
        clock.now_ns -= grace_ns
        made = new_pack(volume, lake.log.head().number, lambda writer, now_ns: writer.add(
            "in time", encode(b"bytes"), Meta(now_ns)))  # fmt: skip
        clock.now_ns += grace_ns
        lake.log.commit(Draft("in time"), lambda state: Changes(add_packs=(made,)))
        assert lake.snapshot().get("in time") == b"bytes"
        sound(lake)


class Awake(HookedVolume):
    """Has others collect garbage before the first commit after a new pack or segment, and wakes up
    where they are about to delete; they go on by `let_go_on`. `between` is done before and then."""

    def __init__(self, inner: Volume, clock: Clock, between: Callable[[], object]) -> None:
        super().__init__(inner)
        self._clock = clock
        self._between = between
        self._is_made = False
        self._others: Thread | None = None
        self._is_about_to, self._goes_on = Event(), Event()

    def before(self, verb: str, path: str) -> None:
        """Sleep where it is time for that."""
        place = path.partition("/")[0]
        if self._is_made and self._others is None and (verb, place) == WRITTEN:
            self._clock.now_ns += int(2 * GRACE_SECONDS * 1e9)
            self._between()
            self._others = Thread(target=self._collect)
            self._others.start()
            assert self._is_about_to.wait(PATIENCE_SECONDS)
            self._between()
        self._is_made = self._is_made or (
            verb == "create" and place in (layout.PACKS, layout.INDEX)
        )

    def _collect(self) -> None:
        def stop() -> None:
            self._is_about_to.set()
            assert self._goes_on.wait(PATIENCE_SECONDS)

        with Lake.open(WakingVolume(self.inner, stop)) as other:
            collect(other)  # who is refused may remove them first

    def let_go_on(self) -> None:
        """Let the others delete, and wait for their end."""
        assert self._others is not None
        self._goes_on.set()
        self._others.join(PATIENCE_SECONDS)


@pytest.mark.parametrize("commits", [0, CATCHING_UP_MAX], ids=["read", "skipped"])
@pytest.mark.parametrize("work", WORK)
def test_who_wakes_while_the_files_are_being_deleted_is_refused_too(
    work: str, commits: int, tmp_path: Path
) -> None:
    (tmp_path / "imported").write_bytes(b"bytes")
    clock = Clock()
    volume = filled(MemoryVolume(clock_ns=clock))

    def others_go_on() -> None:
        with Lake.open(volume) as other:
            for _ in range(commits):
                clock.now_ns += 1
                other.log.commit(Draft("other"), lambda state: Changes())

    with Lake.open(volume) as lake:
        before = contents(lake.snapshot())
    awake = Awake(volume, clock, others_go_on)
    with Lake.open(awake) as lake:
        with pytest.raises(Conflict, match="garbage collection took it"):
            WORK[work](lake, tmp_path)
        awake.let_go_on()
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
