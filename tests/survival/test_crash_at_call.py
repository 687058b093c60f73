"""Every operation, with every volume call of it failing in turn, leaves the old lake or the new.

The call fails before it has any effect, after it (a lost reply), or half-way; then the volume works
again or stays dead. What is left is looked at three times: as the running machine sees it, after a
power cut that kept only what was synced, and after one that kept every name but only synced bytes.
"""

from __future__ import annotations

import io
import itertools
import logging
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import pytest

from lakefeed import Lake, WriterOptions
from lakefeed.errors import Conflict, LakefeedError, NotFound, SnapshotExpired, VolumeFailed
from lakefeed.lake.compactor import compact
from lakefeed.lake.garbage import Retention, collect
from lakefeed.lake.log import CHECKPOINT_EVERY
from lakefeed.volume.base import Volume
from lakefeed.volume.memory import MemoryVolume
from tests.support.faulty import MODES, FaultyVolume, Mode, every_fault
from tests.survival.lakes import Picture, all_snapshots, audit, files_of, picture, raw_files

pytestmark = pytest.mark.slow

CHANGING = ("create", "write", "sync", "link", "replace", "unlink", "sync_directory")
MANUAL = WriterOptions(flush_age_seconds=3600.0, merge_after=0)


def base_lake() -> MemoryVolume:
    """Return a lake of four commits: files, a merged index, an unmerged pack, a tag."""
    volume = MemoryVolume()
    with Lake.create(volume) as lake, lake.writer(MANUAL) as writer:
        for name in ("d/a", "d/b", "e/c"):
            writer.put(name, name.encode() * 50)
        writer.flush()
        lake.tag("first")
        writer.put("e/d", b"second")
        writer.flush()
        lake.merge_index()
        writer.put("e/d", b"third")
        writer.mkdir("empty")
    return volume


def put(lake: Lake) -> None:
    with lake.writer(MANUAL) as writer:
        handles = [writer.put(f"new/{i}", bytes([i]) * 5000) for i in range(3)]
        for handle in (writer.flush(), *[h.wait() for h in handles]):
            assert handle == lake.snapshot().number


def overwrite(lake: Lake) -> None:
    with lake.writer(MANUAL) as writer:
        writer.put("d/a", b"overwritten")


def delete(lake: Lake) -> None:
    with lake.writer(MANUAL) as writer:
        writer.delete_tree("d")


def rename(lake: Lake) -> None:
    with lake.writer(MANUAL) as writer:
        writer.rename("d", "moved")


def big_file(lake: Lake) -> None:
    options = WriterOptions(big_bytes=1000, flush_age_seconds=3600.0)
    with lake.writer(options) as writer:
        writer.put_file("big", io.BytesIO(b"big" * 2000))
        writer.put("small", b"in another pack")


def tag(lake: Lake) -> None:
    lake.tag("new")


def move_tag(lake: Lake) -> None:
    lake.tag("first", move=True)


def delete_tag(lake: Lake) -> None:
    lake.refs.delete("first")


def merge(lake: Lake) -> None:
    lake.merge_index()


def merge_everything(lake: Lake) -> None:
    lake.merge_index(everything=True)


def collect_garbage(lake: Lake) -> None:
    collect(lake, Retention(keep_seconds=0.0, grace_seconds=0.0))


def compact_packs(lake: Lake) -> None:
    compact(lake)


OPERATIONS: list[Callable[[Lake], None]] = [
    put, overwrite, delete, rename, big_file, tag, move_tag, delete_tag, merge, merge_everything,
    collect_garbage, compact_packs,
]  # fmt: skip


@dataclass(frozen=True)
class Case:
    """An operation on a lake, and the pictures of the lake before and after it."""

    base: MemoryVolume
    act: Callable[[Lake], None]
    old: Picture
    new: Picture
    history: dict[int, dict[str, bytes]]


def case_of(base: MemoryVolume, act: Callable[[Lake], None]) -> Case:
    done = base.power_cut()
    with Lake.open(done) as lake:
        act(lake)
    return Case(base, act, picture(base), picture(done), all_snapshots(base))


def faults(
    build: Callable[[], MemoryVolume], verbs: Sequence[str] | None = None
) -> Iterator[FaultyVolume]:
    """Yield faulty volumes for every call (of these verbs), every mode, once and for good."""
    for mode, dead in itertools.product(MODES, (False, True)):
        yield from every_fault(build, mode, verbs=_halves(mode) or verbs, dead=dead)


def _halves(mode: Mode) -> tuple[str, ...] | None:
    # Only these two have a half; the other verbs would repeat what `before` does.
    return ("write", "list") if mode == "torn" else None


def aftermaths(volume: MemoryVolume) -> Iterator[MemoryVolume]:
    """Yield what may be found afterwards: two kinds of power cut, and the running volume."""
    yield volume.power_cut()
    every_name = volume
    for directory in {"", *(path.rpartition("/")[0] for path in raw_files(volume))}:
        every_name.sync_directory(directory)
    yield every_name.power_cut()
    yield volume


def attempt(act: Callable[[Lake], None], volume: Volume) -> bool:
    """Return whether the operation was acknowledged; only lakefeed's errors may come out."""
    try:
        with Lake.open(volume) as lake:
            act(lake)
    except LakefeedError:
        return False
    return True


