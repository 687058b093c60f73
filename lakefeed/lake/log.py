"""The commit protocol: many writers, one numbered history, no server.

1. Packs and segments are complete, synced and final before a commit names them (I2).
2. Find the head: start from a checkpoint, then open commit N+1, N+2, … by name until there is none.
   The log directory is opened first, so that NFS asks its server instead of a cached miss. A
   checkpoint counts only with its commit: in a copy that ended early the number may be free.
3. Write the whole commit to `tmp/`, sync it, close it. Look whether what it names is still there.
4. `link` it to the next number. Anything but success is ambiguous, because the server may have done
   it and lost the reply: read that number and compare commit ids. Equal: committed. Different: lost
   to another writer. Nothing there: link again, with the same file.
5. Lost: load the winner, let the plan look at the new state, try the next number (I4).
6. Sync the log directory, remove the temporary file, now and then leave a checkpoint and a hint.

Keeps I1, I2 and I4. A damaged commit at the head is reported and never hides the ones before it.
What a commit means is left to `format.commit`; time is the file server's.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from lakefeed.errors import Conflict, Corrupt, Invalid, LakefeedError, NotFound, VolumeFailed
from lakefeed.forking import new_lock
from lakefeed.format import envelope
from lakefeed.format.commit import (
    Changes,
    Commit,
    State,
    apply,
    decode_checkpoint,
    decode_commit,
    encode_checkpoint,
    encode_commit,
)
from lakefeed.lake import layout
from lakefeed.lake.placing import discard_tmp, place_new, place_over
from lakefeed.lake.presence import Presence
from lakefeed.lake.together import in_order
from lakefeed.volume.base import Volume, read_file

# Opening replays at most about this many commits; one checkpoint costs two small files.
CHECKPOINT_EVERY = 32
# The first is there, but for a writer that could not leave it. So many missing ones in a row say
# that there are none for long, or that the number is beyond the log: then a listing tells more.
CHECKPOINTS_GUESSED = 8
# Who has been away for longer than this goes on from the newest checkpoint instead of replaying
# what may be months. While checkpoints are made, nobody who has just opened the lake gets so far.
CATCHING_UP_MAX = 2 * CHECKPOINT_EVERY
# Each lost race means that somebody else committed, so this many in a row is not bad luck.
RACES_MAX = 1000
# An ambiguous link is repeated with waits from 10 ms up, 10 s in all; whether waiting longer makes
# sense (a server that restarts) is the caller's to say.
LINK_TRIES_MAX = 12

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Draft:
    """A commit before it has a number: who makes it and why."""

    operation: str
    message: str | None = None
    app: dict[str, str] = field(default_factory=dict)
    author: str = field(default_factory=lambda: f"{os.uname().nodename}/{os.getpid()}")

    def __post_init__(self) -> None:
        # Every reader refuses a commit that holds anything else, and everything behind it.
        texts = [self.operation, self.author, *self.app, *self.app.values()]
        for text in texts if self.message is None else [*texts, self.message]:
            if not isinstance(text, str):
                raise Invalid("commit", expected="text in operation, message and app",
                              found=repr(text))  # fmt: skip


Plan = Callable[[State], Changes]
# Told why no commit was made, and none will be.
Undo = Callable[[BaseException], None]


def _leave(_: BaseException) -> None:
    """Undo nothing: there is nothing that only this commit would have named."""


def look_at_log(volume: Volume) -> None:
    """Have a lake's log looked at anew; NotFound where the lake went away."""
    try:
        volume.refresh(layout.LOG)
    except NotFound as error:
        hint = 'is the volume mounted? "lakefeed repair --log" writes a lost one anew'
        raise NotFound(f"log of {volume.name}", hint=hint) from error


