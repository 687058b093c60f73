"""From a window of samples to bytes in their places: planned together, read together, verified.

A window is the samples of the next few batches. Their extents are sorted by pack and offset and
merged across small gaps, so neighbours of different batches share a read; each read scatters its
payloads straight into the batches' buffers, the gaps between them into a bin. The first reads are
done inline to see how fast the volume answers, the rest inline too or on a pool wide enough to hide
a filer's latency. Every payload's checksum is compared before its batch leaves (I7).

A pack that is gone is no error yet: compaction may have moved its files, which the snapshot knows.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from lakefeed.errors import NotFound
from lakefeed.feed.selection import Samples, take_extents
from lakefeed.format import payload
from lakefeed.format.checksum import crc32c
from lakefeed.format.rows import Codec
from lakefeed.lake.reader import GAP_BYTES, plan_reads
from lakefeed.lake.snapshot import Snapshot
from lakefeed.volume.base import ReadableFile

THREADS = 32
# Reads done before deciding. They are slow if they take longer than a loaded machine needs to copy
# the same bytes out of its page cache: then waiting dominates, and threads help.
_TRIAL_READS = 16
_CALL_SECONDS = 200e-6
_COPY_BYTES_PER_SECOND = 500e6


class Loader:
    """Reads windows of one snapshot. Its pool starts on first need, in the process that needs it.

    `stopped` is asked between reads, so that closing a feed does not wait for a whole window.
    """

    def __init__(self, snapshot: Snapshot, stopped: Callable[[], bool]) -> None:
        self._snapshot = snapshot
        self._stopped = stopped
        self._pool: ThreadPoolExecutor | None = None

    def load(self, samples: Samples, places: Sequence[memoryview]) -> None:
        """Fill each sample's place with its verified bytes; nothing is promised once stopped."""
        job = _Job(self._snapshot, samples, places)
        began = time.perf_counter()
        trial = min(_TRIAL_READS, len(job))
        self._do(job, 0, trial)
        copying = _CALL_SECONDS * trial + job.first_bytes(trial) / _COPY_BYTES_PER_SECOND
        if time.perf_counter() - began > copying and len(job) > trial:
            self._spread(job, trial)
        else:
            self._do(job, trial, len(job))
        if not self._stopped():
            job.finish()

    def _do(self, job: _Job, start: int, end: int) -> None:
        for read in range(start, end):
            if self._stopped():
                return
            job.do(read)

    def _spread(self, job: _Job, start: int) -> None:
        if self._pool is None:
            self._pool = ThreadPoolExecutor(THREADS, "lakefeed-feed-read")
        share = max(1, min(64, (len(job) - start) // (THREADS * 4)))
        futures: list[Future[None]] = [
            self._pool.submit(self._do, job, first, min(first + share, len(job)))
            for first in range(start, len(job), share)
        ]
        try:
            for future in futures:
                future.result()
        finally:
            for future in futures:
                future.cancel()

    def close(self) -> None:
        """Stop the pool and wait for its threads. Works twice."""
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(cancel_futures=True)


class _Job:
    """One window: the reads of a job touch disjoint places, so threads need no lock for those."""

    def __init__(self, snapshot: Snapshot, samples: Samples, places: Sequence[memoryview]) -> None:
        extents = samples.extents
        # Empty payloads need no reading, and a row without bytes may name no pack.
        stored = np.flatnonzero(extents.length > 0)
        order, self._reads = plan_reads(take_extents(extents, stored))
        self._snapshot = snapshot
        self._samples = samples
        self._places = places
        self._order: list[int] = stored[order].tolist()
        self._offset: list[int] = extents.offset.tolist()
        self._length: list[int] = extents.length.tolist()
        self._crc32c: list[int] = extents.crc32c.tolist()
        self._raw = ((extents.codec == Codec.NONE) & (extents.length == extents.size)).tolist()
        self._bin = memoryview(bytearray(GAP_BYTES))
        self._lock = threading.Lock()  # guards _gone
        self._gone: list[int] = []

    def __len__(self) -> int:
        return len(self._reads)

    def first_bytes(self, reads: int) -> int:
        """Return how many bytes the first reads take, gaps included."""
        return sum(self._reads.length[:reads])

    def do(self, read: int) -> None:
        """Read and verify the payloads of one read."""
        reads = self._reads
        members = self._order[reads.start[read] : reads.end[read]]
        pack = self._samples.extents.packs[reads.pack[read]]
        stored = {at: self._target(at) for at in members}
        try:
            self._snapshot.read_pack(
                pack, lambda file: self._scatter(file, reads.offset[read], stored)
            )
        except NotFound:
            with self._lock:
                self._gone.extend(members)
            return
        for at, view in stored.items():
            self._verify(at, view)

    def _target(self, at: int) -> memoryview:
        """Where a payload is read to: its place, or beside it when it is compressed."""
        return self._places[at] if self._raw[at] else memoryview(bytearray(self._length[at]))

    def _scatter(self, file: ReadableFile, offset: int, stored: dict[int, memoryview]) -> None:
        buffers: list[memoryview] = []
        again = []
        end = offset
        for at, view in stored.items():
            gap = self._offset[at] - end
            if gap < 0:
                again.append(at)  # a copied file: its extent is another one's too
                continue
            buffers += [self._bin] * (gap // GAP_BYTES)
            if gap % GAP_BYTES:
                buffers.append(self._bin[: gap % GAP_BYTES])
            buffers.append(view)
            end = self._offset[at] + len(view)
        file.read_into(offset, buffers)
        for at in again:
            file.read_into(self._offset[at], [stored[at]])

    def _verify(self, at: int, stored: memoryview) -> None:
        # The common case inline: a call more for each sample is a tenth of its time.
        if not self._raw[at] or crc32c(stored) != self._crc32c[at]:
            self._places[at][:] = self._decode(at, bytes(stored))

    def _decode(self, at: int, stored: bytes) -> bytes:
        extents = self._samples.extents
        size, codec = int(extents.size[at]), int(extents.codec[at])
        return payload.decode(stored, size, codec, self._crc32c[at], self._samples.name(at))

    def finish(self) -> None:
        """Settle what no read brought: empty payloads, and those whose pack is gone."""
        for at in np.flatnonzero(self._samples.extents.length == 0).tolist():
            self._places[at][:] = self._decode(at, b"")
        if self._gone:
            found = self._snapshot.read_rows(self._samples.rows(self._gone))
            for at, data in zip(self._gone, found, strict=True):
                self._places[at][:] = data