def check(case: Case, volume: MemoryVolume, acknowledged: bool) -> None:
    """The old lake or the new one; the new one if acknowledged; and the operation works now."""
    audit(volume)
    seen = picture(volume)
    assert seen == case.new or (not acknowledged and seen == case.old)
    _check_history(case, volume)
    with Lake.open(volume) as lake:
        try:
            case.act(lake)
        except (NotFound, Conflict):
            # It happened, though nobody could say so: what it moved is moved, the tag is there.
            assert seen == case.new
    assert picture(volume) == case.new


def _check_history(case: Case, volume: MemoryVolume) -> None:
    """Every older snapshot shows what it showed, unless it was given up in so many words."""
    with Lake.open(volume) as lake:
        for number, files in case.history.items():
            try:
                assert files_of(lake.snapshot(number)) == files
            except SnapshotExpired:
                assert case.act is collect_garbage
                assert number < lake.log.head().horizon


Shape = tuple[tuple[str, int], ...]


def shape(volume: MemoryVolume) -> Shape:
    """Return names and sizes, random ids masked: most faults leave what another one left."""
    files = raw_files(volume).items()
    return tuple(sorted((_ID.sub("*", path), len(data)) for path, data in files))


_ID = re.compile("[0-9a-f]{2}/[0-9a-f]{32}|[0-9a-f]{32}")


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR, "lakefeed")


@pytest.mark.parametrize("act", OPERATIONS, ids=lambda act: act.__name__)
def test_a_failing_call_leaves_the_old_lake_or_the_new(act: Callable[[Lake], None]) -> None:
    case = case_of(base_lake(), act)
    checked: set[tuple[Shape, bool]] = set()
    for volume in faults(case.base.power_cut):
        acknowledged = attempt(case.act, volume)
        assert isinstance(volume.inner, MemoryVolume)
        for left in aftermaths(volume.inner):
            key = shape(left), acknowledged
            if key not in checked:
                checked.add(key)
                check(case, left, acknowledged)
    assert len(checked) > 2


def test_a_failing_call_of_create_leaves_no_lake_or_an_empty_one() -> None:
    for volume in faults(MemoryVolume):
        try:
            Lake.create(volume)
            acknowledged = True
        except LakefeedError:
            acknowledged = False
        assert isinstance(volume.inner, MemoryVolume)
        for left in aftermaths(volume.inner):
            try:
                Lake.create(left)
                assert not acknowledged
            except Conflict:
                pass  # it is there, whoever was told so
            assert audit(left) == 0
            with Lake.open(left) as lake:
                put(lake)


def test_a_failing_call_of_a_checkpoint_costs_nothing() -> None:
    base = MemoryVolume()
    with Lake.create(base) as lake, lake.writer(MANUAL) as writer:
        for number in range(2, CHECKPOINT_EVERY):
            writer.put("same", b"%d" % number)
            writer.flush()
        lake.merge_index()

    def put_last(lake: Lake) -> None:
        with lake.writer(MANUAL) as writer:
            writer.put("same", b"last")

    old, new = {"same": b"%d" % (CHECKPOINT_EVERY - 1)}, {"same": b"last"}
    checked: set[tuple[Shape, bool]] = set()
    # Reading the thirty commits before it is what every other operation does, too.
    for volume in faults(base.power_cut, ("create", "sync", "link", "replace")):
        acknowledged = attempt(put_last, volume)
        assert isinstance(volume.inner, MemoryVolume)
        for left in aftermaths(volume.inner):
            key = shape(left), acknowledged
            if key not in checked:
                checked.add(key)
                seen = picture(left).files
                assert seen == new or (not acknowledged and seen == old)
                audit(left)
    assert len(checked) > 10


def test_a_writer_outlives_every_failing_call() -> None:
    options = WriterOptions(flush_age_seconds=3600.0, merge_after=1)
    for volume in every_fault(base_lake().power_cut, verbs=CHANGING):
        durable: dict[str, bytes] = {}
        with Lake.open(volume.inner) as reader, Lake(volume) as lake:
            with lake.writer(options) as writer:
                for number in range(3):
                    path = f"n/{number}"
                    try:
                        handle = writer.put(path, path.encode())
                        writer.flush()
                    except LakefeedError:
                        continue
                    assert handle.wait(30.0)
                    durable[path] = path.encode()
            files = files_of(reader.snapshot())
            assert len(durable) >= 2
            assert durable.items() <= files.items()


def test_a_failed_commit_that_nobody_waited_for_is_raised_at_the_end() -> None:
    options = WriterOptions(flush_files=1)
    volume = FaultyVolume(base_lake(), 1, verbs={"sync"})
    with Lake.open(volume) as lake:
        writer = lake.writer(options)
        lost = writer.put("lost", b"1")
        while not lost.done():
            os.sched_yield()
        writer.put("kept", b"2").wait()
        with pytest.raises(VolumeFailed, match="injected"):
            writer.close()
        with pytest.raises(VolumeFailed, match="injected"):
            lost.wait()
        assert not lake.snapshot().exists("lost")


def test_a_failure_that_was_raised_once_is_not_raised_again() -> None:
    volume = FaultyVolume(base_lake(), 1, verbs={"sync"})
    with Lake.open(volume) as lake, lake.writer(WriterOptions(flush_files=1)) as writer:
        with pytest.raises(VolumeFailed):
            writer.put("again", b"1").wait()
        writer.put("again", b"1").wait()
