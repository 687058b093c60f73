"""Payload reads: the plan covers every extent, bytes are verified, moved packs are found again."""

from __future__ import annotations

import errno
import os
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lakefeed.errors import Corrupt, Invalid, NotFound, SnapshotExpired, VolumeFailed
from lakefeed.format.checksum import crc32c
from lakefeed.format.commit import Changes
from lakefeed.format.pack import Meta, PackWriter
from lakefeed.format.payload import Payload, encode
from lakefeed.format.rows import Codec
from lakefeed.lake import layout
from lakefeed.lake.check import check
from lakefeed.lake.garbage import Retention, collect
from lakefeed.lake.lake import Lake
from lakefeed.lake.log import Draft
from lakefeed.lake.packing import new_pack
from lakefeed.lake.query import Query
from lakefeed.lake.reader import Extents, plan_reads
from lakefeed.lake.snapshot import VERIFIED_RANGE_BYTES
from lakefeed.volume.cached import BlockCache, CachedVolume
from lakefeed.volume.memory import MemoryVolume
from tests.lake.tools import (
    QUIET,
    all_rows,
    big_lakes,
    compact,
    contents,
    damage,
    new_lake,
    write,
)
from tests.support.faulty import FaultyVolume

AT_ONCE = Retention(keep_seconds=0, grace_seconds=0)
EXTENT = st.tuples(st.integers(0, 3), st.integers(0, 20_000), st.integers(0, 500))


def extents(triples: list[tuple[int, int, int]]) -> Extents:
    pack, offset, length = (np.array(column, np.int64) for column in zip(*triples, strict=True))
    zero = np.zeros(len(triples), np.int64)
    return Extents(["w", "x", "y", "z"], pack, offset, length, length, zero, zero)


@given(st.lists(EXTENT, min_size=1, max_size=60), st.integers(0, 300), st.integers(1, 3000))
def test_a_plan_covers_each_extent_once_and_reads_bounded_neighbours(
    triples: list[tuple[int, int, int]], gap_bytes: int, run_bytes: int
) -> None:
    order, reads = plan_reads(extents(triples), gap_bytes, run_bytes)
    assert sorted(order.tolist()) == list(range(len(triples)))
    assert [*reads.start, len(triples)] == [0, *reads.end]
    for number in range(len(reads)):
        covered = order[reads.start[number] : reads.end[number]].tolist()
        low, high = reads.offset[number], reads.offset[number] + reads.length[number]
        end = low
        for at in covered:
            pack, offset, length = triples[at]
            assert pack == reads.pack[number]
            assert low <= offset
            assert offset + length <= high
            assert offset - end <= gap_bytes  # what is read in vain is a small gap each
            end = max(end, offset + length)
        # Two cells of the cut at most, and what sticks out of the second.
        assert reads.length[number] <= run_bytes + 500


def test_no_extents_need_no_reads() -> None:
    none = np.zeros(0, np.int64)
    order, reads = plan_reads(Extents([], none, none, none, none, none, none))
    assert (len(order), len(reads)) == (0, 0)


def test_neighbours_are_one_read_until_four_mebibytes() -> None:
    size = 64 << 10
    _, reads = plan_reads(extents([(0, number * size, size) for number in range(128)]))
    assert reads.length == [4 << 20, 4 << 20]


def test_get_many_answers_in_the_order_asked_with_repeats_and_empty_files() -> None:
    with new_lake() as lake:
        files = {f"f{number}": bytes([number]) * (number * 97 % 5000) for number in range(200)}
        write(lake, files)
        wanted = ["f7", "f0", "f199", "f7", "f0", *sorted(files)]
        assert lake.snapshot().get_many(wanted) == [files[path] for path in wanted]
        assert lake.snapshot().get_many([]) == []


def test_what_is_no_file_is_named() -> None:
    with new_lake() as lake:
        with lake.writer(QUIET) as writer:
            writer.put("a/b", b"1")
            writer.mkdir("dir")
        snapshot = lake.snapshot()
        for path in ("nothing", "a"):
            with pytest.raises(NotFound, match=path):
                snapshot.get_many(["a/b", path])
        with pytest.raises(Invalid, match="dir"):
            snapshot.get("dir")


