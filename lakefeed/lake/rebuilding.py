"""What a lake was, told by its packs alone: for one whose log is lost.

Every sealed pack on the volume is read. What is exact and what is a best guess:

- Files, payloads, attributes: exact, from the packs' own rows.
- The number of the commit that added a pack decides which of two versions of a path is newer. It
  is exact where a checkpoint or a readable commit names the pack, and where a segment holds rows of
  it: rows carry their `seq` there. Otherwise packs are put in the order in which the file server
  saw them finished, each after the snapshot that its writer saw (`lakefeed.base` in its footer).
  For writers that did not overlap in time that is the true order; of two that did, either may win.
- Packs that compaction had replaced, or that a writer left without a commit, are taken in as well:
  compacted rows keep their `seq`, so they win or tie with equal bytes; a write that was never
  acknowledged may appear. A deletion is lost only where its tombstone's pack is gone already and an
  older pack of the path is not.
- Where a checkpoint is left, it and the commits after it are the truth, up to one that is lost or
  damaged. Added are the packs of readable commits behind that, and those finished later than what
  is known, or committed later (`late`); what such commits removed is out, once a part of it is
  gone. Packs that are known and gone were compacted and collected meanwhile, or are lost: they are
  left out, and named. Then the segments may be of another time, and the packs' own rows are the
  index.
- Where no number is left between what a pack's writer saw and those of packs finished later, it was
  committed after these, or never. It was never, as far as can be told, if one of these has a path
  of it: whoever died before a commit is run again. Then it goes below, or is out where no number is
  left there either; it is above them otherwise, and hides nothing of theirs.
- Packs that refer to one which is gone are looked at more closely (`severed`).

Reads; changes nothing. `repair` writes the log that this gives.
"""

from __future__ import annotations

import itertools
import logging
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, replace

from lakefeed.errors import Corrupt, Invalid, NotFound
from lakefeed.format.commit import Changes, PackInfo, State, apply, decode_checkpoint
from lakefeed.format.pack import PackSealed
from lakefeed.lake import layout
from lakefeed.lake.evidence import Evidence, least_seqs, look_for_repeated, read_packs
from lakefeed.lake.files import OpenFiles
from lakefeed.lake.findings import Progress
from lakefeed.lake.garbage import stored_files
from lakefeed.lake.late import late_packs
from lakefeed.lake.log import Log
from lakefeed.lake.severed import look_for_moved, never_there, severed_of
from lakefeed.volume.base import Volume, read_file

# Tells which of some packs have a path that one of others, finished later, has.
Repeated = Callable[[list[Evidence], list[Evidence]], Collection[str]]

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """A state for the lost log. `exact` packs have their true number, `unreadable` ones are out, as
    are those that are `gone` from the volume, and those `over`: never committed as far as can be
    told, or nothing is left of them."""

    state: State
    exact: int
    guessed: int
    unreadable: tuple[str, ...]
    gone: tuple[str, ...] = ()
    over: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Behind:
    """What commits behind a lost one say: the newest's number, the number that gives each pack its
    place, and the packs that are out because what replaced them is there."""

    number: int
    added: dict[str, int]
    removed: frozenset[str]


