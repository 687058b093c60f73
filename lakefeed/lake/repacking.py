"""The rows and payloads of a compaction's inputs, written into new packs.

The inputs' own rows, and those of packs that refer to them, are walked beside what the lake shows
for these paths. Carried over, in path order, are the rows that lie in an input, those whose payload
does, and the tombstones without which the packs that stay would bring a deleted path back: so packs
alone still rebuild the index. Of two rows with one path and `seq` the one in the newer pack counts,
so a row that stays behind in an old pack does no harm.

Keeps I5: rows keep their `seq`, payloads their stored bytes; copies of a file go on sharing one
extent. A row whose payload is damaged is carried over and goes on pointing where it did. Memory:
the index rows of the inputs, and the rows of one new pack. Commits nothing; whoever made a
`Repacker` removes its `packs` if they are not wanted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lakefeed.errors import Corrupt, NotFound
from lakefeed.format.columns import MAGIC
from lakefeed.format.commit import PackInfo, State
from lakefeed.format.pack import PackSealed, PackWriter
from lakefeed.format.rows import Kind, empty_table, fitting
from lakefeed.lake.catalogue import Catalogue, Source, pack_source, sources_of
from lakefeed.lake.compaction import PACK_ROWS, PACK_ROWS_BYTES, CompactionPlan
from lakefeed.lake.compare import align, side_by_side
from lakefeed.lake.copying import Copier, Places
from lakefeed.lake.lookup import locate
from lakefeed.lake.packing import new_pack
from lakefeed.lake.scan import scan
from lakefeed.volume.base import Volume

Layout = Literal["path", "shuffled"]

# Rows looked at together; a scan of many small sources gives them in smaller pieces.
_STEP_ROWS = 1 << 16
_STEP_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class CopyOptions:
    """How payloads are laid out in new packs, and how many bytes a second are copied at most.

    `shuffled` puts the payloads of each new pack in an order that `seed` decides; rows stay sorted.
    `makes_way` lets the copying rest while the volume answers its readers more slowly than before.
    """

    layout: Layout = "path"
    seed: int = 0
    rate_bytes: float | None = None
    makes_way: bool = True


@dataclass(frozen=True, slots=True)
class Origin:
    """Where the rows come from: a state, its index, and what is to be rewritten of it."""

    volume: Volume
    catalogue: Catalogue
    state: State
    plan: CompactionPlan

    def packs(self, *, inputs: bool) -> list[PackInfo]:
        """Return the inputs, or the packs that stay."""
        chosen = {pack.id for pack in self.plan.inputs}
        return [info for id_, info in self.state.packs.items() if (id_ in chosen) == inputs]


class Repacker:
    """Writes the new packs of one compaction; `step` is called while payloads are copied."""

    def __init__(
        self, origin: Origin, copier: Copier, how: CopyOptions, step: Callable[[], None]
    ) -> None:
        self._origin = origin
        self._copier = copier
        self._how = how
        self._step = step
        self._places = Places([pack.id for pack in origin.plan.inputs])
        self._staying = origin.packs(inputs=False)
        self.packs: list[PackSealed] = []

    def write(self) -> None:
        """Write everything that has to be carried over."""
        for batch in self._batches(_gathered(self._carried())):
            self._write_pack(batch)

    def keep_deleted(self, kept: list[PackInfo]) -> None:
        """Write the tombstones that these inputs need, which were to go and have to stay."""
        found = [empty_table()]
        for view, own in self._walk():
            wanted = self._shadowing(view, own, kept)
            there = self._shadowing(view, wanted, self._staying)
            found.append(wanted.take(pa.array(align(wanted, there).left_only)))
        rows = pa.concat_tables(found).unify_dictionaries()
        if len(rows):
            self._write_pack(rows)

    def _write_pack(self, rows: pa.Table) -> None:
        def fill(writer: PackWriter, now_ns: int) -> None:
            self._fill(writer, rows)

        self.packs.append(new_pack(self._origin.volume, self._origin.state.number, fill))

    def _carried(self) -> Iterator[pa.Table]:
        """Yield the rows for the new packs, in path order."""
        for view, own in self._walk():
            pairs = align(view, own)
            same = np.asarray(view["seq"])[pairs.left] == np.asarray(own["seq"])[pairs.right]
            carried = self._places.touches(view)
            carried[pairs.left[same]] = True
            rows = [view.filter(pa.array(carried)), self._shadowing(view, own, self._staying)]
            together = pa.concat_tables(rows).unify_dictionaries()
            if len(together):
                yield together.take(pc.sort_indices(together["path"]))

    def _walk(self) -> Iterator[tuple[pa.Table, pa.Table]]:
        """Yield the live rows that may be concerned, and the inputs' own newest rows, by ranges.

        Concerned are paths in the inputs and in packs that refer to them; no other row of the lake
        is looked at.
        """
        catalogue, inputs = self._origin.catalogue, self._origin.packs(inputs=True)
        chosen = {info.sealed.id for info in inputs}
        referring = [i for i in self._staying if not chosen.isdisjoint(i.sealed.refs)]
        own = scan(catalogue, _newest_first(inputs), tombstones=True)
        others = scan(catalogue, _newest_first(referring))
        runs = sources_of(self._origin.state)
        for left, right in side_by_side(_gathered(own), _gathered(others)):
            paths = [left["path"], right["path"].take(pa.array(align(left, right).right_only))]
            wanted = pa.chunked_array([chunk for part in paths for chunk in part.chunks],
                                      pa.string()).combine_chunks()  # fmt: skip
            view = locate(catalogue, runs, wanted)
            view = view.filter(view["kind"].is_valid())
            yield view.take(pc.sort_indices(view["path"])), left

    def _shadowing(self, view: pa.Table, own: pa.Table, packs: list[PackInfo]) -> pa.Table:
        """Return the tombstones in `own` without which these packs would bring their path back.

        A pack that is lost or damaged may hold any of these paths: it may be restored.
        """
        dead = own.filter(pc.equal(own["kind"], int(Kind.TOMBSTONE)))
        dead = dead.take(pa.array(align(dead, view).left_only))
        if not len(dead):
            return empty_table()
        sources = [pack_source(info) for info in packs]
        try:
            found = locate(
                self._origin.catalogue, sources, dead["path"].combine_chunks(), ("kind", "seq")
            )
        except (Corrupt, NotFound):
            return dead
        return dead.filter(found["kind"].is_valid())

    def _batches(self, tables: Iterator[pa.Table]) -> Iterator[pa.Table]:
        """Gather rows until their payloads fill a pack; the file that fills it still belongs."""
        pending: list[pa.Table] = []
        rows = size = held_bytes = 0
        for table in tables:
            start = 0
            while start < len(table):
                rest = table.slice(start)
                ends = np.cumsum(self._fresh_bytes(pending, rest))
                end = int(np.searchsorted(ends, self._origin.plan.target_bytes - size)) + 1
                end = fitting(rest, min(end, PACK_ROWS - rows), PACK_ROWS_BYTES - held_bytes)
                pending.append(rest.slice(0, end))
                start, rows, size = start + end, rows + end, size + int(ends[end - 1])
                held_bytes += pending[-1].nbytes
                full = rows >= PACK_ROWS or held_bytes >= PACK_ROWS_BYTES
                if full or size >= self._origin.plan.target_bytes:
                    yield pa.concat_tables(pending).unify_dictionaries()
                    pending, rows, size, held_bytes = [], 0, 0, 0
        if pending:
            yield pa.concat_tables(pending).unify_dictionaries()

    def _fresh_bytes(self, pending: list[pa.Table], table: pa.Table) -> np.ndarray:
        """Return how much each row adds to the pack: nothing, if its payload is there already."""
        keys = self._places.keys(table)
        fresh = self._places.fresh(keys)
        for earlier in pending:
            fresh &= ~np.isin(keys, self._places.keys(earlier))
        return np.where(fresh, np.asarray(table["length"]).astype(np.int64), 0)

    def _fill(self, writer: PackWriter, rows: pa.Table) -> None:
        keys = self._places.keys(rows)
        order = np.flatnonzero(self._places.fresh(keys))
        if self._how.layout == "shuffled":
            np.random.default_rng([self._how.seed, len(self.packs)]).shuffle(order)
        offsets = self._copier.copy(writer, rows.take(pa.array(order)), self._step)
        sound = offsets >= 0
        lengths = np.asarray(rows["length"]).astype(np.int64)
        self._places.add(writer.id, keys[order[sound]], offsets[sound], lengths[order[sound]])
        pack, offset, moved_bytes = self._places.find(keys)
        # No writer of ours lets files overlap; of two that begin at one place, one moves.
        for at in np.flatnonzero((pack >= 0) & (moved_bytes != lengths)).tolist():
            self._copier.leave(rows.slice(at, 1), int(moved_bytes[at]))
            pack[at] = -1
        names = np.array([*self._places.packs, writer.id], object)
        empty = lengths == 0
        pack[empty], offset[empty] = len(names) - 1, len(MAGIC)
        moved = np.flatnonzero(pack >= 0)
        writer.add_rows(placed(rows, moved, names[pack[moved]], offset[moved]))


def _newest_first(infos: list[PackInfo]) -> list[Source]:
    return sorted(map(pack_source, infos), key=lambda run: (-run.seq_max, run.first))


def _gathered(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Yield the same rows in tables of at least `_STEP_ROWS` or `_STEP_BYTES` each, but for the
    last."""
    pending: list[pa.Table] = []
    rows = held_bytes = 0
    for table in tables:
        pending.append(table)
        rows, held_bytes = rows + len(table), held_bytes + table.nbytes
        if rows >= _STEP_ROWS or held_bytes >= _STEP_BYTES:
            yield pa.concat_tables(pending).unify_dictionaries()
            pending, rows, held_bytes = [], 0, 0
    if pending:
        yield pa.concat_tables(pending).unify_dictionaries()


def placed(table: pa.Table, at: np.ndarray, packs: np.ndarray, offsets: np.ndarray) -> pa.Table:
    """Return rows of which those at `at` lie in these packs, at these offsets."""
    if not len(at):
        return table
    chosen = np.zeros(len(table), bool)
    chosen[at] = True
    names = table["pack"].cast(pa.string()).combine_chunks()
    names = pc.replace_with_mask(names, pa.array(chosen), pa.array(packs, pa.string()))
    places = np.asarray(table["offset"]).copy()
    places[at] = offsets
    columns = {name: table[name] for name in table.column_names}
    columns["pack"] = names.dictionary_encode()
    columns["offset"] = pa.array(places, pa.uint64())
    return pa.table(columns, schema=table.schema)
