"""Background verification: are the payloads still what was written? Oldest first, a bit each day.

1. A round goes over the packs of the newest snapshot in the order they were committed. What came
   first was not looked at for longest, and what comes during a round is at its end.
2. Of each pack the rows are read and every payload that lies in it is compared with its checksum,
   also those that only older snapshots show.
3. After every row group the place is noted in `scrub/state.json`, so the next run goes on there,
   on whichever machine. A run ends at its time limit.
4. What is damaged is noted in `scrub/<pack>.json` and stays noted until that pack is found sound,
   or has left the lake. A note that cannot be read is damage of its own until then.
5. Told is what is noted and hurts somebody: what the newest snapshot, a tag or a pin still reaches
   (`reaching`). A payload that was put anew or deleted may lie for years in a pack that is not
   worth rewriting. A note that is full (`FINDINGS_MAX`) is told whole, until its pack is rewritten.

Re-verifies I7; changes no pack. A volume that cannot be read ends the run (VolumeFailed): that is
no damage. Two runs at once only do work twice; the notes of the later one stand.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lakefeed.errors import Corrupt, Invalid, NotFound
from lakefeed.format import envelope
from lakefeed.format.commit import PackInfo, State
from lakefeed.format.rows import Kind
from lakefeed.lake import layout
from lakefeed.lake.catalogue import Catalogue, pack_source
from lakefeed.lake.check_payloads import PayloadCheck
from lakefeed.lake.files import OpenFiles
from lakefeed.lake.findings import FINDINGS_MAX, Collector, Finding
from lakefeed.lake.lake import Lake
from lakefeed.lake.placing import place_over
from lakefeed.lake.reaching import reaching
from lakefeed.lake.throttle import SharedThrottle
from lakefeed.volume.base import Volume, read_file

# Rows are read once, in order.
_CACHE_BYTES = 32 << 20

# Called with the packs done, the packs of the round, and the bytes verified by this run.
ScrubProgress = Callable[[int, int, int], None]


@dataclass(frozen=True, slots=True)
class ScrubState:
    """Where the verification stands: row group `group` of `pack`, which commit `seq` added, is
    next; group 0: that pack is done."""

    round: int = 1
    started_ns: int = 0
    seq: int = 0
    pack: str = ""
    group: int = 0
    verified_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Damaged:
    """A payload that is not what was written, and when that was found."""

    pack: str
    path: str
    expected: str
    found: str
    time_ns: int


@dataclass(frozen=True, slots=True)
class ScrubOptions:
    """How long one run may take, how fast it reads, and whether it begins a new round."""

    max_seconds: float | None = None
    rate_bytes: float | None = None
    restart: bool = False


@dataclass(frozen=True, slots=True)
class Scrubbed:
    """What a run did, and what is known to be damaged and is still needed. `complete`: the round
    ended."""

    state: ScrubState
    complete: bool
    packs: int
    payloads: int
    verified_bytes: int
    seconds: float
    damaged: tuple[Damaged, ...]

    @property
    def round(self) -> int:
        """The round that the run was part of; `state` is at the next one when that is complete."""
        return self.state.round - self.complete


@dataclass(slots=True)
class _Run:
    began: float = field(default_factory=time.monotonic)
    packs: int = 0
    payloads: int = 0
    bytes: int = 0


def scrub(
    lake: Lake, options: ScrubOptions | None = None, progress: ScrubProgress | None = None
) -> Scrubbed:
    """Verify payloads from where the last run ended; return what was done and what is damaged.

    `progress` is called at least every second while payloads are read, and may raise to end the
    run; the next one goes on with the row group that this one was at.
    """
    files = OpenFiles(lake.volume)
    try:
        scrubber = _Scrubber(lake, files, options or ScrubOptions())
        return scrubber.run(progress or (lambda done, total, size: None))
    finally:
        files.close()


class _Scrubber:
    """One run. Everything is read anew: what a cache holds says nothing of the volume."""

    def __init__(self, lake: Lake, files: OpenFiles, options: ScrubOptions) -> None:
        self._lake = lake
        self._options = options
        self._files = files
        self._catalogue = Catalogue(files, _CACHE_BYTES)
        self._throttle = SharedThrottle(options.rate_bytes)
        self._run = _Run()

    def run(self, progress: ScrubProgress) -> Scrubbed:
        """Go on until the round or the time is over."""
        volume = self._lake.volume
        state = self._begin()
        head = self._lake.log.head()
        packs = sorted(head.packs.values(), key=_order)
        at = (state.seq, state.pack)
        done = sum(_order(info) < at or (_order(info) == at and not state.group) for info in packs)
        complete = True
        for info in packs[done:]:
            following = self._pack(info, head, state, lambda: progress(
                done + self._run.packs, len(packs), self._run.bytes))  # fmt: skip
            if following is None:
                complete = False
                break
            state = following
        if complete:
            state = replace(state, round=state.round + 1, started_ns=0, seq=0, pack="", group=0)
            _write_state(volume, state)
        # What came since the run began may have been looked at by another one.
        _forget_lost(volume, self._lake.log.head())
        seconds = time.monotonic() - self._run.began
        counts = self._run.packs, self._run.payloads, self._run.bytes
        state = read_state(volume) if not complete else state
        return Scrubbed(state, complete, *counts, seconds, known_damage(self._lake))

    def _begin(self) -> ScrubState:
        state = read_state(self._lake.volume)
        if self._options.restart and state.started_ns:
            state = ScrubState(round=state.round + 1)
        if not state.started_ns:
            now_ns = self._lake.refs.server_time_ns()
            state = ScrubState(round=state.round, started_ns=now_ns)
        return state

    @property
    def _is_over(self) -> bool:
        limit = self._options.max_seconds
        return limit is not None and time.monotonic() - self._run.began >= limit

    def _pack(
        self, info: PackInfo, head: State, state: ScrubState, step: Callable[[], None]
    ) -> ScrubState | None:
        """Verify a pack, and note what is wrong with it; None when the time ended before it did."""
        volume, id_ = self._lake.volume, info.sealed.id
        first = state.group if id_ == state.pack else 0
        try:
            noted = read_damage(volume, id_)
        except Corrupt:
            # Looking at all of the pack gives a new note; until then this one is damage of before.
            before_ns = state.started_ns - 1
            first, noted = 0, [replace(one, time_ns=before_ns) for one in _told(volume, id_)]
        # A pack that is gone on with keeps what this round found in its first part; what earlier
        # rounds found stays noted as well until all of the pack was looked at again.
        found = [one for one in noted if first and one.time_ns >= state.started_ns]
        try:
            groups = len(self._catalogue.reader(pack_source(info)).groups)
        except (Corrupt, Invalid, NotFound) as error:
            return self._unreadable(info, state, error)
        for group in range(first, groups):
            # Some progress is made by every run, however short.
            if self._is_over and self._run.payloads:
                return None
            found += self._group(info, head, group, step)
            seq = info.seq
            state = replace(state, seq=seq, pack=id_, group=group + 1)
            if group + 1 < groups:
                again = {one.path for one in found}
                older = [one for one in noted if one.path not in again]
                write_damage(volume, id_, found + older)
                _write_state(volume, state)
            step()
        write_damage(volume, id_, found)
        self._run.packs += 1
        total = state.verified_bytes + info.sealed.payload_end
        state = replace(state, seq=info.seq, pack=id_, group=0, verified_bytes=total)
        _write_state(volume, state)
        return state

    def _unreadable(
        self, info: PackInfo, state: ScrubState, error: Corrupt | Invalid | NotFound
    ) -> ScrubState:
        """Note that a pack has no index that can be read; gone packs are nobody's damage."""
        id_ = info.sealed.id
        still = self._lake.log.head().packs
        if id_ in still:
            now_ns = self._lake.refs.server_time_ns()
            expected = "a pack" if error.expected is None else str(error.expected)
            what = type(error).__name__ if error.found is None else str(error.found)
            damage = Damaged(id_, layout.pack_path(id_), expected, what, now_ns)
            write_damage(self._lake.volume, id_, [damage])
        self._run.packs += 1
        state = replace(state, seq=info.seq, pack=id_, group=0)
        _write_state(self._lake.volume, state)
        return state

    def _group(
        self, info: PackInfo, head: State, group: int, step: Callable[[], None]
    ) -> list[Damaged]:
        """Return which payloads of one row group are damaged."""
        id_ = info.sealed.id
        source = pack_source(info)
        try:
            rows = self._catalogue.rows(source, group, group + 1)
        except (Corrupt, NotFound) as error:
            subject = f"{source.path}, row group {group}"
            now_ns = self._lake.refs.server_time_ns()
            return [Damaged(id_, subject, str(error.expected), str(error.found), now_ns)]
        own = rows.filter(pa.array(_own(rows, id_)))
        size = int(np.asarray(own["length"]).astype(np.int64).sum())
        collector = Collector()
        check = PayloadCheck(self._files, head, set(), self._throttle)
        check.run(iter([own]), collector, lambda *_: step())
        self._run.payloads += len(own)
        self._run.bytes += size
        findings = collector.report(head.number, True).findings
        if not findings:
            return []
        now_ns = self._lake.refs.server_time_ns()
        return [_damaged(id_, finding, now_ns) for finding in findings]


