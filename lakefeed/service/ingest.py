"""One batch of an inbox: read, packed, committed once, then removed from the inbox.

1. A file that the lake holds already, byte for byte and with the same time, needs no commit: it is
   what a crash left behind. The lake's bytes are read for that; what is damaged there is committed
   anew. A file in whose way something stands in the lake is refused.
2. The packs are written, one for the small files, one for each big one; then the record of the
   batch (`records`). It names what is in the packs, or was in the lake, and nothing else: whoever
   recovers removes all of it. A crash before it leaves packs that nobody names, for `gc --orphans`.
3. The commit names inbox and batch. Its plan refuses (Conflict) when another replica committed a
   batch of this inbox since this one looked: then both may have read the same files, and the lease
   has most likely moved. So it does where the inbox's id was removed or made anew meanwhile. So
   every file is in one commit, whoever is slow, stopped or cut off.
4. The files are removed as far as they are still what was committed; the record goes last, once
   that is durable. It stays where one of them cannot be removed, so that none is ever taken again.

`recover` finishes what anybody left at any of these steps. Of a batch that is not in the log it
keeps the record until a commit of its own has shut the batch out (3.). A commit that is found in
the log, not made, is synced before its files are removed. Keeps I2 and I4. Blocking.
"""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import accumulate, groupby

from lakefeed.errors import Conflict, Corrupt, NotFound, VolumeFailed
from lakefeed.format.checksum import crc32c
from lakefeed.format.commit import Changes, Commit, State
from lakefeed.format.pack import Meta, PackSealed, PackWriter
from lakefeed.format.paths import parents
from lakefeed.format.rows import Kind
from lakefeed.lake import layout
from lakefeed.lake.lake import Lake
from lakefeed.lake.log import Draft
from lakefeed.lake.packing import discard_packs, new_pack
from lakefeed.lake.snapshot import Snapshot
from lakefeed.lake.view import pieces_of
from lakefeed.service.options import InboxOptions
from lakefeed.service.records import CLAIMS, Record, Records, claim_of, digest, sorted_files
from lakefeed.service.taking import (
    STREAM_BYTES,
    Moved,
    Taken,
    Unreadable,
    directory_of,
    opened,
    remove_files,
    settle_claim,
    stream,
)
from lakefeed.service.threads import Guard, Stopped
from lakefeed.service.waiting import Bad, Candidate, Left

OPERATION = "inbox"
# A record of a batch that is not in the log moves on when that has grown by so many commits.
_FAR = 1000
_logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Outcome:
    """What became of a batch. `done` may leave the inbox; `refused` can never be taken in, `left`
    cannot be read; `over` was taken in while the inbox was kept, and the lake no longer has it."""

    record: Record
    done: list[Candidate] = field(default_factory=list)
    refused: list[Bad] = field(default_factory=list)
    left: list[Left] = field(default_factory=list)
    over: list[Candidate] = field(default_factory=list)
    snapshot: int | None = None
    files: int = 0
    bytes: int = 0
    written_bytes: int = 0


