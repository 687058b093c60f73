"""The newest file of each kind, cut at every byte or zeroed from there on.

A torn commit is a commit that never happened: the lake opens with the snapshot before it. A torn
pack or segment is Corrupt and named; whatever can still be read is right.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from functools import cache

import pytest

from lakefeed import Lake, WriterOptions
from lakefeed.errors import Corrupt, VolumeFailed
from lakefeed.lake import layout
from lakefeed.lake.check import check
from lakefeed.lake.log import CHECKPOINT_EVERY
from lakefeed.volume.base import read_file, write_file
from lakefeed.volume.memory import MemoryVolume
from tests.survival.lakes import files_of, picture

pytestmark = pytest.mark.slow

# Between the ends, where every byte is tried, a prime stride meets all alignments.
EVERY_BYTES = 24
STRIDE = 149
MANUAL = WriterOptions(flush_age_seconds=3600.0, merge_after=0)
OLD = {"old/a": b"a" * 300, "old/b": b"b" * 6000}
NEW = {**OLD, "new/c": b"c" * 300, "new/d": b"d" * 5000, "old/a": b"changed"}

Damage = Callable[[bytes, int], bytes]


def cut(data: bytes, length: int) -> bytes:
    return data[:length]


def zeroed(data: bytes, length: int) -> bytes:
    return data[:length].ljust(len(data), b"\0")


@cache
def lake_of(merged: bool) -> MemoryVolume:
    volume = MemoryVolume()
    with Lake.create(volume) as lake, lake.writer(MANUAL) as writer:
        for path in OLD:
            writer.put(path, OLD[path])
        writer.flush()
        for path in ("new/c", "new/d", "old/a"):
            writer.put(path, NEW[path])
        writer.flush()
        if merged:
            lake.merge_index()
    return volume


def lengths(size: int) -> Iterator[int]:
    middle = range(EVERY_BYTES, max(size - EVERY_BYTES, EVERY_BYTES), STRIDE)
    yield from sorted({*range(min(EVERY_BYTES, size)), *middle, *range(size)[-EVERY_BYTES:]})


def damaged(base: MemoryVolume, path: str, damage: Damage) -> Iterator[MemoryVolume]:
    """Yield copies of a volume with one file damaged, at one length after another."""
    data = read_file(base, path)
    for length in lengths(len(data)):
        bad = damage(data, length)
        if bad != data:
            volume = base.power_cut()
            volume.unlink(path)
            write_file(volume, path, bad)
            yield volume


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR, "lakefeed")


@pytest.mark.parametrize("damage", [cut, zeroed])
def test_a_torn_commit_leaves_the_snapshot_before_it(damage: Damage) -> None:
    path = layout.commit_path(2)
    count = 0
    for volume in damaged(lake_of(False), path, damage):
        count += 1
        assert picture(volume).files == OLD
        with Lake.open(volume) as lake:
            assert not check(lake).clean
            with pytest.raises(Corrupt, match=path), lake.writer(MANUAL) as writer:
                writer.put("more", b"")
                writer.flush()
        assert picture(volume).files == OLD
    assert count > 50


@pytest.mark.parametrize("damage", [cut, zeroed])
@pytest.mark.parametrize("merged", [False, True], ids=["own index", "merged index"])
def test_a_torn_pack_is_named_and_never_read_wrongly(merged: bool, damage: Damage) -> None:
    base = lake_of(merged)
    with Lake.open(base) as lake:
        pack = next(info.sealed.id for info in lake.log.head().packs.values() if info.seq == 2)
    refusals = 0
    for volume in damaged(base, layout.pack_path(pack), damage):
        with Lake.open(volume) as lake:
            assert files_of(lake.snapshot(1)) == OLD
            assert not check(lake, deep=True).clean
            for path in NEW:
                try:
                    assert lake.snapshot().get(path) == NEW[path]
                except (Corrupt, VolumeFailed) as error:
                    refusals += 1
                    assert pack in str(error) or path in str(error)
                    # A pack whose own index is in use has one more defence: its size is known.
                    assert merged or isinstance(error, Corrupt)
    assert refusals > 50


@pytest.mark.parametrize("damage", [cut, zeroed])
def test_a_torn_segment_is_named(damage: Damage) -> None:
    base = lake_of(True)
    with Lake.open(base) as lake:
        segment = next(iter(lake.log.head().segments))
    for volume in damaged(base, layout.segment_path(segment), damage):
        with Lake.open(volume) as lake:
            with pytest.raises(Corrupt, match=segment):
                lake.snapshot().get_many(list(NEW))
            assert files_of(lake.snapshot(2)) == NEW


def test_a_torn_checkpoint_or_hint_is_done_without() -> None:
    base = lake_of(True).power_cut()
    with Lake.open(base) as lake, lake.writer(MANUAL) as writer:
        while lake.log.head().number < CHECKPOINT_EVERY:
            writer.put("same", b"%d" % lake.log.head().number)
            writer.flush()
        lake.merge_index(everything=True)
    base.sync_directory(layout.LOG)
    before = picture(base)
    for path in (layout.checkpoint_path(CHECKPOINT_EVERY), layout.HEAD_HINT):
        for damage in (cut, zeroed):
            for volume in damaged(base, path, damage):
                assert picture(volume) == before