def _damaged(pack: str, finding: Finding, now_ns: int) -> Damaged:
    return Damaged(pack, finding.subject, finding.expected, finding.found, now_ns)


def _order(info: PackInfo) -> tuple[int, str]:
    return info.seq, info.sealed.id


def _own(rows: pa.Table, pack: str) -> np.ndarray:
    """Return which rows have their payload in this very pack."""
    held = np.isin(np.asarray(rows["kind"]), (Kind.FILE, Kind.SYMLINK))
    here: np.ndarray = held & np.asarray(pc.equal(rows["pack"].cast(pa.string()), pack))
    return here


# -- what is kept on the volume --------------------------------------------------------------------


def read_state(volume: Volume) -> ScrubState:
    """Return where the verification stands; the beginning, where nobody noted anything readable."""
    try:
        data = read_file(volume, layout.SCRUB_STATE)
        fields = envelope.unseal(data, "scrub", layout.SCRUB_STATE)
        numbers = [fields.number(name) for name in ("round", "started_ns", "seq", "group",
                                                    "verified_bytes")]  # fmt: skip
        return ScrubState(numbers[0], numbers[1], numbers[2], fields.text("pack"), numbers[3],
                          numbers[4])  # fmt: skip
    except (NotFound, Corrupt):
        return ScrubState()


