"""Packs: payloads in front of their own index, together one valid Parquet file.

    PAR1 | payload payload … | row groups | seal | footer | PAR1

`PackWriter` writes one front to back: payloads as they come, then the rows sorted by path. A
payload of 4 KiB or more starts on a 512-byte boundary, so that a block filesystem image can point
at it later; smaller ones lie dense. The pack is synced before `seal` returns, under its final name,
and is never touched again (I1, I2). `row_bounds` is the check every reader makes before it believes
an offset (I7).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import NamedTuple, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lakefeed.errors import Corrupt, Invalid
from lakefeed.format import rows as rows_format
from lakefeed.format.checksum import crc32c
from lakefeed.format.columns import MAGIC, ColumnsReader, ColumnsWriter
from lakefeed.format.payload import Buffer, Payload
from lakefeed.format.rows import Codec, Kind, Row

ALIGNED_FROM_BYTES = 4096
ALIGNMENT_BYTES = 512
# One vectored write: big enough to amortise the call, small enough to overlap with reading.
WRITE_BYTES = 4 << 20
# Rows are kept as Python values up to here, then as Arrow columns of a tenth of the size.
_CHUNK_ROWS = 8192
# Arrow cannot sort rows whose attributes take 2 GiB; more than this only a rename or copy of very
# many files with very much said of each comes to.
COMMIT_ATTRS_BYTES_MAX = 1 << 30
_PADDING = bytes(ALIGNMENT_BYTES)


class Meta(NamedTuple):
    """What a row says of a file besides where its bytes are. A tuple: one is made for each file."""

    mtime_ns: int
    mode: int = 0o644
    attrs: dict[str, str] | None = None


@dataclass(frozen=True, slots=True)
class PackSealed:
    """The facts of a finished pack, as its commit records them."""

    id: str
    bytes: int
    payload_end: int
    footer_bytes: int
    rows: int
    tombstones: int
    first: str
    last: str
    refs: tuple[str, ...]


class PackFile(Protocol):
    """What a pack is written into: a new file of a volume."""

    def write(self, buffers: Sequence[Buffer]) -> int:
        """Append the buffers in order."""

    def tell(self) -> int:
        """Return the bytes written so far."""

    def sync(self) -> None:
        """Return once everything written is on stable storage."""


class PackWriter:
    """Writes one pack into `file`; each path once, in any order. Not safe for several threads."""

    def __init__(self, file: PackFile, pack_id: str, base: int) -> None:
        self._file = file
        self._id = pack_id
        self._base = base
        self._position = len(MAGIC)
        self._queue: list[Buffer] = [MAGIC]
        self._queued_bytes = 0
        self._rows: list[Row] = []
        self._tables: list[pa.Table] = []
        self.rows = 0

    @property
    def id(self) -> str:
        """The pack's id."""
        return self._id

    @property
    def payload_end(self) -> int:
        """Bytes written so far, padding included."""
        return self._position

    def add(self, path: str, payload: Payload, meta: Meta, kind: Kind = Kind.FILE) -> None:
        """Append a payload and its row. The payload's buffer may be kept until `seal`."""
        length = len(payload.stored)
        offset = self._align(length)
        self._push(payload.stored, length)
        size, codec, checksum = payload.size, payload.codec, payload.crc32c
        self._add_row(Row(path, kind, self._id, offset, length, size, codec, checksum,
                          meta.mtime_ns, meta.mode, meta.attrs, 0))  # fmt: skip

    def add_all(
        self,
        paths: Sequence[str],
        payloads: Sequence[Payload],
        metas: Sequence[Meta],
        kinds: Sequence[Kind],
    ) -> None:
        """Append many payloads and their rows as `add` does each, at half the price."""
        if not paths:
            return
        stored, sizes, codecs, checksums = zip(*payloads, strict=True)
        times, modes, attrs = zip(*metas, strict=True)
        offsets = self.add_payloads(stored)
        self._add_rows(
            map(Row, paths, kinds, repeat(self._id), offsets, map(len, stored), sizes, codecs,
                checksums, times, modes, attrs, repeat(0))
        )  # fmt: skip

    def add_stream(self, path: str, chunks: Iterable[Buffer], meta: Meta) -> Row:
        """Append a payload of unknown size chunk by chunk, stored as it is; return its row."""
        offset = self._align(ALIGNED_FROM_BYTES)
        size = 0
        checksum = 0
        for chunk in chunks:
            checksum = crc32c(chunk, checksum)
            size += len(chunk)
            self._push(chunk, len(chunk))
            self.flush()
        row = Row(path, Kind.FILE, self._id, offset, size, size, Codec.NONE, checksum,
                  meta.mtime_ns, meta.mode, meta.attrs, 0)  # fmt: skip
        self._add_row(row)
        return row

    def add_row(self, row: Row) -> None:
        """Append a row whose payload, if any, lies in another pack."""
        self._add_row(row)

    def add_payload(self, pieces: Iterable[Buffer], length: int) -> int:
        """Append stored bytes as they are and return where they start; `add_rows` names them."""
        offset = self._align(length)
        for piece in pieces:
            self._push(piece, len(piece))
        assert self._position == offset + length, f"{length} bytes announced"
        return offset

    def add_payloads(self, payloads: Iterable[Buffer]) -> list[int]:
        """Append many stored payloads as `add_payload` does; return where each starts."""
        offsets = []
        position = self._position
        queued: list[Buffer] = []
        for stored in payloads:
            length = len(stored)
            if length >= ALIGNED_FROM_BYTES and position % ALIGNMENT_BYTES:
                gap = -position % ALIGNMENT_BYTES
                queued.append(_PADDING[:gap])
                position += gap
            offsets.append(position)
            if length:
                queued.append(stored)
                position += length
        self._queue += queued
        self._queued_bytes += position - self._position
        self._position = position
        if self._queued_bytes >= WRITE_BYTES:
            self.flush()
        return offsets

    def add_rows(self, table: pa.Table) -> None:
        """Append rows in memory shape, with the `seq` they have; a `seq` of 0 is left open."""
        self._tables.append(table)
        self.rows += len(table)

    def _add_row(self, row: Row) -> None:
        self._add_rows((row,))

    def _add_rows(self, rows: Iterable[Row]) -> None:
        before = len(self._rows)
        self._rows += rows
        self.rows += len(self._rows) - before
        if len(self._rows) >= _CHUNK_ROWS:
            self._tables += rows_format.tables_from_rows(self._rows)
            self._rows = []

    def _align(self, length: int) -> int:
        if length >= ALIGNED_FROM_BYTES:
            gap = -self._position % ALIGNMENT_BYTES
            if gap:
                self._push(_PADDING[:gap], gap)
        return self._position

    def _push(self, data: Buffer, length: int) -> None:
        if not length:
            return
        self._queue.append(data)
        self._position += length
        self._queued_bytes += length
        if self._queued_bytes >= WRITE_BYTES:
            self.flush()

    def flush(self) -> None:
        """Hand everything queued to the volume; nothing is durable yet."""
        if self._queue:
            self._file.write(self._queue)
            self._queue = []
            self._queued_bytes = 0

    def seal(self) -> PackSealed:
        """Write the columns, sync the file, and return the pack's facts. Ends the writer."""
        table = self._sorted_rows()
        refs = tuple(sorted(set(_packs(table)) - {self._id, ""}))
        self.flush()
        meta = {"kind": "pack", "id": self._id, "base": str(self._base),
                "payload_end": str(self._position)}  # fmt: skip
        columns = ColumnsWriter(self._file.write, self._position, meta)
        columns.add(rows_format.to_file(table, self._id, 0))
        written = columns.close()
        self._file.sync()
        return PackSealed(
            id=self._id,
            bytes=self._file.tell(),
            payload_end=self._position,
            footer_bytes=written.footer_bytes,
            rows=written.rows,
            tombstones=pc.sum(pc.equal(table["kind"], int(Kind.TOMBSTONE))).as_py() or 0,
            first=written.first,
            last=written.last,
            refs=refs,
        )

    def _sorted_rows(self) -> pa.Table:
        tables = [*self._tables, *rows_format.tables_from_rows(self._rows)]
        self._tables, self._rows = [], []
        table = pa.concat_tables(tables)
        if table["attrs"].nbytes > COMMIT_ATTRS_BYTES_MAX:
            raise Invalid("attributes of the files of one commit",
                          expected=f"at most {COMMIT_ATTRS_BYTES_MAX} bytes",
                          found=table["attrs"].nbytes, hint="do it in parts")  # fmt: skip
        table = table.take(pc.sort_indices(table["path"])).unify_dictionaries()
        paths = table["path"].combine_chunks()
        if len(paths) > 1:
            same = pc.equal(paths[1:], paths[:-1])
            if pc.any(same).as_py():
                twice = paths[1:].filter(same)[0].as_py()
                raise Invalid(f"path {twice!r}", expected="once in a pack", found="twice")
        return table


