"""Do the files of a state add up to one clear view?

The segments of a level must not overlap in paths, and packs not merged yet must be newer than all
segments, so that the newest row of a path is clear. The merged view must be the view that the packs
alone give: segments are derived, and a lake whose segments were lost can be rebuilt (`index`
findings say where that is not so). Live rows must point into packs of the state, and no live file
may have paths below it.

Works through ranges of paths, with some hundred thousand rows of each view in memory at a time.
Reads index rows only; payloads are left to `check_payloads`.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lakefeed.format.commit import State
from lakefeed.format.rows import COLUMNS, Kind, empty_table
from lakefeed.lake.catalogue import (
    Catalogue,
    live,
    lower_bound,
    pack_source,
    sources_of,
)
from lakefeed.lake.compare import align, unequal
from lakefeed.lake.findings import Collector, Progress
from lakefeed.lake.leveling import runs_of
from lakefeed.lake.lookup import locate
from lakefeed.lake.scan import scan

_RANGE_ROWS = 1 << 18
_REDUCE_ROWS = 1 << 19
_STEP_GROUPS = 16
# Differences named for each range of paths; the rest is counted.
_NAMED_MAX = 20
_DIRECTORIES_MAX = 1 << 20
_NEWEST_FIRST = [("path", "ascending"), ("seq", "descending"), ("added", "descending")]


def check_order(state: State, found: Collector) -> None:
    """Check that levels are runs, and that packs which are not merged are newer than all of them.

    Runs without a level must be disjoint in `seq`.
    """
    newest = max((segment.seq_max for segment in state.segments.values()), default=0)
    for segment in state.segments.values():
        if segment.seq_min > segment.seq_max or segment.seq_max > state.number:
            found.add("order", f"segment {segment.id} of seq {segment.seq_min} to "
                      f"{segment.seq_max}", f"at most {state.number}", "another")  # fmt: skip
    runs = runs_of(state)
    for run in runs:
        for left, right in pairwise(run.segments):
            if right.first <= left.last:
                found.add("order", f"segment {right.id}", f"paths after {left.last!r}", right.first)
    unlevelled = [run.segments[0] for run in runs if not run.level]
    for after, before in pairwise(unlevelled):
        if after.seq_min <= before.seq_max:
            found.add("order", f"run of seq {(after.seq_min, after.seq_max)}",
                      f"above {before.seq_max}", "an overlap")  # fmt: skip
    for info in state.packs.values():
        if not info.indexed and info.seq <= newest:
            found.add("order", f"unmerged pack {info.sealed.id}", f"a seq above {newest}", info.seq)


class ViewCheck:
    """Compares the merged view with the packs' own rows; both must be undamaged files."""

    def __init__(self, catalogue: Catalogue, state: State) -> None:
        self._catalogue = catalogue
        self._state = state
        self._merged = sources_of(state)
        self._packs = [pack_source(info) for info in state.packs.values()]
        self._cleared: set[str] = set()

    def run(self, found: Collector, progress: Progress) -> None:
        """Check range by range; what is wrong goes to `found`."""
        ranges = list(self._ranges())
        for number, (low, high) in enumerate(ranges, 1):
            tables = [empty_table(), *scan(self._catalogue, self._merged, low, high)]
            merged = pa.concat_tables(tables).unify_dictionaries()
            found.count("live_rows", len(merged))
            alone = live(self._newest(low, high, found))
            self._compare(merged, alone, found)
            self._check_packs(merged, found)
            self._check_shadows(merged, found)
            progress("index", number, len(ranges))

    def _ranges(self) -> Iterator[tuple[str, str | None]]:
        """Yield half-open ranges of paths that hold about `_RANGE_ROWS` rows each."""
        firsts: list[tuple[str, int]] = []
        for source in self._merged:
            groups = self._catalogue.reader(source).groups
            firsts += zip(groups.first, groups.rows, strict=True)
        low, rows = "", 0
        for first, count in sorted(firsts):
            if rows >= _RANGE_ROWS and first > low:
                yield low, first
                low, rows = first, 0
            rows += count
        yield low, None

    def _newest(self, low: str, high: str | None, found: Collector) -> pa.Table:
        """Return the newest row of each path as the packs alone have it, tombstones included."""
        tables = [_with_added(empty_table(), 0)]
        rows = 0
        for source in self._packs:
            if not source.overlaps(low, high):
                continue
            groups = self._catalogue.reader(source).groups
            start, end = groups.covering(low, high)
            for step in range(start, end, _STEP_GROUPS):
                stop = min(step + _STEP_GROUPS, end)
                table = self._catalogue.rows(source, step, stop).combine_chunks()
                begin = lower_bound(table["path"], low)
                finish = len(table) if high is None else lower_bound(table["path"], high)
                part = table.slice(begin, max(finish - begin, 0))
                tables.append(_with_added(part, source.seq_max))
                rows += len(tables[-1])
                if rows > _REDUCE_ROWS:
                    tables = [_reduce(tables, found)]
                    rows = 0
        return _reduce(tables, found).select(COLUMNS)

    def _compare(self, merged: pa.Table, alone: pa.Table, found: Collector) -> None:
        pairs = align(merged, alone)
        left, right = merged.take(pa.array(pairs.left)), alone.take(pa.array(pairs.right))
        differ = np.flatnonzero(unequal(left, right, COLUMNS[1:]))
        for expected, what, paths in (
            ("no such path, as in the packs", "a row", _paths(merged, pairs.left_only)),
            ("a row, as in the packs", "none", _paths(alone, pairs.right_only)),
            ("the row of its newest pack", "another row", _paths(left, differ)),
        ):
            for path in paths[:_NAMED_MAX].to_pylist():
                found.add("index", path, expected, what, "rebuild the offset index from the packs")
            found.more("index", f"merged offset index, {what}", len(paths) - _NAMED_MAX)

    def _check_packs(self, merged: pa.Table, found: Collector) -> None:
        kinds = np.asarray(merged["kind"])
        packs = merged["pack"].combine_chunks()
        known = np.array([name in self._state.packs for name in packs.dictionary.to_pylist()], bool)
        lost = np.flatnonzero(~known[np.asarray(packs.indices)] & (kinds != Kind.DIR)).tolist()
        for at in lost[:_NAMED_MAX]:
            found.add("dangling", merged["path"][at].as_py(), "a pack of the snapshot",
                      packs[at].as_py())  # fmt: skip
        found.more("dangling", "rows without their pack", len(lost) - _NAMED_MAX)

    def _check_shadows(self, merged: pa.Table, found: Collector) -> None:
        """Look up every directory above a live path: none may be a file."""
        directories: set[str] = set()
        nearest = pc.replace_substring_regex(merged["path"], "/?[^/]*$", "").unique()
        for directory in nearest.to_pylist():
            while directory and directory not in directories and directory not in self._cleared:
                directories.add(directory)
                directory = directory.rpartition("/")[0]
        wanted = sorted(directories)
        kinds = locate(self._catalogue, self._merged, wanted)["kind"].to_pylist()
        for directory, kind in zip(wanted, kinds, strict=True):
            if kind is not None and kind != Kind.DIR:
                found.add("shadowed", directory, "a directory", "a file with paths below it",
                          "delete or rename one of them")  # fmt: skip
        if len(self._cleared) > _DIRECTORIES_MAX:
            self._cleared.clear()
        self._cleared |= directories