def _write_state(volume: Volume, state: ScrubState) -> None:
    volume.make_directory(layout.SCRUB)
    body = {"type": "scrub", "round": state.round, "started_ns": state.started_ns,
            "seq": state.seq, "pack": state.pack, "group": state.group,
            "verified_bytes": state.verified_bytes}  # fmt: skip
    place_over(volume, envelope.seal(body), layout.SCRUB_STATE)


def read_damage(volume: Volume, pack: str) -> list[Damaged]:
    """Return what is noted of a pack."""
    path = layout.findings_path(pack)
    try:
        fields = envelope.unseal(read_file(volume, path), "damage", path)
    except NotFound:
        return []
    return [
        Damaged(pack, one.text("path"), one.text("expected"), one.text("found"),
                one.number("time_ns"))
        for one in fields.objects("found")
    ]  # fmt: skip


def write_damage(volume: Volume, pack: str, found: list[Damaged]) -> None:
    """Note what is wrong with a pack, at most its first FINDINGS_MAX; nothing: forget the note."""
    path = layout.findings_path(pack)
    if not found:
        with suppress(NotFound):
            volume.unlink(path)
        return
    volume.make_directory(layout.SCRUB)
    listed = [
        {"path": one.path, "expected": one.expected, "found": one.found, "time_ns": one.time_ns}
        for one in found[:FINDINGS_MAX]
    ]
    place_over(volume, envelope.seal({"type": "damage", "found": listed}), path)
    volume.sync_directory(layout.SCRUB)


def known_damage(lake: Lake) -> tuple[Damaged, ...]:
    """Return every damaged payload that was noted and is still reached, by pack and path."""
    head = lake.log.head()
    found = [
        one
        for pack in _noted(lake.volume)
        if pack in head.packs
        for one in _needed(lake, head, pack)
    ]
    return tuple(sorted(found, key=lambda one: (one.pack, one.path)))


def _needed(lake: Lake, head: State, pack: str) -> list[Damaged]:
    """Return what is noted of a pack and still reached, under the path that reaches it."""
    noted = _told(lake.volume, pack)
    if len(noted) >= FINDINGS_MAX:
        return noted  # what it had no room for may be needed
    reached = reaching(lake, head, pack, [one.path for one in noted])
    needed = [replace(one, path=reached[one.path]) for one in noted if one.path in reached]
    # Two paths of one payload may both be reached under a third.
    return list({one.path: one for one in needed}.values())


def _told(volume: Volume, pack: str) -> list[Damaged]:
    """Return what is noted of a pack; a note that is damaged itself stands for what it said."""
    try:
        return read_damage(volume, pack)
    except Corrupt as error:
        path, expected, found = layout.findings_path(pack), str(error.expected), str(error.found)
    try:
        return [Damaged(pack, path, expected, found, volume.stat(path).mtime_ns)]
    except NotFound:
        return []


def _noted(volume: Volume) -> Iterator[str]:
    """Yield the packs that something is noted of."""
    try:
        volume.refresh(layout.SCRUB)
        names = [layout.parse_json(entry.name) for entry in volume.list(layout.SCRUB)]
    except NotFound:
        return
    yield from sorted(name for name in names if envelope.is_id(name) and name is not None)


def _forget_lost(volume: Volume, state: State) -> None:
    """Remove the notes of packs that the lake no longer has."""
    for pack in _noted(volume):
        if pack not in state.packs:
            with suppress(NotFound):
                volume.unlink(layout.findings_path(pack))
