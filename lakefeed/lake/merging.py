"""Keeping the offset index small and quick: unmerged packs become segments, small runs big ones.

`plan_merge` decides, purely from a state: all unmerged packs are merged, together with the newest
runs of segments while those are not several times bigger (so a row is merged a logarithmic number
of times). `merge_index` does: one streaming scan, new segments of bounded size, one commit.
Tombstones disappear when the oldest run takes part. The result's `seq` range joins its inputs', so
runs stay disjoint and newest-first order stays true. Keeps I4 (inputs are checked at commit) and
I5.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from lakefeed.errors import Conflict
from lakefeed.format import rows as rows_format
from lakefeed.format.columns import MAGIC, ColumnsWriter
from lakefeed.format.commit import Changes, SegmentInfo, State
from lakefeed.format.rows import Kind
from lakefeed.lake import layout
from lakefeed.lake.catalogue import Catalogue, pack_source, segment_source
from lakefeed.lake.log import Draft, Log
from lakefeed.lake.packing import discard
from lakefeed.lake.scan import scan
from lakefeed.volume.base import Volume, WritableFile

# A run joins the merge while it has at most this many times the rows gathered so far.
GROWTH = 4
# About 30 MB a segment; merges of a huge lake then touch only the ranges that changed.
SEGMENT_ROWS = 2 << 20


@dataclass(frozen=True, slots=True)
class MergePlan:
    """Which packs and segments become new segments, and whether deletions can be forgotten."""

    packs: tuple[str, ...]
    segments: tuple[str, ...]
    rows: int
    seq_min: int
    seq_max: int
    drops_tombstones: bool

    @property
    def empty(self) -> bool:
        """True when there is nothing to merge."""
        return not self.packs


def plan_merge(state: State, *, everything: bool = False) -> MergePlan:
    """Return what to merge now; `everything` leaves a single run."""
    packs = [info for info in state.packs.values() if not info.indexed]
    gathered = sum(info.sealed.rows for info in packs)
    seqs = [info.seq for info in packs]
    runs = _runs(state)
    taken: list[SegmentInfo] = []
    while runs and (everything or sum(s.rows for s in runs[0]) <= GROWTH * gathered):
        run = runs.pop(0)
        taken += run
        gathered += sum(segment.rows for segment in run)
        seqs += [run[0].seq_min, run[0].seq_max]
    return MergePlan(
        packs=tuple(info.sealed.id for info in packs),
        segments=tuple(segment.id for segment in taken),
        rows=gathered,
        seq_min=min(seqs, default=0),
        seq_max=max(seqs, default=0),
        drops_tombstones=not runs,
    )


def _runs(state: State) -> list[list[SegmentInfo]]:
    """Return the segments grouped by their `seq` range, newest run first."""
    runs: dict[tuple[int, int], list[SegmentInfo]] = {}
    for segment in state.segments.values():
        runs.setdefault((segment.seq_max, segment.seq_min), []).append(segment)
    return [runs[key] for key in sorted(runs, reverse=True)]


def merge_index(
    volume: Volume, log: Log, catalogue: Catalogue, *, everything: bool = False
) -> State:
    """Merge what the plan says and commit it; return the state afterwards.

    Conflict when another merge took one of the inputs; its own output is then removed again.
    """
    state = log.head()
    plan = plan_merge(state, everything=everything)
    if plan.empty and not (everything and len(plan.segments) > 1):
        return state
    inputs = [pack_source(state.packs[pack]) for pack in plan.packs]
    inputs += [segment_source(state.segments[segment]) for segment in plan.segments]
    inputs.sort(key=lambda source: (-source.seq_max, source.first))
    live_bytes: dict[str, int] = {}
    tables = scan(catalogue, inputs, tombstones=not plan.drops_tombstones)
    segments = list(write_segments(volume, tables, plan, live_bytes))

    def changes(current: State) -> Changes:
        gone = [pack for pack in plan.packs if _is_indexed(current, pack)]
        gone += [segment for segment in plan.segments if segment not in current.segments]
        if gone:
            raise Conflict("index merge", expected="its inputs", found=f"{gone[0]} was merged")
        counted = live_bytes if plan.drops_tombstones else {}
        known = {pack: counted.get(pack, 0) for pack in current.packs if counted}
        newer = {i.sealed.id for i in current.packs.values() if i.seq > plan.seq_max}
        return Changes(
            index_packs=plan.packs,
            add_segments=tuple(segments),
            remove_segments=plan.segments,
            live_bytes={pack: size for pack, size in known.items() if pack not in newer},
        )

    try:
        return log.commit(Draft("merge"), changes)
    except Conflict:
        for segment in segments:
            discard(volume, layout.segment_path(segment.id))
        raise


def _is_indexed(state: State, pack: str) -> bool:
    info = state.packs.get(pack)
    return info is None or info.indexed


def write_segments(
    volume: Volume, tables: Iterator[pa.Table], plan: MergePlan, live_bytes: dict[str, int]
) -> Iterator[SegmentInfo]:
    """Write sorted rows as the segments of one run; add to `live_bytes` what they reach.

    One that fails half-way is removed again; those yielded before are the caller's to discard.
    """
    for part in _partition(tables):
        segment_id = layout.new_id()
        path = layout.segment_path(segment_id)
        try:
            with volume.create(path) as file:
                segment = _write_segment(file, segment_id, part, live_bytes)
        except BaseException:
            discard(volume, path)
            raise
        yield replace(segment, seq_min=plan.seq_min, seq_max=plan.seq_max)
    volume.sync_directory(layout.INDEX)


def _write_segment(
    file: WritableFile, segment_id: str, tables: Iterator[pa.Table], live_bytes: dict[str, int]
) -> SegmentInfo:
    file.write([MAGIC])
    writer = ColumnsWriter(file.write, len(MAGIC), {"kind": "segment", "id": segment_id})
    tombstones = 0
    for table in tables:
        count_live(table, live_bytes)
        tombstones += int((np.asarray(table["kind"]) == Kind.TOMBSTONE).sum())
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
        seq_min=0,
        seq_max=0,
    )


def _partition(tables: Iterator[pa.Table]) -> Iterator[Iterator[pa.Table]]:
    """Cut a stream of tables into streams of about SEGMENT_ROWS rows, none empty."""
    for first in tables:
        yield _take(first, tables)


def _take(first: pa.Table, tables: Iterator[pa.Table]) -> Iterator[pa.Table]:
    rows = len(first)
    yield first
    while rows < SEGMENT_ROWS:
        table = next(tables, None)
        if table is None:
            return
        rows += len(table)
        yield table


def count_live(table: pa.Table, live_bytes: dict[str, int]) -> None:
    """Add the stored bytes of each pack's rows in a memory table to `live_bytes`."""
    pack = table["pack"].unify_dictionaries().combine_chunks()
    sums = np.bincount(
        np.asarray(pack.indices),
        weights=np.asarray(table["length"]).astype(np.float64),
        minlength=len(pack.dictionary),
    )
    for name, size in zip(pack.dictionary.to_pylist(), sums.tolist(), strict=True):
        if name:
            live_bytes[name] = live_bytes.get(name, 0) + int(size)
