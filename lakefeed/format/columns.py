"""Rows as a verified Parquet file: what packs and segments have in common.

A columns file ends like every Parquet file (row groups, footer, footer length, `PAR1`). Two things
make it verifiable, and no Parquet reader minds them:

1. The footer's key-value metadata names each row group's place, CRC-32C and first path, so a
   reader fetches a group with one positional read and checks it before Arrow parses a byte of it.
2. Twelve bytes stand directly before the footer: `LKF1`, then the CRC-32C and the length (u32
   little endian) of all that follows them. So the footer is checked before it is parsed.

Keeps I7. Leaves names, commits and the meaning of rows to others; does no I/O of its own: bytes go
to a `write` callable and come from a `read_at` callable.
"""

from __future__ import annotations

import io
import json
import mmap
import struct
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lakefeed.errors import Corrupt, Invalid
from lakefeed.format import rows as rows_format
from lakefeed.format.checksum import crc32c

FORMAT_VERSION = 1
# Small enough that one look-up decodes about 130 kB in a millisecond, big enough that per-group
# metadata stays near 0.1 bytes a row.
GROUP_ROWS = 8192
# Fewer rows where much is said of them: groups are decoded whole, and Arrow does not take 2 GiB.
GROUP_BYTES = 4 << 20
MAGIC = b"PAR1"
SEAL = struct.Struct("<4sII")
SEAL_MAGIC = b"LKF1"
_STRIDE_BYTES = 1 << 30
_TAIL = struct.Struct("<I4s")
# Above any real footer (a group needs about a kilobyte): a bound on what a hostile length may ask.
FOOTER_BYTES_MAX = 1 << 30

_KIND_COLUMN = rows_format.FILE_SCHEMA.get_field_index("kind")
_DELTA = ["offset", "length", "size", "seq"]
_DICTIONARY = ["kind", "pack", "codec", "mode", "attrs.key_value.key", "attrs.key_value.value"]


@dataclass(frozen=True, slots=True)
class ColumnsWritten:
    """What a finished columns file says of itself."""

    rows: int
    first: str
    last: str
    footer_bytes: int


class ColumnsWriter:
    """Writes file-shaped tables, sorted by path, as checked row groups from `position` on.

    The file must start with `MAGIC`, which the caller has written.
    """

    def __init__(
        self, write: Callable[[Sequence[bytes]], object], position: int, meta: dict[str, str]
    ) -> None:
        self._write = write
        self._position = position
        self._sink = _Sink()
        self._meta = meta
        self._writer: pq.ParquetWriter | None = None
        self._pending: list[pa.Table] = []
        self._pending_rows = self._pending_bytes = 0
        self._groups: dict[str, list[Any]] = {
            key: [] for key in ("offset", "length", "crc32c", "rows", "first")
        }
        self._last = ""

    def add(self, table: pa.Table) -> None:
        """Append rows; each path must sort after the one before."""
        self._pending.append(table)
        self._pending_rows += len(table)
        self._pending_bytes += table.nbytes
        if self._pending_rows >= GROUP_ROWS or self._pending_bytes > GROUP_BYTES:
            held = pa.concat_tables(self._pending)
            *full, rest = rows_format.pieces(held, GROUP_ROWS, GROUP_BYTES)
            for group in full:
                self._write_group(group)
            self._pending, self._pending_rows, self._pending_bytes = [rest], len(rest), rest.nbytes

    def close(self) -> ColumnsWritten:
        """Write the last group, the seal and the footer."""
        rest = pa.concat_tables([rows_format.FILE_SCHEMA.empty_table(), *self._pending])
        if len(rest) or self._writer is None:
            self._write_group(rest)
        assert self._writer is not None
        self._writer.add_key_value_metadata(self._key_values())
        self._writer.close()
        footer = self._sink.take()
        self._write([SEAL.pack(SEAL_MAGIC, crc32c(footer), len(footer)), footer])
        rows, first = sum(self._groups["rows"]), self._groups["first"][0]
        return ColumnsWritten(rows, first, self._last, SEAL.size + len(footer))

    def _write_group(self, table: pa.Table) -> None:
        if self._writer is None:
            self._writer = _parquet_writer(self._sink, self._position, table)
        first = ""
        if len(table):
            paths = table["path"]
            first, last = paths[0].as_py(), paths[-1].as_py()
            assert not self._groups["rows"] or first > self._last, "paths must be sorted"
            self._last = last
            self._writer.write_table(table, row_group_size=GROUP_ROWS)
        self._write([data := self._sink.take()])
        values = (self._position, len(data), crc32c(data), len(table), first)
        self._position += len(data)
        for key, value in zip(self._groups, values, strict=True):
            self._groups[key].append(value)

    def _key_values(self) -> dict[str, str]:
        return {
            "lakefeed.format": str(FORMAT_VERSION),
            **{f"lakefeed.{key}": value for key, value in self._meta.items()},
            "lakefeed.groups": json.dumps({**self._groups, "last": self._last}),
        }


