"""Compaction carried out: live payloads of some packs move into new ones, in one commit.

1. Plan (`compaction`), from live bytes; make sure that the new packs will fit.
2. Write the new packs (`repacking`, `copying`).
3. Write the rows that moved as a run on top of the index, together with all rows not merged yet, as
   the newest view shows them. Repeat this step when packs were merged meanwhile.
4. Commit: new packs, already indexed, for the inputs; the new segments for those merged with them.
   Old snapshots keep the inputs until garbage collection.

Keeps I1, I2, I4 and I5. Writes and deletes never wait and always win: their packs are newer, so
their rows are. Conflict, and nothing left behind, when an input went away or somebody else came to
refer to one. An input with a damaged payload stays in the lake for the rows that could not move;
what cannot be read at all is none (`planning`).
Deletes nothing of the lake, holds no lease, knows no time of day. Time and memory depend on the
inputs and on what is not merged, not on the size of the lake: the index rows of the inputs, the
rows of one new pack, 64 MiB of payloads.
"""

from __future__ import annotations

import errno
import random
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace

import pyarrow as pa

from lakefeed.errors import Conflict, NotFound, VolumeFailed
from lakefeed.format.columns import MAGIC
from lakefeed.format.commit import Changes, PackInfo, SegmentInfo, State
from lakefeed.lake import layout
from lakefeed.lake.backoff import Backoff
from lakefeed.lake.catalogue import Catalogue
from lakefeed.lake.compaction import (
    LIVE_RATIO_MAX,
    CompactionOptions,
    CompactionPlan,
    plan_compaction,
)
from lakefeed.lake.copying import Copier, Damage
from lakefeed.lake.files import OpenFiles
from lakefeed.lake.findings import Progress, silent
from lakefeed.lake.lake import Lake
from lakefeed.lake.leveling import MERGE_PACKS, MERGE_ROWS, MergePlan, plan_new
from lakefeed.lake.log import Draft
from lakefeed.lake.merging import check_inputs, replacing
from lakefeed.lake.moving import moved_rows
from lakefeed.lake.packing import discard_packs
from lakefeed.lake.planning import Readable, plan_readable
from lakefeed.lake.repacking import CopyOptions, Origin, Repacker
from lakefeed.lake.segments import Shift, discard_segments, write_segments
from lakefeed.lake.snapshot import Snapshot
from lakefeed.lake.throttle import Throttle
from lakefeed.lake.usage import pack_usage

# A run must be over long before garbage collection takes its packs for orphans (a day).
RUN_SECONDS_MAX = 6 * 3600
# Each round means that somebody merged the whole index while it was being written.
ROUNDS_MAX = 5
# Look-ups go over the index in path order, and over the packs that stay, one at a time.
_CACHE_BYTES = 32 << 20
# Up to here live bytes are counted by a scan of some seconds; beyond, what merges counted must do.
EXACT_ROWS = 4 << 20
# A small file's worth: what a reader at random waits for.
_PROBE_BYTES = 4096
# More than a row of any index takes.
_ROW_BYTES = 64


@dataclass(frozen=True, slots=True)
class Compacted:
    """What was done. `snapshot` is the one that holds it, None if nothing was changed."""

    plan: CompactionPlan
    snapshot: int | None = None
    packs_added: tuple[str, ...] = ()
    packs_removed: tuple[str, ...] = ()
    added_bytes: int = 0
    removed_bytes: int = 0
    payloads: int = 0
    payload_bytes: int = 0
    segments: int = 0
    damages: tuple[Damage, ...] = ()
    rested_seconds: float = 0.0


def plan_of(
    lake: Lake, options: CompactionOptions | None = None, how: CopyOptions | None = None
) -> Readable:
    """Return what `compact` would do now, and what it would leave out."""
    options = within(options or CompactionOptions(), how or CopyOptions(), RUN_SECONDS_MAX)
    with _opened(lake) as (_, catalogue):
        return _plan(lake, catalogue, options, silent)[1]