class Ingest:
    """Commits the batches of one inbox to one lake. Used by one thread at a time."""

    def __init__(self, lake: Lake, options: InboxOptions, records: Records, guard: Guard) -> None:
        self._lake = lake
        self._options = options
        self._records = records
        self._guard = guard
        self._above = f"{options.prefix}/" if options.prefix else ""
        # Up to here every commit of this inbox is known.
        self._seen = 0
        # Batches that were not in the log, and the snapshot up to which it was looked for them.
        self._doubtful: dict[str, int] = {}
        # Batches that were found in the log, and whose records may stay for long.
        self._committed: set[str] = set()
        # Ids of other inboxes of the lake, or former ones of this.
        self._others: set[str] = set()
        # Files taken in while the inbox was kept, which it is no longer, and still there.
        self.formerly: frozenset[bytes] = frozenset()

    # -- recovery --------------------------------------------------------------------------------

    def recover(self) -> list[Candidate]:
        """Finish what was begun and not ended, by whomever.

        Return the files that are committed and cannot be removed: they must not be taken again.
        What is not in the log may be there yet, by a replica that is slow: its record stays until a
        commit of this one has made that impossible (`_forget_doubtful`).
        """
        head = self._lake.log.head()
        records = {record.batch: record for record in self._records.pending()}
        unknown = {*records} - self._committed
        looked = (max(records[batch].base, self._doubtful.get(batch, 0)) for batch in unknown)
        found = self._batches(min(looked, default=head.number), head.number)
        if found & unknown:
            self._make_durable()
        self._committed = {*records} & (self._committed | found)
        self._doubtful = dict.fromkeys({*records} - self._committed, head.number)
        stuck: list[Candidate] = []
        for batch, record in records.items():
            if batch in self._committed:
                stuck += self._settle(record)
            elif head.number - record.base > _FAR:
                # Nobody looks through all that again.
                self._records.begin(replace(record, base=head.number))
                self._records.forget(record)
        self._seen = head.number
        formerly = () if self._options.keep else self._records.taken()
        self.formerly = frozenset(digest(file) for record in formerly for file in record.files)
        return stuck

    def _batches(self, oldest: int, newest: int) -> set[str | None]:
        """Return the ids of the batches that were committed after `oldest`, up to `newest`."""
        commits = map(self._lake.log.read, range(oldest + 1, newest + 1))
        return {commit.app.get("batch") for commit in commits if commit.operation == OPERATION}

    def _make_durable(self) -> None:
        """Make the commits that the log shows outlive a power cut, before files are removed because
        of them: whoever made one may have died, or failed, between its link and this step."""
        self._lake.volume.sync_directory(layout.LOG)

    def _settle(self, record: Record) -> list[Candidate]:
        root = self._options.directory
        with opened(root) as root_fd, directory_of(root_fd, f"{CLAIMS}/") as claims_fd:
            inodes = {file.inode: file for file in record.files}
            for name in self._records.claims():
                batch, inode = claim_of(name) or ("", 0)
                file = inodes.get(inode)
                if batch == record.batch and file is not None:
                    try:
                        settle_claim(root_fd, claims_fd, name, file)
                    except OSError as error:
                        # Whoever finds the claim old moves it aside.
                        _logger.warning("a claimed file cannot be put back: %s", error)
        if self._options.keep:
            self._records.keep(record)
            return []
        files = sorted_files(record.files)
        failed = {left.path for left in remove_files(root, files, CLAIMS, record.batch)}
        if not failed:
            self._records.end(record)
        return [file for file in files if file.path in failed]

    # -- committing ------------------------------------------------------------------------------

    def commit(self, taken: Sequence[Taken]) -> Outcome:
        """Commit what was read and is not in the lake; nothing is removed yet.

        Conflict: another replica was at work, `recover` and look again. After any other error it is
        unknown whether the commit was made; `recover` finds out.
        """
        self._guard.check()
        snapshot = self._lake.snapshot()
        with suppress(NotFound):
            # A damaged commit is in every writer's way: Corrupt now, before packs are written.
            self._lake.log.read(snapshot.number + 1)
        outcome = Outcome(self._records.new(snapshot.number))
        fresh = self._fresh(sorted(taken, key=lambda one: one.file.path), outcome)
        packs: list[PackSealed] = []
        try:
            self._write(fresh, packs, outcome)
            outcome.record = replace(outcome.record, files=sorted_files(outcome.done))
            if packs:
                self._records.begin(outcome.record)
        except BaseException:
            self._drop(packs, outcome.record)
            raise
        if not packs:
            if outcome.done:
                self._make_durable()
            return outcome
        try:
            outcome.snapshot = self._seen = self._publish(packs, outcome).number
        except (Conflict, Stopped):
            # Raised by the plan alone. After anything else the commit may stand, and needs its
            # packs; then the record tells the next one.
            self._drop(packs, outcome.record)
            raise
        except (NotFound, VolumeFailed) as error:
            # A refusal (no room, no permission) is an answer, and will come again at each try.
            if not error.retryable and not self._is_made(outcome.record):
                self._drop(packs, outcome.record)
            raise
        self._forget_doubtful()
        return outcome

    def _forget_doubtful(self) -> None:
        """Drop the records of batches that were not in the log before a commit of this inbox: now
        they would be refused."""
        if self._doubtful:
            for record in self._records.pending():
                if record.batch in self._doubtful:
                    self._records.forget(record)
            self._doubtful.clear()

    def _is_made(self, record: Record) -> bool:
        return record.batch in self._batches(record.base, self._lake.log.head().number)

    def _drop(self, packs: list[PackSealed], record: Record) -> None:
        discard_packs(self._lake.volume, self._lake.log, packs)
        self._records.forget(record)

    def _fresh(self, taken: Sequence[Taken], outcome: Outcome) -> list[Taken]:
        """Return what has to be committed; note what is there already, and what cannot be."""
        snapshot = self._lake.snapshot(outcome.record.base)
        paths = [self._above + one.file.path for one in taken]
        table = snapshot.locate(paths, ("kind", "size", "mtime_ns", "crc32c", "seq"))
        columns = [table[name].to_pylist() for name in ("kind", "size", "mtime_ns", "crc32c")]
        refused = without_place(snapshot, paths, columns[0])
        fresh: list[Taken] = []
        same: list[Taken] = []
        for one, path, *known in zip(taken, paths, *columns, strict=True):
            if path in refused:
                outcome.refused.append(Bad(one.file.path, refused[path]))
            else:
                row = [Kind.FILE, one.file.size, one.file.mtime_ns]
                there = known[:3] == row and known[3] == self._checksum(one)
                if not there and digest(one.file) in self.formerly:
                    outcome.over.append(one.file)
                    continue
                (same if there else fresh).append(one)
        lost = [*self._lost(snapshot, same)]
        gone = {one.file.path for one in lost}
        outcome.done += [one.file for one in same if one.file.path not in gone]
        return sorted(fresh + lost, key=lambda one: one.file.path)

    def _lost(self, snapshot: Snapshot, same: Sequence[Taken]) -> Iterator[Taken]:
        """Yield the files of which the lake has a row, but no longer the bytes: what arrives may be
        what somebody restores them from."""
        for big in (one for one in same if one.payload is None):
            if not self._gives_back(snapshot, [big]):
                yield big
        small = [one for one in same if one.payload is not None]
        ends = accumulate(one.file.size for one in small)
        for _, group in groupby(zip(small, ends, strict=True), lambda at: at[1] // STREAM_BYTES):
            yield from self._lost_among(snapshot, [one for one, _ in group])

    def _lost_among(self, snapshot: Snapshot, small: list[Taken]) -> Iterator[Taken]:
        if self._gives_back(snapshot, small):
            return
        if len(small) == 1:
            yield small[0]
            return
        half = len(small) // 2
        yield from self._lost_among(snapshot, small[:half])
        yield from self._lost_among(snapshot, small[half:])

    def _gives_back(self, snapshot: Snapshot, some: Sequence[Taken]) -> bool:
        """Tell whether the lake has the bytes of one big file, or of some small ones; VolumeFailed
        where it may have them later."""
        paths = [self._above + one.file.path for one in some]
        self._guard.check()
        try:
            if some[0].payload is not None:
                snapshot.get_many(paths)
                return True
            for _ in pieces_of(snapshot, snapshot.stat(paths[0])):
                self._guard.check()
            return True
        except (Corrupt, NotFound, VolumeFailed) as error:
            if error.retryable and error.errno != errno.EIO:  # that may be a disk's bad sector
                raise
            if len(some) == 1:
                _logger.warning("taken in once more, the lake cannot give it back: %s", error)
            return False

    def _checksum(self, one: Taken) -> int:
        if one.payload is not None:
            return one.payload.crc32c
        checksum = 0
        try:
            with opened(self._options.directory) as root_fd:
                for piece in stream(root_fd, one.file, self._guard.check):
                    checksum = crc32c(piece, checksum)
        except Moved:
            return -1
        return checksum

    def _write(self, fresh: list[Taken], packs: list[PackSealed], outcome: Outcome) -> None:
        """Write the packs of a batch: a big file has its own."""
        volume, base = self._lake.volume, outcome.record.base
        for one in fresh:
            if one.payload is None:
                try:
                    packs.append(new_pack(volume, base, partial(self._add_big, one)))
                except Unreadable as error:
                    outcome.left.append(Left(one.file.path, str(error)))
                    continue
                except Moved:
                    continue  # it changed while it was read: the next walk sees it
                self._count(one, outcome)
        small = [one for one in fresh if one.payload is not None]
        if small:
            packs.append(new_pack(volume, base, partial(self._add_small, small)))
            for one in small:
                self._count(one, outcome)
        outcome.written_bytes = sum(pack.bytes for pack in packs)

    def _count(self, one: Taken, outcome: Outcome) -> None:
        outcome.done.append(one.file)
        outcome.files += 1
        outcome.bytes += one.file.size

    def _add_small(self, taken: list[Taken], writer: PackWriter, now_ns: int) -> None:
        for one in taken:
            assert one.payload is not None
            meta = Meta(one.file.mtime_ns, one.mode)
            writer.add(self._above + one.file.path, one.payload, meta)

    def _add_big(self, one: Taken, writer: PackWriter, now_ns: int) -> None:
        with opened(self._options.directory) as root_fd:
            pieces = stream(root_fd, one.file, self._guard.check)
            meta = Meta(one.file.mtime_ns, one.mode)
            writer.add_stream(self._above + one.file.path, pieces, meta)

    def _publish(self, packs: list[PackSealed], outcome: Outcome) -> State:
        app = {"inbox": self._records.id, "batch": outcome.record.batch}
        message = f"{outcome.files} files from {os.path.basename(self._options.directory)}"
        met: set[str] = set()

        def plan(state: State) -> Changes:
            self._guard.check()
            for number in range(self._seen + 1, state.number + 1):
                other = self._lake.log.read(number)
                if other.operation != OPERATION:
                    continue
                met.add(other.app.get("inbox", ""))
                if self._may_be_ours(other, packs):
                    raise Conflict(f"inbox {self._options.directory}", expected="no other replica",
                                   found=f"commit {number} of {other.author}")  # fmt: skip
            self._seen = state.number
            # Last: whoever made another id before the newest commit is noticed.
            self._records.check_id()
            return Changes(add_packs=tuple(packs))

        try:
            return self._lake.log.commit(Draft(OPERATION, message, app), plan)
        finally:
            self._others |= met - {self._records.id}

    def _may_be_ours(self, commit: Commit, packs: Sequence[PackSealed]) -> bool:
        """Tell whether a batch may be of this inbox: by its id, or of an id that was lost since.

        A replica that goes by a lost id finds that out before its next commit. So in doubt are the
        commits of an id that were made since this inbox looked, until it has looked once: those
        that have paths where these packs have.
        """
        inbox = commit.app.get("inbox", "")
        if inbox == self._records.id:
            return True
        return inbox not in self._others and any(
            theirs.first <= ours.last and ours.first <= theirs.last
            for theirs in commit.changes.add_packs
            for ours in packs
        )


def without_place(
    snapshot: Snapshot, paths: Sequence[str], kinds: Sequence[int | None]
) -> dict[str, str]:
    """Return why the lake has no place for some of these paths; `kinds` are those it has there."""
    above = sorted({directory for path in paths for directory in parents(path)})
    found = snapshot.locate(above, ("kind", "seq"))["kind"].to_pylist() if above else []
    files = {d for d, kind in zip(above, found, strict=True) if kind in (0, int(Kind.SYMLINK))}
    new = [path for path, kind in zip(paths, kinds, strict=True) if kind is None]
    directories = {*snapshot.directories(new)}
    refused: dict[str, str] = {}
    for path, kind in zip(paths, kinds, strict=True):
        blocked = next((d for d in parents(path) if d in files), None)
        if blocked is not None:
            refused[path] = f"in the lake {blocked!r} is a file"
        elif kind == Kind.DIR or path in directories:
            refused[path] = "in the lake this is a directory"
    return refused
