"""Rows come back from packs and segments as they went in, whatever their number and order."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lakefeed.errors import Corrupt, Invalid
from lakefeed.format import pack
from lakefeed.format import rows as rows_format
from lakefeed.format.columns import GROUP_BYTES, GROUP_ROWS, Groups
from lakefeed.format.pack import Meta, PackWriter, open_pack
from lakefeed.format.payload import Buffer, encode
from lakefeed.format.rows import Codec, Kind, Row
from tests.format.samples import (
    OTHER_ID,
    PACK_ID,
    SEQ,
    contents,
    fill_small,
    packed,
    reader_of,
    rows_of,
    segment,
    small_pack,
    table_of,
)  # fmt: skip
from tests.format.strategies import ROWS


def numbered(number: int) -> Row:
    return Row(f"{number:06d}", Kind.FILE, PACK_ID, 4, 3, 3, Codec.NONE, number, number, 0, None, 9)


@pytest.mark.slow
@settings(max_examples=60)
@given(ROWS)
def test_a_segment_keeps_its_rows(rows: list[Row]) -> None:
    assert rows_of(segment(rows), "") == rows


@pytest.mark.slow
@settings(max_examples=60)
@given(ROWS, st.randoms())
def test_a_pack_sorts_its_rows_and_keeps_them(rows: list[Row], random: Random) -> None:
    shuffled = rows[:]
    random.shuffle(shuffled)
    data, sealed = packed(lambda writer: [*map(writer.add_row, shuffled)])
    # A row without a pack of its own belongs to the pack it is in.
    assert rows_of(data) == [row._replace(pack=row.pack or PACK_ID) for row in rows]
    assert sealed.rows == len(rows)
    assert sealed.tombstones == sum(row.kind is Kind.TOMBSTONE for row in rows)
    assert (sealed.first, sealed.last) == ((rows[0].path, rows[-1].path) if rows else ("", ""))
    assert sealed.refs == tuple(sorted({row.pack for row in rows} - {"", PACK_ID}))


def test_a_pack_keeps_every_sort_of_row() -> None:
    data, sealed = packed(fill_small)
    found = {row.path: (row, stored) for row, stored in contents(data).items()}
    assert {path: stored for path, (_, stored) in found.items()} == {
        "a/zstd": b"again and " * 30, "b/raw": b"raw bytes", "copy": None, "gone": None,
        "link": b"b/raw", "none": b"", "z": b"",
    }  # fmt: skip
    rows = {row.path: row for row in rows_of(data)}
    assert rows["a/zstd"].attrs == {"label": "7"}
    assert rows["none"].attrs == {}
    assert rows["b/raw"].attrs is None
    assert rows["a/zstd"].length < rows["a/zstd"].size == 300
    assert {row.seq for row in rows.values()} == {SEQ}
    assert [row.kind.name for row in rows.values()] == [
        "FILE", "FILE", "FILE", "TOMBSTONE", "SYMLINK", "FILE", "DIR",
    ]  # fmt: skip
    assert (sealed.tombstones, sealed.refs) == (1, (OTHER_ID,))


def test_a_group_has_fewer_rows_where_much_is_said_of_them() -> None:
    about = {"caption": "x" * (GROUP_BYTES // 10)}
    rows = [numbered(number)._replace(attrs=about) for number in range(100)]
    rows += [numbered(number) for number in range(100, GROUP_ROWS + 100)]
    data, _ = packed(lambda writer: [*map(writer.add_row, rows)])
    segmented = segment(rows)
    for found in (data, segmented):
        groups = reader_of(found).groups
        assert max(groups.rows[:5]) < 10 and max(groups.rows) > GROUP_ROWS / 2
        assert all(reader_of(found).read(at, at + 1).nbytes <= GROUP_BYTES for at in range(3))
    assert rows_of(segmented, "") == rows
    assert rows_of(data) == rows


def test_a_pack_refuses_more_attributes_than_can_be_sorted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pack, "COMMIT_ATTRS_BYTES_MAX", 1000)
    rows = [numbered(number)._replace(attrs={"caption": "x" * 100}) for number in range(10)]
    with pytest.raises(Invalid, match="attributes of the files of one commit"):
        packed(lambda writer: [*map(writer.add_row, rows)])


def test_rows_become_columns_in_steps_where_much_is_said_of_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rows_format, "_ATTRS_STEP_BYTES", 250)
    rows = [numbered(number)._replace(attrs={"caption": "x" * 100}) for number in range(10)]
    tables = [*rows_format.tables_from_rows(rows)]
    assert max(map(len, tables)) == 3
    assert [row for table in tables for row in rows_format.rows_from_table(table)] == rows


def test_an_empty_pack_opens() -> None:
    data, sealed = packed(lambda writer: None)
    assert (sealed.rows, sealed.first, sealed.last) == (0, "", "")
    assert rows_of(data) == []
    assert reader_of(data).groups.covering("", None) == (0, 0)


def test_a_path_is_once_in_a_pack() -> None:
    def fill(writer: PackWriter) -> None:
        for path in ("b", "a", "b"):
            writer.add(path, encode(b""), Meta(0))

    with pytest.raises(Invalid, match="path 'b', expected once in a pack, found twice"):
        packed(fill)


def test_payloads_of_a_page_are_aligned_and_smaller_ones_are_dense() -> None:
    sizes = [1, 4095, 4096, 1, 10_000, 3]

    def fill(writer: PackWriter) -> None:
        for number, size in enumerate(sizes):
            writer.add(str(number), encode(bytes([number]) * size), Meta(0))

    data, sealed = packed(fill)
    assert [row.offset for row in rows_of(data)] == [4, 5, 4608, 8704, 9216, 19216]
    assert [len(stored or b"") for stored in contents(data).values()] == sizes
    assert sealed.payload_end == 19219


def test_a_stream_is_one_payload() -> None:
    chunks: list[Buffer] = [b"one", bytearray(b"two"), memoryview(b"three"), b""]
    data, _ = packed(lambda writer: writer.add_stream("s", iter(chunks), Meta(1)))
    assert [*contents(data).values()] == [b"onetwothree"]


def test_what_a_broken_stream_leaves_is_no_row() -> None:
    def broken() -> Iterator[bytes]:
        yield b"half of it"
        raise OSError("the source is gone")

    def fill(writer: PackWriter) -> None:
        with pytest.raises(OSError, match="gone"):
            writer.add_stream("s", broken(), Meta(1))
        writer.add("t", encode(b"whole"), Meta(1))

    assert [*contents(packed(fill)[0]).values()] == [b"whole"]


@pytest.mark.slow
@pytest.mark.parametrize("count", [8191, 8192, 8193, 2 * 8192, 20_000])
def test_groups_end_where_they_should(count: int) -> None:
    assert GROUP_ROWS == 8192
    data = segment([numbered(number) for number in range(count)])
    reader = reader_of(data)
    whole, rest = divmod(count, GROUP_ROWS)
    assert reader.groups.rows == [GROUP_ROWS] * whole + [rest] * bool(rest)
    assert reader.rows == count
    assert table_of(data, "")["path"].to_pylist() == [f"{number:06d}" for number in range(count)]
    for start in range(len(reader.groups)):
        for end in range(start, len(reader.groups) + 1):
            found = reader.read(start, end, ["crc32c"])["crc32c"].to_pylist()
            assert found == [*range(start * GROUP_ROWS, min(end * GROUP_ROWS, count))]


@given(
    st.lists(st.lists(st.text("abc", min_size=1, max_size=3), min_size=1, max_size=3), min_size=1),
    st.text("abcd", max_size=3),
    st.none() | st.text("abcd", max_size=3),
)
def test_covering_is_what_a_look_at_every_path_says(
    parts: list[list[str]], low: str, high: str | None
) -> None:
    paths = sorted({path for part in parts for path in part})
    cuts = [len(part) for part in parts]
    groups: list[list[str]] = []
    for size in cuts:
        if paths:
            groups.append(paths[:size])
            paths = paths[size:]
    firsts = [group[0] for group in groups]
    sizes = [len(group) for group in groups]
    subject = Groups(sizes, sizes, sizes, sizes, firsts, groups[-1][-1])
    start, end = subject.covering(low, high)
    assert 0 <= start <= end <= len(groups)
    needed = [
        number
        for number, group in enumerate(groups)
        if any(low <= path and (high is None or path < high) for path in group)
    ]
    assert {*needed} <= {*range(start, end)}
    # Nothing is read in vain but the group that ends before `low` and cannot know it.
    assert end - start <= len(needed) + 1


def test_a_small_footer_hint_costs_a_second_read_and_nothing_else() -> None:
    data = small_pack()
    assert [reader_of(data, hint).meta for hint in (0, 1, 30, 1 << 40)] == [
        reader_of(data).meta
    ] * 4


def test_a_pack_is_known_by_its_own_name() -> None:
    with pytest.raises(Corrupt, match=f"expected pack {OTHER_ID}, found pack {PACK_ID}"):
        open_pack(reader_of(small_pack()), OTHER_ID, "test")
    with pytest.raises(Corrupt, match="found segment"):
        open_pack(reader_of(segment([])), OTHER_ID, "test")


@pytest.mark.slow
@settings(max_examples=10)
@given(st.integers(1, 3))
def test_times_that_repeat_and_times_that_do_not_come_back(step: int) -> None:
    rows = [numbered(number)._replace(mtime_ns=number // step) for number in range(50)]
    assert rows_of(segment(rows), "") == rows
