"""Damaged and hostile packs: Corrupt, or the right rows and bytes, and nothing else."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest
from crc32c import crc32c

from lakefeed.errors import Corrupt, Invalid
from lakefeed.format import columns
from lakefeed.format import rows as rows_format
from lakefeed.format.columns import MAGIC, SEAL, SEAL_MAGIC, ColumnsWriter
from lakefeed.format.pack import Meta, PackWriter, row_bounds
from lakefeed.format.payload import encode
from lakefeed.format.rows import Codec, Kind, Row
from tests.format.samples import (
    OTHER_ID,
    PACK_ID,
    Sink,
    contents,
    packed,
    reader_of,
    rows_of,
    segment,
    small_pack,
)  # fmt: skip

ROWS = [
    Row(f"{n:05d}", Kind.FILE, PACK_ID, 4, 3, 3, Codec.NONE, n, n, 0, None, 1) for n in range(9000)
]


def refused_or_right(data: bytes, right: dict[Row, bytes | None]) -> bool:
    """Tell whether the pack was refused; if it was read, everything in it must be right."""
    try:
        found = contents(data)
    except Corrupt:
        return True
    assert found == right
    return False


@pytest.mark.slow
def test_a_pack_cut_at_any_byte_is_corrupt() -> None:
    data = small_pack()
    for length in range(len(data)):
        with pytest.raises(Corrupt, match="test"):
            contents(data[:length])


def test_a_pack_inside_a_pack_is_not_taken_for_it() -> None:
    inner = small_pack()
    outer, _ = packed(lambda writer: writer.add("p", encode(inner), Meta(0)), OTHER_ID)
    (row,) = rows_of(outer, OTHER_ID)
    cut = outer[: row.offset + row.length]
    assert cut.startswith(MAGIC)
    assert cut.endswith(inner)
    # The places in the inner footer are not those of the file it would have to be.
    for pack_id in (OTHER_ID, PACK_ID):
        with pytest.raises(Corrupt, match="row groups that fill the file"):
            contents(cut, pack_id)


@pytest.mark.slow
def test_a_pack_with_a_byte_too_many_is_corrupt() -> None:
    data = small_pack()
    for position in range(len(data) + 1):
        refused_or_right(data[:position] + b"\0" + data[position:], {})


@pytest.mark.slow
def test_one_wrong_byte_anywhere_is_noticed_or_harmless() -> None:
    data = small_pack()
    right = contents(data)
    seeded = random.Random(1)
    refused = 0
    for position in range(len(data)):
        altered = bytearray(data)
        altered[position] ^= seeded.randrange(1, 256)
        refused += refused_or_right(bytes(altered), right)
    # What may change unseen: the leading magic, and nothing of what a row promises.
    assert refused == len(data) - len(MAGIC)


@pytest.mark.slow
def test_every_value_of_a_byte_is_noticed_or_harmless() -> None:
    data = small_pack()
    right = contents(data)
    seeded = random.Random(2)
    tail = [len(data) - back for back in range(1, 9)]
    for position in [*seeded.sample(range(len(data)), 12), *tail]:
        for value in range(256):
            altered = bytearray(data)
            altered[position] = value
            refused_or_right(bytes(altered), right)


@pytest.mark.slow
def test_damage_of_many_bytes_is_noticed_or_harmless() -> None:
    data = small_pack()
    right = contents(data)
    for seed in range(2000):
        seeded = random.Random(seed)
        altered = bytearray(data)
        start = seeded.randrange(len(data))
        kind = seeded.randrange(3)
        if kind == 0:  # a lost sector
            altered[start : start + 512] = bytes(len(altered[start : start + 512]))
        elif kind == 1:  # a piece in the wrong place
            other = seeded.randrange(len(data))
            altered[start : start + 64] = data[other : other + 64]
        else:  # noise
            altered[start : start + 16] = seeded.randbytes(16)
        refused_or_right(bytes(altered), right)


def groups_changed(**changed: Any) -> Callable[[dict[str, str]], None]:
    def change(values: dict[str, str]) -> None:
        groups = json.loads(values["lakefeed.groups"])
        for key, value in changed.items():
            groups[key] = value(groups[key]) if callable(value) else value
        values["lakefeed.groups"] = json.dumps(groups)

    return change


HOSTILE: dict[str, Callable[[dict[str, str]], None]] = {
    "no groups": lambda values: values.__delitem__("lakefeed.groups"),
    "not json": lambda values: values.update({"lakefeed.groups": "{"}),
    "a number": lambda values: values.update({"lakefeed.groups": "3"}),
    "a list": lambda values: values.update({"lakefeed.groups": "[]"}),
    "deep": lambda values: values.update({"lakefeed.groups": "[" * 100_000}),
    "long digits": lambda values: values.update({"lakefeed.groups": "9" * 10_000}),
    "a key too many": groups_changed(more=[]),
    "offsets outside": groups_changed(offset=lambda old: [n + (1 << 40) for n in old]),
    "offsets shifted": groups_changed(offset=lambda old: [n + 1 for n in old]),
    "negative offsets": groups_changed(offset=lambda old: [-n for n in old]),
    "huge lengths": groups_changed(length=lambda old: [1 << 63 for _ in old]),
    "negative lengths": groups_changed(length=lambda old: [-n for n in old]),
    "zero lengths": groups_changed(length=lambda old: [0 for _ in old]),
    "overlapping groups": groups_changed(offset=lambda old: [old[0] for _ in old]),
    "groups swapped": groups_changed(
        offset=lambda old: old[::-1], length=lambda old: old[::-1], crc32c=lambda old: old[::-1]
    ),
    "offset 0": groups_changed(offset=lambda old: [0, *old[1:]]),
    "too few": groups_changed(offset=lambda old: old[:1]),
    "one group less": groups_changed(
        **{key: lambda old: old[:1] for key in ("offset", "length", "crc32c", "rows", "first")}
    ),
    "none at all": groups_changed(
        **{key: [] for key in ("offset", "length", "crc32c", "rows", "first")}
    ),
    "wrong counts": groups_changed(rows=lambda old: [n + 1 for n in old]),
    "counts moved": groups_changed(rows=lambda old: [old[0] - 1, old[1] + 1]),
    "negative counts": groups_changed(rows=lambda old: [old[0] + old[1] + 1, -1]),
    "text for numbers": groups_changed(rows=lambda old: [str(n) for n in old]),
    "floats for numbers": groups_changed(offset=lambda old: [float(n) for n in old]),
    "truth for numbers": groups_changed(crc32c=[True, False]),
    "text for a list": groups_changed(first="ab"),
    "an object for a list": groups_changed(first={"a": 1, "b": 2}),
    "numbers for paths": groups_changed(first=[1, 2]),
    "unsorted paths": groups_changed(first=["00009", "00001"]),
    "equal paths": groups_changed(first=["00001", "00001"]),
    "last before first": groups_changed(last=""),
    "last is a number": groups_changed(last=7),
    "no last": groups_changed(last=None),
}


@pytest.mark.parametrize("change", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_list_of_groups_is_corrupt(change: Callable[[dict[str, str]], None]) -> None:
    with pytest.raises(Corrupt, match="row groups"):
        reader_of(segment(ROWS, change))


def test_the_spoilt_footers_start_from_a_good_one() -> None:
    reader = reader_of(segment(ROWS))
    assert reader.groups.rows == [8192, 808]
    assert len(reader.read(0, 2)) == 9000


def test_a_wrong_group_checksum_is_corrupt_and_names_the_group() -> None:
    data = segment(ROWS, groups_changed(crc32c=lambda old: [old[0], old[1] ^ 1]))
    reader = reader_of(data)
    assert len(reader.read(0, 1)) == 8192
    for start, end in ((1, 2), (0, 2)):
        with pytest.raises(Corrupt, match=r"test, row group 1 at \d+, expected checksum"):
            reader.read(start, end)


@pytest.mark.parametrize("version", ["2", "0", "01", "", "x", "1.0"])
def test_an_unknown_version_is_invalid_and_says_what_to_do(version: str) -> None:
    data = segment([], lambda values: values.update({"lakefeed.format": version}))
    with pytest.raises(Invalid, match="upgrade lakefeed"):
        reader_of(data)


def test_parquet_of_somebody_else_is_not_ours() -> None:
    data = segment([], lambda values: values.clear())
    with pytest.raises(Invalid, match="expected format version 1, found version None"):
        reader_of(data)


@pytest.mark.parametrize("payload_end", ["", "x", "-4", "5", "9" * 5000, "٣", "04", " 4"])
def test_a_hostile_payload_end_is_corrupt(
    payload_end: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = PackWriter.__init__.__globals__["ColumnsWriter"]

    def spoilt(write: Any, position: int, meta: dict[str, str]) -> Any:
        return real(write, position, {**meta, "payload_end": payload_end})

    monkeypatch.setitem(PackWriter.__init__.__globals__, "ColumnsWriter", spoilt)
    data, _ = packed(lambda writer: None)
    with pytest.raises(Corrupt, match="expected payload_end 4"):
        contents(data)


def resealed(data: bytes, change: Callable[[bytearray], None]) -> bytes:
    """Return a pack whose Parquet footer was altered and sealed again."""
    _, _, length = SEAL.unpack_from(data, at := data.rindex(SEAL_MAGIC))
    footer = bytearray(data[-length:])
    change(footer)
    return data[:at] + SEAL.pack(SEAL_MAGIC, crc32c(footer), len(footer)) + bytes(footer)


@pytest.mark.parametrize("column", ["path", "kind", "pack", "codec", "attrs"])
def test_words_that_are_no_text_are_corrupt(column: str) -> None:
    words = pa.array([b"00000", b"\xff", b"00002"], pa.binary()).view(pa.string())
    if column == "attrs":
        words = pa.MapArray.from_arrays([0, 1, 2, 3], words, words)
    table = rows_format.to_file(rows_format.table_from_rows(ROWS[:3]), PACK_ID, 1)
    at = table.column_names.index(column)
    sink = Sink()
    sink.write([MAGIC])
    writer = ColumnsWriter(sink.write, len(MAGIC), {})
    writer.add(table.set_column(at, rows_format.FILE_SCHEMA.field(at), words))
    writer.close()
    reader = reader_of(bytes(sink.data))
    with pytest.raises(Corrupt, match="UTF8"):
        reader.read(0, 1)
    with pytest.raises(Corrupt, match="UTF8"):
        reader.read(0, 1, [column])
    assert reader.kinds(0) == (None if column == "kind" else {"file"})


@pytest.mark.parametrize("name", ["../other/packs/01/0123", OTHER_ID + "\n", OTHER_ID.upper(), ""])
def test_a_pack_that_a_row_names_is_an_id_and_no_way_out_of_the_lake(name: str) -> None:
    table = rows_format.to_file(rows_format.table_from_rows(ROWS[:3]), PACK_ID, 1)
    at = table.column_names.index("pack")
    words = pa.array([None, OTHER_ID, name], pa.string())
    sink = Sink()
    sink.write([MAGIC])
    writer = ColumnsWriter(sink.write, len(MAGIC), {})
    writer.add(table.set_column(at, rows_format.FILE_SCHEMA.field(at), words))
    writer.close()
    stored = reader_of(bytes(sink.data)).read(0, 1)
    for shape in (
        lambda: rows_format.from_file(stored, PACK_ID, 1, "test"),
        lambda: rows_format.extents_from_file(stored, PACK_ID, "test"),
    ):
        with pytest.raises(Corrupt, match="test, column pack, expected an id") as caught:
            shape()
        assert caught.value.found == repr(name)


def test_a_group_of_more_rows_than_the_format_has_is_corrupt(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(columns, "GROUP_ROWS", 8193)
    data = segment(ROWS)
    monkeypatch.undo()
    with pytest.raises(Corrupt, match="row groups that fill the file"):
        reader_of(data)


@pytest.mark.parametrize("noise", [b"", b"\0" * 500, b"\xff" * 500, bytes(range(256)) * 2])
def test_a_sealed_footer_that_is_no_parquet_is_corrupt(noise: bytes) -> None:
    def change(footer: bytearray) -> None:
        footer[:-8] = noise
        footer[-8:-4] = len(noise).to_bytes(4, "little")

    with pytest.raises(Corrupt, match="test"):
        reader_of(resealed(small_pack(), change))


@pytest.mark.parametrize(
    ("offset", "length", "fits"),
    [(4, 96, True), (4, 0, True), (100, 0, True), (3, 1, False), (0, 0, False), (4, 97, False),
     (101, 0, False), (1 << 64, 1, False), (5, (1 << 64) - 1, False)],
)  # fmt: skip
def test_an_extent_lies_among_the_payloads(offset: int, length: int, fits: bool) -> None:
    if fits:
        row_bounds(offset, length, 100, "test")
    else:
        with pytest.raises(Corrupt, match=r"an extent inside \[4, 100\)"):
            row_bounds(offset, length, 100, "test")
