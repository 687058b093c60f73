"""Somebody goes on while the log is written anew, which is forbidden: they may be refused, but what
they were told is done is not lost."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import pytest

from lakefeed.errors import Conflict, LakefeedError, VolumeFailed
from lakefeed.format.commit import Changes
from lakefeed.format.pack import PackSealed
from lakefeed.lake import layout
from lakefeed.lake.check import check
from lakefeed.lake.compactor import compact
from lakefeed.lake.lake import Lake
from lakefeed.lake.log import Draft
from lakefeed.lake.packing import discard_packs, new_pack
from lakefeed.lake.repair import ROUNDS_MAX, rebuild_log
from lakefeed.volume.base import Volume
from lakefeed.volume.posix import PosixVolume
from tests.lake.tools import contents, new_lake, write
from tests.support.faulty import FaultyVolume, HookedVolume
from tests.survival.lakes import raw_files


class Beside(HookedVolume):
    """A repair's way to its volume: before call number `at` of these verbs somebody else does their
    work; None: before each of them."""

    def __init__(
        self, inner: Volume, work: Callable[[], object], at: int | None, *verbs: str
    ) -> None:
        super().__init__(inner)
        self._work = work
        self.at = at
        self._at_verbs = verbs
        self.seen = 0
        self.is_done = False

    def before(self, verb: str, path: str) -> None:
        """Do the work where it is time for that."""
        if verb in self._at_verbs:
            self.seen += 1
            if self.at in (None, self.seen):
                try:
                    self._work()
                    self.is_done = True
                except LakefeedError:
                    pass  # refused, which is right


VERBS = ("refresh", "create", "replace", "sync_directory", "make_directory")
WORK: dict[str, Callable[[Lake], object]] = {
    "writer": lambda lake: write(lake, {"new": b"new", "0": b"newer"}, delete=["1"]),
    "compaction": compact,
}


def working(work: str, lake: Lake, shown: list[dict[str, bytes]]) -> None:
    """Do some work, and note what the lake shows then."""
    WORK[work](lake)
    shown.append(contents(lake.snapshot()))


def repaired_at_each_call(tmp_path: Path, work: Callable[[Lake, Beside], object]) -> int:
    """Let the log be written anew before each call of some work, which may be refused then: what it
    leaves is whole. Return the first number that no call had."""
    for at in range(1, 1000):
        volume = PosixVolume(tmp_path / f"{at}")
        beside = Beside(volume, partial(rebuild_log, volume), 0, *VERBS, "link")
        with damaged(beside) as lake:
            beside.at = beside.seen + at
            with suppress(LakefeedError):
                work(lake, beside)
        if not beside.is_done:
            break
        with Lake.open(volume) as lake:
            assert check(lake, deep=True).clean, at
    return at


@pytest.mark.parametrize("work", WORK)
def test_what_is_committed_while_the_log_is_written_anew_is_taken_in(
    work: str, tmp_path: Path
) -> None:
    done = set()
    for at in range(1, 1000):
        volume = PosixVolume(tmp_path / f"{at}")
        with damaged(volume) as other:
            shown = list[dict[str, bytes]]()
            beside = Beside(volume, partial(working, work, other, shown), at, *VERBS)
            rebuild_log(beside)
            if beside.seen < at:
                break
            with Lake.open(volume) as lake:
                assert check(lake, deep=True).clean
                if beside.is_done:
                    assert contents(lake.snapshot()) == shown[0], at
        done.add(beside.is_done)
    assert done == {True, False}


@pytest.mark.parametrize("work", WORK)
def test_who_gives_up_while_the_log_is_written_anew_leaves_what_it_names(
    work: str, tmp_path: Path
) -> None:
    # The new log takes in packs that are complete, also those of whoever is refused then.
    assert repaired_at_each_call(tmp_path, lambda lake, _: WORK[work](lake)) > 5


def test_a_pack_that_is_given_up_while_the_log_is_written_anew_is_not_in_it(
    tmp_path: Path,
) -> None:
    done = set()
    for at in range(1, 1000):
        volume = PosixVolume(tmp_path / f"{at}")
        with damaged(volume) as other:
            mine = new_pack(volume, 3, lambda writer, now_ns: None)

            def give_up(other: Lake = other, mine: PackSealed = mine) -> None:
                discard_packs(other.volume, other.log, [mine])

            beside = Beside(volume, give_up, at, *VERBS)
            rebuild_log(beside)
            if beside.seen < at:
                break
            with Lake.open(volume) as lake:
                assert check(lake).clean, at
                done.add(mine.id in lake.snapshot().state.packs)
    assert done == {True, False}


def test_who_is_about_to_commit_while_the_log_is_written_anew_leaves_it_whole(
    tmp_path: Path,
) -> None:
    done = set()

    def commit(lake: Lake, beside: Beside) -> None:
        lake.log.commit(Draft("late"), lambda state: Changes())
        done.add(beside.is_done)

    repaired_at_each_call(tmp_path, commit)
    assert done == {True, False}


def test_where_others_commit_all_the_time_the_log_stays_as_it_was(tmp_path: Path) -> None:
    volume = PosixVolume(tmp_path / "lake")
    with damaged(volume) as other:
        beside = Beside(volume, lambda: write(other, {"new": b"new"}), None, "make_directory")
        with pytest.raises(Conflict, match="nobody at work"):
            rebuild_log(beside)
        number = other.log.head().number
    assert number > ROUNDS_MAX
    assert raw_files(volume, layout.QUARANTINE) == {}
    assert volume.stat(layout.commit_path(number)).size
    rebuild_log(volume)
    with Lake.open(volume) as lake:
        assert contents(lake.snapshot())["new"] == b"new"


def test_a_log_that_cannot_be_written_anew_leaves_nothing_of_it(tmp_path: Path) -> None:
    failed = 0
    volume = PosixVolume(tmp_path / "lake")
    with damaged(volume):
        for number in range(1, 100):
            faulty = FaultyVolume(volume, number, verbs=["write"])
            try:
                rebuild_log(faulty)
            except VolumeFailed:
                failed += 1
                assert raw_files(volume, layout.QUARANTINE) == {}
            else:
                break
    assert failed > 3


@contextmanager
def damaged(volume: Volume) -> Iterator[Lake]:
    """Lend a lake that misses a commit by now."""
    with new_lake(volume) as lake:
        for number in range(3):
            write(lake, {f"{number}": b"bytes"})
        volume.unlink(layout.commit_path(2))
        yield lake
