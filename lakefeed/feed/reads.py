"""Which reads bring a window's payloads: pure planning.

Payloads are visited in the order of their places. Neighbours across a gap of up to `gap_bytes`
share a read, reads end near `read_bytes`. A gap is worth reading where its bytes take less time
than a call of its own; `control` knows what a call costs on this volume.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lakefeed.feed.table import Rows

Indexes = NDArray[np.int64]

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
        for first, last in self.by_pack(start, end):
            places = zip(self.offset[first:last], self.length[first:last], strict=True)
            yield self.pack[first], list(places)

    def by_pack(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """Yield where those of one pack begin and end among reads [start, end)."""
        while start < end:
            # Reads are in packs' order.
            stop = bisect.bisect_right(self.pack, self.pack[start], start, end)
            yield start, stop
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
