"""Garbage collection: which files no kept snapshot needs, and how they are deleted safely.

Kept are the newest snapshot, every snapshot younger than `keep_seconds`, the newest
`keep_snapshots` ones, and those that tags and unexpired pins name. `plan_garbage` decides, purely,
from facts about the volume:

1. Files that the log names and no kept snapshot reaches are garbage. If giving up old snapshots
   frees any, the plan raises the lake's horizon; it does not give them up for nothing. The log
   alone says which these are: no directory of packs is read. The commit that raises the horizon
   notes which older snapshots tags and pins kept then; once they let go, these are garbage, too.
2. Old temporary files, and pins that expired longer ago than `grace_seconds`, are removed.
3. With `orphans`, a slower pass lists all packs and segments: files that no commit names (what
   failed or killed writers leave, an interrupted collection, or one that spared them for a pin
   behind its note) are garbage once they are older than the grace; a younger one may be about to
   be committed. Those stay that a log which lost commits may have named (`lost`).

`collect` does: commit the new horizon; read head, tags and pins *again*, until the tags rested
meanwhile; make durable what was read; delete what is still unreached, segments before packs. A tag
or pin written in between either is seen by that second look, or its maker sees the new horizon (see
`Lake.pin`). Where files go that no commit names it commits in any case, unless the log lost its end
and would seem to reach it again: a link that is under way for longer than the grace finds its
number taken; later ones name none (`presence`). Keeps I3 and I6. Commits and checkpoints stay.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

from lakefeed.errors import Conflict, Corrupt, NotFound
from lakefeed.format.commit import Changes, Commit, SegmentInfo, State
from lakefeed.format.pack import PackSealed
from lakefeed.lake import layout
from lakefeed.lake.findings import Progress, silent
from lakefeed.lake.lake import Lake
from lakefeed.lake.log import Draft
from lakefeed.lake.lost import kept_for_repair, listed_end, refuse_gap, refuse_hidden
from lakefeed.lake.refs import Pin, Tag
from lakefeed.volume.base import Listed, Volume

KEEP_SECONDS = 7 * 24 * 3600.0
# No writer needs a day from the last byte of a pack to its commit.
GRACE_SECONDS = 24 * 3600.0

# In a commit that raises the horizon: the snapshots below it that tags and pins kept.
KEPT = "kept"

# Reading all tags takes a second or two where there are thousands; who moves tags does it by hand,
# or at the end of a job, so this many changes in a row are no accident.
REFS_TRIES_MAX = 10

GarbageKind = Literal["segment", "pack", "temporary", "pin"]
# Readers start at the commit and follow the index to the packs: deleted in that order.
_DELETE_ORDER: tuple[GarbageKind, ...] = ("segment", "pack", "temporary", "pin")
_PACKED = ("segment", "pack")


@dataclass(frozen=True, slots=True)
class Stored:
    """A file on the volume that may be garbage; `id` is what commits would call it."""

    kind: GarbageKind
    id: str
    path: str
    bytes: int
    changed_ns: int


@dataclass(frozen=True, slots=True)
class Reach:
    """The ids that kept snapshots need while `horizon` is the oldest kept for its age."""

    horizon: int
    ids: frozenset[str]


@dataclass(frozen=True, slots=True)
class Facts:
    """What the decision rests on. `named` are ids in the log that may have become garbage."""

    now: Reach
    wanted: Reach
    named: frozenset[str]
    stored: tuple[Stored, ...]
    old_before_ns: int
    is_whole: bool = False  # the log: nothing shows that commits were lost


@dataclass(frozen=True, slots=True)
class GarbagePlan:
    """What to delete, in order. `horizon` is the oldest untagged snapshot kept; None: unchanged.
    What no commit names goes where it was changed by `swept_ns`; None: the log need not tell."""

    horizon: int | None
    files: tuple[Stored, ...]
    swept_ns: int | None = None

    @property
    def bytes(self) -> int:
        """How much room the plan frees."""
        return sum(file.bytes for file in self.files)

    def count(self, kind: GarbageKind) -> int:
        """Return how many files of a kind go."""
        return sum(file.kind == kind for file in self.files)


@dataclass(frozen=True, slots=True)
class Collected:
    """What was done: files deleted, their bytes, and planned ones that somebody needs after all."""

    plan: GarbagePlan
    dry_run: bool
    deleted: int = 0
    deleted_bytes: int = 0
    spared: int = 0


@dataclass(frozen=True, slots=True)
class Retention:
    """How long, and how many, snapshots stay readable without a tag, and unnamed files unharmed."""

    keep_seconds: float = KEEP_SECONDS
    grace_seconds: float = GRACE_SECONDS
    keep_snapshots: int = 1


def plan_garbage(facts: Facts) -> GarbagePlan:
    """Return what can go. Pure."""

    def garbage(file: Stored) -> bool:
        if file.id in facts.wanted.ids:
            return False
        return file.id in facts.named or file.changed_ns <= facts.old_before_ns

    freed = [file for file in facts.stored if garbage(file)]
    # A higher horizon reaches nothing more: if none of these is reached now, the horizon may stay.
    gives_up = any(file.id in facts.now.ids for file in freed)
    files = sorted(freed, key=lambda file: (_DELETE_ORDER.index(file.kind), file.path))
    unnamed = any(file.kind in _PACKED and file.id not in facts.named for file in freed)
    swept_ns = facts.old_before_ns if unnamed and facts.is_whole else None
    return GarbagePlan(facts.wanted.horizon if gives_up else None, tuple(files), swept_ns)


def collect(
    lake: Lake,
    retention: Retention | None = None,
    *,
    dry_run: bool = False,
    orphans: bool = True,
    progress: Progress = silent,
) -> Collected:
    """Delete what no kept snapshot needs, and say what was deleted; `dry_run` only plans.

    Without `orphans` only the log is read, from its horizon. `progress` may end it by an error.

    Corrupt, and nothing deleted, when a commit, a tag or a pin cannot be read, or `orphans` finds a
    gap in the log: it might name what would be deleted. NotFound when the directory of tags or pins
    is gone, all of them maybe with it. Conflict, and nothing deleted, while tags are moved without
    a pause.
    """
    lake.refs.check_there()
    now_ns = lake.refs.about_now_ns() if dry_run else lake.refs.server_time_ns()
    plan = plan_garbage(_gather(lake, retention or Retention(), now_ns, orphans, progress))
    if dry_run or not plan.files:
        return Collected(plan, dry_run)
    if (changes := Changes(horizon=plan.horizon, swept_ns=plan.swept_ns)) != Changes():
        older = sorted(number for number in _kept_now(lake, now_ns) if number < (plan.horizon or 0))
        noted = {KEPT: ",".join(map(str, older))} if older else {}
        lake.log.commit(Draft("gc", app=noted), lambda _: changes)
    needed = _needed(lake, now_ns, progress)
    # Whoever gave up what goes may have died, or failed, before its step was durable.
    for directory in (layout.LOG, layout.REFS, layout.PINS):
        lake.volume.sync_directory(directory)
    deleted = deleted_bytes = 0
    for number, file in enumerate(plan.files, 1):
        if file.id not in needed and _unlink(lake.volume, file.path):
            deleted += 1
            deleted_bytes += file.bytes
        progress("deleting", number, len(plan.files))
    return Collected(plan, False, deleted, deleted_bytes, len(plan.files) - deleted)


@dataclass(frozen=True, slots=True)
class Orphans:
    """Packs and segments that no commit names, of whatever age."""

    files: int
    bytes: int


def orphans_of(lake: Lake, progress: Progress = silent) -> Orphans:
    """Return how much on the volume no commit since the horizon names; lists all packs."""
    # Listed before the log is read: what is listed and then committed is no orphan.
    paths = [*stored_files(lake.volume)]
    head = lake.log.head()
    named = _History(lake, head, _kept(lake, lake.refs.pins()), progress).reached(head.horizon)
    unnamed = [path for path in paths if layout.id_of(path) not in named]
    found = [_look(lake.volume, "pack", "", path) for path in unnamed]
    there = [file for file in found if file is not None]
    return Orphans(len(there), sum(file.bytes for file in there))


def _needed(lake: Lake, now_ns: int, told: Progress) -> set[str]:
    """Return what must stay, as the lake is now: the ids of packs and segments, and of pins."""
    pins, tags = _refs_at_one_moment(lake)
    # Where the server's clock was set back before, pins made since would seem to have run out.
    now_ns = min(now_ns, lake.refs.server_time_ns())
    pins = [pin for pin in pins if pin.expires_ns > now_ns]
    kept = {pin.snapshot for pin in pins} | {tag.snapshot for tag in tags}
    head = lake.log.head()
    return {*_History(lake, head, kept, told).reached(head.horizon), *(pin.id for pin in pins)}


def _refs_at_one_moment(lake: Lake) -> tuple[list[Pin], list[Tag]]:
    """Return the pins and tags that there were at one moment.

    Read one after the other, a tag that takes over the snapshot of another could be read before,
    and the other behind. Who pins an old snapshot later finds a tag of that moment on it.
    """
    tags = lake.refs.tags()
    for _ in range(REFS_TRIES_MAX):
        pins, before = lake.refs.pins(), tags
        tags = lake.refs.tags()
        if tags == before:
            return pins, tags
    raise Conflict(f"garbage collection of {lake.name}", expected="tags that rest for a moment",
                   found=f"others in each of {REFS_TRIES_MAX} readings",
                   hint="nothing was deleted; repeat later")  # fmt: skip


def _kept_now(lake: Lake, now_ns: int) -> set[int]:
    return _kept(lake, [pin for pin in lake.refs.pins() if pin.expires_ns > now_ns])


def _unlink(volume: Volume, path: str) -> bool:
    with suppress(NotFound):  # another collection was first
        volume.unlink(path)
        return True
    return False


def _gather(lake: Lake, keep: Retention, now_ns: int, orphans: bool, told: Progress) -> Facts:
    # Listed before the log is read: what is listed and then committed is seen as reached.
    names = list(_names(lake.volume, everything=orphans))
    listed = listed_end(lake.volume) if orphans else 0
    old_before_ns = now_ns - int(keep.grace_seconds * 1e9)
    pins = lake.refs.pins()
    kept = _kept(lake, [pin for pin in pins if pin.expires_ns > now_ns])
    head = lake.log.head()
    history = _History(lake, head, kept, told)
    refuse_gap(lake.volume, listed, head.number)
    horizon = max(head.horizon, _oldest(lake, head, keep, now_ns))
    now = Reach(head.horizon, history.reached(head.horizon))
    wanted = Reach(horizon, history.reached(horizon))
    stored = [_look(lake.volume, kind, id_, path) for kind, id_, path in names
              if id_ not in wanted.ids]  # fmt: skip
    stored += [_look(lake.volume, "pin", pin.id, layout.pin_path(pin.id)) for pin in pins
               if pin.expires_ns <= old_before_ns]  # fmt: skip
    files = [*filter(None, stored)]
    named = history.named | history.formerly.keys()
    if not orphans:
        files += [history.files[id_] for id_ in history.named - wanted.ids]
        files += _still_there(lake.volume, history, wanted)
    # The young ones, too: one may be all that shows that there were more commits.
    unnamed = [file.path for file in files if file.kind in _PACKED and file.id not in named]
    lost = kept_for_repair(lake, unnamed, head, told)
    found = tuple(file for file in files if file.path not in lost)
    return Facts(now, wanted, named, found, old_before_ns, bool(head.number and not lost))


def _still_there(volume: Volume, history: _History, wanted: Reach) -> Iterator[Stored]:
    """Yield what formerly kept snapshots needed alone, as far as it is not deleted yet."""
    for id_ in sorted(history.formerly.keys() - history.named - wanted.ids):
        file = history.formerly[id_]
        found = _look(volume, file.kind, id_, file.path)
        if found is not None:
            yield found


def _oldest(lake: Lake, head: State, retention: Retention, now_ns: int) -> int:
    """Return the oldest snapshot that age or count keeps."""
    oldest = head.number
    if retention.keep_seconds:
        # The snapshot that was the newest back then was in use back then.
        oldest = lake.log.before(now_ns - int(retention.keep_seconds * 1e9))
    return max(min(oldest, head.number - retention.keep_snapshots + 1), 0)


def _kept(lake: Lake, pins: list[Pin]) -> set[int]:
    """Return the snapshots that these pins, and the tags as they are now, name."""
    # Tags after pins: a tag is written before the pin that protected its making goes.
    return {pin.snapshot for pin in pins} | {tag.snapshot for tag in lake.refs.tags()}


class _History:
    """What each snapshot since the horizon needs, and the `kept` ones; reads commits since once."""

    def __init__(self, lake: Lake, head: State, kept: set[int], told: Progress) -> None:
        self._lake = lake
        self._head = head
        self._kept = kept
        # Those of the kept snapshots that were looked at, and what they need.
        self._older: set[int] = set()
        self._older_ids: set[str] = set()
        refuse_hidden(lake.log, head.number)
        self.files = {file.id: file for file in _files(lake.log.at(head.horizon))}
        self._added: list[tuple[int, set[str]]] = []
        formerly: list[int] | None = None
        for commit in lake.log.history(head.number, head.horizon + 1):
            told("reading the log", head.number + 1 - commit.number, head.number - head.horizon)
            if formerly is None and commit.changes.horizon is not None:
                formerly = [int(word) for word in commit.app.get(KEPT, "").split(",")
                            if word.isdecimal()]  # fmt: skip
            self.files.update({file.id: file for file in _added_files(commit)})
            self._added.append((commit.number, {file.id for file in _added_files(commit)}))
        self.named = self._from(head.horizon)
        # What tags and pins kept when older snapshots were given up; they may be gone since.
        self.formerly: dict[str, Stored] = {}
        for state in lake.log.states(formerly or []):
            self.formerly.update({file.id: file for file in _files(state)})

    def _from(self, horizon: int) -> frozenset[str]:
        ids = _ids(self._lake.log.at(horizon))
        return frozenset(ids.union(*(new for number, new in self._added if number > horizon)))

    def reached(self, horizon: int) -> frozenset[str]:
        """Return what the snapshots from `horizon` on need, and the kept ones before it.

        Where it is asked again, `horizon` is no lower: what older ones need is read once.
        """
        beyond = [number for number in self._kept if number > self._head.number]
        if beyond:
            raise Corrupt(f"snapshot {min(beyond)} of {self._lake.name}, named by a tag or a pin",
                          expected=f"at most {self._head.number}", found="no such commit",
                          hint='nothing was deleted; run "lakefeed fsck"')  # fmt: skip
        older = {number for number in self._kept if number < horizon} - self._older
        self._older_ids.update(*map(_ids, self._lake.log.states(older)))
        self._older |= older
        return self._from(horizon) | self._older_ids


def _names(volume: Volume, *, everything: bool) -> Iterator[tuple[GarbageKind, str, str]]:
    """Yield (kind, id, path) of the temporary files, and of `everything` else, on the volume."""
    for path in stored_files(volume) if everything else ():
        kind: GarbageKind = "pack" if path.startswith(f"{layout.PACKS}/") else "segment"
        yield kind, layout.id_of(path), path
    for entry in volume.list(layout.TMP):
        if not entry.is_directory:  # which is somebody else's
            yield "temporary", entry.name, f"{layout.TMP}/{entry.name}"


def stored_files(volume: Volume) -> Iterator[str]:
    """Yield the paths of the packs and segments on the volume, whoever named them."""
    for entry in _listed(volume, layout.INDEX):
        if layout.parse_segment(entry.name) is not None:
            yield f"{layout.INDEX}/{entry.name}"
    for directory in _listed(volume, layout.PACKS):
        if not directory.is_directory:
            continue
        for entry in volume.list(f"{layout.PACKS}/{directory.name}"):
            if layout.parse_pack(entry.name) is not None:
                yield f"{layout.PACKS}/{directory.name}/{entry.name}"


def _listed(volume: Volume, directory: str) -> Iterator[Listed]:
    """Yield what a directory holds, nothing where it was lost: what is missing, commits tell."""
    with suppress(NotFound):
        yield from volume.list(directory)


def _look(volume: Volume, kind: GarbageKind, id_: str, path: str) -> Stored | None:
    try:
        facts = volume.stat(path)
    except NotFound:
        return None
    return Stored(kind, id_, path, facts.size, facts.changed_ns)


def _ids(state: State) -> set[str]:
    return {*state.packs, *state.segments}


def _files(state: State) -> Iterator[Stored]:
    """Yield what a state names, as files."""
    yield from _stored([info.sealed for info in state.packs.values()], state.segments.values())


def _added_files(commit: Commit) -> Iterator[Stored]:
    yield from _stored(commit.changes.add_packs, commit.changes.add_segments)


def _stored(packs: Iterable[PackSealed], segments: Iterable[SegmentInfo]) -> Iterator[Stored]:
    # Only orphans are judged by their age, and what a commit names is none.
    for pack in packs:
        yield Stored("pack", pack.id, layout.pack_path(pack.id), pack.bytes, 0)
    for segment in segments:
        yield Stored("segment", segment.id, layout.segment_path(segment.id), segment.bytes, 0)