def rebuild_state(volume: Volume, progress: Progress) -> Rebuilt:
    """Return what the lake most likely was; see above for what is sure."""
    known = surviving_state(volume) or State()
    files = OpenFiles(volume)
    try:
        found, unreadable = read_packs(volume, files, progress)
        behind = commits_behind(volume, known, {pack.sealed.id for pack in found})
        known, gone = still_there(volume, known, behind)
        late = _late(volume, files, known, behind, found)
        found = [pack for pack in found if _comes_later(pack, known, behind, late)]
        packs_by_id = {pack.sealed.id: pack for pack in found}
        least = _least_in_segments(volume, files)
        severed = severed_of(
            (pack for pack in found if pack.sealed.id not in behind.added),
            known.packs.keys() | packs_by_id.keys(),
        )
        moved = look_for_moved(files, found, severed)
        # What a readable commit numbered is its own; a segment may tell it of renamed packs.
        others = set(behind.added.values())
        told = {**_numbers_told(least, packs_by_id), **moved.numbers}
        exact = {id_: number for id_, number in _sure(told).items()
                 if number > known.number and number not in others}  # fmt: skip
        exact |= {id_: number for id_, number in behind.added.items() if id_ in packs_by_id}
        out = never_there(severed, moved, exact, least)
        found = [pack for pack in found if pack.sealed.id not in out]
        committed = least.keys() | _least_bases(found).keys()
        numbers = number_packs(
            found,
            exact,
            known.number,
            lambda crowded, later: look_for_repeated(
                files, [pack for pack in crowded if pack.sealed.id not in committed], later
            ),
        )
    finally:
        files.close()
    out |= {pack.sealed.id for pack in found} - numbers.keys()
    found = [pack for pack in found if pack.sealed.id in numbers]
    packs = dict(known.packs)
    for pack in sorted(found, key=lambda pack: (numbers[pack.sealed.id], pack.sealed.id)):
        packs[pack.sealed.id] = PackInfo(pack.sealed, numbers[pack.sealed.id])
    bases = (pack.base for pack in found)
    number = max([known.number, behind.number, *numbers.values(), *bases])
    time_ns = max([known.time_ns, *(pack.mtime_ns for pack in found)])
    state = replace(known, number=number, time_ns=time_ns, packs=packs)
    if number != known.number:
        state = replace(state, commit_id=None)
    return Rebuilt(state, len(known.packs) + len(exact), len(found) - len(exact),
                   tuple(unreadable), gone, tuple(map(layout.pack_path, sorted(out))))  # fmt: skip


def _late(
    volume: Volume, files: OpenFiles, known: State, behind: Behind, found: list[Evidence]
) -> Collection[str]:
    """Return the late ones among the packs, where anything shows that there were later commits."""
    last = max([behind.number, *(pack.base for pack in found)])
    return late_packs(Log(volume), files, known, found) if last > known.number else ()


def _comes_later(pack: Evidence, known: State, behind: Behind, late: Collection[str]) -> bool:
    """Tell whether a pack is to be added to what is known of the lake."""
    id_ = pack.sealed.id
    if id_ in known.packs or id_ in behind.removed:
        return False
    return id_ in behind.added or id_ in late or pack.mtime_ns > known.time_ns


def commits_behind(volume: Volume, known: State, there: set[str]) -> Behind:
    """Return what readable commits behind `known` say of packs; `there` are those on the volume.

    What a commit removed is out only where all is there that it added, or that which replaced it:
    else the removed packs are the ones to read. It stays, too, as long as no pack is gone that this
    or a later commit removed, or that should be there: nothing else shows then, and its tombstones
    go on hiding what a commit that is lost had removed.
    """
    commits = dict(_commits_from(volume, known.number))
    added = {pack.id: one for one, changes in commits.items() for pack in changes.add_packs}
    taken_out = {id_ for changes in commits.values() for id_ in changes.remove_packs}
    whole = (known.packs.keys() | added.keys()) - taken_out <= there
    removed = set[str]()
    for changes in commits.values():
        whole = whole and there.issuperset(changes.remove_packs)
        if not whole and {pack.id for pack in changes.add_packs} <= there | removed:
            removed.update(changes.remove_packs)
    return Behind(max(commits, default=0), added, frozenset(removed))


def _commits_from(volume: Volume, number: int) -> Iterator[tuple[int, Changes]]:
    """Yield what each readable commit behind `number` changed, the newest first."""
    log = Log(volume)
    try:
        listed = [layout.parse_commit(entry.name) for entry in volume.list(layout.LOG)]
    except NotFound:
        listed = []
    for one in sorted((one for one in listed if one is not None and one > number), reverse=True):
        try:
            yield one, log.read(one).changes
        except (Corrupt, NotFound):
            continue