@pytest.mark.parametrize("big", [False, True])
def test_a_name_that_is_no_text_is_refused_and_named(big: bool) -> None:
    bad = os.fsdecode(b"caf\xe9")
    with big_lakes() if big else nullcontext(), new_lake() as lake:
        write(lake, {"a": b"1"})
        snapshot, writer = lake.snapshot(), lake.writer(QUIET)
        for ask in (
            lambda: snapshot.get(bad),
            lambda: snapshot.get_many(["a", bad]),
            lambda: snapshot.locate([bad, *map(str, range(9))]),
            lambda: list(snapshot.find(Query(glob=f"{bad}*"))),
            lambda: writer.get(bad),
            lambda: writer.symlink("link", bad),
        ):
            with pytest.raises(Invalid, match="valid UTF-8") as refused:
                ask()
            assert repr(bad)[1:-1] in refused.value.text


@pytest.mark.parametrize("size", [1, 100, 5000])
def test_a_damaged_payload_is_corrupt_and_names_its_path(size: int) -> None:
    volume = MemoryVolume()
    with new_lake(volume) as lake:
        write(lake, {"a": b"a" * size, "b": b"b" * size})
        row = next(row for row in all_rows(lake.snapshot()) if row.path == "b")
        damage(volume, layout.pack_path(row.pack), row.offset + size - 1)
    with Lake.open(volume) as lake:
        with pytest.raises(Corrupt, match="b"):
            lake.snapshot().get_many(["a", "b"])
        assert lake.snapshot().get("a") == b"a" * size


@pytest.mark.parametrize("codec", [Codec.NONE, Codec.ZSTD])
def test_a_payload_that_came_damaged_into_a_cache_is_read_once_more(
    tmp_path: Path, codec: Codec
) -> None:
    volume = MemoryVolume()
    with new_lake(volume) as lake:
        with lake.writer(replace(QUIET, codec=codec)) as writer:
            writer.put("a", b"a" * 5000)
        (row,) = all_rows(lake.snapshot())
    cached = CachedVolume(volume, BlockCache(tmp_path, 16 << 20, 1 << 20, crc32c), layout.is_pack)
    place = layout.pack_path(row.pack), row.offset + row.length - 1
    damage(volume, *place)
    with Lake.open(cached) as lake, pytest.raises(Corrupt, match="a"):
        lake.snapshot().get("a")
    damage(volume, *place)  # the other way round
    with Lake.open(cached) as lake:
        assert lake.snapshot().get("a") == b"a" * 5000


@pytest.mark.parametrize("verb", ["read", "open"])
def test_a_failing_volume_is_no_missing_file(verb: str) -> None:
    inner = MemoryVolume()
    with new_lake(inner) as lake:
        write(lake, {"a": b"1"})
    volume = FaultyVolume(inner)
    with Lake.open(volume) as lake:
        lake.snapshot().locate(["a"])
    before = volume.count(verb)
    volume = FaultyVolume(inner, before, verbs=[verb])
    with Lake.open(volume) as lake:
        with pytest.raises(VolumeFailed) as caught:
            lake.snapshot().get("a")
        assert lake.snapshot().get("a") == b"1"
    assert caught.value.errno == errno.EIO


@given(st.integers(0, 120), st.integers(0, 120))
def test_a_range_is_the_slice(offset: int, length: int) -> None:
    data = bytes(range(100))
    with new_lake() as lake:
        write(lake, {"f": data})
        assert lake.snapshot().read_range("f", offset, length) == data[offset : offset + length]


def test_a_range_of_a_big_file_is_the_slice() -> None:
    data = np.random.default_rng(1).bytes(VERIFIED_RANGE_BYTES + 4097)
    with new_lake() as lake:
        write(lake, {"f": data})
        for offset in (0, 4095, VERIFIED_RANGE_BYTES, len(data) - 1, len(data)):
            assert lake.snapshot().read_range("f", offset, 99) == data[offset : offset + 99]
        with pytest.raises(Invalid):
            lake.snapshot().read_range("f", -1, 99)


# -- packs that go while a snapshot is open --------------------------------------------------------


def test_a_pack_that_compaction_moved_is_found_in_a_newer_snapshot() -> None:
    with new_lake() as lake:
        files = {"a": b"1", "b": bytes(6000), "c/d": b"3"}
        write(lake, files)
        write(lake, {"a": b"2"})
        lake.merge_index()
        old = lake.snapshot()
        rows = old.locate(["a", "b"])
        compact(lake)
        assert check(lake, deep=True).clean
        assert collect(lake, AT_ONCE).plan.count("pack") == 2
        assert old.read_rows(rows) == [b"2", bytes(6000)]
        assert old.get_many(["b", "a"]) == [bytes(6000), b"2"]
        assert contents(lake.snapshot()) == {**files, "a": b"2"}


