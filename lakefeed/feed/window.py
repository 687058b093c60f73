"""A window: some batches in a row, from the plan of their reads to verified bytes in their places.

1. `Window` plans: where the samples are, which reads bring them, how much memory it takes.
2. `open` lends the buffers, once the budget has room for them.
3. `read` does some of the reads and verifies what came (I7), on any thread: reads write to
   disjoint places. What is damaged is read once more if it may have been a copy (V9).
4. `settle` brings what no read brought: empty payloads, and those whose pack is gone because
   compaction moved them, which the snapshot knows.
5. `batch` makes one batch.
"""

from __future__ import annotations

import bisect
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np

from lakefeed.errors import Corrupt, NotFound, VolumeFailed
from lakefeed.feed.assembly import NOTHING, Places
from lakefeed.feed.batch import Batch, Names
from lakefeed.feed.buffers import Pool
from lakefeed.feed.fetching import Patience
from lakefeed.feed.filling import labels_of, rows_of
from lakefeed.feed.moved import read_moved
from lakefeed.feed.planning import EMPTY, Draft
from lakefeed.feed.reads import plan_reads
from lakefeed.feed.selection import Selection
from lakefeed.feed.stats import Recorder
from lakefeed.lake.snapshot import Snapshot
from lakefeed.volume.base import ReadableFile
from lakefeed.volume.lists import QUEUES

# So long packs are opened to announce reads in them, one after the other. What takes longer is
# better done by threads, side by side, each for a read; once open, they are open to announcements.
_OPENING_SECONDS = 0.01
# Enough to tell whether nearly all of a window is in memory.
_SAMPLED_READS = 16
# So many packs are lent at once for reads that go to the kernel together: what is lent cannot be
# given up where the process has few descriptors.
_LENT_PACKS = 16
# What a batch takes beside its samples' bytes: its objects, and the page that its buffer ends in.
# Without it, batches of a few hundred bytes would be read ahead by the ten thousand.
_BATCH_BYTES = 4 << 10


_Answer = TypeVar("_Answer")


@dataclass(frozen=True, slots=True)
class Means:
    """What all windows of a feed work with. `skips`: damaged samples are left out; `fixed`: and
    leave an empty sample behind, because every batch has the same number of them."""

    snapshot: Snapshot
    selection: Selection
    pool: Pool
    patience: Patience
    recorder: Recorder
    skips: bool
    fixed: bool


@dataclass(frozen=True, slots=True)
class Tuning:
    """How to read: over gaps of so many bytes, in reads of so many; where `hedged`, a straggler may
    be overtaken, and whatever it still writes reaches nobody."""

    gap_bytes: int
    read_bytes: int
    hedged: bool


