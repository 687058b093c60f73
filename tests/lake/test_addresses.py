"""Rows found by fingerprint are the rows of the index, and take their place when that pays."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import pytest

from lakefeed.errors import Corrupt
from lakefeed.format import bridge
from lakefeed.format.fingerprint import Fingerprints
from lakefeed.format.rows import COLUMNS, Codec, Kind, Row, table_from_rows
from lakefeed.lake import layout
from lakefeed.lake.addresses import ROW_BYTES, Addresses, part_of
from lakefeed.lake.catalogue import Catalogue
from lakefeed.lake.lake import Lake
from tests.lake.tools import QUIET, big_lakes, damage, new_lake, small_groups, write

NAMES = list(COLUMNS[1:])


def varied_rows(count: int, *, attrs: bool) -> list[Row]:
    """Return rows of all kinds whose columns need any number of bytes."""
    rng = np.random.default_rng(count)
    rows = []
    for number in range(count):
        size = int(rng.integers(0, 1 << int(rng.integers(1, 62))))
        packed = bool(number % 3)
        labels = {"label": f"é{number}"} if attrs and number % 4 else None
        rows.append(
            Row(
                f"d{number % 7}/{number:06d}",
                Kind(number % 4),
                f"{number % 5:032x}" if number % 4 != Kind.DIR else "",
                int(rng.integers(4, 1 << 62)),
                size // 2 if packed else size,
                size,
                Codec.ZSTD if packed else Codec.NONE,
                int(rng.integers(0, 1 << 32)),
                int(rng.integers(-(1 << 62), 1 << 62)),
                number % 0o7777,
                labels,
                int(rng.integers(0, 1 << 62)),
            )
        )
    return rows


def pieces(table: pa.Table, length: int) -> Iterator[pa.Table]:
    for start in range(0, len(table), length):
        yield table.slice(start, length)


def made(tables: Iterable[pa.Table], prints: Fingerprints) -> Addresses:
    return Addresses(part_of(table, prints, "a segment") for table in tables)


@pytest.mark.parametrize("attrs", [False, True])
@pytest.mark.parametrize("count", [1, 3, 500])
def test_each_row_is_found_and_is_what_it_was(count: int, attrs: bool) -> None:
    table, prints = table_from_rows(varied_rows(count, attrs=attrs)), Fingerprints()
    addresses = made(pieces(table, 97), prints)
    paths = table["path"].combine_chunks()
    numbers = addresses.find(prints.of(paths))
    assert sorted(numbers.tolist()) == list(range(count))
    found = addresses.rows(numbers, NAMES)
    assert found.to_pylist() == table.select(NAMES).to_pylist()
    for number, path in enumerate(paths.to_pylist()[:20]):
        assert addresses.find(prints.one(path)).tolist() == [numbers[number]]
    absent = bridge.strings([f"{path}~" for path in paths.to_pylist()] + ["", "x" * 4096])
    assert (addresses.find(prints.of(absent)) == -1).all()
    assert addresses.find(prints.one("absent")).tolist() == [-1]
    assert addresses.nbytes < 64 * max(count, 16) or attrs


def test_times_before_1970_leave_the_others_exact() -> None:
    times = [1_700_000_000_123_456_789, -5_000_000_001]
    row = varied_rows(1, attrs=False)[0]
    tables = [table_from_rows([row._replace(path=f"{n}", mtime_ns=t)]) for n, t in enumerate(times)]
    prints = Fingerprints()
    addresses = made(tables, prints)
    found = addresses.find(prints.of(pa.array(["0", "1"])))
    assert addresses.rows(found, ["mtime_ns"])["mtime_ns"].to_pylist() == times


def test_rows_that_are_alike_take_few_bytes() -> None:
    rows = [
        Row(f"{number:08d}", Kind.FILE, "0" * 32, 4 + 512 * number, 300, 300, Codec.NONE, number,
            1_700_000_000_000_000_000, 0o644, None, 1)
        for number in range(4096)
    ]  # fmt: skip
    addresses = made([table_from_rows(rows)], Fingerprints())
    # 8 of the fingerprint, 1 of the buckets, 3 of the offset, 2 of the checksum.
    assert addresses.nbytes <= 4096 * 14 + 64


def test_a_path_longer_than_any_is_refused() -> None:
    row = varied_rows(1, attrs=False)[0]._replace(path="x" * 4097)
    with pytest.raises(Corrupt, match=r"a segment.*4096 bytes"):
        made([table_from_rows([row])], Fingerprints())


def files(count: int) -> dict[str, bytes]:
    return {f"dir{number % 3}/{number:04d}": b"%d" % number for number in range(count)}


def decoding_fails() -> object:
    return patch.object(Catalogue, "rows", side_effect=AssertionError("a group was decoded"))


def test_a_lake_that_fits_decoded_stays_decoded() -> None:
    with small_groups(), new_lake() as lake:
        write(lake, files(40))
        lake.merge_index()
        for _ in range(5):
            assert lake.snapshot().locate(sorted(files(40)))["size"].null_count == 0
        assert lake.catalogue.resident.held_bytes == 0


def test_a_source_is_taken_in_once_look_ups_have_decoded_it_as_a_whole() -> None:
    paths = sorted(files(40))
    with small_groups(), big_lakes(), new_lake() as lake:
        write(lake, files(40))
        lake.merge_index()
        snapshot, resident = lake.snapshot(), lake.catalogue.resident
        for source in snapshot.sources:
            for _ in snapshot.columns(source).groups.rows:
                snapshot.stat(source.first)
                assert resident.get(source.id) is None
            snapshot.stat(source.first)
            assert resident.get(source.id) is not None
        expected = {path: lake.snapshot().get(path) for path in paths}
        with decoding_fails():  # type: ignore[attr-defined]
            table = snapshot.locate([*paths, "dir1/nothing", "x" * 5000])
            assert table["path"].to_pylist() == [*paths, None, None]
            assert [snapshot.stat(path).path for path in paths] == paths
            assert snapshot.get_many(paths) == [expected[path] for path in paths]
            assert snapshot.locate(["x" * 5000])["path"].null_count == 1


def test_directories_are_known_without_a_look_at_rows() -> None:
    deep = {"a/b/c/d": b"1", "a/b2": b"2", "top": b"3", "é/x y/z": b"4"}
    with small_groups(), big_lakes(), new_lake() as lake:
        write(lake, {**files(20), **deep})
        lake.merge_index()
        for _ in range(3):
            lake.snapshot().locate([*files(20), *deep])
        with decoding_fails():  # type: ignore[attr-defined]
            snapshot = lake.snapshot()
            for directory in ("a", "a/b", "a/b/c", "dir0", "é", "é/x y"):
                assert snapshot.stat(directory).kind is Kind.DIR
            for nothing in ("a/b/c/d/e", "a/c", "dir", "dir00", "top/x", "b"):
                assert not snapshot.exists(nothing)


def test_a_directory_whose_files_were_all_deleted_is_not_known_by_its_name() -> None:
    with small_groups(), big_lakes(), new_lake() as lake:
        write(lake, {**files(20), "gone/1": b"", "kept/1": b"", "kept/2": b""})
        lake.merge_index()
        write(lake, {}, delete=["gone/1", "kept/1"])
        for _ in range(5):
            snapshot = lake.snapshot()
            snapshot.locate([*files(20), "gone/1", "kept/1", "kept/2"])
            assert not snapshot.exists("gone")
            assert snapshot.stat("kept").kind is Kind.DIR


@pytest.mark.parametrize("big", [False, True])
def test_of_many_names_those_with_files_below_are_directories(big: bool) -> None:
    rng = np.random.default_rng(1)
    names = ["a", "a!", "a0", "b"]
    tree = sorted({"/".join(rng.choice(names, 4)) for _ in range(40)})
    kept, gone = tree[::2], [path for path in tree[1::2] if path < "a0"]
    with small_groups(), big_lakes() if big else nullcontext(), new_lake() as lake:
        write(lake, dict.fromkeys(tree[::3], b""))
        write(lake, dict.fromkeys([*kept, *gone], b""))
        lake.merge_index()
        write(lake, {"z/z": b""}, delete=gone)
        for _ in range(2):
            snapshot = lake.snapshot()
            for _ in range(4):
                snapshot.locate(tree)
            live = [path for table in snapshot.find("") for path in table["path"].to_pylist()]
            asked = sorted({path[:end] for path in [*tree, "a/!", "c/"] for end in (1, 3, 5, 6, 7)})
            below = [one for one in asked if any(path.startswith(f"{one}/") for path in live)]
            assert snapshot.directories(asked) == below
            assert snapshot.directories([]) == []
            lake.merge_index(everything=True)


def test_newer_rows_and_deletions_count_across_runs() -> None:
    with small_groups(), big_lakes(), new_lake() as lake:
        write(lake, files(40))
        lake.merge_index()
        write(lake, {"dir1/0001": b"newer", "new": b"n"}, delete=["dir2/0002", "dir0/0003"])
        for _ in range(2):
            snapshot = lake.snapshot()
            for _ in range(3):
                wanted = [*sorted(files(40)), "new"]
                found = snapshot.locate(wanted)["path"].to_pylist()
                gone = {"dir2/0002", "dir0/0003"}
                assert found == [None if path in gone else path for path in wanted]
                assert snapshot.get("dir1/0001") == b"newer"
                assert not snapshot.exists("dir2/0002")
            lake.merge_index(everything=True)


def parts(count: int, each: int) -> list[dict[str, bytes]]:
    return [{f"part{n}/{m}": b"x" for m in range(each)} for n in range(count)]


def test_what_does_not_fit_the_budget_stays_on_disk() -> None:
    with small_groups(), big_lakes(), new_lake() as lake:
        for part in parts(4, 10):
            write(lake, part)
        resident, snapshot = lake.catalogue.resident, lake.snapshot()
        wanted = [path for part in parts(4, 10) for path in part]
        with patch.object(resident, "_budget_bytes", 10 * ROW_BYTES * 5 // 2):
            for _ in range(5):
                assert snapshot.locate(wanted)["size"].null_count == 0
        assert set(resident._held) == {source.id for source in snapshot.sources[:2]}


def test_all_lakes_of_a_process_share_one_budget() -> None:
    paths = sorted(files(40))
    with big_lakes(), new_lake() as one, new_lake() as other:
        for lake in (one, other):
            write(lake, files(40))
        residents = [lake.catalogue.resident for lake in (one, other)]
        with (
            patch.object(residents[0], "_budget_bytes", 50 * ROW_BYTES),
            patch.object(residents[1], "_budget_bytes", 50 * ROW_BYTES),
        ):
            for lake in (one, other, one, other):
                assert lake.snapshot().locate(paths)["size"].null_count == 0
            assert residents[0].held_bytes > 0
            assert residents[1].held_bytes == 0
            one.close()
            other.snapshot().locate(paths)
            assert residents[1].held_bytes > 0


def test_rows_with_long_attributes_do_not_displace_one_another_for_ever() -> None:
    label = "long" * 50
    with small_groups(), big_lakes(), new_lake() as lake:
        for part in parts(4, 10):
            with lake.writer(QUIET) as writer:
                for path in part:
                    writer.put(path, b"x", attrs={"label": label})
        resident, snapshot = lake.catalogue.resident, lake.snapshot()
        wanted = [path for part in parts(4, 10) for path in part]
        with patch.object(resident, "_budget_bytes", 10 * 280 * 5 // 2):
            for _ in range(6):
                snapshot.locate(wanted)
            assert 0 < resident.held_bytes <= 10 * 280 * 5 // 2
            with patch.object(resident, "take_in", side_effect=AssertionError("again")):
                table = snapshot.locate(wanted)
    assert [dict(pairs) for pairs in table["attrs"].to_pylist()] == [{"label": label}] * 40


def test_threads_that_want_the_same_source_make_it_once() -> None:
    paths, made = sorted(files(40)), []
    with big_lakes(), new_lake() as lake:
        write(lake, files(40))
        lake.merge_index()
        inner = Addresses.__init__
        barrier = threading.Barrier(8)

        def slow(self: Addresses, *args: object) -> None:
            made.append(threading.get_ident())
            inner(self, *args)  # type: ignore[arg-type]

        def look() -> None:
            barrier.wait(60)
            found.append(lake.snapshot().locate(paths)["size"].null_count)

        found: list[int] = []
        threads = [threading.Thread(target=look) for _ in range(8)]
        with patch.object(Addresses, "__init__", slow):
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(60)
        assert found == [0] * 8
        resident = lake.catalogue.resident
        assert 1 <= len(made) <= 8
        assert resident.held_bytes == sum(one.nbytes for one in resident._held.values())


def test_a_damaged_group_is_named_when_its_source_is_taken_in() -> None:
    with small_groups(), big_lakes(), new_lake() as lake:
        write(lake, files(5))
        lake.merge_index()
        (segment,) = lake.snapshot().state.segments
        damage(lake.volume, layout.segment_path(segment), 10)
        with Lake.open(lake.volume) as fresh:
            for _ in range(2):
                with pytest.raises(Corrupt, match=segment):
                    fresh.snapshot().locate(sorted(files(5)))
            assert fresh.catalogue.resident.held_bytes == 0
