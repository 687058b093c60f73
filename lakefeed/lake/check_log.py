"""Is the log whole? Every commit decodes, follows from the one before, and leaves no gap.

The log reaches as far as its commits and its checkpoints do. The state is replayed from nothing,
and each checkpoint on the way must equal it. After a damaged commit the replay goes on from the
next checkpoint, so one damage is not reported a hundred times. Reads every commit once; writes
nothing.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass, field

from lakefeed.errors import Corrupt, Invalid, NotFound
from lakefeed.format.commit import Commit, State, apply, decode_checkpoint
from lakefeed.lake import layout
from lakefeed.lake.findings import Collector, Progress
from lakefeed.lake.log import CHECKPOINT_EVERY, Log
from lakefeed.volume.base import Volume, read_file

# A listing may miss names, but not so many in a row: from there on it is believed. One file with a
# number far beyond the log's would else be a search without end.
MISSING_MAX = CHECKPOINT_EVERY


@dataclass(slots=True)
class LogChecked:
    """The replayed state (None where damage hides it), and every file that a commit ever named."""

    state: State | None = field(default_factory=State)
    named: set[str] = field(default_factory=set)


def check_log(volume: Volume, found: Collector, progress: Progress) -> LogChecked:
    """Replay the whole log; what is wrong goes to `found`."""
    log = Log(volume)
    volume.refresh(layout.LOG)
    # A listing may miss names, so it only says how far to look at least.
    names = [entry.name for entry in volume.list(layout.LOG)]
    commits = _numbers(layout.parse_commit, names)
    known = sorted(commits | _numbers(layout.parse_checkpoint, names))
    last, listed = max(commits, default=0), max(known, default=0)
    checked = LogChecked()
    number = 1
    missing = 0
    while True:
        commit, there = _read(log, number, (last, listed), found)
        if not there:
            return checked
        found.count("commits")
        if commit is not None:
            changes = commit.changes
            checked.named.update(pack.id for pack in changes.add_packs)
            checked.named.update(segment.id for segment in changes.add_segments)
        checked.state = _apply(checked.state, commit, found)
        if number % CHECKPOINT_EVERY == 0:
            checked.state = _check_checkpoint(volume, number, checked.state, found)
        progress("log", number, max(listed, number))
        number += 1
        missing = missing + 1 if commit is None else 0
        if missing >= MISSING_MAX:
            number = _after_gap(number, known, found)


def _numbers(parse: Callable[[str], int | None], names: list[str]) -> set[int]:
    return {number for name in names if (number := parse(name)) is not None}


def _after_gap(number: int, known: list[int], found: Collector) -> int:
    """Return the next number that is known to be there, having reported that none is before it."""
    at = bisect_left(known, number)
    if at == len(known) or known[at] == number:
        return number
    expected = f"it and the commits up to {known[at] - 1}"
    found.add("log", layout.commit_path(number), expected, "none of them", "restore the files")
    return known[at]


def _read(
    log: Log, number: int, reach: tuple[int, int], found: Collector
) -> tuple[Commit | None, bool]:
    """Return a commit (None: it is damaged), and whether the log reaches that far: its commits are
    listed up to one number, they or checkpoints up to another."""
    last, listed = reach
    path = layout.commit_path(number)
    try:
        return log.read(number), True
    except NotFound:
        if number > listed:
            return None, False
        hint = "restore the file"
        if number > last:
            # A copy that ended early, or a server that lost the end of the log.
            hint += f", or delete the checkpoints behind {last} to go on from there"
        found.add("log", path, "commits without a gap", "no such commit", hint)
    except (Corrupt, Invalid) as error:
        hint = f"nothing before it is affected; move {path} away to go on from {number - 1}"
        found.add_error("log", error, hint if number >= listed else "restore the file")
    return None, True


def _apply(state: State | None, commit: Commit | None, found: Collector) -> State | None:
    if state is None or commit is None:
        return None
    try:
        return apply(state, commit)
    except Corrupt as error:
        found.add_error("log", error)
        return None


def _check_checkpoint(
    volume: Volume, number: int, state: State | None, found: Collector
) -> State | None:
    """Compare a checkpoint with the replayed state; return the state to go on with."""
    path = layout.checkpoint_path(number)
    hint = f"delete {path}: it only saves time"
    try:
        written = decode_checkpoint(read_file(volume, path), path)
    except NotFound:
        return state
    except (Corrupt, Invalid) as error:
        found.add_error("checkpoint", error, hint)
        return state
    found.count("checkpoints")
    if state is None:
        return written
    if written != state:
        found.add("checkpoint", path, f"the state after commit {number}", "another state", hint)
    return state
