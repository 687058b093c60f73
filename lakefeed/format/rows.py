"""Rows of the offset index: one line for each path, and the two shapes they have.

In a file the columns are readable by any Parquet tool: kinds and codecs are words, a missing `pack`
means "this file", a missing `length` means "as long as `size`", a missing `seq` means "the commit
that added this pack". In memory nothing is missing and kinds and codecs are small integers.

`from_file` and `to_file` are the only translators between the two.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from enum import IntEnum
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lakefeed.errors import Corrupt
from lakefeed.format import bridge
from lakefeed.format.envelope import ID_LENGTH, is_id


class Kind(IntEnum):
    """What a row says about its path."""

    FILE = 0
    DIR = 1
    SYMLINK = 2
    TOMBSTONE = 3


class Codec(IntEnum):
    """How a payload is stored."""

    NONE = 0
    ZSTD = 1


_KINDS = list(Kind)
_CODECS = list(Codec)
# What a row has room for, in nanoseconds: the years 1677 to 2262. File systems know others.
TIMES_NS = range(-(1 << 63), 1 << 63)
KIND_NAMES = ["file", "dir", "symlink", "tombstone"]
CODEC_NAMES = ["none", "zstd"]

_ID_LETTERS = np.isin(np.arange(256), np.frombuffer(b"0123456789abcdef", np.uint8))

_ATTRS = pa.map_(pa.string(), pa.string())
_WORDS = pa.dictionary(pa.int32(), pa.string())

MEMORY_SCHEMA = pa.schema(
    [
        ("path", pa.string()),
        ("kind", pa.int8()),
        ("pack", _WORDS),
        ("offset", pa.uint64()),
        ("length", pa.uint64()),
        ("size", pa.uint64()),
        ("codec", pa.int8()),
        ("crc32c", pa.uint32()),
        ("mtime_ns", pa.int64()),
        ("mode", pa.uint32()),
        ("attrs", _ATTRS),
        ("seq", pa.uint64()),
    ]
)
COLUMNS = MEMORY_SCHEMA.names

_REQUIRED = {"path", "kind", "offset", "size", "codec", "crc32c", "mtime_ns", "mode"}
FILE_SCHEMA = pa.schema(
    [
        pa.field(
            field.name,
            pa.string() if field.name in ("kind", "pack", "codec") else field.type,
            nullable=field.name not in _REQUIRED,
        )
        for field in MEMORY_SCHEMA
    ]
)


# What reading a file gives: words that repeat arrive as dictionaries.
READ_AS_DICTIONARY = ["kind", "pack", "codec"]
# All attributes of one file together, names included: a mount gives values of up to 64 KiB out.
ATTRS_BYTES_MAX = 1 << 20
# Of the attributes that are turned into columns at a time; Arrow ends the process at 2 GiB.
_ATTRS_STEP_BYTES = 64 << 20
_TEXT = frozenset({"path", "attrs", *READ_AS_DICTIONARY})
READ_SCHEMA = pa.schema(
    [
        field.with_type(_WORDS) if field.name in READ_AS_DICTIONARY else field
        for field in FILE_SCHEMA
    ]
)


class Row(NamedTuple):
    """One path as the index knows it; for the bytes see `pack`, `offset` and `length`.

    A tuple and not a dataclass: writers make one for each file, and this is five times cheaper.
    """

    path: str
    kind: Kind
    pack: str
    offset: int
    length: int
    size: int
    codec: Codec
    crc32c: int
    mtime_ns: int
    mode: int
    attrs: dict[str, str] | None
    seq: int


def attrs_bytes(attrs: dict[str, str] | None) -> int:
    """Return how much a file's attributes take in UTF-8, names included."""
    texts = chain(attrs, attrs.values()) if attrs else ()
    return sum(len(text) if text.isascii() else len(text.encode()) for text in texts)


