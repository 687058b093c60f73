"""Many byte ranges of many files in few reads.

Files that are read whole anyway (up to 4 MiB, or compressed) are fetched once each, together, and
cut. Ranges of bigger files are merged where the gap between them is small, and fetched in parallel.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from lakefeed.format.rows import Row, table_from_rows
from lakefeed.lake.snapshot import Snapshot, is_read_whole

# About what a filer delivers in the time of one more round trip.
GAP_BYTES = 64 << 10
MERGED_BYTES_MAX = 16 << 20
THREADS = 16
# Whole files held at a time while ranges are cut out of them.
HELD_BYTES = 128 << 20


@dataclass(frozen=True, slots=True)
class Wanted:
    """Bytes [start, end) of the file of a row."""

    row: Row
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Read:
    """One read, and which of the wanted ranges it answers."""

    row: Row
    start: int
    end: int
    answers: tuple[int, ...]


def bounds(start: int | None, end: int | None, size: int) -> tuple[int, int]:
    """Return a Python slice of a file as half-open bytes; negative numbers count from the end."""
    first, last, _ = slice(start, end).indices(size)
    return first, max(first, last)


def plan_ranges(wanted: Sequence[Wanted], gap_bytes: int = GAP_BYTES) -> list[Read]:
    """Return the reads that cover the wanted ranges, neighbours merged."""
    order = sorted(range(len(wanted)), key=lambda at: (wanted[at].row.path, wanted[at].start))
    reads: list[Read] = []
    for at in order:
        ask = wanted[at]
        last = reads[-1] if reads else None
        if (
            last is not None
            and last.row.path == ask.row.path
            and ask.start - last.end <= gap_bytes
            and max(ask.end, last.end) - last.start <= MERGED_BYTES_MAX
        ):
            end = max(last.end, ask.end)
            reads[-1] = Read(last.row, last.start, end, (*last.answers, at))
        else:
            reads.append(Read(ask.row, ask.start, ask.end, (at,)))
    return reads


def read_ranges(
    snapshot: Snapshot, wanted: Sequence[Wanted], gap_bytes: int = GAP_BYTES
) -> list[bytes]:
    """Return the bytes of each range, in the order asked."""
    results = [b""] * len(wanted)
    whole: dict[str, list[int]] = {}
    parts: list[int] = []
    for at, ask in enumerate(wanted):
        if is_read_whole(ask.row):
            whole.setdefault(ask.row.path, []).append(at)
        else:
            parts.append(at)
    rows = [wanted[ats[0]].row for ats in whole.values()]
    for batch in batches(rows, HELD_BYTES):
        for row, data in zip(batch, snapshot.read_rows(table_from_rows(batch)), strict=True):
            for at in whole[row.path]:
                results[at] = data[wanted[at].start : wanted[at].end]
    reads = plan_ranges([wanted[at] for at in parts], gap_bytes)
    for read, data in zip(reads, _fetch(snapshot, reads), strict=True):
        for number in read.answers:
            ask = wanted[parts[number]]
            results[parts[number]] = data[ask.start - read.start : ask.end - read.start]
    return results


def _fetch(snapshot: Snapshot, reads: Sequence[Read]) -> list[bytes]:
    def fetch(read: Read) -> bytes:
        return snapshot.read_row_range(read.row, read.start, read.end - read.start)

    if len(reads) < 2:
        return [fetch(read) for read in reads]
    with ThreadPoolExecutor(min(THREADS, len(reads)), "lakefeed-ranges") as pool:
        return list(pool.map(fetch, reads))


def batches(rows: Sequence[Row], bytes_max: int) -> Iterator[list[Row]]:
    """Yield rows in their order, about `bytes_max` bytes at a time."""
    batch: list[Row] = []
    held_bytes = 0
    for row in rows:
        if batch and held_bytes + row.size > bytes_max:
            yield batch
            batch, held_bytes = [], 0
        batch.append(row)
        held_bytes += row.size
    if batch:
        yield batch