def _parquet_writer(sink: _Sink, position: int, sample: pa.Table) -> pq.ParquetWriter:
    # Whole-second times repeat (a dictionary is small); nanosecond ones do not (deltas are).
    mtimes = sample["mtime_ns"]
    repeats = len(sample) > 0 and pc.count_distinct(mtimes).as_py() * 2 < len(sample)
    delta = _DELTA if repeats else [*_DELTA, "mtime_ns"]
    encodings = {"path": "DELTA_BYTE_ARRAY", "crc32c": "PLAIN"}
    encodings.update(dict.fromkeys(delta, "DELTA_BINARY_PACKED"))
    file = pa.PythonFile(sink, mode="w")
    writer = pq.ParquetWriter(
        file,
        rows_format.FILE_SCHEMA,
        compression="zstd",
        use_dictionary=[*_DICTIONARY, "mtime_ns"] if repeats else _DICTIONARY,
        column_encoding=encodings,
        write_statistics=["path", "kind"],
        store_schema=False,
    )
    sink.advance(file, position)
    return writer


class _Sink(io.RawIOBase):
    """Collects what Arrow writes."""

    def __init__(self) -> None:
        super().__init__()
        self._parts: list[bytes] = []
        self._discarding = False

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        if not self._discarding:
            self._parts.append(bytes(data))
        return len(data)

    def take(self) -> bytes:
        """Return and forget what was written since the last call."""
        data = b"".join(self._parts)
        self._parts.clear()
        return data

    def advance(self, file: pa.PythonFile, position: int) -> None:
        """Make Arrow believe that the file is at `position`, as the payloads already are there.

        Arrow counts what it hands over and copies nothing here, so the bytes are a mapping that is
        never touched: 25 microseconds for a gibibyte.
        """
        self.take()
        self._discarding = True
        distance = position - file.tell()
        with mmap.mmap(-1, max(min(distance, _STRIDE_BYTES), 1)) as nothing:
            stride = pa.py_buffer(nothing)
            while distance > 0:
                file.write(stride if distance >= len(nothing) else stride.slice(0, distance))
                distance -= min(distance, len(nothing))
            del stride
        self._discarding = False


@dataclass(frozen=True, slots=True)
class Groups:
    """Where each row group lies, what it must hash to, and its first path."""

    offset: list[int]
    length: list[int]
    crc32c: list[int]
    rows: list[int]
    first: list[str]
    last: str

    def __len__(self) -> int:
        return len(self.offset)

    def covering(self, low: str, high: str | None) -> tuple[int, int]:
        """Return the half-open range of groups that may hold paths in [low, high)."""
        if not self.rows[0] or low > self.last or (high is not None and high <= self.first[0]):
            return 0, 0
        start = max(bisect_right(self.first, low) - 1, 0)
        end = len(self) if high is None else bisect_left(self.first, high)
        return start, max(end, start)


class ColumnsReader:
    """An opened columns file: its groups in memory, its rows read and verified on demand."""

    def __init__(
        self,
        read_at: Callable[[int, int], bytes],
        size: int,
        subject: str,
        footer_bytes: int = 64 << 10,
    ) -> None:
        self._read_at = read_at
        self._size = size
        self._subject = subject
        self._footer = _read_footer(read_at, size, subject, footer_bytes)
        try:
            # Parsing a footer needs nothing in front of it: Arrow gets the shortest file possible.
            self._metadata = pq.read_metadata(pa.BufferReader(MAGIC + self._footer))
            pairs = self._metadata.metadata or {}
            self.meta = {k.decode(): v.decode() for k, v in pairs.items()}
            schema = self._metadata.schema.to_arrow_schema()
        except (pa.ArrowException, OSError, ValueError) as error:
            raise Corrupt(subject, expected="a Parquet footer", found=str(error)) from error
        self._check_version()
        if not schema.equals(rows_format.FILE_SCHEMA):
            raise Corrupt(subject, expected="the columns of a row", found=schema.names)
        self.groups = self._parse_groups()

    @property
    def rows(self) -> int:
        """How many rows the file holds."""
        return sum(self.groups.rows)

    def kinds(self, number: int) -> set[str] | None:
        """Return the least and the greatest kind in a group; None where the file does not say."""
        if not self.groups.rows[number]:
            return set()
        statistics = self._metadata.row_group(number).column(_KIND_COLUMN).statistics
        return rows_format.bounds_of(statistics)

    def _check_version(self) -> None:
        version = self.meta.get("lakefeed.format")
        if version != str(FORMAT_VERSION):
            raise Invalid(
                self._subject,
                expected=f"format version {FORMAT_VERSION}",
                found=f"version {version}",
                hint="upgrade lakefeed",
            )

    def _parse_groups(self) -> Groups:
        try:
            raw = json.loads(self.meta["lakefeed.groups"])
            groups = Groups(**raw)
            end = self._size - len(self._footer) - SEAL.size
            sound = _typed(groups) and _ordered(groups, end) and _counted(groups, self._metadata)
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            raise Corrupt(self._subject, expected="a list of row groups", found=error) from error
        if not sound:
            raise Corrupt(self._subject, expected="row groups that fill the file", found="others")
        return groups

    def read(self, start: int, end: int, columns: list[str] | None = None) -> pa.Table:
        """Return the file-shaped rows of groups [start, end): one read, verified, then parsed."""
        groups = self.groups
        if start >= end or not groups.rows[start]:
            nothing = rows_format.READ_SCHEMA.empty_table()
            return nothing if columns is None else nothing.select(columns)
        base = groups.offset[start]
        stop = groups.offset[end - 1] + groups.length[end - 1]
        view = memoryview(data := self._read_at(base, stop - base))
        for number in range(start, end):
            at = groups.offset[number] - base
            found = crc32c(view[at : at + groups.length[number]])
            if found != groups.crc32c[number]:
                raise Corrupt(
                    f"{self._subject}, row group {number} at {groups.offset[number]}",
                    expected=f"checksum {groups.crc32c[number]:08x}",
                    found=f"{found:08x}",
                    hint='run "lakefeed fsck"',
                )
        try:
            file = pq.ParquetFile(
                pa.PythonFile(_Overlay(self._size, base, data), mode="r"),
                metadata=self._metadata,
                read_dictionary=rows_format.READ_AS_DICTIONARY,
                pre_buffer=False,
            )
            table = file.read_row_groups(
                list(range(start, end)), columns=columns, use_threads=end - start > 8
            )
            rows_format.check_text(table)
        except (pa.ArrowException, OSError, ValueError) as error:
            raise Corrupt(self._subject, expected="row groups", found=str(error)) from error
        expected = sum(groups.rows[start:end])
        if len(table) != expected:
            raise Corrupt(self._subject, expected=f"{expected} rows", found=len(table))
        return table