def rows_from_table(table: pa.Table) -> list[Row]:
    """Return a memory table's rows as values."""
    if not len(table):
        return []
    columns = {
        name: bridge.to_numpy(table[name]).tolist()
        for name in COLUMNS
        if name not in ("path", "pack", "attrs")
    }
    columns["kind"] = [_KINDS[kind] for kind in columns["kind"]]
    columns["codec"] = [_CODECS[codec] for codec in columns["codec"]]
    columns["path"] = table["path"].to_pylist()
    pack = table["pack"].unify_dictionaries().combine_chunks()
    names = pack.dictionary.to_pylist()
    columns["pack"] = [names[code] for code in bridge.to_numpy(pack.indices).tolist()]
    columns["attrs"] = attrs_from_column(table["attrs"])
    return list(map(Row, *(columns[name] for name in COLUMNS)))


def attrs_from_column(attrs: pa.ChunkedArray) -> list[dict[str, str] | None]:
    """Return the attributes of each row of a table's column."""
    if attrs.null_count == len(attrs):
        return [None] * len(attrs)
    return [None if pairs is None else dict(pairs) for pairs in attrs.to_pylist()]


def table_from_rows(rows: list[Row]) -> pa.Table:
    """Return values as a memory table, in the order given."""
    columns: list[Sequence[Any]] = list(zip(*rows, strict=True)) if rows else [()] * len(COLUMNS)
    arrays = []
    for field, values in zip(MEMORY_SCHEMA, columns, strict=True):
        if field.name == "attrs":
            values = [None if attrs is None else list(attrs.items()) for attrs in values]
        if field.name == "pack":
            arrays.append(pa.array(values, pa.string()).dictionary_encode())
        else:
            arrays.append(pa.array(values, field.type))
    return pa.table(arrays, schema=MEMORY_SCHEMA)


def tables_from_rows(rows: list[Row]) -> Iterator[pa.Table]:
    """Yield values as memory tables, so that the attributes in each take bounded room."""
    start = held = 0
    if any(row.attrs for row in rows):
        for at, row in enumerate(rows, 1):
            held += attrs_bytes(row.attrs)
            if held >= _ATTRS_STEP_BYTES:
                yield table_from_rows(rows[start:at])
                start, held = at, 0
    yield table_from_rows(rows[start:])


def fitting(table: pa.Table, rows: int, bytes_max: int) -> int:
    """Return how many of the first `rows` go into so many bytes, about; one at least."""
    rows = min(rows, len(table))
    while rows > 1 and table.slice(0, rows).nbytes > bytes_max:
        rows //= 2
    return rows


def pieces(table: pa.Table, rows_max: int, bytes_max: int) -> Iterator[pa.Table]:
    """Yield a table in full pieces, and what is left, maybe nothing, as one that takes more."""
    while (rows := fitting(table, rows_max, bytes_max)) < len(table) or rows == rows_max:
        yield table.slice(0, rows)
        table = table.slice(rows)
    yield table


def empty_table() -> pa.Table:
    """Return a memory table without rows."""
    return pa.Table.from_batches([], schema=MEMORY_SCHEMA)


def check_text(table: pa.Table) -> None:
    """Raise ArrowInvalid where words are not valid UTF-8; Arrow itself takes any bytes for text.

    A twentieth of the time that decoding takes, and whoever wants a word later is not ready for it.
    """
    for name in table.column_names:
        if name in _TEXT:
            table[name].validate(full=True)


def bounds_of(statistics: Any) -> set[str] | None:
    """Return the least and the greatest word of a column; None where the file does not say."""
    try:
        known = statistics is not None and statistics.has_min_max
        return {str(statistics.min), str(statistics.max)} if known else None
    except UnicodeDecodeError:
        return None


