"""Small packs and segments in memory, and a reader that trusts nothing: what format tests share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa

from lakefeed.format import rows as rows_format
from lakefeed.format.columns import MAGIC, ColumnsReader, ColumnsWriter
from lakefeed.format.pack import Meta, PackSealed, PackWriter, open_pack, row_bounds
from lakefeed.format.payload import Buffer, decode, encode
from lakefeed.format.rows import Codec, Kind, Row

PACK_ID = "0123456789abcdef0123456789abcdef"
OTHER_ID = "fedcba9876543210fedcba9876543210"
SEQ = 7


class Sink:
    """A new file of a volume, in memory."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.synced_bytes = 0

    def write(self, buffers: Sequence[Buffer]) -> int:
        before = len(self.data)
        for buffer in buffers:
            self.data += buffer
        return len(self.data) - before

    def tell(self) -> int:
        return len(self.data)

    def sync(self) -> None:
        self.synced_bytes = len(self.data)


def packed(
    fill: Callable[[PackWriter], object], pack_id: str = PACK_ID
) -> tuple[bytes, PackSealed]:
    """Return the bytes and facts of a pack that `fill` has filled."""
    sink = Sink()
    writer = PackWriter(sink, pack_id, 3)
    fill(writer)
    sealed = writer.seal()
    assert sink.synced_bytes == len(sink.data) == sealed.bytes
    return bytes(sink.data), sealed


def fill_small(writer: PackWriter) -> None:
    """One row of each sort."""
    writer.add("b/raw", encode(b"raw bytes"), Meta(1_700_000_000_000_000_001))
    writer.add("a/zstd", encode(b"again and " * 30, Codec.ZSTD), Meta(-1, 0o600, {"label": "7"}))
    writer.add("link", encode(b"b/raw"), Meta(5, 0o777), Kind.SYMLINK)
    writer.add("none", encode(b""), Meta(0, 0, {}))
    writer.add("z", encode(b""), Meta(0, 0o755), Kind.DIR)
    writer.add_row(Row("copy", Kind.FILE, OTHER_ID, 4, 3, 3, Codec.NONE, 99, 1, 0o644, None, 0))
    writer.add_row(Row("gone", Kind.TOMBSTONE, "", 0, 0, 0, Codec.NONE, 0, 9, 0, None, 0))


def small_pack() -> bytes:
    """Return the pack of `fill_small`."""
    return packed(fill_small)[0]


def segment(rows: list[Row], change: Callable[[dict[str, str]], None] | None = None) -> bytes:
    """Return a segment of sorted rows; `change` may spoil the footer before it is sealed."""
    sink = Sink()
    sink.write([MAGIC])
    writer = SpoiltWriter(sink.write, len(MAGIC), {"kind": "segment", "id": OTHER_ID})
    writer.change = change
    for start in range(0, len(rows), 1000):
        table = rows_format.table_from_rows(rows[start : start + 1000])
        writer.add(rows_format.to_file(table, "", None))
    written = writer.close()
    assert written.rows == len(rows)
    return bytes(sink.data)


class SpoiltWriter(ColumnsWriter):
    """Seals what `change` makes of the footer's facts: hostile, and correctly sealed."""

    change: Callable[[dict[str, str]], None] | None = None

    def _key_values(self) -> dict[str, str]:
        values = super()._key_values()
        if self.change is not None:
            self.change(values)
        return values


def reader_of(data: bytes, footer_bytes: int = 64 << 10) -> ColumnsReader:
    """Open a columns file; a read outside it fails the test."""

    def read_at(offset: int, length: int) -> bytes:
        assert offset >= 0, "a negative offset was used"
        assert length >= 0, "a negative length was used"
        assert offset + length <= len(data), "a place outside the file was used"
        return data[offset : offset + length]

    return ColumnsReader(read_at, len(data), "test", footer_bytes)


def table_of(data: bytes, pack_id: str = PACK_ID) -> pa.Table:
    """Return all rows of a pack (or, with no id, of a segment) in memory shape."""
    reader = reader_of(data)
    if pack_id:
        open_pack(reader, pack_id, "test")
    elif reader.meta["lakefeed.kind"] != "segment":
        raise AssertionError("not a segment")
    table = reader.read(0, len(reader.groups))
    return rows_format.from_file(table, pack_id, SEQ, "test")


def rows_of(data: bytes, pack_id: str = PACK_ID) -> list[Row]:
    """Return all rows of a pack or segment as values."""
    return rows_format.rows_from_table(table_of(data, pack_id))


def contents(data: bytes, pack_id: str = PACK_ID) -> dict[Row, bytes | None]:
    """Return every row of a pack with its logical bytes, verified (None: no payload here)."""
    payload_end = open_pack(reader_of(data), pack_id, "test")
    found: dict[Row, Any] = {}
    for row in rows_of(data, pack_id):
        key = row._replace(attrs=None)
        if row.pack != pack_id or row.kind is Kind.TOMBSTONE:
            found[key] = None
            continue
        row_bounds(row.offset, row.length, payload_end, "test")
        stored = data[row.offset : row.offset + row.length]
        found[key] = decode(stored, row.size, row.codec, row.crc32c, row.path)
    return found
