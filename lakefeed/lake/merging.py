"""Keeping the offset index small and quick: unmerged packs become segments, small runs big ones.

`leveling` decides. `merge_index` does, one plan after the other, a few at most: one streaming scan,
new segments of bounded size, one commit. Nobody waits for it. Keeps I4 (inputs are checked at
commit; whoever loses removes its output) and I5: the row that counts for a path is the same before
and after.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

from lakefeed.errors import Conflict, NotFound
from lakefeed.format.commit import Changes, SegmentInfo, State
from lakefeed.lake.catalogue import Catalogue, Source, sources_of
from lakefeed.lake.leveling import MergePlan, plan_merge
from lakefeed.lake.log import Draft, Log
from lakefeed.lake.scan import Seen, scan_all
from lakefeed.lake.segments import Shift, discard_segments, write_segments
from lakefeed.volume.base import Volume

# Plans carried out by one call: new packs, and what that makes due below. Whoever calls after each
# few commits never falls behind with this many, and none waits for more.
STEPS_MAX = 4


def merge_index(
    volume: Volume, log: Log, catalogue: Catalogue, *, everything: bool = False
) -> State:
    """Merge what is due, a bounded share of it, and return the state afterwards.

    `everything` leaves one sorted run without tombstones, however long that takes. Conflict when
    another merge took one of the inputs; the output is then removed again.
    """
    state = log.head()
    began = state.number
    for _ in range(1 if everything else STEPS_MAX):
        plan = plan_merge(state, began, everything=everything)
        if plan.empty:
            return state
        state = _Merge(volume, log, state, plan).run(catalogue)
    return state


class _Merge:
    """One plan carried out. Until they are committed, the segments are ours."""

    def __init__(self, volume: Volume, log: Log, state: State, plan: MergePlan) -> None:
        self._volume = volume
        self._log = log
        self._state = state
        self._plan = plan
        self._segments: list[SegmentInfo] = []
        self._shift = Shift()

    def run(self, catalogue: Catalogue) -> State:
        """Write and commit; on failure remove what was written."""
        plan, written = self._plan, self._shift.bytes
        inputs = inputs_of(self._state, plan)
        seen = replaced(self._shift)
        tables = scan_all(catalogue, inputs, seen, tombstones=not plan.drops_tombstones)
        try:
            for segment in write_segments(
                self._volume, tables, written, level=plan.level, cuts=plan.cuts
            ):
                self._segments.append(segment)
        except BaseException as error:
            discard_segments(self._volume, self._segments)
            if isinstance(error, NotFound):
                # Merged by another and collected already: that is Conflict.
                check_inputs(self._log.head(), plan)
            raise
        return self._log.commit(
            Draft("merge"), self._changes, lambda _: discard_segments(self._volume, self._segments)
        )

    def _changes(self, current: State) -> Changes:
        plan = self._plan
        check_inputs(current, plan)
        if plan.packs:
            self._check_above(current)
        changes = replacing(current, plan, self._segments)
        live_bytes = self._shift.applied(current, plan.packs)
        return replace(changes, index_packs=plan.packs, live_bytes=live_bytes)

    def _check_above(self, current: State) -> None:
        """Raise Conflict where a compaction came to lie above: its run holds rows that are older
        than the packs merged here, and with a tombstone among those, they would count again."""
        for id_, segment in current.segments.items():
            if segment.level >= self._plan.level and id_ not in self._state.segments:
                raise Conflict("index merge", expected="no newer run above it", found=id_)


def inputs_of(state: State, plan: MergePlan) -> list[Source]:
    """Return the runs that a plan rewrites, newest first."""
    chosen = {*plan.packs, *plan.segments}
    return [source for source in sources_of(state) if source.id in chosen]


def replaced(shift: Shift) -> Seen:
    """Return what counts the rows of segments that a scan passes."""

    def seen(source: Source, table: object) -> None:
        if not source.pack_id:
            shift.took(table)

    return seen


def check_inputs(current: State, plan: MergePlan) -> None:
    """Raise Conflict unless the packs are still to merge and the segments still there."""
    gone = [pack for pack in plan.packs if _is_indexed(current, pack)]
    gone += [one for one in (*plan.segments, *plan.moved) if one not in current.segments]
    if gone:
        raise Conflict("index merge", expected="its inputs", found=f"{gone[0]} was merged")


def _is_indexed(state: State, pack: str) -> bool:
    info = state.packs.get(pack)
    return info is None or info.indexed


def replacing(current: State, plan: MergePlan, segments: Sequence[SegmentInfo]) -> Changes:
    """Return the change of segments; Conflict where others of that level came to lie among them."""
    moved = [replace(current.segments[id_], level=plan.level) for id_ in plan.moved]
    gone = (*plan.segments, *plan.moved)
    level = [one for id_, one in current.segments.items() if one.level == plan.level
             and id_ not in gone]  # fmt: skip
    ordered = sorted((*level, *moved, *segments), key=lambda segment: segment.first)
    for before, after in pairwise(ordered):
        if after.first <= before.last:
            raise Conflict("index merge", expected=f"level {plan.level} as it was planned",
                           found=f"{after.id} overlaps {before.id}")  # fmt: skip
    return Changes(add_segments=(*moved, *segments), remove_segments=gone)
