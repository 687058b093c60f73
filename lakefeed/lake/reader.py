"""Payload bytes for many extents: coalesced, parallel where that helps, verified.

`plan_reads` decides (pure): extents in (pack, offset) order, neighbours merged across small gaps
into reads of at most about 4 MiB. `Reader` does: a few reads inline to see how fast the volume
answers, the rest inline too if it answers from memory (threads would only contend for the
interpreter), or on a pool wide enough to hide a filer's latency. Each payload's checksum is
compared before the bytes leave (I7); a damaged one is read once more if it was maybe a copy (V9).
Results are in the order asked.
"""

from __future__ import annotations

import os
import time
from bisect import bisect_right
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import pyarrow as pa

from lakefeed.errors import Corrupt, NotFound
from lakefeed.forking import new_lock
from lakefeed.format import bridge, payload
from lakefeed.format.checksum import crc32c
from lakefeed.format.columns import MAGIC
from lakefeed.format.commit import State
from lakefeed.format.pack import row_bounds
from lakefeed.format.rows import Row
from lakefeed.lake import layout
from lakefeed.lake.files import OpenFiles
from lakefeed.volume.base import ReadableFile

# Reading a gap this small costs less than another call, even from the page cache (3 us a call,
# 10 GB/s); on a filer any gap below a megabyte would do, but then for more memory.
GAP_BYTES = 16 << 10
RUN_BYTES = 4 << 20
THREADS = 32
# Reads done before deciding, and the mean above which waiting dominates the interpreter's work.
_TRIAL_READS = 16
_SLOW_SECONDS = 200e-6

_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class Extents:
    """Where payloads are: parallel arrays, `pack` indexing into `packs`."""

    packs: list[str]
    pack: np.ndarray
    offset: np.ndarray
    length: np.ndarray
    size: np.ndarray
    codec: np.ndarray
    crc32c: np.ndarray

    def __len__(self) -> int:
        return len(self.pack)


def extents_of(table: pa.Table) -> Extents:
    """Return the extents of a memory table without nulls, in its order."""
    pack = table["pack"].unify_dictionaries().combine_chunks()
    codes = bridge.to_numpy(pack.indices)
    columns = {name: bridge.to_numpy(table[name]) for name in
               ("offset", "length", "size", "codec", "crc32c")}  # fmt: skip
    return Extents(pack.dictionary.to_pylist(), codes, **columns)


@dataclass(frozen=True, slots=True)
class Reads:
    """The reads that cover some extents: read i takes `length[i]` bytes of pack `pack[i]` from
    `offset[i]` and holds extents order[start[i]:end[i]]. Parallel lists, because thousands of small
    objects would cost more than the reads themselves."""

    pack: list[int]
    offset: list[int]
    length: list[int]
    start: list[int]
    end: list[int]

    def __len__(self) -> int:
        return len(self.pack)


def plan_reads(
    extents: Extents, gap_bytes: int = GAP_BYTES, run_bytes: int = RUN_BYTES
) -> tuple[np.ndarray, Reads]:
    """Return the order in which to visit the extents, and the reads that cover them."""
    order = np.lexsort((extents.offset, extents.pack))
    if not len(order):
        return order, Reads([], [], [], [], [])
    pack = extents.pack[order].astype(np.int64)
    offset = extents.offset[order].astype(np.int64)
    end = offset + extents.length[order].astype(np.int64)
    # Extents may overlap (copies of one payload), so a gap starts at the furthest end so far; the
    # packs are laid out one behind the other so that one pass serves them all.
    base = pack * (int(end.max()) + gap_bytes + 1)
    furthest = np.maximum.accumulate(base + end)
    starts = np.r_[True, base[1:] + offset[1:] - furthest[:-1] > gap_bytes]
    # A long chain of neighbours is cut where it crosses a multiple of `run_bytes` from its start.
    first = offset[np.flatnonzero(starts)][np.cumsum(starts) - 1]
    cell = (offset - first) // run_bytes
    starts[1:] |= cell[1:] != cell[:-1]
    begin = np.flatnonzero(starts)
    stop = np.maximum.reduceat(end, begin)
    columns = (
        pack[begin],
        offset[begin],
        stop - offset[begin],
        begin,
        np.r_[begin[1:], len(order)],
    )
    return order, Reads(*(column.tolist() for column in columns))


