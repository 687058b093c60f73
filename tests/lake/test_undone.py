"""What was written for a commit that was not made for certain is gone again."""

from __future__ import annotations

import errno
import io
from collections.abc import Callable
from functools import cache

import pytest

from lakefeed.errors import Conflict, Invalid, VolumeFailed
from lakefeed.lake import committing, layout
from lakefeed.lake.check import check
from lakefeed.lake.compactor import compact
from lakefeed.lake.garbage import orphans_of, stored_files
from lakefeed.lake.lake import Lake
from lakefeed.lake.log import Draft
from lakefeed.lake.packing import new_pack
from lakefeed.lake.repair import rebuild_index
from lakefeed.lake.writer import WriterOptions
from lakefeed.volume.memory import MemoryVolume
from tests.lake.compacting import FILES, filled
from tests.lake.tools import contents, write
from tests.support.faulty import FaultyVolume, HookedVolume

# Of the newest commit of the lake that each test begins with.
NUMBER = 4
BIG = WriterOptions(flush_age_seconds=1e9, merge_after=0, big_bytes=1000)


def put(lake: Lake) -> None:
    """Commit a big file, which has a pack of its own, a small one and one that is moved."""
    with lake.writer(BIG) as writer:
        writer.put_file("big", io.BytesIO(bytes(2000)))
        writer.put("small", b"1")
        writer.rename(min(FILES), "moved")


def append(lake: Lake) -> None:
    """Commit a pack as an import does."""
    lake.append([new_pack(lake.volume, 0, lambda writer, now_ns: None)], Draft("test"))


MAKERS: list[Callable[[Lake], object]] = [put, append, Lake.merge_index, compact, rebuild_index]


@cache
def base() -> MemoryVolume:
    return filled()


def is_link(verb: str, path: str) -> bool:
    """Tell whether a call is the one that makes a commit."""
    return verb == "link" and path.startswith("log/")


@pytest.mark.slow
@pytest.mark.parametrize("make", MAKERS)
def test_a_call_that_fails_before_the_link_leaves_nothing(make: Callable[[Lake], object]) -> None:
    before = {*stored_files(base())}
    clean = FaultyVolume(base().power_cut())
    with Lake.open(clean) as lake:
        opened = clean.count()
        make(lake)
    calls = clean.calls[opened:]
    linked = next(at for at, call in enumerate(calls) if is_link(call.verb, call.path))
    failed = 0
    for call in calls[:linked]:
        volume = base().power_cut()
        with Lake.open(FaultyVolume(volume, call.number)) as lake:
            try:
                make(lake)
            except VolumeFailed:
                failed += 1
                assert {*stored_files(volume)} == before, call
                assert contents(lake.snapshot()) == FILES
    assert failed > 5


@pytest.mark.parametrize("make", MAKERS)
def test_a_commit_that_may_have_been_made_keeps_what_it_names(
    make: Callable[[Lake], object],
) -> None:
    clean = FaultyVolume(base().power_cut())
    with Lake.open(clean) as lake:
        make(lake)
    linked = next(at for at, call in enumerate(clean.calls) if is_link(call.verb, call.path))
    volume = base().power_cut()
    faulty = FaultyVolume(volume, clean.calls[linked].number, "after", dead=True)
    with pytest.raises(VolumeFailed), Lake.open(faulty) as lake:
        make(lake)
    with Lake.open(volume) as lake:
        assert lake.snapshot().number == NUMBER + 1
        report = check(lake, deep=True)
        assert report.clean, report.findings


def test_a_failure_behind_a_lost_race_leaves_nothing() -> None:
    inner = base().power_cut()

    class Raced(HookedVolume):
        def before(self, verb: str, path: str) -> None:
            if self.fired and verb == "create" and path.startswith("tmp/"):
                raise VolumeFailed(path, errno=errno.ENOSPC)
            if is_link(verb, path) and not self.fired:
                self.fired = True
                with Lake.open(inner) as other:
                    write(other, {"other": b"1"})
                before.extend(stored_files(inner))

    before: list[str] = []
    with Lake.open(Raced(inner)) as lake:
        mine = new_pack(inner, 0, lambda writer, now_ns: None)
        with pytest.raises(VolumeFailed, match="tmp/"):
            lake.append([mine], Draft("test"))
    assert {*before} - {*stored_files(inner)} == {layout.pack_path(mine.id)}


def test_who_waits_for_what_is_dropped_hears_of_it_whatever_ends_the_dropping() -> None:
    class Interrupted(HookedVolume):
        def before(self, verb: str, path: str) -> None:
            if verb == "unlink" and path.startswith("packs/"):
                raise KeyboardInterrupt

    with Lake.open(Interrupted(base().power_cut())) as lake:
        with pytest.raises(KeyboardInterrupt), lake.writer(BIG) as writer:
            handle = writer.put_file("big", io.BytesIO(bytes(2000)))
            raise Invalid("batch")
        assert handle.done()


def test_a_rename_whose_origin_changes_each_time_leaves_no_big_file_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(committing, "ROUNDS_MAX", 2)
    inner = base().power_cut()

    class Raced(HookedVolume):
        def before(self, verb: str, path: str) -> None:
            if is_link(verb, path):
                with Lake.open(inner) as other:
                    write(other, {min(FILES): path.encode()})

    with Lake.open(Raced(inner)) as lake, pytest.raises(Conflict, match="origins"):
        put(lake)
    with Lake.open(inner) as lake:
        assert orphans_of(lake).files == 0
