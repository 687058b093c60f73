"""Which packs and segments the next index merge takes: pure decisions, each of bounded size.

Segments of one level are one sorted run, cut into path ranges that do not overlap. A higher level
is newer: of a path's rows the one in the higher level is the newer one, or the same version at a
newer place. Packs that are not indexed come before all levels.

1. New packs, the oldest first, become rows of segments, together with the newest runs while those
   are at most GROWTH times as big as what was gathered: so a row is rewritten a logarithmic number
   of times, and runs grow geometrically.
2. A run that is no longer several times smaller than the one below it is pushed down. What is too
   big to be merged whole goes range by range: the segments that overlap the least below them,
   with what they overlap.
3. A segment that overlaps nothing is not rewritten: it only changes its level.

No merge takes more than MERGE_ROWS rows, unless a single pack or segment needs it, or everything
was asked for. To keep it so, segments are cut where they would overlap more than SPREAD of the
level below. Tombstones go when no level is left below.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from lakefeed.format.commit import PackInfo, SegmentInfo, State
from lakefeed.format.pack import PackSealed

# A run joins the merge while it has at most this many times the rows gathered so far.
GROWTH = 4
# About 15 MB a segment.
SEGMENT_ROWS = 1 << 20
# Some 20 seconds of work and a quarter of a gigabyte written; with payloads lying elsewhere, the
# most that a merge can cost however big the lake is.
MERGE_ROWS = 16 << 20
# A merge holds a row group (1 MB) of each source that overlaps others.
MERGE_PACKS = 256
# Segments below that one segment may overlap; with SEGMENT_ROWS well within MERGE_ROWS.
SPREAD = 8
# A segment smaller than this is worth rewriting, to be joined with its neighbours.
_MOVED_ROWS_SHARE = 4


@dataclass(frozen=True, slots=True)
class MergePlan:
    """Packs and segments that become new segments of `level`, which begin anew at `cuts`.

    Segments in `moved` change their level only.
    """

    packs: tuple[str, ...] = ()
    segments: tuple[str, ...] = ()
    moved: tuple[str, ...] = ()
    level: int = 1
    rows: int = 0
    drops_tombstones: bool = True
    cuts: tuple[str, ...] = ()

    @property
    def empty(self) -> bool:
        """True when there is nothing to merge."""
        return not (self.packs or self.segments or self.moved)


@dataclass(frozen=True, slots=True)
class Run:
    """The segments of one level in path order, disjoint."""

    level: int
    segments: tuple[SegmentInfo, ...]

    @property
    def rows(self) -> int:
        """How many rows the run has."""
        return sum(segment.rows for segment in self.segments)


def runs_of(state: State) -> list[Run]:
    """Return the runs of a state, newest first."""
    found: dict[tuple[int, int, int], list[SegmentInfo]] = {}
    for one in state.segments.values():
        key = (one.level, 0, 0) if one.level else (0, one.seq_max, one.seq_min)
        found.setdefault(key, []).append(one)
    return [
        Run(key[0], tuple(sorted(found[key], key=lambda segment: segment.first)))
        for key in sorted(found, reverse=True)
    ]


def plan_merge(state: State, upto: int | None = None, *, everything: bool = False) -> MergePlan:
    """Return what to merge now, the empty plan if nothing; `everything` leaves a single run.

    Packs that were added after commit `upto` are left for another time.
    """
    if everything:
        return _planned([info.sealed for info in _unmerged(state)], runs_of(state), [])
    last = state.number if upto is None else upto
    if any(info.seq <= last for info in _unmerged(state)):
        return plan_new(state)
    return _plan_push(runs_of(state))


def plan_new(state: State, more: Sequence[PackSealed] | None = None) -> MergePlan:
    """Return how new packs become rows of segments; with `more`, which are not in the state yet,
    all of them, however many.
    """
    packs = _unmerged(state) if more is not None else _within_bounds(_unmerged(state))
    merged = [info.sealed for info in packs]
    others = list(more or ())
    gathered = sum(pack.rows for pack in (*merged, *others))
    runs, taken = runs_of(state), []
    while runs and runs[0].rows <= GROWTH * gathered and gathered + runs[0].rows <= MERGE_ROWS:
        gathered += runs[0].rows
        taken.append(runs.pop(0))
    return _planned(merged, taken, runs, others=others)


def _unmerged(state: State) -> list[PackInfo]:
    packs = [info for info in state.packs.values() if not info.indexed]
    return sorted(packs, key=lambda info: info.seq)


def _within_bounds(packs: list[PackInfo]) -> list[PackInfo]:
    """Return the oldest packs up to what one merge takes, and all that their commits added."""
    rows = 0
    for count, info in enumerate(packs):
        rows += info.sealed.rows
        if (
            count
            and info.seq > packs[count - 1].seq
            and (count >= MERGE_PACKS or rows > MERGE_ROWS)
        ):
            return packs[:count]
    return packs


def _plan_push(runs: list[Run]) -> MergePlan:
    for number, (upper, lower) in enumerate(pairwise(runs)):
        if lower.rows > GROWTH * upper.rows:
            continue
        below = runs[number + 2 :]
        if upper.rows + lower.rows <= MERGE_ROWS or not lower.level:
            return _planned([], [upper, lower], below)
        return _cheapest(upper, lower, below)
    return MergePlan()


def _cheapest(upper: Run, lower: Run, below: list[Run]) -> MergePlan:
    """Return the part of `upper` that goes down with the least to rewrite for each of its rows."""
    overlaps = [(one, _overlapped(one, lower)) for one in upper.segments]
    overlaps.sort(key=lambda pair: (_rows(pair[1]) / max(pair[0].rows, 1), pair[0].first))
    chosen: dict[str, SegmentInfo] = {}
    rows = 0
    for one, others in overlaps:
        fresh = [segment for segment in (one, *others) if segment.id not in chosen]
        rows += _rows(fresh)
        if chosen and rows > MERGE_ROWS:
            break
        chosen.update((segment.id, segment) for segment in fresh)
    parts = [
        Run(run.level, tuple(one for one in run.segments if one.id in chosen))
        for run in (upper, lower)
    ]
    return _planned([], parts, below, kept=[s for s in lower.segments if s.id not in chosen])


def _overlapped(one: SegmentInfo, run: Run) -> Sequence[SegmentInfo]:
    """Return the segments of a run that have paths between this one's first and last."""
    start = bisect_left(run.segments, one.first, key=lambda segment: segment.last)
    end = bisect_right(run.segments, one.last, key=lambda segment: segment.first)
    return run.segments[start:end]