def compact(
    lake: Lake,
    options: CompactionOptions | None = None,
    how: CopyOptions | None = None,
    progress: Progress | None = None,
) -> Compacted:
    """Rewrite what is worth it, at most one run's share, and say what was done.

    Conflict: another compaction was first, or a writer referred to an input; nothing is left
    behind. Corrupt: the view is damaged, segments or packs not merged yet. Any error but that of a
    commit that may have been made leaves nothing behind.
    """
    how, progress = how or CopyOptions(), progress or silent
    options = options or CompactionOptions()
    options = within(options, how, RUN_SECONDS_MAX)
    known = lake.log.head()
    with ExitStack() as stack:
        files, catalogue = stack.enter_context(_opened(lake))
        try:
            state, readable = _plan(lake, catalogue, options, progress)
        except NotFound as error:
            _check_read(lake, known, lake.log.head(), error)
            raise
        plan = readable.plan
        if plan.empty:
            return Compacted(plan, damages=readable.damages)
        backoff = _backoff(files, plan, state) if how.makes_way else None
        copier = stack.enter_context(Copier(files, state, Throttle(how.rate_bytes), backoff))
        copier.damages += readable.damages
        origin = Origin(lake.volume, catalogue, state, plan)
        done = _Compaction(lake, origin, copier, how, progress).run()
        return done if backoff is None else replace(done, rested_seconds=backoff.rested_seconds)


@contextmanager
def _opened(lake: Lake) -> Iterator[tuple[OpenFiles, Catalogue]]:
    """Lend files and catalogue of a run: what the plan has read of small packs, copying finds."""
    files = OpenFiles(lake.volume)
    try:
        yield files, Catalogue(files, _CACHE_BYTES)
    finally:
        files.close()


def within(options: CompactionOptions, how: CopyOptions, seconds: float) -> CompactionOptions:
    """Return the options of a run that, at its rate, copies for at most so long."""
    if how.rate_bytes is None:
        return options
    share = max(1, int(how.rate_bytes * seconds))
    return replace(options, bytes_max=min(options.bytes_max, share))


def _check_read(lake: Lake, seen: State, head: State, error: NotFound) -> None:
    """Raise Conflict where a file is missing because others replaced it, and it was collected."""
    gone = (seen.packs.keys() - head.packs.keys()) | (seen.segments.keys() - head.segments.keys())
    if gone:
        raise Conflict(f"compaction of {lake.name}", expected="a snapshot that stays readable",
                       found="its files were replaced and collected") from error  # fmt: skip


def _backoff(files: OpenFiles, plan: CompactionPlan, state: State) -> Backoff:
    """Return what makes way for readers, having looked how fast they are served now."""
    places = [pack for pack in plan.inputs if pack.payload_bytes]
    choice = random.Random(state.number)

    def probe() -> None:
        if places:
            pack = choice.choice(places)
            length = min(_PROBE_BYTES, pack.payload_bytes)
            offset = len(MAGIC) + choice.randrange(pack.payload_bytes - length + 1)
            files.read(layout.pack_path(pack.id), lambda file: file.read_at(offset, length))

    backoff = Backoff(probe)
    backoff.learn()
    return backoff


def _plan(
    lake: Lake, catalogue: Catalogue, options: CompactionOptions, progress: Progress
) -> tuple[State, Readable]:
    snapshot = lake.snapshot()
    live_bytes = _live_bytes(snapshot)

    def plan(state: State) -> CompactionPlan:
        return plan_compaction(state, live_bytes, options)

    return snapshot.state, plan_readable(lake, catalogue, snapshot.state, plan, progress)


def _live_bytes(snapshot: Snapshot) -> dict[str, int]:
    """Return the live bytes of each pack, where the lake is big as merges counted them."""
    state = snapshot.state
    rows = sum(source.rows for source in snapshot.sources)
    if rows <= EXACT_ROWS:
        return {pack.id: pack.live_bytes for pack in pack_usage(snapshot)}
    return {
        id_: info.live_bytes if info.indexed and info.live_bytes is not None
        else info.sealed.payload_end for id_, info in state.packs.items()
    }  # fmt: skip