class Claim:
    """A read that may be under way twice: whoever comes first takes it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._taken = False

    def take(self) -> bool:
        """Return True to the first who asks."""
        with self._lock:
            mine, self._taken = not self._taken, True
            return mine


@dataclass(frozen=True, slots=True)
class _How:
    """Whether a read may be under way twice, and whether this is the second of the two."""

    claim: Claim | None
    second: bool

    def first(self) -> bool:
        """Tell whoever has read whether it counts."""
        return self.claim is None or self.claim.take()


class Window:
    """See the module. `read` may run on many threads, everything else on one at a time."""

    def __init__(self, means: Means, draft: Draft, tuning: Tuning) -> None:
        self.means = means
        self.draft = draft
        self.rows = means.patience.run(lambda: rows_of(means.selection, draft.numbers))
        self.reads = plan_reads(self.rows, tuning.gap_bytes, tuning.read_bytes)
        self.hedged = tuning.hedged
        self.batch_bytes = [
            int(self.rows.size[start:end].sum())
            for start, end in zip(draft.splits, draft.splits[1:], strict=False)
        ]
        self.held_bytes = [size + _BATCH_BYTES for size in self.batch_bytes]
        self._places = Places(self.rows, self.reads)
        self._lock = threading.Lock()  # guards the two below
        self._gone: set[int] = set()
        self._bad: dict[int, Corrupt | NotFound] = {}

    @property
    def extra_bytes(self) -> int:
        """Memory that is needed while reading, beside the batches' own."""
        return self._places.extra_bytes

    @property
    def needed_bytes(self) -> int:
        """All memory that the window takes until its first batch is taken."""
        return sum(self.held_bytes) + self.extra_bytes

    def open(self) -> None:
        """Lend the buffers."""
        self._places.open(self.means.pool, self.draft.splits)

    def announce(self, start: int, end: int) -> bool:
        """Have the volume fetch what reads [start, end) will ask for; False if it does not (V8)."""
        latest = time.perf_counter() + _OPENING_SECONDS
        for number, places in self.reads.ranges(start, end):
            pack = self.rows.packs[number]
            if time.perf_counter() > latest and not self.means.snapshot.has_open(pack):
                return False
            if not self._ask(pack, partial(_hint, places)):
                return False
        return True

    def cached_share(self, start: int, end: int) -> float | None:
        """Return which share of the bytes of reads [start, end) lies in the page cache, as far as
        some of them show; None where nobody tells."""
        step = -(-(end - start) // _SAMPLED_READS) or 1
        shares = [self._cached(read) for read in range(start, end, step)]
        known = [share for share in shares if share is not None]
        return sum(known) / len(known) if known else None

    def _cached(self, read: int) -> float | None:
        if not self.means.snapshot.has_open(self._pack_of(read)):
            return None
        places = [(self.reads.offset[read], self.reads.length[read])]
        return self._ask(self._pack_of(read), lambda file: file.cached_share(places))

    def _pack_of(self, read: int) -> str:
        return self.rows.packs[self.reads.pack[read]]

    def heard_and_counted(self) -> tuple[bool, bool]:
        """Tell whether the volume cares for announcements at all, and whether the kernel counts
        what its reads have it fetch."""
        if not len(self.reads):
            return False, False
        pack = self._pack_of(0)
        return self._ask(pack, lambda file: (file.will_need([]), file.counted)) or (False, False)

    def _ask(self, pack: str, question: Callable[[ReadableFile], _Answer]) -> _Answer | None:
        try:
            return self.means.snapshot.read_pack(pack, question)
        except (NotFound, VolumeFailed):
            return None  # the reads will hear of it

    def first_batch(self, start: int, end: int) -> int:
        """Return the first batch that needs one of reads [start, end)."""
        first, last = self.reads.start[start], self.reads.end[end - 1]
        return bisect.bisect_right(self.draft.splits, int(self.reads.order[first:last].min())) - 1

    # -- reading ---------------------------------------------------------------------------------

    def hedge_bytes(self, start: int, end: int) -> int:
        """Memory that overtaking reads [start, end) takes: what they bring, and a batch anew."""
        return sum(self.reads.length[start:end]) + max(self.batch_bytes, default=0)

    def read(
        self, start: int, end: int, claim: Claim | None = None, *, second: bool = False
    ) -> bool:
        """Do reads [start, end) and verify what they brought; False if somebody was faster.

        The `second` to do a read brings it into a buffer of its own.
        """
        seconds: list[float] = []
        cpu = time.thread_time()
        done = start
        if claim is None:
            done = self.means.patience.run(lambda: self._read_together(start, end, seconds))
        for first, last in self.reads.by_pack(done, end):
            if not self._read_pack(first, last, _How(claim, second), seconds):
                return False
        read_bytes = sum(self.reads.length[start:end])
        now = time.thread_time()
        self.means.recorder.fetched(seconds, read_bytes, max(0.0, sum(seconds) - (now - cpu)))
        if not self._places.by_batch:
            self._verify(lambda: self._places.damaged(start, end))
        return True

    def _read_together(self, start: int, end: int, seconds: list[float]) -> int:
        """Do reads of several packs with few calls; return how far that went. Whatever is in the
        way, the reads of each pack by themselves will meet and tell."""
        ranges = list(self.reads.by_pack(start, end))
        if len(ranges) < 2:
            return start
        for at in range(0, len(ranges), _LENT_PACKS):
            lent = ranges[at : at + _LENT_PACKS]
            start = self._read_lent(lent, seconds)
            if start < lent[-1][1]:
                break
        return start

    def _read_lent(self, ranges: list[tuple[int, int]], seconds: list[float]) -> int:
        snapshot, reads = self.means.snapshot, self._places.read_list
        start, end = ranges[0][0], ranges[-1][1]
        packs = [self._pack_of(first) for first, _ in ranges]
        if not all(map(snapshot.has_open, packs)):
            return start
        began = time.perf_counter()
        try:
            with ExitStack() as lent:
                for pack, (first, last) in zip(packs, ranges, strict=True):
                    descriptor = lent.enter_context(snapshot.use_pack(pack)).descriptor
                    if descriptor is None:
                        return start
                    reads.aim(descriptor, first, last)
                done = QUEUES.read(reads, start, end)
        except (NotFound, VolumeFailed):
            return start
        seconds.extend([(time.perf_counter() - began) / max(done, 1)] * done)
        return start + done

    def _read_pack(self, start: int, end: int, how: _How, seconds: list[float]) -> bool:
        """Do reads of one pack; those of a missing pack are left for `settle`."""

        def read_all(file: ReadableFile) -> bool:
            if how.second:
                return self._read_apart(file, start, how, seconds)
            began = time.perf_counter()
            file.read_list(self._places.read_list, start, end)
            each = (time.perf_counter() - began) / (end - start)
            seconds.extend([each] * (end - start))
            return how.first()

        means = self.means
        pack = self._pack_of(start)
        try:
            return means.patience.run(lambda: means.snapshot.read_pack(pack, read_all))
        except NotFound:
            if not how.first():
                return False
            first, last = self.reads.start[start], self.reads.end[end - 1]
            with self._lock:
                self._gone.update(self.reads.order[first:last].tolist())
            return True

    def _read_apart(self, file: ReadableFile, read: int, how: _How, seconds: list[float]) -> bool:
        """Read into a buffer of its own; what it brought counts if nobody was faster."""
        own = self.means.pool.lend(self.reads.length[read]).data
        began = time.perf_counter()
        file.read_into(self.reads.offset[read], [own])
        seconds.append(time.perf_counter() - began)
        if not how.first():
            return False
        self._places.accept(read, own)
        return True

    def _verify(self, find: Callable[[], list[int]]) -> None:
        began = time.perf_counter()
        damaged = {at: error for at in find() if (error := self._damage(at)) is not None}
        # All before any is read once more: they may lie in one block of a cache.
        copies = {at for at in damaged if self._ask_at(at, _distrust)}
        for at, error in damaged.items():
            stored = self._ask_at(at, _read) if at in copies else None
            still = error if stored is None else self._damage(at, stored)
            if still is not None:
                self._refuse(at, still)
        self.means.recorder.stage("verify", time.perf_counter() - began)

    def _damage(self, at: int, stored: bytes | None = None) -> Corrupt | None:
        """Look at a payload whose checksum did not agree, unless its pack is gone."""
        if at in self._gone:
            return None
        try:
            self._places.check(at, self._name(at), stored)
        except Corrupt as error:
            return error
        return None

    def _ask_at(
        self, at: int, question: Callable[[ReadableFile, int, int], _Answer]
    ) -> _Answer | None:
        """Ask the pack of a payload about its bytes; None if the pack is gone."""
        pack = self.rows.packs[int(self.rows.pack[at])]
        place = int(self.rows.offset[at]), int(self.rows.length[at])
        means = self.means
        try:
            return means.patience.run(
                lambda: means.snapshot.read_pack(pack, lambda file: question(file, *place))
            )
        except NotFound:
            return None

    def _refuse(self, at: int, error: Corrupt | NotFound) -> None:
        with self._lock:
            self._bad[at] = error

    def _name(self, at: int) -> str:
        number, means = self.draft.numbers[at : at + 1], self.means
        return str(means.patience.run(lambda: means.selection.paths(number))[0].as_py())

    # -- what no read brought --------------------------------------------------------------------

    def settle(self) -> None:
        """Check empty payloads, and fetch those whose pack is gone from where they are now."""
        rows = self.rows
        empty = (rows.length == 0) & (self.draft.numbers != EMPTY)
        wrong = empty & ((rows.size != 0) | (rows.crc32c != 0))
        for at in np.flatnonzero(wrong).tolist():
            error = self._damage(at)
            if error is not None:
                self._refuse(at, error)
        if self._gone:
            self.means.patience.run(self._fetch_moved)

    def _fetch_moved(self) -> None:
        gone = np.array(sorted(self._gone))
        paths = self.means.selection.paths(self.draft.numbers[gone])
        for row, found in read_moved(self.means.snapshot, paths, self.rows.size[gone]):
            at = int(gone[row])
            if isinstance(found, bytes):
                self._places.put(at, found)
            else:
                self._refuse(at, found)

    # -- batches ---------------------------------------------------------------------------------

    def batch(self, number: int) -> Batch:
        """Return a batch; Corrupt for one with a damaged payload, unless those are skipped, and
        NotFound for one whose payload is nowhere any more."""
        if self._places.by_batch:
            self._verify(lambda: self._places.damaged_in(number))
        began = time.perf_counter()
        start, end = self.draft.splits[number], self.draft.splits[number + 1]
        with self._lock:  # other batches are verified meanwhile
            bad = sorted(at for at in self._bad if start <= at < end)
        for at in bad:
            if not self.means.skips or isinstance(self._bad[at], NotFound):
                raise self._bad[at]
        batch = self._assembled(number, bad)
        self.means.recorder.stage("batch", time.perf_counter() - began)
        if bad:
            self.means.recorder.corrupt(len(bad))
        return batch

    def _assembled(self, number: int, bad: list[int]) -> Batch:
        draft, selection = self.draft, self.means.selection
        start, end = draft.splits[number], draft.splits[number + 1]
        chosen = np.arange(start, end)
        numbers, real, kept = draft.numbers[start:end], draft.real[number], None
        if bad and self.means.fixed:
            chosen[np.array(bad) - start] = NOTHING
            numbers = np.where(chosen == NOTHING, EMPTY, numbers)
        elif bad:
            chosen = np.setdiff1d(chosen, bad, assume_unique=True)
            kept = chosen - start
            numbers = draft.numbers[chosen]
            real -= sum(at - start < real for at in bad)
        data, splits = self._places.gather(number, chosen)
        labels = labels_of(selection, numbers)
        names = tuple(self._name(at) for at in bad)
        paths = Names(self.means.patience.beyond_closing(selection.paths), numbers)
        return Batch(labels, data, splits, draft.cursors[number], draft.epoch, draft.low[number],
                     real, paths, names, kept)  # fmt: skip


def _hint(places: list[tuple[int, int]], file: ReadableFile) -> bool:
    return file.will_need(places)


def _distrust(file: ReadableFile, offset: int, length: int) -> bool:
    return file.distrust(offset, length)


def _read(file: ReadableFile, offset: int, length: int) -> bytes:
    return file.read_at(offset, length)
