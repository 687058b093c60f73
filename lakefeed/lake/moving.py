"""The rows that a compaction adds to the index: what it moved, where the lake still shows it.

A row of a new pack counts only while the newest view shows the very version (path and `seq`) that
was copied: what was overwritten or deleted meanwhile stays so. Keeps I5.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lakefeed.format.commit import PackInfo, State
from lakefeed.format.pack import PackSealed
from lakefeed.format.rows import empty_table
from lakefeed.lake.catalogue import Catalogue, Source, pack_source, sources_of
from lakefeed.lake.compare import align, side_by_side
from lakefeed.lake.leveling import MergePlan
from lakefeed.lake.lookup import locate
from lakefeed.lake.merging import replaced
from lakefeed.lake.repacking import placed
from lakefeed.lake.scan import scan, scan_all
from lakefeed.lake.segments import Shift


def moved_rows(
    catalogue: Catalogue, state: State, merge: MergePlan, packs: Sequence[PackSealed], shift: Shift
) -> Iterator[pa.Table]:
    """Yield the rows that a merge gathers, and the live ones of the new packs, at their places.

    A row of a new pack that the merge does not meet may still be shown from a run below it; or its
    path was deleted meanwhile, and even the tombstone is gone: then it must stay away.
    """
    runs = sources_of(state)
    chosen = {*merge.packs, *merge.segments}
    taken = [source for source in runs if source.id in chosen]
    others = [source for source in runs if source.id not in chosen]
    infos = [PackInfo(pack, state.number + 1) for pack in packs]
    sources = sorted(map(pack_source, infos), key=lambda source: source.first)
    gathered = scan_all(catalogue, taken, replaced(shift), tombstones=not merge.drops_tombstones)
    for view, new in side_by_side(gathered, scan(catalogue, sources)):
        pairs = align(view, new)
        same = np.asarray(view["seq"])[pairs.left] == np.asarray(new["seq"])[pairs.right]
        moved = _at_places(view, pairs.left[same], new.take(pa.array(pairs.right[same])))
        below = _still_shown(catalogue, others, new.take(pa.array(pairs.right_only)))
        together = pa.concat_tables([moved, below]).unify_dictionaries()
        if len(together):
            yield together.take(pc.sort_indices(together["path"])) if len(below) else together


def _at_places(view: pa.Table, at: np.ndarray, source: pa.Table) -> pa.Table:
    """Return `view`, its rows `at` lying where those of `source` do."""
    names = np.array(source["pack"].cast(pa.string()).to_pylist(), object)
    return placed(view, at, names, np.asarray(source["offset"]))


def _still_shown(catalogue: Catalogue, runs: list[Source], new: pa.Table) -> pa.Table:
    """Return those rows whose very version these runs show."""
    if not len(new) or not runs:
        return empty_table()
    found = locate(catalogue, runs, new["path"].combine_chunks(), ("kind", "seq"))
    there = np.asarray(found["kind"].is_valid())
    seqs = np.asarray(found["seq"].fill_null(0))
    return new.filter(pa.array(there & (seqs == np.asarray(new["seq"]))))