def surviving_state(volume: Volume) -> State | None:
    """Return the newest state that a checkpoint, and the commits after it, still give."""
    try:
        numbers = [layout.parse_checkpoint(entry.name) for entry in volume.list(layout.LOG)]
    except NotFound:
        return None
    for number in sorted((number for number in numbers if number is not None), reverse=True):
        path = layout.checkpoint_path(number)
        try:
            state = decode_checkpoint(read_file(volume, path), path)
        except (Corrupt, Invalid, NotFound) as error:
            _logger.warning("checkpoint not used: %s", error)
            continue
        if not _is_contradicted(volume, state):
            return _with_later_commits(volume, state)
        _logger.warning("%s not used: the commit of that number is another", path)
    return None


def _is_contradicted(volume: Volume, state: State) -> bool:
    """Tell whether a checkpoint is of another commit than the one that has its number."""
    try:
        return Log(volume).read(state.number).id != state.commit_id
    except (Corrupt, Invalid, NotFound):
        return False  # lost: the checkpoint is what is left of it


def _with_later_commits(volume: Volume, state: State) -> State:
    """Return the state after the commits that follow, up to the first that cannot be used."""
    log = Log(volume)
    while True:
        try:
            state = apply(state, log.read(state.number + 1))
        except NotFound:
            return state
        except Corrupt as error:
            _logger.warning("what was committed from here on is told by the packs: %s", error)
            return state


def still_there(volume: Volume, state: State, behind: Behind) -> tuple[State, tuple[str, ...]]:
    """Return what is left of a state without what was removed behind it, and the paths of other
    packs, its own and those added behind it, that are gone from the volume."""
    stored = {layout.id_of(path) for path in stored_files(volume)}
    named = state.packs.keys() | behind.added.keys()
    gone = tuple(map(layout.pack_path, sorted(named - stored - behind.removed)))
    left = stored - behind.removed
    if state.packs.keys() | state.segments.keys() <= left:
        return state, gone
    packs = {id_: PackInfo(info.sealed, info.seq) for id_, info in state.packs.items()
             if id_ in left}  # fmt: skip
    return replace(state, commit_id=None, packs=packs, segments={}), gone


class _Numbers:
    """Which packs have which number: packs that may hold the same path share none, as it would be
    open which of two versions is the newer."""

    def __init__(self, found: Iterable[Evidence], numbers: dict[str, int]) -> None:
        self._packs: dict[int, list[PackSealed]] = {}
        for pack in found:
            if pack.sealed.id in numbers:
                self.take(numbers[pack.sealed.id], pack)

    def take(self, number: int, pack: Evidence) -> None:
        """Note that a pack has a number."""
        self._packs.setdefault(number, []).append(pack.sealed)

    def free(self, numbers: Iterable[int], pack: Evidence) -> int | None:
        """Return the first of these numbers that a pack may have."""
        own = pack.sealed
        return next((number for number in numbers
                     if all(own.last < other.first or other.last < own.first
                            for other in self._packs.get(number, ()))), None)  # fmt: skip


def _all_repeated(crowded: list[Evidence], later: list[Evidence]) -> Collection[str]:
    return {pack.sealed.id for pack in crowded}


def number_packs(
    found: list[Evidence], exact: dict[str, int], after: int, repeated: Repeated = _all_repeated
) -> dict[str, int]:
    """Return the number of the commit that added each pack: known, or guessed as said above; those
    are left out that were never committed and have no place.

    All are above `after`. Packs of one kind, those of compaction or the others, share none if they
    may have a path in common.
    """
    ordered = sorted(found, key=lambda pack: pack.order)
    numbers = dict(exact)
    taken = {kind: _Numbers(found, exact) for kind in (True, False)}
    last = {True: after, False: after}
    limits, out = _limits(ordered, exact, after, repeated)
    for pack in ordered:
        id_ = pack.sealed.id
        if id_ in out:
            continue
        known = exact.get(id_)
        if known is not None:
            last[True] = max(last[True], known)
            continue
        number = max(pack.base, last[pack.implied]) + 1
        number = min(number, limits.get(id_, number))
        guess = taken[pack.implied].free(itertools.count(number), pack)
        assert guess is not None, "numbers never end"
        numbers[id_] = guess
        last[pack.implied] = max(last[pack.implied], guess)
        taken[pack.implied].take(guess, pack)
    return numbers


