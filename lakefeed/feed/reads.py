"""Which reads bring a window's payloads, and how the bytes that come are verified: pure planning.

Payloads are visited in the order of their places. Neighbours across a gap of up to `gap_bytes`
share a read, reads end near `read_bytes`. A gap is worth reading where its bytes take less time
than a call of its own; `control` knows what a call costs on this volume.

Staged reads land in one buffer, read behind read. There, payloads that lie back to back (or with
zeros up to the next 512-byte boundary between them) form stretches, each verified at once.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lakefeed.feed.table import Rows
from lakefeed.format.joining import PADDING_MAX, joined

Indexes = NDArray[np.int64]

# Stretches end here, so that what is verified is still in the processor's cache.
STRETCH_BYTES = 1 << 20
_ALIGNMENT = PADDING_MAX + 1
_OFFSET_BITS = 44


@dataclass(frozen=True, slots=True)
class Reads:
    """Read i takes `length[i]` bytes of pack `pack[i]` from `offset[i]` and brings the samples
    order[start[i] : end[i]]. Lists, because thousands of small objects would cost more."""

    order: Indexes
    pack: list[int]
    offset: list[int]
    length: list[int]
    start: list[int]
    end: list[int]

    def __len__(self) -> int:
        return len(self.pack)

    def ranges(self, start: int, end: int) -> Iterator[tuple[int, list[tuple[int, int]]]]:
        """Yield packs with the offset and length of their reads among [start, end)."""
        while start < end:
            pack = self.pack[start]
            stop = bisect.bisect_right(self.pack, pack, start, end)  # reads are in packs' order
            yield pack, list(zip(self.offset[start:stop], self.length[start:stop], strict=True))
            start = stop


def plan_reads(rows: Rows, gap_bytes: int, read_bytes: int) -> Reads:
    """Return the reads that bring all rows with stored bytes."""
    stored = np.flatnonzero(rows.length > 0)
    order = stored[np.argsort((rows.pack[stored] << _OFFSET_BITS) | rows.offset[stored])]
    if not len(order):
        return Reads(order, [], [], [], [], [])
    pack, offset = rows.pack[order], rows.offset[order]
    end = offset + rows.length[order]
    gap = offset[1:] - end[:-1]
    # Payloads that overlap are copies of one file; each is read by itself, which is rare enough.
    starts = np.r_[True, (pack[1:] != pack[:-1]) | (gap > gap_bytes) | (gap < 0)]
    first = offset[np.flatnonzero(starts)][np.cumsum(starts) - 1]
    cell = (offset - first) // read_bytes
    starts[1:] |= cell[1:] != cell[:-1]
    begin = np.flatnonzero(starts)
    stop = np.r_[begin[1:], len(order)]
    columns = (pack[begin], offset[begin], end[stop - 1] - offset[begin], begin, stop)
    return Reads(order, *(column.tolist() for column in columns))


@dataclass(frozen=True, slots=True)
class Staging:
    """Where staged payloads are: sample order[i] at [starts[i], ends[i]) of a buffer of `size`
    bytes, read i at places[i]; read i's stretches are span[i] up to span[i + 1], and stretch j is
    the bytes [low[j], high[j]) with CRC crc32c[j], whose first payload is member[j]."""

    size: int
    places: list[int]
    starts: Indexes
    ends: Indexes
    span: list[int]
    low: list[int]
    high: list[int]
    crc32c: list[int]
    member: list[int]


def plan_staging(rows: Rows, reads: Reads) -> Staging:
    """Return how raw payloads lie in a staging buffer; no row may be compressed."""
    lengths = np.array(reads.length, np.int64)
    begin = np.array(reads.start, np.int64)
    # Every read begins on a 64-byte boundary, so that no two share a cache line.
    rooms = (lengths + 63) // 64 * 64
    places = np.cumsum(rooms) - rooms
    base = places - np.array(reads.offset, np.int64)
    per_read = np.diff(np.r_[begin, len(reads.order)])
    starts = rows.offset[reads.order] + np.repeat(base, per_read)
    ends = starts + rows.length[reads.order]
    fresh = np.zeros(len(starts), np.bool_)
    fresh[begin] = True
    gap = starts[1:] - ends[:-1]
    offset = rows.offset[reads.order]
    padded = (gap < _ALIGNMENT) & (offset[1:] % _ALIGNMENT == 0)
    fresh[1:] |= (gap != 0) & ~padded
    cell = (starts - np.repeat(places, per_read)) // (STRETCH_BYTES // 2)
    fresh[1:] |= cell[1:] != cell[:-1]
    member = np.flatnonzero(fresh)
    stop = np.r_[member[1:], len(starts)]
    spans = np.searchsorted(member, np.append(begin, len(starts)))
    checksums = joined(rows.crc32c[reads.order], starts, ends, member)
    return Staging(
        int(rooms.sum()),
        places.tolist(),
        starts,
        ends,
        spans.tolist(),
        starts[member].tolist(),
        ends[stop - 1].tolist(),
        checksums.tolist(),
        member.tolist(),
    )