def test_a_version_that_is_gone_is_expired_and_never_another_version() -> None:
    volume = MemoryVolume()
    with new_lake(volume) as lake, Lake.open(volume) as reader:
        write(lake, {"a": b"old", "b": b"kept", "c": b"gone"})
        lake.merge_index()
        old = reader.snapshot()
        rows = {path: old.locate([path]) for path in ("a", "b", "c")}
        write(lake, {"a": b"new"}, delete=["c"])
        lake.merge_index(everything=True)
        compact(lake)
        collect(lake, AT_ONCE)
        assert old.read_rows(rows["b"]) == [b"kept"]
        for path in ("a", "c"):
            with pytest.raises(SnapshotExpired, match=path):
                old.read_rows(rows[path])


def test_an_index_that_is_gone_from_the_newest_snapshot_is_damage() -> None:
    volume = MemoryVolume()
    with new_lake(volume) as lake:
        write(lake, {"a": b"1"})
        lake.merge_index()
        (segment,) = volume.list("index")
        volume.unlink(f"index/{segment.name}")
    with Lake.open(volume) as other:
        newest = other.snapshot()
        for read in (lambda: newest.get("a"), newest.ls, lambda: list(newest.scan())):
            with pytest.raises(Corrupt, match=rf"{segment.name}, found none; .*lakefeed repair"):
                read()


def test_a_pack_that_the_volume_lost_was_not_garbage_collected() -> None:
    volume = MemoryVolume()
    with new_lake(volume) as lake:
        write(lake, {"a": b"1", "b": bytes(VERIFIED_RANGE_BYTES + 1)})
        packs = lake.merge_index().state.packs
    for path in map(layout.pack_path, packs):
        volume.unlink(path)
    with Lake.open(volume) as lake:
        snapshot = lake.snapshot()
        for read in (lambda: snapshot.get("a"), lambda: snapshot.read_range("b", 0, 1)):
            with pytest.raises(SnapshotExpired, match=r"keeps this snapshot; .*lakefeed fsck"):
                read()


def test_an_older_snapshot_without_its_index_is_not_promised_a_new_one() -> None:
    volume = MemoryVolume()
    with new_lake(volume) as lake:
        write(lake, {"a": b"1"})
        lake.merge_index()
        number = lake.snapshot().number
        (segment,) = volume.list("index")
        write(lake, {"b": b"2"})
        lake.merge_index()
        volume.unlink(f"index/{segment.name}")
    with Lake.open(volume) as other:
        with pytest.raises(Corrupt, match="open the newest snapshot"):
            other.snapshot(number).get("a")
        assert other.snapshot().get("a") == b"1"


def test_a_lake_that_went_away_was_not_garbage_collected(tmp_path: Path) -> None:
    with new_lake(tmp_path / "lake") as lake:
        write(lake, {"a": b"1"})
        lake.merge_index()
    with Lake.open(tmp_path / "lake") as lake:
        snapshot = lake.snapshot()
        (tmp_path / "lake").rename(tmp_path / "away")
        for read in (lambda: snapshot.get("a"), lambda: snapshot.exists("a"), snapshot.ls):
            with pytest.raises(SnapshotExpired, match="its log, found none; is the volume mounted"):
                read()


def test_a_snapshot_whose_index_is_gone_is_expired() -> None:
    volume = MemoryVolume()
    with new_lake(volume) as lake:
        write(lake, {"a": b"1"})
        lake.merge_index()
        state = lake.snapshot().state
        write(lake, {"b": b"1"})
        lake.merge_index(everything=True)
        with Lake.open(volume) as other:
            old = other.snapshot(state.number)
            collect(lake, AT_ONCE)
            for read in (lambda: old.get("a"), old.ls, lambda: list(old.scan())):
                with pytest.raises(SnapshotExpired, match="it was garbage collected"):
                    read()


@pytest.mark.parametrize("others", [[], ["b"]])
def test_bytes_that_are_fewer_than_a_row_says_are_corrupt_whatever_their_checksum(
    others: list[str],
) -> None:
    short = Payload(b"abcde", 10, Codec.NONE, crc32c(b"abcde"))

    def fill(writer: PackWriter, now_ns: int) -> None:
        writer.add("a", short, Meta(now_ns))
        writer.add("b", encode(b"whole"), Meta(now_ns))

    with new_lake() as lake:
        sealed = new_pack(lake.volume, 0, fill)
        lake.log.commit(Draft("write"), lambda state: Changes(add_packs=(sealed,)))
        with pytest.raises(Corrupt, match="a, expected 10 bytes with checksum"):
            lake.snapshot().get_many(["a", *others])
        assert lake.snapshot().get("b") == b"whole"