def _limits(
    ordered: list[Evidence], exact: dict[str, int], after: int, repeated: Repeated
) -> tuple[dict[str, int], set[str]]:
    """Return the highest number that may be guessed for a pack, where anything bounds it, and those
    packs for which there is none.

    It is above what its writer saw and not above what is known of packs finished later. Where it
    cannot be, and the pack was repeated, it is below what its writer saw.
    """
    taken = _Numbers(ordered, exact)
    limits: dict[str, int] = {}
    crowded: list[Evidence] = []
    ceilings: dict[bool, int | None] = {True: None, False: None}
    for pack in reversed(ordered):
        known = exact.get(pack.sealed.id)
        below = ceilings[pack.implied]
        if known is not None:
            ceilings = {kind: min(known, below or known) for kind, below in ceilings.items()}
        elif below is not None:
            limit = taken.free(range(below, max(pack.base, after), -1), pack)
            if limit is not None:
                taken.take(limit, pack)
                ceilings[pack.implied] = limits[pack.sealed.id] = limit
            elif pack.implied:  # the rows of others are as new as they say
                crowded.append(pack)
    bounded = [pack for pack in ordered if pack.sealed.id in exact or pack.sealed.id in limits]
    again = repeated(crowded, bounded) if crowded else ()
    out = set[str]()
    for pack in crowded:
        id_ = pack.sealed.id
        limit = taken.free(range(pack.base, after, -1), pack) if id_ in again else None
        if limit is not None:
            taken.take(limit, pack)
            limits[id_] = limit
        elif id_ in again:
            out.add(id_)
    return limits, out


def _least_in_segments(volume: Volume, files: OpenFiles) -> dict[str, int]:
    """Return the least `seq` that segments show of each pack's rows."""
    least: dict[str, int] = {}
    for path in stored_files(volume):
        if path.startswith(f"{layout.INDEX}/"):
            try:
                for pack, seq in least_seqs(files, path):
                    least[pack] = min(seq, least.get(pack, seq))
            except (Corrupt, Invalid, NotFound) as error:
                _logger.warning("segment not used: %s", error)
    return least


def _numbers_told(least: dict[str, int], packs: dict[str, Evidence]) -> dict[str, int]:
    """Return the number of the commit of each pack of which a segment still tells it.

    A row of a rename names the pack of its bytes but the `seq` of the rename, which is later; so
    the least `seq` among a pack's rows counts, and one that its writer could not have had does not.
    Nor does one later than what the writer of a rename or copy saw: it saw the pack there.
    """
    seen = _least_bases(packs.values())
    return {
        pack: seq
        for pack, seq in least.items()
        if pack in packs and packs[pack].implied and packs[pack].base < seq <= seen.get(pack, seq)
    }


def _sure(told: dict[str, int]) -> dict[str, int]:
    """Leave out a number that is told of two: a rename of all that a pack held gives its own away.
    Then neither is sure."""
    times = Counter(told.values())
    return {pack: seq for pack, seq in told.items() if times[seq] == 1}


def _least_bases(packs: Iterable[Evidence]) -> dict[str, int]:
    """Return the oldest snapshot in which another pack's writer saw each pack that it refers to."""
    least: dict[str, int] = {}
    for pack in packs:
        for ref in pack.sealed.refs:
            least[ref] = min(pack.base, least.get(ref, pack.base))
    return least


def with_horizon(state: State) -> State:
    """Return a state whose older snapshots are given up: what they held is not known.

    Where its history is another than it was, it has one commit more: who was about to follow the
    last one of old finds the number taken, instead of putting a commit there that follows nothing.
    """
    number = state.number + (state.number > 0 and state.commit_id is None)
    return replace(state, number=number, horizon=state.number)