def _typed(groups: Groups) -> bool:
    numbers = (groups.offset, groups.length, groups.crc32c, groups.rows)
    return (
        all(type(column) is list for column in (*numbers, groups.first))
        and {len(column) for column in (*numbers, groups.first)} == {len(groups.first)}
        and all(type(n) is int and n >= 0 for column in numbers for n in column)
        and all(type(path) is str for path in (*groups.first, groups.last))
    )


def _ordered(groups: Groups, end: int) -> bool:
    """Tell whether the groups lie back to back up to `end`, in the order of their paths."""
    stops = [o + n for o, n in zip(groups.offset, groups.length, strict=True)]
    return (
        [*groups.offset[1:], end] == stops
        and groups.offset[0] >= len(MAGIC)
        and all(a < b for a, b in pairwise(groups.first))
        and groups.first[-1] <= groups.last
    )


def _counted(groups: Groups, metadata: Any) -> bool:
    """Tell whether the row counts are those of the Parquet footer; no rows is one empty group."""
    counts = [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)]
    same = groups.rows == (counts or [0]) and sum(counts) == metadata.num_rows
    return same and max(groups.rows) <= GROUP_ROWS  # a kilobyte may say that it is a billion rows


class _Overlay(io.RawIOBase):
    """A file of which one verified range is in memory; Arrow asks for nothing else."""

    def __init__(self, size: int, base: int, data: bytes) -> None:
        super().__init__()
        self._size = size
        self._base = base
        self._data = data
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def size(self) -> int:
        return self._size

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = base + offset
        return self._position

    def read(self, size: int | None = -1) -> bytes:
        if size is None or size < 0:
            size = self._size - self._position
        start = self._position - self._base
        if start < 0 or start + size > len(self._data):
            raise OSError(f"columns ask for {size} bytes at {self._position}, outside the group")
        self._position += size
        return self._data[start : start + size]


def _read_footer(
    read_at: Callable[[int, int], bytes], size: int, subject: str, footer_bytes: int
) -> bytes:
    smallest = len(MAGIC) + SEAL.size + _TAIL.size
    if size < smallest:
        raise Corrupt(subject, expected=f"at least {smallest} bytes", found=f"{size}")
    have = min(max(footer_bytes, smallest), size)
    tail = read_at(size - have, have)
    length, magic = _TAIL.unpack_from(tail, len(tail) - _TAIL.size)
    wanted = length + _TAIL.size + SEAL.size
    if magic != MAGIC or wanted > min(size, FOOTER_BYTES_MAX):
        raise Corrupt(subject, expected="a footer that ends in PAR1", found="another end")
    if wanted > have:
        tail = read_at(size - wanted, wanted)
    seal_magic, checksum, sealed = SEAL.unpack_from(tail, len(tail) - wanted)
    footer = tail[len(tail) - wanted + SEAL.size :]
    if seal_magic != SEAL_MAGIC or sealed != len(footer) or crc32c(footer) != checksum:
        raise Corrupt(subject, expected="a sealed footer", found="a checksum that disagrees")
    return footer