class Reader:
    """Reads payloads of one lake. Its pool starts on first need, in each process anew."""

    def __init__(self, files: OpenFiles) -> None:
        self._files = files
        self._lock = new_lock()
        self._pool: ThreadPoolExecutor | None = None
        self._pool_pid = 0

    def read(
        self, extents: Extents, name: Callable[[int], str], state: State
    ) -> tuple[list[bytes], list[int]]:
        """Return each extent's logical bytes, and the positions whose pack is gone.

        `name` gives an extent's path for messages. A gone pack's positions hold b"" and are for the
        caller to look up in a newer snapshot. Raises Corrupt or VolumeFailed for anything else.
        """
        check_bounds(extents, name, state)
        order, reads = plan_reads(extents)
        job = _Job(self._files, extents, name, order.tolist(), reads)
        trial = min(_TRIAL_READS, len(reads))
        began = time.perf_counter()
        job.do(0, trial)
        slow = time.perf_counter() - began > _SLOW_SECONDS * trial
        if slow and len(reads) > trial:
            self._spread(job, trial, len(reads))
        else:
            job.do(trial, len(reads))
        return job.results, job.gone

    def read_part(self, row: Row, offset: int, length: int, state: State) -> bytes:
        """Return bytes of a raw payload, unverified; NotFound if its pack is gone."""
        if row.pack in state.packs:
            end = state.packs[row.pack].sealed.payload_end
            row_bounds(row.offset, row.length, end, row.path)
        path = layout.pack_path(row.pack)
        return self._files.read(path, lambda file: file.read_at(row.offset + offset, length))

    def read_pack(self, pack: str, action: Callable[[ReadableFile], _Result]) -> _Result:
        """Return what `action` reads from a pack's open file; NotFound if the pack is gone.

        `action` runs again from its start when the file's handle went stale.
        """
        return self._files.read(layout.pack_path(pack), action)

    def use_pack(self, pack: str) -> AbstractContextManager[ReadableFile]:
        """Lend a pack's open file for the time of a block; NotFound if the pack is gone."""
        return self._files.use(layout.pack_path(pack))

    def is_open(self, pack: str) -> bool:
        """Tell whether reading a pack would not have to open it."""
        return self._files.is_open(layout.pack_path(pack))

    def _spread(self, job: _Job, start: int, end: int) -> None:
        pool = self._start_pool()
        share = max(1, min(64, (end - start) // (THREADS * 4)))
        futures: list[Future[None]] = [
            pool.submit(job.do, first, min(first + share, end))
            for first in range(start, end, share)
        ]
        try:
            for future in futures:
                future.result()
        finally:
            for future in futures:
                future.cancel()

    def _start_pool(self) -> ThreadPoolExecutor:
        with self._lock:
            if self._pool is None or self._pool_pid != os.getpid():
                self._pool = ThreadPoolExecutor(THREADS, "lakefeed-read")
                self._pool_pid = os.getpid()
            return self._pool

    def close(self) -> None:
        """Stop the pool. Works twice."""
        with self._lock:
            pool, self._pool = self._pool, None
        if pool is not None and self._pool_pid == os.getpid():
            pool.shutdown(cancel_futures=True)


def check_bounds(extents: Extents, name: Callable[[int], str], state: State) -> None:
    """Raise Corrupt unless each extent lies among the payloads of its pack."""
    infos = [state.packs.get(pack) for pack in extents.packs]
    known = np.array([info is not None for info in infos], bool)[extents.pack]
    limit = np.array([0 if info is None else info.sealed.payload_end for info in infos], np.uint64)
    end = limit[extents.pack]
    length, offset = extents.length, extents.offset
    outside = (length > end) | (offset > end - np.minimum(length, end)) | (offset < len(MAGIC))
    for at in np.flatnonzero(outside & known & (length > 0))[:1].tolist():
        row_bounds(int(offset[at]), int(length[at]), int(end[at]), name(at))


class _Job:
    """One call's inputs and results; the runs of a job touch disjoint positions."""

    def __init__(
        self,
        files: OpenFiles,
        extents: Extents,
        name: Callable[[int], str],
        order: list[int],
        reads: Reads,
    ) -> None:
        self._files = files
        self._packs = extents.packs
        self._name = name
        self._order = order
        self._reads = reads
        self._offset = extents.offset.tolist()
        self._length = extents.length.tolist()
        self._size = extents.size.tolist()
        self._codec = extents.codec.tolist()
        self._crc32c = extents.crc32c.tolist()
        self.results: list[bytes] = [b""] * len(order)
        self.gone: list[int] = []

    def do(self, start: int, end: int) -> None:
        """Read and verify the extents of reads [start, end)."""
        packs = self._reads.pack
        while start < end:
            pack = packs[start]
            # Reads are in pack order, so those of one pack lie together.
            stop = bisect_right(packs, pack, start, end)
            self._do_pack(layout.pack_path(self._packs[pack]), start, stop)
            start = stop

    def _do_pack(self, path: str, start: int, end: int) -> None:
        done = start

        def read_all(file: ReadableFile) -> None:
            nonlocal done
            # Locals and no calls: for small files this loop is most of the time of `get_many`.
            read_at, order, codec, checksum = file.read_at, self._order, self._codec, self._crc32c
            results, reads, size = self.results, self._reads, self._size
            columns = (reads.offset, reads.length, reads.start, reads.end)
            todo = zip(*(column[done:end] for column in columns), strict=True)
            for base, total, first, last in todo:
                data = read_at(base, total)
                at = order[first]
                alone = last - first == 1 and total == size[at]
                if alone and not codec[at] and crc32c(data) == checksum[at]:
                    results[at] = data
                else:
                    self._unpack(file, data, base, order[first:last])
                done += 1

        try:
            self._files.read(path, read_all)
        except NotFound:
            first, last = self._reads.start[done], self._reads.end[end - 1]
            self.gone.extend(self._order[first:last])

    def _unpack(self, file: ReadableFile, data: bytes, base: int, positions: Sequence[int]) -> None:
        for at in positions:
            start = self._offset[at] - base
            stored = data[start : start + self._length[at]]
            sound = len(stored) == self._size[at] and crc32c(stored) == self._crc32c[at]
            if self._codec[at] or not sound:
                stored = self._decoded(file, stored, at)
            self.results[at] = stored

    def _decoded(self, file: ReadableFile, stored: bytes, at: int) -> bytes:
        expected = (self._size[at], self._codec[at], self._crc32c[at], self._name(at))
        try:
            return payload.decode(stored, *expected)
        except Corrupt:
            offset, length = self._offset[at], self._length[at]
            if not file.distrust(offset, length):
                raise
        return payload.decode(file.read_at(offset, length), *expected)
