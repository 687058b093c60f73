"""Sorted rows on their way into the segments of one run.

Segments have about SEGMENT_ROWS rows; a new one begins at each cut. `Shift` counts what a merge
does to the live bytes of packs: the rows it writes less the rows it takes the place of. Keeps I1
and I2: files are synced, and their directory, before the last segment is handed out.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from lakefeed.format import rows as rows_format
from lakefeed.format.columns import MAGIC, ColumnsWriter
from lakefeed.format.commit import SegmentInfo, State
from lakefeed.format.rows import Kind
from lakefeed.lake import layout, leveling
from lakefeed.lake.catalogue import lower_bound
from lakefeed.lake.packing import discard
from lakefeed.volume.base import Volume, WritableFile


def write_segments(
    volume: Volume,
    tables: Iterator[pa.Table],
    live_bytes: dict[str, int],
    *,
    level: int = 1,
    cuts: Sequence[str] = (),
) -> Iterator[SegmentInfo]:
    """Write sorted rows as the segments of one run; add to `live_bytes` what they reach.

    One that fails half-way is removed again; those yielded before are the caller's to discard.
    """
    for part in _Parts(tables, cuts).segments():
        segment_id = layout.new_id()
        path = layout.segment_path(segment_id)
        try:
            with volume.create(path) as file:
                segment = _write_segment(file, segment_id, part, (live_bytes, level))
        except BaseException:
            discard(volume, path)
            raise
        yield segment
    volume.sync_directory(layout.INDEX)


def discard_segments(volume: Volume, segments: Iterable[SegmentInfo]) -> None:
    """Remove segments that no commit names."""
    for segment in segments:
        discard(volume, layout.segment_path(segment.id))


def _write_segment(
    file: WritableFile,
    segment_id: str,
    tables: Iterator[pa.Table],
    facts: tuple[dict[str, int], int],
) -> SegmentInfo:
    live_bytes, level = facts
    file.write([MAGIC])
    writer = ColumnsWriter(file.write, len(MAGIC), {"kind": "segment", "id": segment_id})
    tombstones = 0
    seq_min, seq_max = (1 << 63) - 1, 0
    for table in tables:
        count_live(table, live_bytes)
        tombstones += int((np.asarray(table["kind"]) == Kind.TOMBSTONE).sum())
        seqs = np.asarray(table["seq"])
        seq_min, seq_max = min(seq_min, int(seqs.min())), max(seq_max, int(seqs.max()))
        writer.add(rows_format.to_file(table, "", None))
    written = writer.close()
    file.sync()
    return SegmentInfo(
        id=segment_id,
        bytes=file.tell(),
        footer_bytes=written.footer_bytes,
        rows=written.rows,
        tombstones=tombstones,
        first=written.first,
        last=written.last,
        seq_min=seq_min,
        seq_max=seq_max,
        level=level,
    )


class _Parts:
    """A stream of tables, cut into streams that are one segment each, none of them empty."""

    def __init__(self, tables: Iterator[pa.Table], cuts: Sequence[str]) -> None:
        self._tables = (table for table in tables if len(table))
        self._cuts = cuts
        self._held: pa.Table | None = None

    def segments(self) -> Iterator[Iterator[pa.Table]]:
        """Yield each segment's tables; they must be taken before the next is asked for."""
        while self._peek() is not None:
            yield self._segment()

    def _peek(self) -> pa.Table | None:
        if self._held is None:
            self._held = next(self._tables, None)
        return self._held

    def _segment(self) -> Iterator[pa.Table]:
        rows = 0
        limit: str | None = None
        while rows < leveling.SEGMENT_ROWS and (table := self._peek()) is not None:
            first = table["path"][0].as_py()
            if not rows:
                at = bisect_right(self._cuts, first)
                limit = self._cuts[at] if at < len(self._cuts) else None
            end = len(table) if limit is None else lower_bound(table["path"], limit)
            if not end:
                return
            self._held = table.slice(end) if end < len(table) else None
            rows += end
            yield table.slice(0, end)


def count_live(table: pa.Table, live_bytes: dict[str, int], sign: int = 1) -> None:
    """Add the stored bytes of each pack's rows in a memory table to `live_bytes`."""
    pack = table["pack"].unify_dictionaries().combine_chunks()
    sums = np.bincount(
        np.asarray(pack.indices),
        weights=np.asarray(table["length"]).astype(np.float64),
        minlength=len(pack.dictionary),
    )
    for name, size in zip(pack.dictionary.to_pylist(), sums.tolist(), strict=True):
        if name:
            live_bytes[name] = live_bytes.get(name, 0) + sign * int(size)


@dataclass(slots=True)
class Shift:
    """How much more, or less, of each pack the rows of the merged index name after a merge."""

    bytes: dict[str, int] = field(default_factory=dict)

    def took(self, table: pa.Table) -> None:
        """Note rows of a segment that is being replaced."""
        count_live(table, self.bytes, -1)

    def applied(self, state: State, indexed: Iterable[str]) -> dict[str, int]:
        """Return the live bytes of the packs that changed; `indexed` are those merged just now.

        A pack whose rows were merged before anybody counted stays uncounted.
        """
        fresh = {*indexed}
        counted: dict[str, int] = {}
        for id_ in {*self.bytes, *fresh} & state.packs.keys():
            info = state.packs[id_]
            if info.live_bytes is None and info.indexed and id_ not in fresh:
                continue
            counted[id_] = max((info.live_bytes or 0) + self.bytes.get(id_, 0), 0)
        return counted
