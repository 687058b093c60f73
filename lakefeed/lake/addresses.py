"""All rows of one source in memory, 30 bytes each, found by the fingerprint of their path.

Decoding a row group of 8192 rows to get at one of them costs a millisecond, and random paths in a
big lake lie in other groups each time. So the rows of a source that is asked for often are kept in
a form where one row is a few memory accesses away: sorted by fingerprint, four to a bucket, each
column as few bytes wide as the source's values need. Paths are not kept. A row is taken for a
path's when 64 bits of fingerprint are equal to those of one of the few rows in its bucket: wrong
once in 10^18 look-ups of paths that are not there, whatever they are (`format/fingerprint.py`); a
damaged payload passes its CRC-32C once in 4 * 10^9.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from lakefeed.errors import Corrupt
from lakefeed.format import bridge
from lakefeed.format.fingerprint import Fingerprints, Prints
from lakefeed.format.paths import PATH_BYTES_MAX
from lakefeed.format.rows import MEMORY_SCHEMA

# What a row takes, for decisions made before its table is.
ROW_BYTES = 32
_BUCKET_ROWS = 4
_PLAIN = ("kind", "offset", "size", "codec", "crc32c", "mtime_ns", "mode", "seq")
_DTYPES = {name: bridge.dtype(MEMORY_SCHEMA.field(name).type) for name in (*_PLAIN, "length")}
_Words = NDArray[np.uint64]
_NOT_FOUND = np.full(1, -1, np.int64)


@cache
def _schema(columns: tuple[str, ...]) -> pa.Schema:
    return pa.schema([MEMORY_SCHEMA.field(name) for name in columns])


@dataclass(frozen=True, slots=True)
class _Field:
    """Where a column lies in a record: `width` bytes at `start`, to which `least` is added."""

    start: int
    width: int
    least: int

    def read(self, records: NDArray[np.uint8]) -> _Words:
        """Return the column of some records."""
        if not self.width:
            return np.full(len(records), self.least, np.uint64)
        words = np.zeros((len(records), 8), np.uint8)
        words[:, : self.width] = records[:, self.start : self.start + self.width]
        return words.view("<u8")[:, 0] + np.uint64(self.least)


class Addresses:
    """The rows of a source. Immutable once made, so safe for threads."""

    def __init__(self, parts: Iterable[Part]) -> None:
        """Take over all rows of a source, in parts of moderate size."""
        gathered = _Gathered()
        for part in parts:
            gathered.add(part)
        order, self._starts = _bucketed(gathered.joined("place"))
        self._marks: _Words = gathered.joined("mark")[order]
        self._packs = bridge.strings(list(gathered.packs))
        self._fields, self._records = _packed(gathered, order)
        self._directories = gathered.directories()
        self._attrs: pa.Array | None = gathered.attrs(order)

    @property
    def nbytes(self) -> int:
        """The memory that this takes."""
        attrs = 0 if self._attrs is None else int(self._attrs.nbytes)
        return (
            self._starts.nbytes
            + self._marks.nbytes
            + self._records.nbytes
            + attrs
            + self._directories.nbytes
        )

    def leads_to(self, directories: Prints) -> NDArray[np.bool_]:
        """Tell of each directory whether a row, dead or alive, lies below it."""
        known, marks = self._directories, directories.mark
        if not len(known):
            return np.zeros(len(marks), np.bool_)
        nearest = known[np.minimum(np.searchsorted(known, marks), len(known) - 1)]
        return np.equal(nearest, marks)

    def find(self, prints: Prints) -> NDArray[np.int64]:
        """Return which row each fingerprint belongs to, -1 for none."""
        if len(prints.place) == 1:
            return self._find_one(int(prints.place[0]), prints.mark[0])
        found = np.full(len(prints.place), -1, np.int64)
        buckets = _buckets(prints.place, len(self._starts) - 1)
        at = self._starts[buckets].astype(np.int64)
        end = self._starts[buckets + 1].astype(np.int64)
        looking = np.flatnonzero(at < end)
        while len(looking):
            here = at[looking]
            same = self._marks[here] == prints.mark[looking]
            found[looking[same]] = here[same]
            here += 1
            at[looking] = here
            looking = looking[~same & (here < end[looking])]
        return found

    def _find_one(self, place: int, mark: np.uint64) -> NDArray[np.int64]:
        bucket = place * (len(self._starts) - 1) >> 32
        start, end = self._starts[bucket : bucket + 2].tolist()
        hits = np.flatnonzero(self._marks[start:end] == mark)
        return hits[:1] + start if len(hits) else _NOT_FOUND

    def rows(self, numbers: NDArray[np.int64], columns: Sequence[str]) -> pa.Table:
        """Return some columns of these rows, in memory shape, `path` excepted."""
        records = self._records[numbers]
        arrays = [self._column(name, numbers, records) for name in columns]
        return pa.Table.from_arrays(arrays, schema=_schema(tuple(columns)))

    def _column(
        self, name: str, numbers: NDArray[np.int64], records: NDArray[np.uint8]
    ) -> pa.Array:
        if name == "attrs":
            return self._attributes(numbers)
        values = self._fields[name].read(records)
        if name == "pack":
            codes = bridge.numbers(values.astype(np.int32))
            return pa.DictionaryArray.from_arrays(codes, self._packs)
        if name == "length":
            values ^= self._fields["size"].read(records)
        return bridge.numbers(values.astype(_DTYPES[name]))

    def _attributes(self, numbers: NDArray[np.int64]) -> pa.Array:
        attrs = self._attrs
        if attrs is None:
            return pa.nulls(len(numbers), MEMORY_SCHEMA.field("attrs").type)
        return attrs.take(bridge.numbers(numbers))


class Part(NamedTuple):
    """Some rows of a source on their way into addresses: columns in as few bytes as they need, the
    names of packs for the codes in each piece, attributes, and marks of the directories above."""

    columns: dict[str, NDArray[np.generic]]
    packs: list[tuple[list[str], NDArray[np.int32]]]
    attrs: list[pa.Array]
    directories: _Words

    @property
    def nbytes(self) -> int:
        """The memory that most of it takes."""
        columns = sum(values.nbytes for values in self.columns.values())
        return columns + sum(int(piece.nbytes) for piece in self.attrs)


def part_of(table: pa.Table, prints: Fingerprints, subject: str) -> Part:
    """Return rows in memory shape as a part; most of the work, and any thread can do it.

    Raises Corrupt, which names `subject`, for a path that is longer than paths are.
    """
    paths = table["path"].combine_chunks()
    if len(paths) and pc.max(pc.binary_length(paths)).as_py() > PATH_BYTES_MAX:
        raise Corrupt(subject, expected=f"paths of at most {PATH_BYTES_MAX} bytes",
                      found="a longer one")  # fmt: skip
    place, mark = prints.of(paths)
    directories = [np.empty(0, np.uint64)]
    above = _directories_of(paths)
    while len(above):
        directories.append(prints.of(above).mark)
        above = _directories_of(above)
    columns = {name: bridge.to_numpy(table[name]) for name in _PLAIN}
    columns |= {"place": place, "mark": mark,
                "length": bridge.to_numpy(table["length"]) ^ columns["size"]}  # fmt: skip
    packs = [(chunk.dictionary.to_pylist(), bridge.to_numpy(chunk.indices))
             for chunk in table["pack"].chunks]  # fmt: skip
    narrow = {name: _narrow(values) for name, values in columns.items()}
    return Part(narrow, packs, table["attrs"].chunks, np.unique(np.concatenate(directories)))


class _Gathered:
    """Columns as they come, part by part."""

    def __init__(self) -> None:
        self._parts: dict[str, list[NDArray[np.generic]]] = {}
        self._attrs: list[pa.Array] = []
        self._directories = [np.empty(0, np.uint64)]
        self.packs: dict[str, int] = {}

    def add(self, part: Part) -> None:
        """Take over a part."""
        for name, values in part.columns.items():
            self._parts.setdefault(name, []).append(values)
        self._parts.setdefault("pack", []).append(_narrow(self._codes(part)))
        self._attrs += part.attrs
        self._directories.append(part.directories)

    def _codes(self, part: Part) -> NDArray[np.int64]:
        pieces = [np.empty(0, np.int64)]
        for names, codes in part.packs:
            known = [self.packs.setdefault(name, len(self.packs)) for name in names]
            pieces.append(np.array(known, np.int64)[codes])
        return np.concatenate(pieces)

    def bounds(self, name: str) -> tuple[int, int]:
        """Return the least and the greatest value of a column, zeros if it has none."""
        parts = [part for part in self._parts.get(name, []) if len(part)]
        least = min((int(part.min()) for part in parts), default=0)
        return least, max((int(part.max()) for part in parts), default=0)

    def joined(self, name: str) -> np.ndarray:
        """Return a whole column, and forget it."""
        return np.concatenate(self._parts.pop(name))

    def directories(self) -> _Words:
        """Return the marks of all directories that rows lie below, sorted."""
        return np.unique(np.concatenate(self._directories))

    def attrs(self, order: NDArray[np.int64]) -> pa.Array | None:
        """Return the attributes in this order of rows, None if there are none."""
        column = pa.chunked_array(self._attrs, MEMORY_SCHEMA.field("attrs").type)
        if column.null_count == len(column):
            return None
        return column.combine_chunks().take(bridge.numbers(order))


def _directories_of(paths: pa.Array) -> pa.Array:
    """Return the directories that these paths lie in, each once; "" is none."""
    parts = pc.split_pattern(paths, "/", max_splits=1, reverse=True)
    two = parts.filter(bridge.truths(bridge.to_numpy(pc.list_value_length(parts)) == 2))
    return pc.unique(pc.list_element(two, bridge.scalar(np.int32(0))))


def _buckets(place: NDArray[np.uint32], count: int) -> NDArray[np.int64]:
    return (place.astype(np.uint64) * np.uint64(count) >> np.uint64(32)).astype(np.int64)


def _bucketed(place: NDArray[np.uint32]) -> tuple[NDArray[np.int64], NDArray[np.uint32]]:
    """Return the rows in the order of their buckets, and where each bucket begins."""
    count = max(len(place) // _BUCKET_ROWS, 1)
    buckets = _buckets(place, count)
    # Sorting numbers that hold both is several times quicker than sorting one by the other.
    both = np.sort(buckets << 32 | np.arange(len(place)))
    starts = np.zeros(count + 1, np.uint32)
    starts[1:] = np.cumsum(np.bincount(buckets, minlength=count))
    return both & 0xFFFFFFFF, starts


def _narrow(values: np.ndarray) -> np.ndarray:
    """Return the values in as few bytes as they need, so that many fit until they are packed."""
    if not len(values) or values.min() < 0:
        return values
    narrow = np.min_scalar_type(values.max())
    # As wide, it would be unsigned for nothing, and joined with signed values become a float.
    return values.astype(narrow) if narrow.itemsize < values.itemsize else values


def _packed(
    gathered: _Gathered, order: NDArray[np.int64]
) -> tuple[dict[str, _Field], NDArray[np.uint8]]:
    """Return the columns side by side, each row's together, and where each is."""
    fields: dict[str, _Field] = {}
    start = 0
    for name in (*_PLAIN, "length", "pack"):
        least, greatest = gathered.bounds(name)
        width = ((greatest - least).bit_length() + 7) // 8
        fields[name] = _Field(start, width, least % (1 << 64))
        start += width
    records = np.empty((len(order), start), np.uint8)
    for name, field in fields.items():
        values = gathered.joined(name)
        if field.width:
            # Differences modulo 2^64 are right for signed numbers, too.
            above = values[order].astype(np.uint64) - np.uint64(field.least)
            end = field.start + field.width
            records[:, field.start : end] = above.view(np.uint8).reshape(-1, 8)[:, : field.width]
    return fields, records