def to_file(table: pa.Table, own_pack: str, own_seq: int | None) -> pa.Table:
    """Return the file shape of a memory table: what the file implies is left out.

    Rows of `own_pack` or of no pack at all get none, raw payloads no length, rows of `own_seq` no
    seq.
    """
    pack = table["pack"].cast(pa.string())
    raw = pc.equal(table["length"], table["size"])
    seq = table["seq"]
    if own_seq is not None:
        seq = pc.if_else(pc.equal(seq, own_seq), pa.scalar(None, pa.uint64()), seq)
    columns = {
        "path": table["path"],
        "kind": pa.array(KIND_NAMES).take(table["kind"].combine_chunks()),
        "pack": pc.if_else(
            pc.is_in(pack, value_set=pa.array([own_pack, ""])), pa.scalar(None, pa.string()), pack
        ),
        "offset": table["offset"],
        "length": pc.if_else(raw, pa.scalar(None, pa.uint64()), table["length"]),
        "size": table["size"],
        "codec": pa.array(CODEC_NAMES).take(table["codec"].combine_chunks()),
        "crc32c": table["crc32c"],
        "mtime_ns": table["mtime_ns"],
        "mode": table["mode"],
        "attrs": table["attrs"],
        "seq": seq,
    }
    return pa.table(columns, schema=FILE_SCHEMA)


def from_file(table: pa.Table, own_pack: str, own_seq: int, subject: str) -> pa.Table:
    """Return the memory shape of a file table, with everything implied filled in.

    `table` was read with `kind`, `pack` and `codec` as dictionaries. Raises Corrupt for a word that
    is neither a kind nor a codec.
    """
    seq = table["seq"]
    if seq.null_count == len(table):
        seq = bridge.repeated(np.uint64(own_seq), len(table))
    elif seq.null_count:
        known = bridge.valid(seq)
        seq = bridge.numbers(np.where(known, bridge.to_numpy(seq), np.uint64(own_seq)))
    changed = {**_extents(table, own_pack, subject), "seq": seq}
    arrays = [changed[name] if name in changed else table[name] for name in COLUMNS]
    return pa.table(arrays, schema=MEMORY_SCHEMA)


def extents_from_file(table: pa.Table, own_pack: str, subject: str) -> pa.Table:
    """Return kinds and extents in memory shape from a file table that has no other needed columns.

    Columns besides those stay as they are. Raises Corrupt as `from_file` does.
    """
    changed = _extents(table, own_pack, subject)
    return pa.table({name: changed.get(name, table[name]) for name in table.column_names})


def _extents(table: pa.Table, own_pack: str, subject: str) -> dict[str, pa.Array | pa.ChunkedArray]:
    """Return kinds, codecs, packs and lengths in memory shape."""
    pack = table["pack"]
    _check_ids(pack, subject)
    if pack.null_count == len(table):
        pack = pa.chunked_array([bridge.repeated(own_pack, len(table))])
    elif pack.null_count:
        filled = pc.fill_null(pack.cast(pa.string()), bridge.scalar(own_pack))
        pack = filled.dictionary_encode().unify_dictionaries()
    length = table["length"]
    if length.null_count == len(table):
        length = table["size"]
    elif length.null_count:
        length = pc.coalesce(length, table["size"])
    return {
        "kind": _codes(table["kind"], KIND_NAMES, subject),
        "codec": _codes(table["codec"], CODEC_NAMES, subject),
        "pack": pack,
        "length": length,
    }


def _check_ids(packs: pa.ChunkedArray, subject: str) -> None:
    """Raise Corrupt unless all are ids: they become names of files, and lead nowhere else."""
    for chunk in packs.chunks:
        # Each group comes through here: Arrow's regular expressions take some 50 us to begin with.
        letters = bridge.letters(chunk.dictionary, ID_LENGTH)
        if letters is None or not _ID_LETTERS[letters].all():
            found = next(word for word in chunk.dictionary.to_pylist() if not is_id(word))
            raise Corrupt(f"{subject}, column pack", expected="an id", found=repr(found)[:80])


def _codes(words: pa.ChunkedArray, names: list[str], subject: str) -> pa.ChunkedArray:
    chunks = []
    for chunk in words.chunks:
        # A few words for thousands of rows: Arrow's own look-up takes ten times as long as this.
        known = [
            names.index(word) if word in names else -1 for word in chunk.dictionary.to_pylist()
        ]
        if chunk.null_count or -1 in known:
            raise Corrupt(subject, expected=f"one of {', '.join(names)}", found="another word")
        codes = np.array(known or [0], np.int8)[bridge.to_numpy(chunk.indices)]
        chunks.append(bridge.numbers(codes))
    return pa.chunked_array(chunks, pa.int8())
