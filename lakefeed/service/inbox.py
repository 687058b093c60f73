"""An inbox watched: walked, read on a bounded pool, committed batch by batch, emptied.

A batch is taken when it holds enough files or bytes, or when its oldest file has waited long
enough. The event loop only decides; everything that may block runs on the inbox's own pool
(aiofiles' wrapper around plain functions, many files a call: a hand-over between threads costs as
much as reading a small file from memory). While one batch is being committed nothing else is read,
so memory is bounded by one batch, however many files wait.

What is unreadable stays where it is, is named once and let be for a while; what a lake can never
hold is moved aside.
What is committed and cannot be removed stays, too, and is not taken again.
Which steps make it exactly once is told in `ingest`.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import ParamSpec, TypeVar

from aiofiles.os import wrap

from lakefeed.errors import Conflict, LakefeedError
from lakefeed.lake.lake import Lake
from lakefeed.service.aside import move_aside
from lakefeed.service.ingest import Ingest, Outcome
from lakefeed.service.naming import Naming
from lakefeed.service.options import InboxOptions
from lakefeed.service.records import CLAIMS, Records, claim_of, digest, sorted_files
from lakefeed.service.taking import Taken, inbox_failed, read_files, remove_files
from lakefeed.service.threads import Guard, in_thread
from lakefeed.service.waiting import Bad, Candidate, Left, Rules, Seen, Walk, check_root

# What one call of the pool reads: little enough that several are in flight for any batch.
CHUNK_FILES = 64
CHUNK_BYTES = 4 << 20
# A claim younger than this may belong to a removal that is going on.
CLAIM_NS = 60 * 10**9
# After so long it is tried again to remove what could not be removed, or put back.
STUCK_SECONDS = 600.0
# What cannot be read is tried again after so long, unless it was touched before: soon, as a server
# may have hiccuped, then after twice as long each time, at last every STUCK_SECONDS, as each try
# may read a big file nearly to its end.
_AGAIN_SECONDS = 5.0
# More unreadable files than this (some 20 MB) are tried with each walk.
_UNREAD_MAX = 100_000
_STUCK = "the lake has it, and it cannot be removed"
_OVER = "deleted or replaced in the lake since it was taken in and kept; touch it to renew it"

P = ParamSpec("P")
T = TypeVar("T")
_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Backlog:
    """What waits in an inbox, `early` files of it to be complete; how long the oldest does."""

    files: int = 0
    bytes: int = 0
    oldest_seconds: float = 0.0
    early: int = 0


@dataclass(frozen=True, slots=True)
class _Unread:
    """A file that could not be read, and why; by the monotonic clock, until when it is let be."""

    left: Left
    seconds: float
    until: float


@dataclass(slots=True)
class _Pass:
    """One walk over the inbox, and what it has come to so far."""

    walk: Walk
    rules: Rules
    began: float
    took: int = 0
    files: int = 0
    early: int = 0
    bytes: int = 0
    oldest_ns: int = 0

    def waits(self, files: Sequence[Candidate], *, early: bool = False) -> None:
        """Count files that this walk leaves where they are; `early` ones may be unfinished."""
        if not files:
            return
        self.files += len(files)
        self.early += len(files) if early else 0
        self.bytes += sum(file.size for file in files)
        oldest_ns = min(file.ctime_ns for file in files)
        self.oldest_ns = min(self.oldest_ns, oldest_ns) if self.oldest_ns else oldest_ns

    def backlog(self) -> Backlog:
        if not self.files:
            return Backlog()
        age = max((self.rules.now_ns - self.oldest_ns) / 1e9, 0.0)
        return Backlog(self.files, self.bytes, age, self.early)


class Inbox:
    """One inbox of one lake. `close` ends its threads."""

    def __init__(
        self, lake: Lake, options: InboxOptions, guard: Guard, report: Callable[[Outcome], None]
    ) -> None:
        self._lake = lake
        self._options = options
        self._guard = guard
        self._report = report
        self._records = Records(options.directory)
        self._ingest = Ingest(lake, options, self._records, guard)
        self._pool = ThreadPoolExecutor(options.threads, "lakefeed-inbox")
        # By the monotonic clock, when to finish what was begun and not ended.
        self._recover_at = 0.0
        # Files that were committed and stay in the inbox: kept ones, those that were kept once and
        # are deleted in the lake since, and those stuck there.
        self._taken: set[bytes] = set()
        self._unread: dict[tuple[bytes, int], _Unread] = {}
        self._renamed: frozenset[int] = frozenset()
        self._naming = Naming(options.directory, options.names_max)
        self._behind = Backlog()
        self._walked_at = 0.0

    @property
    def backlog(self) -> Backlog:
        """What the last walk that ended well left; it has been growing older since."""
        if not self._behind.files:
            return self._behind
        age = self._behind.oldest_seconds + time.monotonic() - self._walked_at
        return replace(self._behind, oldest_seconds=age)

    @property
    def left(self) -> list[Left]:
        """What stays in the inbox, and why, as far as it was named."""
        return self._naming.left

    def close(self) -> None:
        """End the threads that are not blocked. Works twice."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def _call(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return what blocking work returns, run on the pool."""
        result: T = await wrap(work)(*args, **kwargs, executor=self._pool)
        return result

    async def run(self, *, everything: bool = False) -> int:
        """Walk the inbox once and take in what is due; return how many files were committed.

        `everything` takes in whatever is complete, however little it is. Stopped when the lease
        went away; Conflict is another replica at work. VolumeFailed: the next call recovers.
        """
        try:
            return await self._run(everything)
        except BaseException as error:
            self._recover_at = 0.0
            if isinstance(error, OSError) and not isinstance(error, LakefeedError):
                raise inbox_failed(self._options.directory, error) from error
            raise

    async def _run(self, everything: bool) -> int:
        self._naming.begin()
        if time.monotonic() >= self._recover_at:
            await self._call(self._open)
        began = time.monotonic()
        self._unread = {mark: one for mark, one in self._unread.items()
                        if began < one.until + STUCK_SECONDS}  # fmt: skip
        now_ns = await self._call(self._records.server_time_ns)
        prefix = f"{self._options.prefix}/" if self._options.prefix else ""
        rules = Rules(now_ns, int(self._options.quiet_seconds * 1e9), prefix, self._renamed)
        walk = Walk(self._options.directory, rules, tidy=not self._options.keep)
        current = _Pass(walk, rules, began)
        try:
            await self._consume(current, everything)
        finally:
            # Not on the pool: where a volume hangs, all of its threads may be held.
            await in_thread("close", walk.close)
        self._naming.end()
        self._renamed = frozenset(walk.temporary)
        self._behind, self._walked_at = current.backlog(), began
        return current.took

    def _open(self) -> None:
        """Make the inbox's own directory, and finish what a crash left."""
        check_root(self._options.directory)
        self._records.open(self._lake.read_id())
        stuck = self._ingest.recover()
        self._taken = {*map(digest, stuck)}
        for file in stuck:
            self._naming.name(file.path, _STUCK)
        self._set_strays_aside()
        again = self._records.tidy() or bool(stuck or self._records.claims())
        self._recover_at = time.monotonic() + STUCK_SECONDS if again else math.inf
        if self._options.keep:
            self._taken = {digest(f) for record in self._records.taken() for f in record.files}

    def _set_strays_aside(self) -> None:
        root, now_ns = self._options.directory, self._records.server_time_ns()
        for name in self._records.claims():
            bad = Bad(f"{CLAIMS}/{name}", "its removal was interrupted; the lake may have it")
            try:
                info = os.stat(os.path.join(root, bad.path), follow_symlinks=False)
                if claim_of(name) is not None and now_ns - info.st_ctime_ns > CLAIM_NS:
                    move_aside(root, bad, now_ns)
            except FileNotFoundError:
                continue  # another replica settles it
            except OSError as error:
                self._naming.name(bad.path, f"{bad.reason}: {error.strerror}")

    async def _consume(self, current: _Pass, everything: bool) -> None:
        """Gather what a walk finds into batches, and take those in that are due."""
        batch, size = [], 0
        there: set[bytes] = set()
        unseen: list[str] = []
        while (seen := await self._call(current.walk.next_slice)) is not None:
            self._guard.check()
            await self._set_aside(seen.bad, current.rules.now_ns)
            for left in seen.left:
                self._naming.name(*left)
                unseen.append(left.path)
            current.waits(seen.early, early=True)
            for file in self._new(seen, there):
                if not everything and self._is_let_be(file, current.began):
                    current.waits([file])
                    continue
                batch.append(file)
                size += file.size
                if len(batch) >= self._options.pack_files or size >= self._options.pack_bytes:
                    await self._take(batch, current)
                    batch, size = [], 0
        if batch and (everything or self._is_old(batch, current.rules.now_ns)):
            await self._take(batch, current)
        else:
            current.waits(batch)
        await self._condense(there, unseen)

    async def _condense(self, there: set[bytes], unseen: list[str]) -> None:
        """Forget the files that left the inbox, so that they may come again."""
        if self._options.keep:
            whole = await self._call(self._records.condense, there, unseen)
            if whole is not None:
                self._taken = {*map(digest, whole.files)}
        elif (gone := self._ingest.formerly - there) and not unseen:
            await self._call(self._records.condense, there, unseen, 1)
            self._ingest.formerly -= gone
            self._taken -= gone

    def _new(self, seen: Seen, there: set[bytes]) -> list[Candidate]:
        """Return the complete files that were not taken before."""
        remembered = self._options.keep or self._ingest.formerly
        if not remembered and not self._taken:
            return seen.complete
        digests = [digest(file) for file in seen.complete]
        if remembered:
            there.update(digests)
            there.update(map(digest, seen.early))  # a change of its mode makes a taken file early
        new = []
        for file, mark in zip(seen.complete, digests, strict=True):
            if mark in self._taken:
                self._naming.meet(file.path)
            else:
                new.append(file)
        return new

    def _is_let_be(self, file: Candidate, now: float) -> bool:
        """Tell whether a file could not be read lately; it makes no batch due, either."""
        found = self._unread.get(_mark(file)) if self._unread else None
        if found is None or found.until <= now:
            return False
        self._naming.name(*found.left)
        return True

    def _let_be(self, file: Candidate, why: Left) -> None:
        mark = _mark(file)
        before = self._unread.get(mark)
        if before is None and len(self._unread) >= _UNREAD_MAX:
            return
        seconds = _AGAIN_SECONDS if before is None else min(2 * before.seconds, STUCK_SECONDS)
        self._unread[mark] = _Unread(why, seconds, time.monotonic() + seconds)

    def _is_old(self, batch: list[Candidate], now_ns: int) -> bool:
        oldest_ns = min(file.ctime_ns for file in batch)
        return now_ns - oldest_ns >= self._options.pack_age_seconds * 1e9

    async def _set_aside(self, bad: Sequence[Bad], now_ns: int) -> None:
        for one in bad:
            try:
                place = await self._call(move_aside, self._options.directory, one, now_ns)
            except OSError as error:
                self._naming.name(one.path, f"{one.reason}; not moved aside: {error.strerror}")
                continue
            if place is not None:
                facts = {"inbox": self._options.directory, "path": one.path, "reason": one.reason}
                _logger.warning("moved aside from inbox %s: %r: %s", *facts.values(), extra=facts)

    async def _take(self, batch: list[Candidate], current: _Pass) -> None:
        """Read, commit and remove one batch, and count what of it waits for the next walk."""
        # A listing may repeat a name, that of a file which was replaced meanwhile for instance.
        batch = [*{file.path: file for file in batch}.values()]
        taken, left = await self._read(batch)
        over: set[str] = set()
        if taken:
            outcome = await self._commit(taken)
            del taken
            await self._remove(outcome)
            current.took += len(outcome.done)
            left += outcome.left
            over = {file.path for file in outcome.done + outcome.over}
            over |= {bad.path for bad in outcome.refused}
        sick = {one.path: one for one in left}
        for file in batch:
            if file.path not in over:
                why = sick.get(file.path) or sick.get(file.path.rpartition("/")[0])
                # What changed while it was read was not complete after all.
                current.waits([file], early=why is None)
                if why is not None:
                    self._let_be(file, why)

    async def _commit(self, taken: list[Taken]) -> Outcome:
        try:
            outcome = await self._call(self._ingest.commit, taken)
        except Conflict:
            await self._call(self._ingest.recover)
            raise
        self._report(outcome)
        for left in outcome.left:
            self._naming.name(*left)
        for file in outcome.over:
            self._naming.name(file.path, _OVER)
        self._taken.update(map(digest, outcome.over))
        await self._set_aside(outcome.refused, await self._call(self._records.server_time_ns))
        return outcome

    async def _read(self, batch: list[Candidate]) -> tuple[list[Taken], list[Left]]:
        directory, big_bytes = self._options.directory, self._options.big_bytes
        parts = await asyncio.gather(
            *(
                self._call(read_files, directory, chunk, big_bytes)
                for chunk in _chunks(sorted_files(batch))
            )
        )
        left = [one for _, failed in parts for one in failed]
        for one in left:
            self._naming.name(*one)
        return [one for taken, _ in parts for one in taken], left

    async def _remove(self, outcome: Outcome) -> None:
        if self._options.keep:
            self._taken.update(map(digest, outcome.done))
            if outcome.done:
                await self._call(self._records.keep, outcome.record)
            return
        directory, batch = self._options.directory, outcome.record.batch
        parts = await asyncio.gather(
            *(
                self._call(remove_files, directory, chunk, CLAIMS, batch)
                for chunk in _chunks(sorted_files(outcome.done))
            )
        )
        failed = {left.path: left.reason for part in parts for left in part}
        if not failed:
            await self._call(self._records.end, outcome.record)
            return
        for path, reason in failed.items():
            self._naming.name(path, f"{_STUCK}: {reason}")
        self._taken.update(digest(file) for file in outcome.done if file.path in failed)
        self._recover_at = time.monotonic() + STUCK_SECONDS


def _mark(file: Candidate) -> tuple[bytes, int]:
    """Return what changes when somebody touches a file, or who may read it."""
    return digest(file), file.ctime_ns


def _chunks(files: Sequence[Candidate]) -> Iterator[Sequence[Candidate]]:
    """Cut sorted files into runs that one call reads."""
    start = size = 0
    for at, file in enumerate(files):
        if at > start and (at - start >= CHUNK_FILES or size + file.size > CHUNK_BYTES):
            yield files[start:at]
            start, size = at, 0
        size += file.size
    if start < len(files):
        yield files[start:]