def _with_added(table: pa.Table, number: int) -> pa.Table:
    """Return rows with the number of the commit that added their pack."""
    return table.append_column("added", pa.array(np.full(len(table), number, np.uint64)))


def _reduce(tables: list[pa.Table], found: Collector) -> pa.Table:
    """Return the row that counts for each path, sorted: the highest `seq`, then the newest pack.

    Compaction puts a row into a new pack and may leave the old one where it is. Two rows of one
    `seq` that one commit added are a finding.
    """
    table = pa.concat_tables(tables).unify_dictionaries()
    table = table.take(pc.sort_indices(table, sort_keys=_NEWEST_FIRST)).unify_dictionaries()
    if len(table) < 2:
        return table
    paths, seqs = table["path"].combine_chunks(), np.asarray(table["seq"])
    added = np.asarray(table["added"])
    repeats = np.asarray(pc.equal(paths[1:], paths[:-1]))
    same = repeats & (seqs[1:] == seqs[:-1]) & (added[1:] == added[:-1])
    for at in np.flatnonzero(same)[:_NAMED_MAX].tolist():
        found.add("order", paths[at].as_py(), "one row for each seq", f"two of seq {seqs[at]}")
    return table.filter(pa.array(np.r_[True, ~repeats]))


def _paths(table: pa.Table, rows: np.ndarray) -> pa.ChunkedArray:
    return table["path"].take(pa.array(rows))