def _rows(segments: Iterable[SegmentInfo]) -> int:
    return sum(segment.rows for segment in segments)


def _planned(
    packs: list[PackSealed],
    taken: list[Run],
    below: list[Run],
    *,
    kept: Sequence[SegmentInfo] = (),
    others: Sequence[PackSealed] = (),
) -> MergePlan:
    """Return the plan that makes these packs and runs one run above those `below`.

    `kept` are segments of that run which stay as they are; rows of `others` come to it, too.
    """
    level = taken[-1].level if taken else below[0].level + 1 if below else 1
    level = max(level, 1)
    drops = not below
    segments = [segment for run in taken for segment in run.segments]
    arriving = [*packs, *others]
    only = len(segments) == 1 and not arriving
    alone = _alone(arriving, segments)
    alone = {one.id for one in segments if one.id in alone and _may_stay(one, drops, only=only)}
    staying = [segment for segment in segments if segment.id in alone]
    rewritten = [segment for segment in segments if segment.id not in alone]
    cuts = {segment.first for segment in (*kept, *staying)}
    if below:
        cuts.update(segment.first for segment in below[0].segments[SPREAD::SPREAD])
    return MergePlan(
        packs=tuple(pack.id for pack in packs),
        segments=tuple(segment.id for segment in rewritten),
        moved=tuple(segment.id for segment in staying if segment.level != level),
        level=level,
        rows=_rows(rewritten) + sum(pack.rows for pack in (*packs, *others)),
        drops_tombstones=drops,
        cuts=tuple(sorted(cuts)),
    )


def _may_stay(segment: SegmentInfo, drops: bool, *, only: bool) -> bool:
    big = segment.rows * _MOVED_ROWS_SHARE >= SEGMENT_ROWS
    return (big or only) and not (drops and segment.tombstones)


def _alone(packs: list[PackSealed], segments: list[SegmentInfo]) -> set[str]:
    """Return the ids of the segments whose range of paths nothing else here overlaps."""
    spans = [(one.first, one.last, one.id) for one in segments]
    spans += [(pack.first, pack.last, "") for pack in packs if pack.rows]
    spans.sort()
    alone: set[str] = set()
    furthest: str | None = None
    for number, (first, last, id_) in enumerate(spans):
        clear = furthest is None or first > furthest
        if clear and (number + 1 == len(spans) or spans[number + 1][0] > last):
            alone.add(id_)
        furthest = last if furthest is None else max(furthest, last)
    return alone - {""}
