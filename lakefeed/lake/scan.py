"""All live rows of a path range, sorted, in bounded memory.

Every source is a sorted run. The scan holds a few groups of each that begins at or before the place
it has reached, while the next few are being read. It takes the rows below the lowest path that some
source has not read yet, merges them (newest source first, so that a stable sort by path keeps the
newest row of a path in front), drops what is shadowed or deleted, and goes on. So a run of a
thousand segments, one behind the other, has one of them open at a time. The rows of a compacted
pack keep their `seq`, which is older than the pack: where the order of the sources is not the order
of the rows, `seq` decides, and of equal ones the newer source.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lakefeed.format import bridge
from lakefeed.lake.catalogue import Catalogue, Source, live, lower_bound
from lakefeed.lake.opening import open_together

# Groups decoded at a time from each source: 131,072 rows, some 15 MB.
_STEP_GROUPS = 16
# A range this short is a look into one directory, and the next look is probably close by.
_CACHED_GROUPS = 2
# Reading ahead at the same time: what the volume lets wait for, or one decoding beside the merge.
_THREADS = 8
_NEWEST_FIRST = [("path", "ascending"), ("seq", "descending")]


Seen = Callable[[Source, pa.Table], None]


def scan(
    catalogue: Catalogue,
    sources: Sequence[Source],
    low: str = "",
    high: str | None = None,
    *,
    tombstones: bool = False,
) -> Iterator[pa.Table]:
    """Yield the rows of paths in [low, high), sorted across and inside the tables.

    `tombstones` keeps the rows that say "deleted", for merges that do not reach the oldest run.
    """
    return _scan((catalogue, low, high), sources, None, tombstones=tombstones)


def scan_all(
    catalogue: Catalogue, sources: Sequence[Source], seen: Seen, *, tombstones: bool
) -> Iterator[pa.Table]:
    """Yield all rows; `seen` hears of each that is passed, shadowed or not, with its source."""
    return _scan((catalogue, "", None), sources, seen, tombstones=tombstones)


_Where = tuple[Catalogue, str, str | None]


def _scan(
    where: _Where, sources: Sequence[Source], seen: Seen | None, *, tombstones: bool
) -> Iterator[pa.Table]:
    waiting = _waiting(sources, *where[1:])
    open_together(where[0], [source for *_, source in reversed(waiting)])
    cursors: list[_Cursor] = []
    pool, home = ThreadPoolExecutor(_THREADS, "lakefeed-scan"), os.getpid()
    try:
        while cursors or waiting:
            # A forked child has no threads: it reads by itself.
            _begin(cursors, waiting, where, pool if os.getpid() == home else None)
            bounds = [bound for cursor in cursors if (bound := cursor.next_path()) is not None]
            if waiting:
                bounds.append(waiting[-1][0])
            tables = _taken(cursors, min(bounds, default=None), seen)
            merged = merge(tables) if tables else None
            if merged is not None and not tombstones:
                merged = live(merged)
            if merged is not None and len(merged):
                yield merged
            cursors = [cursor for cursor in cursors if not cursor.done]
    finally:
        # Whoever stops half-way, maybe in the midst of something, does not wait for what was ahead.
        pool.shutdown(wait=False, cancel_futures=True)


def _taken(cursors: list[_Cursor], bound: str | None, seen: Seen | None) -> list[pa.Table]:
    tables = []
    for cursor in cursors:
        table = cursor.take(bound)
        if len(table):
            tables.append(table)
            if seen is not None:
                seen(cursor.source, table)
    return tables


_Waiting = list[tuple[str, int, Source]]


def _waiting(sources: Sequence[Source], low: str, high: str | None) -> _Waiting:
    """Return where each source begins, its rank and the source; the last one begins first."""
    found = [(max(source.first, low), rank, source) for rank, source in enumerate(sources)
             if source.overlaps(low, high)]  # fmt: skip
    return sorted(found, key=lambda one: one[:2], reverse=True)


def _begin(
    cursors: list[_Cursor], waiting: _Waiting, where: _Where, pool: ThreadPoolExecutor | None
) -> None:
    """Let every cursor hold rows, and add those of the sources that begin at or before them."""
    while True:
        step = max(1, _STEP_GROUPS // max(len(cursors), 1))
        for cursor in cursors:
            cursor.fill(step, pool)
        held = [path for cursor in cursors if (path := cursor.held_path()) is not None]
        position = min(held, default=waiting[-1][0] if waiting else "")
        if not waiting or waiting[-1][0] > position:
            break
        while waiting and waiting[-1][0] <= position:
            _, rank, source = waiting.pop()
            cursors.append(_Cursor(source, rank, where))
    # Newest first, as the sources came.
    cursors.sort(key=lambda cursor: cursor.rank)


def merge(tables: list[pa.Table]) -> pa.Table:
    """Return the newest row of each path, sorted; `tables` are sorted runs, newest first."""
    if len(tables) == 1:
        return tables[0]
    together = pa.concat_tables(tables).unify_dictionaries()
    order = pc.sort_indices(together["path"])
    together = together.take(order)
    paths = together["path"].combine_chunks()
    if len(paths) > 1:
        shadowed = bridge.to_numpy(pc.equal(paths[1:], paths[:-1]))
        if shadowed.any():
            seqs = bridge.to_numpy(together["seq"])
            if (shadowed & (seqs[1:] > seqs[:-1])).any():
                together = together.take(pc.sort_indices(together, sort_keys=_NEWEST_FIRST))
            together = together.filter(bridge.truths(np.r_[True, ~shadowed]))
    return together


class _Cursor:
    """One source's place in the scan."""

    def __init__(self, source: Source, rank: int, where: _Where) -> None:
        self._catalogue, self._low, self._high = where
        self.source = source
        self.rank = rank
        groups = self._catalogue.reader(source).groups
        self._firsts = groups.first
        self._next, self._end = groups.covering(self._low, self._high)
        self._table: pa.Table | None = None
        # The next rows, and the group they end before.
        self._coming: tuple[int, Future[pa.Table]] | None = None
        self._begun = False

    @property
    def done(self) -> bool:
        """True when nothing is held and nothing is left to read."""
        return self._table is None and self._next >= self._end

    def fill(self, groups: int, pool: ThreadPoolExecutor | None) -> None:
        """Read the next groups if nothing is held, and have those behind them read by a pool."""
        if self._table is not None or self._next >= self._end:
            return
        if self._coming is not None and pool is not None:
            self._next, coming = self._coming
            table = coming.result()
        else:
            stop = min(self._next + groups, self._end)
            table = self._read(self._next, stop)
            self._next = stop
        # Who looks at the first rows only is not made to wait for more.
        self._coming = self._ahead(groups, pool) if self._begun and pool is not None else None
        self._begun = True
        start = lower_bound(table["path"], self._low)
        end = len(table) if self._high is None else lower_bound(table["path"], self._high)
        # Nothing held is None, so that whoever asks for the first path gets one.
        self._table = table.slice(start, end - start) if end > start else None

    def _read(self, start: int, end: int) -> pa.Table:
        if self._end - start <= _CACHED_GROUPS:
            return pa.concat_tables(self._catalogue.cached_rows(self.source, range(start, end)))
        return self._catalogue.rows(self.source, start, end).combine_chunks()

    def _ahead(self, groups: int, pool: ThreadPoolExecutor) -> tuple[int, Future[pa.Table]] | None:
        if self._next >= self._end:
            return None
        stop = min(self._next + groups, self._end)
        try:
            return stop, pool.submit(self._read, self._next, stop)
        except RuntimeError:  # no thread can be started
            return None

    def held_path(self) -> str | None:
        """Return the first path that is held, None if nothing is."""
        return None if self._table is None else str(self._table["path"][0].as_py())

    def next_path(self) -> str | None:
        """Return a path below which everything has been read; None: all of it."""
        return self._firsts[self._next] if self._next < self._end else None

    def take(self, bound: str | None) -> pa.Table:
        """Return and forget the rows held below `bound`."""
        if self._table is None:
            return _NOTHING
        table = self._table
        cut = len(table) if bound is None else lower_bound(table["path"], bound)
        self._table = table.slice(cut) if cut < len(table) else None
        return table.slice(0, cut)


_NOTHING = pa.table({})