def _packs(table: pa.Table) -> list[str]:
    names: set[str] = set()
    for chunk in table["pack"].chunks:
        used = np.unique(np.asarray(chunk.indices))
        names.update(chunk.dictionary.take(pa.array(used)).to_pylist())
    return sorted(names)


def open_pack(reader: ColumnsReader, pack_id: str, subject: str) -> int:
    """Check that an opened columns file is this pack; return where its payloads end."""
    meta = reader.meta
    if meta.get("lakefeed.kind") != "pack" or meta.get("lakefeed.id") != pack_id:
        raise Corrupt(
            subject,
            expected=f"pack {pack_id}",
            found=f"{meta.get('lakefeed.kind')} {meta.get('lakefeed.id')}",
        )
    payload_end = reader.groups.offset[0]
    text = meta.get("lakefeed.payload_end", "")
    if text != str(payload_end):
        raise Corrupt(subject, expected=f"payload_end {payload_end}", found=repr(text[:80]))
    return payload_end


def row_bounds(offset: int, length: int, payload_end: int, subject: str) -> None:
    """Raise Corrupt unless an extent lies among its pack's payloads."""
    if offset < len(MAGIC) or offset + length > payload_end:
        raise Corrupt(
            subject,
            expected=f"an extent inside [{len(MAGIC)}, {payload_end})",
            found=f"{length} bytes at {offset}",
            hint='run "lakefeed fsck"',
        )