class _Compaction:
    """One run. Until they are committed, the packs of `_repacker` and `_segments` are ours."""

    def __init__(
        self, lake: Lake, origin: Origin, copier: Copier, how: CopyOptions, progress: Progress
    ) -> None:
        self._lake = lake
        self._origin = origin
        self._inputs = origin.packs(inputs=True)
        self._copier = copier
        self._progress = progress
        self._repacker = Repacker(origin, copier, how, self._show)
        self._segments: list[SegmentInfo] = []

    def run(self) -> Compacted:
        """Copy, index, commit; on failure remove what was written."""
        self._check_space()
        with self._discarding():
            self._repacker.write()
            damaged = {damage.pack for damage in self._copier.damages}
            removed = [info for info in self._inputs if info.sealed.id not in damaged]
            kept = [info for info in self._inputs if info.sealed.id in damaged]
            if kept:
                self._repacker.keep_deleted(kept)
        if kept and not self._gains(removed):
            self._discard()
            return Compacted(self._origin.plan, damages=tuple(self._copier.damages))
        state = self._publish(frozenset(info.sealed.id for info in removed))
        return self._report(state, removed)

    def _gains(self, removed: list[PackInfo]) -> bool:
        """Tell whether there will be fewer packs or much fewer bytes. Where a damaged pack stays,
        the next plan names it again, and would rewrite the others for nothing, time after time."""
        added_bytes = sum(pack.bytes for pack in self._repacker.packs)
        removed_bytes = sum(info.sealed.bytes for info in removed)
        fewer = len(self._repacker.packs) < len(removed)
        return fewer or added_bytes < LIVE_RATIO_MAX * removed_bytes

    def _show(self) -> None:
        done = self._copier.copied_bytes
        self._progress("copying", done, max(self._origin.plan.live_bytes, done))

    def _report(self, state: State, removed: list[PackInfo]) -> Compacted:
        return Compacted(
            self._origin.plan,
            snapshot=state.number,
            packs_added=tuple(pack.id for pack in self._repacker.packs),
            packs_removed=tuple(info.sealed.id for info in removed),
            added_bytes=sum(pack.bytes for pack in self._repacker.packs),
            removed_bytes=sum(info.sealed.bytes for info in removed),
            payloads=self._copier.copied_payloads,
            payload_bytes=self._copier.copied_bytes,
            segments=len(self._segments),
            damages=tuple(self._copier.damages),
        )

    def _check_space(self) -> None:
        """Raise VolumeFailed unless payloads (aligned ones grow) and index will surely fit."""
        inputs = {pack.id for pack in self._origin.plan.inputs}
        rows_bytes = sum(info.sealed.bytes - info.sealed.payload_end
                         for id_, info in self._origin.state.packs.items()
                         if not info.indexed or id_ in inputs)  # fmt: skip
        segments_bytes = sum(segment.bytes for segment in self._origin.state.segments.values())
        index_bytes = min(segments_bytes, MERGE_ROWS * _ROW_BYTES)
        wanted = self._origin.plan.live_bytes * 9 // 8 + 2 * rows_bytes + index_bytes
        free = self._lake.volume.space().free_bytes
        if free < wanted:
            raise VolumeFailed(f"compaction of {self._lake.name}", expected=f"{wanted} bytes free",
                               found=f"{free}", errno=errno.ENOSPC,
                               hint="free space on the volume, then repeat")  # fmt: skip

    @contextmanager
    def _discarding(self) -> Iterator[None]:
        """Remove what was written when the block fails. A file may be missing because somebody
        else compacted and collected: that is Conflict."""
        try:
            yield
        except BaseException as error:
            self._discard()
            if isinstance(error, NotFound):
                head = self._lake.log.head()
                self._check_inputs(head)
                _check_read(self._lake, self._origin.state, head, error)
            raise

    def _discard(self) -> None:
        discard_packs(self._lake.volume, self._lake.log, self._repacker.packs)
        self._discard_segments()

    def _discard_segments(self) -> None:
        discard_segments(self._lake.volume, self._segments)
        self._segments = []

    # -- index and commit ------------------------------------------------------------------------

    def _publish(self, removed: frozenset[str]) -> State:
        for _ in range(ROUNDS_MAX):
            try:
                return self._attempt(removed)
            except _IndexMoved:
                self._discard_segments()
        self._discard()
        raise Conflict(f"compaction of {self._lake.name}", expected="an index that stays",
                       found=f"other merges, {ROUNDS_MAX} times")  # fmt: skip

    def _attempt(self, removed: frozenset[str]) -> State:
        shift = Shift()
        ours = tuple(pack.id for pack in self._repacker.packs)
        with self._discarding():
            state = self._merged_head()
            self._check_inputs(state)
            self._check_newer(state, self._origin.state, removed)
            merge = plan_new(state, self._repacker.packs)
            tables = self._moved(state, merge, shift)
            for segment in write_segments(
                self._lake.volume, tables, shift.bytes, level=merge.level, cuts=merge.cuts
            ):
                self._segments.append(segment)

        def changes(current: State) -> Changes:
            self._check_inputs(current)
            self._check_newer(current, state, removed)
            self._check_referred(current)
            self._check_index(current, state, merge)
            here = {id_: PackInfo(pack, 0) for id_, pack in zip(ours, self._repacker.packs,
                    strict=True)}  # fmt: skip
            after = {id_: info for id_, info in current.packs.items() if id_ not in removed}
            counted = shift.applied(
                replace(current, packs={**after, **here}), (*ours, *merge.packs)
            )
            return replace(
                replacing(current, merge, self._segments),
                add_packs=tuple(self._repacker.packs),
                remove_packs=tuple(sorted(removed)),
                index_packs=(*ours, *(pack for pack in merge.packs if pack not in removed)),
                live_bytes=counted,
            )

        def undo(error: BaseException) -> None:
            if not isinstance(error, _IndexMoved):
                self._discard()

        return self._lake.log.commit(Draft("compact"), changes, undo)

    def _merged_head(self) -> State:
        """Return the newest state, with few enough unmerged packs to be read together."""
        state = self._lake.log.head()
        for _ in range(ROUNDS_MAX):
            if sum(not info.indexed for info in state.packs.values()) <= MERGE_PACKS:
                break
            state = self._lake.merge_index().state
        return state

    def _check_inputs(self, state: State) -> None:
        gone = [pack.id for pack in self._origin.plan.inputs if pack.id not in state.packs]
        if gone:
            raise Conflict(f"compaction of {self._lake.name}", expected="its input packs",
                           found=f"{gone[0]} was compacted by another")  # fmt: skip

    def _check_newer(self, current: State, seen: State, removed: frozenset[str]) -> None:
        """Raise Conflict when a pack added since `seen` refers to one that is to go."""
        for id_, info in current.packs.items():
            if id_ not in seen.packs and not set(info.sealed.refs).isdisjoint(removed):
                raise Conflict(f"compaction of {self._lake.name}", expected="inputs used by nobody "
                               "new", found=f"a copy or rename in {id_}")  # fmt: skip

    def _check_referred(self, current: State) -> None:
        """Raise Conflict when a pack that rows of ours refer to was compacted away meanwhile."""
        referred = {ref for pack in self._repacker.packs for ref in pack.refs}
        gone = referred & (self._origin.state.packs.keys() - current.packs.keys())
        if gone:
            raise Conflict(f"compaction of {self._lake.name}", expected="packs referred to",
                           found=f"{min(gone)} was compacted by another")  # fmt: skip

    def _moved(self, state: State, merge: MergePlan, shift: Shift) -> Iterator[pa.Table]:
        done = 0
        self._progress("index", 0, merge.rows)
        packs = self._repacker.packs
        for table in moved_rows(self._origin.catalogue, state, merge, packs, shift):
            done += len(table)
            self._progress("index", done, max(merge.rows, done))
            yield table

    def _check_index(self, current: State, seen: State, merge: MergePlan) -> None:
        """Raise _IndexMoved where somebody else merged packs, or took what was to be replaced.

        A merge of packs that are newer than `seen` may have dropped the tombstone of a row of ours.
        """
        newer = map(self._lake.log.read, range(current.number, seen.number, -1))
        if any(commit.changes.index_packs for commit in newer):
            raise _IndexMoved
        try:
            check_inputs(current, merge)
        except Conflict as error:
            raise _IndexMoved from error


class _IndexMoved(Exception):
    """Somebody else merged what was to be replaced: write the index again."""