class Log:
    """The history of one lake. Safe for threads; the lock guards the newest known state."""

    def __init__(self, volume: Volume) -> None:
        self._volume = volume
        self._lock = new_lock()
        self._state: State | None = None
        self._is_warned = False  # guarded by the lock, too
        self._wake = threading.Event()

    def known(self) -> State | None:
        """Return the newest state seen so far, without I/O."""
        with self._lock:
            return self._state

    def head(self) -> State:
        """Return the newest state of the lake, asking the volume for commits made since."""
        look_at_log(self._volume)
        state = self.known() or self._nearest(self._hint())
        far = state.number + CATCHING_UP_MAX
        while True:
            commit = self._read_if_there(state.number + 1)
            if commit is None:
                if not state.number:
                    self._warn_if_lost()
                return self._remember(state)
            state = apply(state, commit)
            if state.number == far:
                nearest = self._nearest(self._hint())
                state = nearest if nearest.number > far else state

    def take_as_whole(self) -> None:
        """Do not warn of a lost log: the packs are those of writers who have not committed yet."""
        with self._lock:
            self._is_warned = True

    def _warn_if_lost(self) -> None:
        """Say so, once, where there are packs and no commit: readers see an empty lake."""
        with self._lock:
            is_warned, self._is_warned = self._is_warned, True
        if not is_warned and _has_packs(self._volume):
            _logger.warning("%s has packs and no commit: was its log lost? Or its first writer has "
                            "not committed yet, or died before", self._volume.name)  # fmt: skip

    def _remember(self, state: State) -> State:
        with self._lock:
            if self._state is None or self._state.number < state.number:
                self._state = state
            return self._state

    def at(self, number: int) -> State:
        """Return the state after commit `number`; NotFound if the history does not reach it."""
        known = self.known()
        if known is not None and known.number == number:
            return known
        return next(self.states([number]))

    def states(self, numbers: Iterable[int]) -> Iterator[State]:
        """Yield the states after these commits, ascending; those near each other read each commit
        between them once."""
        state: State | None = None
        for number in sorted(set(numbers)):
            # A damaged commit stops nobody who begins behind it, so a checkpoint between is taken.
            if state is None or number // CHECKPOINT_EVERY > state.number // CHECKPOINT_EVERY:
                nearest = self._nearest(number)
                state = nearest if state is None or nearest.number > state.number else state
            while state.number < number:
                state = apply(state, self.read(state.number + 1))
            yield state

    def read(self, number: int) -> Commit:
        """Return one commit; NotFound when there is none of that number."""
        path = layout.commit_path(number)
        try:
            data = read_file(self._volume, path)
        except NotFound as error:
            raise NotFound(f"snapshot {number} of {self._volume.name}") from error
        return decode_commit(data, f"{self._volume.name}/{path}")

    def _read_if_there(self, number: int) -> Commit | None:
        try:
            return self.read(number)
        except NotFound:
            return None
        except Corrupt as error:
            # A torn head (a server that acknowledged what it lost) must not brick the lake. With
            # commits after it, it is no head, and an old state must not pass for the newest.
            if self._exists(layout.commit_path(number + 1)):
                # Or one that a repair moved away, and others took its number: that one is sound.
                return self.read(number)
            _logger.warning("ignoring a damaged commit: %s", error)
            return None

    def _exists(self, path: str) -> bool:
        # Opening asks the server. A stat may be answered out of a cache of up to a minute ago, and
        # of any age in a machine that slept: its clocks stood still.
        try:
            self._volume.open(path).close()
        except NotFound:
            return False
        return True

    def history(self, newest: int, oldest: int = 1) -> Iterator[Commit]:
        """Yield the commits from `newest` down to `oldest`; a few are read ahead."""
        return in_order(self.read, range(newest, max(oldest, 1) - 1, -1))

    def before(self, time_ns: int) -> int:
        """Return the number of the last commit made at or before `time_ns` (0: none)."""
        low, high = 0, self.head().number
        while low < high:
            middle = (low + high + 1) // 2
            if self.read(middle).time_ns <= time_ns:
                low = middle
            else:
                high = middle - 1
        return low

    def _nearest(self, number: int) -> State:
        """Return the state of the last checkpoint at or before `number`, or the empty state."""
        for candidate in self._checkpoints(number):
            path = layout.checkpoint_path(candidate)
            try:
                state = decode_checkpoint(read_file(self._volume, path), path)
            except NotFound:
                continue
            except Corrupt as error:
                _logger.warning("ignoring a damaged checkpoint: %s", error)
                continue
            if self._has_made(candidate, state):
                return state
            _logger.warning("ignoring %s: its commit is missing, or another", path)
        return State()

    def _checkpoints(self, number: int) -> Iterator[int]:
        """Yield where checkpoints may be, from `number` down: by name, and then as listed."""
        newest = number - number % CHECKPOINT_EVERY
        oldest = max(newest - CHECKPOINTS_GUESSED * CHECKPOINT_EVERY, 0)
        yield from range(newest, oldest, -CHECKPOINT_EVERY)
        if oldest:
            listed = map(layout.parse_checkpoint, (e.name for e in self._volume.list(layout.LOG)))
            yield from sorted((n for n in listed if n is not None and n <= oldest), reverse=True)

    def _has_made(self, number: int, state: State) -> bool:
        """Tell whether a checkpoint is of this history, and its number taken for good."""
        try:
            return self.read(number).id == state.commit_id
        except NotFound:
            # Without the checkpoint all that follows would be hidden as well.
            return self._exists(layout.commit_path(number + 1))
        except Corrupt:
            return True

    def _hint(self) -> int:
        """Return a number that the history reached: from the hint, or else from a listing."""
        try:
            data = read_file(self._volume, layout.HEAD_HINT)
            return envelope.unseal(data, "hint", layout.HEAD_HINT).number("number")
        except (NotFound, Corrupt, VolumeFailed):
            # Only a starting point: whatever a listing misses is found by name afterwards.
            names = (layout.parse_commit(e.name) for e in self._volume.list(layout.LOG))
            return max((number for number in names if number is not None), default=0)

    def commit(self, draft: Draft, plan: Plan, undo: Undo = _leave) -> State:
        """Publish one commit and return the state after it.

        `plan` is called with the newest state, again after every lost race, and returns what to
        change; it raises Conflict when its inputs went away. VolumeFailed means that the commit is
        not acknowledged; it may still have happened (its packs are then part of the lake). Where it
        has not for certain, `undo` is called with the error: what the commit would have named can
        be removed.
        """
        commit_id = layout.new_id()
        may_stand = False
        try:
            self.take_as_whole()
            state = self.head()
            self._check_history(state)
            for _ in range(RACES_MAX):
                with self._written(commit_id, draft, plan(state), state) as (tmp, mine):
                    may_stand = True
                    may_stand = self._link(tmp, mine.number, commit_id)
                if may_stand:
                    self._volume.sync_directory(layout.LOG)
                    state = self._remember(apply(state, mine))
                    self._leave_checkpoint(mine.number)
                    return state
                state = self.head()
            raise Conflict(f"commit to {self._volume.name}",
                           expected=f"to win one of {RACES_MAX} races",
                           found="another writer each time",
                           hint="write bigger batches from fewer writers")  # fmt: skip
        except BaseException as error:
            if not may_stand:
                undo(error)
            raise

    def _check_history(self, state: State) -> None:
        """Raise Corrupt where the commit that would be followed is no longer the lake's.

        The lake was made anew or restored under whoever has it open. A commit that follows another
        history is one that nobody finds, until commits come to its number: then nobody gets past.
        """
        if not state.number:
            return
        try:
            found = self.read(state.number).id
        except NotFound:
            found = "none"
        if found != state.commit_id:
            raise Corrupt(f"commit {state.number} of {self._volume.name}",
                          expected=f"{state.commit_id}, as it was", found=found,
                          hint="the lake was made anew or restored; open or mount it again",
                          )  # fmt: skip

    def is_as_known(self) -> bool:
        """Tell whether the log is the one that was read: a new one may name what no commit did."""
        with suppress(LakefeedError):
            self._check_history(self.known() or State())
            return True
        return False

    @contextmanager
    def _written(
        self, commit_id: str, draft: Draft, changes: Changes, state: State
    ) -> Iterator[tuple[str, Commit]]:
        """Lend the complete temporary file of the commit that would follow `state`."""
        tmp = layout.tmp_path(layout.new_id())
        try:
            with self._volume.create(tmp) as file:
                # The server stamped the file when it was made: that is the commit's time.
                made = file.stat()
                time_ns = max(made.mtime_ns, state.time_ns + 1)
                commit = Commit(state.number + 1, commit_id, state.commit_id, time_ns,
                                draft.operation, draft.author, changes, draft.message,
                                dict(draft.app))  # fmt: skip
                file.write([encode_commit(commit)])
                file.sync()
            Presence(self._volume, state, self.read).check(changes, made.changed_ns)
            yield tmp, commit
        finally:
            discard_tmp(self._volume, tmp)

    def _link(self, tmp: str, number: int, commit_id: str) -> bool:
        error: LakefeedError | None = None
        for attempt in range(LINK_TRIES_MAX):
            try:
                self._volume.link(tmp, layout.commit_path(number))
                return True
            except (Conflict, VolumeFailed, NotFound) as failure:
                error = failure
            found = self._look(number)
            if found is not None:
                return found.id == commit_id
            if not error.retryable:
                break
            jitter = 0.5 + os.urandom(1)[0] / 512
            self._wake.wait(min(0.01 * 2**attempt, 2.0) * jitter)
        assert error is not None
        raise VolumeFailed(f"publish commit {number} of {self._volume.name}", expected="a link",
                           found=error.text, errno=error.errno,
                           hint="the commit is not acknowledged; repeat the write",
                           ) from error  # fmt: skip

    def _look(self, number: int) -> Commit | None:
        """Return who holds a number now, None if nobody: the answer to an ambiguous link."""
        self._volume.refresh(layout.LOG)
        try:
            return self.read(number)
        except NotFound:
            return None

    def _leave_checkpoint(self, number: int) -> None:
        if number % CHECKPOINT_EVERY:
            return
        try:
            self.write_checkpoint(number)
        except LakefeedError as error:
            # The commit stands without it; the next reader replays more.
            _logger.warning("no checkpoint after commit %d: %s", number, error)

    def write_checkpoint(self, number: int) -> None:
        """Write the state after commit `number` beside it, and point the hint at it."""
        data = encode_checkpoint(self.at(number))
        path = layout.checkpoint_path(number)
        try:
            place_new(self._volume, data, path)
        except Conflict:
            if read_file(self._volume, path) != data:
                place_over(self._volume, data, path)  # it was of a commit that others do not know
        hint = envelope.seal({"type": "hint", "number": number})
        place_over(self._volume, hint, layout.HEAD_HINT)


def _has_packs(volume: Volume) -> bool:
    with suppress(NotFound):
        return any(
            layout.is_pack(entry.name)
            for directory in volume.list(layout.PACKS)
            if directory.is_directory
            for entry in volume.list(f"{layout.PACKS}/{directory.name}")
        )
    return False
