"""Repair: what fsck finds and a lake can mend by itself.

- *A damaged newest commit* (a server lost what it had acknowledged): readers pass over it, writers
  refuse. It is moved to `quarantine/`; the lake goes on from the commit before. Packs that it named
  are orphans until garbage collection, so nothing is lost that a new commit could still name.
- *Segments that are lost, damaged or wrong*: all are replaced by new ones, merged from the packs
  alone, in one commit. Safe beside readers and writers. Keeps I4 and I5.
- *A log that is lost or damaged in the middle* (`rebuild_log`): written anew so that it gives the
  state that `rebuilding` found: one commit for each number, a checkpoint, a hint. It is written
  beside the old one and put in its place by two renames. A repair that is killed leaves the old log
  or the new one; between the two renames neither, and then the next one begins with the old one.
  Nobody may use the lake meanwhile.

What is out of the way is in `quarantine/<id>/` and never read again.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace

import pyarrow as pa

from lakefeed.errors import Conflict, Corrupt, Invalid, NotFound
from lakefeed.format import envelope
from lakefeed.format.commit import (
    Changes,
    Commit,
    SegmentInfo,
    State,
    decode_commit,
    encode_checkpoint,
    encode_commit,
)
from lakefeed.lake import layout
from lakefeed.lake.catalogue import Catalogue, Source, pack_source, segment_source
from lakefeed.lake.files import OpenFiles
from lakefeed.lake.findings import Progress, silent
from lakefeed.lake.garbage import stored_files
from lakefeed.lake.lake import Lake
from lakefeed.lake.leases import Leases
from lakefeed.lake.log import CHECKPOINT_EVERY, Draft, Log
from lakefeed.lake.packing import discard
from lakefeed.lake.rebuilding import Rebuilt, rebuild_state, with_horizon
from lakefeed.lake.refs import Refs
from lakefeed.lake.scan import scan
from lakefeed.lake.segments import discard_segments, write_segments
from lakefeed.volume.base import Volume, read_file, write_file

# Each run of rows that is merged holds a few row groups in memory, some MB: merged so many at once.
RUNS_MAX = 64
_CACHE_BYTES = 32 << 20
AUTHOR = "repair"
# A log is written anew so many times, while others commit to it who should not.
ROUNDS_MAX = 5
# A call fails after ten minutes (`--timeout`). So long the next repair waits for one that died.
ALONE_SECONDS = 900.0


@dataclass(frozen=True, slots=True)
class Reindexed:
    """An index that was rebuilt: the snapshot that has it, and how much it holds."""

    snapshot: int
    packs: int
    rows: int
    segments: int


# -- the newest commit -----------------------------------------------------------------------------


def damaged_head(volume: Volume) -> int | None:
    """Return the number of a damaged commit that nothing follows, None if there is none."""
    log = Log(volume)
    head = log.head()
    try:
        log.read(head.number + 1)
    except NotFound:
        return None
    except Corrupt:
        return head.number + 1
    return None


def quarantine_head(volume: Volume, number: int) -> str:
    """Move a damaged newest commit out of the way; return where it is now.

    Conflict when another repair is at work, or was faster and that commit is sound or gone.
    """
    path = layout.commit_path(number)
    # While it is there, no other commit takes its number, and only repairs move it: one at a time.
    with _alone(volume), _quarantine(volume) as place:
        if _is_sound(volume, path):
            raise Conflict(f"commit {number} of {volume.name}", expected="a damaged one",
                           found="a sound one, or none",
                           hint="look again: lakefeed fsck")  # fmt: skip
        moved = f"{place}/{path.rpartition('/')[2]}"
        volume.replace(path, moved)
        with suppress(NotFound):
            # A checkpoint of a commit that never was would bring its state back.
            volume.replace(layout.checkpoint_path(number), f"{moved}.checkpoint")
    return moved


@contextmanager
def _alone(volume: Volume) -> Iterator[None]:
    """Be the only repair of the log while the block runs; Conflict names the one that is."""
    leases = Leases(volume, Refs(volume).server_time_ns)
    # The name is for people; the id keeps threads of one process apart.
    holder = f"{os.uname().nodename}/{os.getpid()}/{layout.new_id()}"
    lease = leases.acquire("repair", holder, ALONE_SECONDS)
    try:
        yield
    finally:
        leases.release(lease)


def quarantine_checkpoints(volume: Volume, paths: Iterable[str]) -> str:
    """Move checkpoints out of the way, damaged or not: they only save time; return where to."""
    with _quarantine(volume) as place:
        for path in paths:
            with suppress(NotFound):
                volume.replace(path, f"{place}/{path.rpartition('/')[2]}")
    return place


@contextmanager
def _quarantine(volume: Volume) -> Iterator[str]:
    """Lend a new directory for what goes out of the log; what went there is durable at the end."""
    place = f"{layout.QUARANTINE}/{layout.new_id()}"
    volume.make_directory(place)
    yield place
    volume.sync_directory(place)
    volume.sync_directory(layout.LOG)


def _is_sound(volume: Volume, path: str) -> bool:
    """Tell whether a commit is sound, or was moved away already."""
    try:
        decode_commit(read_file(volume, path), path)
    except Corrupt:
        return False
    except (NotFound, Invalid):
        pass  # another repair was faster, or a version that this program does not know, and whole
    return True


# -- segments --------------------------------------------------------------------------------------


def rebuild_index(lake: Lake, progress: Progress | None = None) -> Reindexed:
    """Replace all segments by new ones, from the packs alone; return what they hold.

    Corrupt when a pack's own rows are damaged. Conflict when packs went away meanwhile; nothing is
    left behind then.
    """
    files = OpenFiles(lake.volume)
    made: list[SegmentInfo] = []
    lake.volume.make_directory(layout.INDEX)  # where it was lost, all of it was
    try:
        catalogue = Catalogue(files, _CACHE_BYTES)
        state = lake.log.head()
        sources = sorted(map(pack_source, state.packs.values()),
                         key=lambda run: (-run.seq_max, run.first))  # fmt: skip
        while len(sources) > RUNS_MAX:
            sources = _halfway(lake.volume, catalogue, sources, made)
        return _commit_index(lake, state, _shown(scan(catalogue, sources), state, progress))
    finally:
        files.close()
        discard_segments(lake.volume, made)


def _halfway(
    volume: Volume, catalogue: Catalogue, sources: list[Source], made: list[SegmentInfo]
) -> list[Source]:
    """Merge neighbours among many runs into fewer, in segments that no commit will name."""
    fewer: list[Source] = []
    for start in range(0, len(sources), RUNS_MAX):
        group = sources[start : start + RUNS_MAX]
        for segment in write_segments(volume, scan(catalogue, group, tombstones=True), {}):
            made.append(segment)
            fewer.append(segment_source(segment))
    return fewer


def _shown(
    tables: Iterator[pa.Table], state: State, progress: Progress | None
) -> Iterator[pa.Table]:
    show, done = progress or silent, 0
    total = sum(info.sealed.rows for info in state.packs.values())
    for table in tables:
        done += len(table)
        show("index", min(done, total), total)
        yield table


def _commit_index(lake: Lake, state: State, tables: Iterator[pa.Table]) -> Reindexed:
    live_bytes: dict[str, int] = {}
    segments: list[SegmentInfo] = []

    def changes(current: State) -> Changes:
        if not current.packs.keys() >= state.packs.keys():
            raise _moved(lake, "a pack went away")
        newer = {id_ for id_, info in current.packs.items() if id_ not in state.packs}
        if any(current.packs[id_].indexed for id_ in newer):
            # Their rows are in segments that are to go.
            raise _moved(lake, "another merge took newer packs")
        return Changes(
            index_packs=tuple(state.packs),
            add_segments=tuple(segments),
            remove_segments=tuple(current.segments),
            live_bytes={id_: live_bytes.get(id_, 0) for id_ in state.packs},
        )

    try:
        segments.extend(write_segments(lake.volume, tables, live_bytes))
    except BaseException:
        discard_segments(lake.volume, segments)
        raise
    draft = Draft(AUTHOR, "index rebuilt from the packs")
    done = lake.log.commit(draft, changes, lambda _: discard_segments(lake.volume, segments))
    rows = sum(segment.rows for segment in segments)
    return Reindexed(done.number, len(state.packs), rows, len(segments))


def _moved(lake: Lake, found: str) -> Conflict:
    return Conflict(f"repair of {lake.name}", expected="packs and index that stay", found=found,
                    hint="repeat")  # fmt: skip


# -- the log ---------------------------------------------------------------------------------------


def rebuild_log(volume: Volume, progress: Progress | None = None) -> tuple[Rebuilt, str]:
    """Write the log anew from what is left; return what it gives, and where the old one is.

    Nobody may use the lake meanwhile. Who commits all the same is taken in, by another round; after
    some rounds it is a Conflict, and the log as it was. NotFound where all packs went away: a log
    without them would make orphans of them once they are back.
    """
    show = progress or silent
    try:
        volume.refresh(layout.PACKS)
    except NotFound as error:
        raise NotFound(f"packs of {volume.name}",
                       hint="restore them, or is their volume mounted?") from error  # fmt: skip
    _take_back(volume)
    place = f"{layout.QUARANTINE}/{layout.new_id()}"
    for _ in range(ROUNDS_MAX):
        before = _commits_in(volume, layout.LOG)
        rebuilt = rebuild_state(volume, show)
        volume.make_directory(f"{place}/new")
        try:
            state = _write_log(volume, f"{place}/new", with_horizon(rebuilt.state), show)
        except BaseException:
            _discard_all(volume, f"{place}/new")
            raise
        with suppress(NotFound):
            volume.replace(layout.LOG, f"{place}/log")
        # From here on there is nowhere to commit to.
        if _commits_in(volume, f"{place}/log") <= before and _is_there(volume, rebuilt.state):
            break
        volume.replace(f"{place}/log", layout.LOG)
        _discard_all(volume, f"{place}/new")
    else:
        raise Conflict(f"log of {volume.name}", expected="nobody at work while it is written anew",
                       found="new commits each time", hint="end who is, and repeat")  # fmt: skip
    volume.replace(f"{place}/new", layout.LOG)
    for directory in (place, layout.LOG, ""):
        volume.sync_directory(directory)
    return replace(rebuilt, state=state), place


def _is_there(volume: Volume, state: State) -> bool:
    """Tell whether all that a state needs is still there: a writer who gave up takes its packs
    away, as long as it finds the log that it knows."""
    stored = {layout.id_of(path) for path in stored_files(volume)}
    return stored >= state.packs.keys() | state.segments.keys()


def _discard_all(volume: Volume, directory: str) -> None:
    """Remove the files of a log that never came to its place."""
    for entry in [*volume.list(directory)]:
        discard(volume, f"{directory}/{entry.name}")


def _commits_in(volume: Volume, directory: str) -> set[int]:
    """Return the numbers of the commits in a directory, none where it is lost."""
    try:
        numbers = [layout.parse_commit(entry.name) for entry in volume.list(directory)]
    except NotFound:
        return set()
    return {number for number in numbers if number is not None}


def _take_back(volume: Volume) -> None:
    """Put the old log, which may hold a checkpoint, back where a repair ended between its renames.

    Without one, what had been deleted could come back.
    """
    with suppress(NotFound):
        volume.refresh(layout.LOG)
        return
    with suppress(NotFound):
        for entry in volume.list(layout.QUARANTINE):
            place = f"{layout.QUARANTINE}/{entry.name}"
            if entry.is_directory and {"log", "new"} <= {one.name for one in volume.list(place)}:
                volume.replace(f"{place}/log", layout.LOG)
                return


def _write_log(volume: Volume, directory: str, state: State, progress: Progress) -> State:
    """Write commits 1 to N whose sum is `state`; return it with the ids that they have."""
    by_number: dict[int, list[str]] = {}
    for id_, info in state.packs.items():
        by_number.setdefault(info.seq, []).append(id_)
    parent: str | None = None
    for number in range(1, state.number + 1):
        last = number == state.number
        commit_id = state.commit_id if last and state.commit_id else layout.new_id()
        packs = tuple(state.packs[id_].sealed for id_ in by_number.get(number, []))
        changes = Changes(add_packs=packs)
        if last:
            changes = _final_changes(state, changes)
        time_ns = max(state.time_ns - (state.number - number), 0)
        commit = Commit(number, commit_id, parent, time_ns, AUTHOR, AUTHOR, changes,
                        "log rebuilt from the packs")  # fmt: skip
        name = layout.commit_path(number).rpartition("/")[2]
        write_file(volume, f"{directory}/{name}", encode_commit(commit))
        parent = commit_id
        progress("log", number, state.number)
    state = replace(state, commit_id=parent)
    if state.number:
        _write_hint(volume, directory, state)
    volume.sync_directory(directory)
    return state


def _final_changes(state: State, changes: Changes) -> Changes:
    """Return the changes of the last commit: all that is not said by adding packs."""
    return replace(
        changes,
        index_packs=tuple(id_ for id_, info in state.packs.items() if info.indexed),
        add_segments=tuple(state.segments.values()),
        live_bytes={id_: info.live_bytes for id_, info in state.packs.items()
                    if info.live_bytes is not None},
        horizon=state.horizon,
        swept_ns=state.swept_ns or None,
    )  # fmt: skip


def _write_hint(volume: Volume, directory: str, state: State) -> None:
    # Where checkpoints are looked for; one elsewhere would never be found.
    if state.number % CHECKPOINT_EVERY == 0:
        name = layout.checkpoint_path(state.number).rpartition("/")[2]
        write_file(volume, f"{directory}/{name}", encode_checkpoint(state))
    hint = envelope.seal({"type": "hint", "number": state.number})
    write_file(volume, f"{directory}/{layout.HEAD_HINT.rpartition('/')[2]}", hint)


def log_is_lost(volume: Volume) -> bool:
    """Tell whether there are packs but neither commits nor checkpoints."""
    try:
        volume.refresh(layout.LOG)
        names = [entry.name for entry in volume.list(layout.LOG)]
    except NotFound:
        return True
    if any(name.endswith((".json", ".checkpoint")) for name in names):
        return False
    return next(stored_files(volume), None) is not None
