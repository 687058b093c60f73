"""Bytes of committed files: verified, cached, read once for all who ask at the same time.

While the volume answers from memory, a read goes straight to it and is answered inline; caching
again what the kernel and the volume cache already would only cost. The volume's kernel is told what
will be wanted next (`ahead`). A payload that does not fit into one request is kept, because it was
fetched and verified whole. While the volume is slow:

- everything fetched is kept in one cache with a byte budget, shared by all handles;
- big raw files are read in blocks of `BLOCK_BYTES`; a sequential reader has the next blocks
  fetched ahead, more of them the longer it goes on;
- small files read in the order of their pack (an export, `tar`, one class of a data set) are
  fetched in runs of `BLOCK_BYTES`, many files a request;
- whoever asks for what is being fetched waits for it instead of fetching it too.

Keeps I7 for whole payloads, as `Snapshot` does; a part of a big raw file is what the volume gave.
Belongs to the trio thread; only the fetching itself may run elsewhere.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

import trio

from lakefeed.adapters.fuse.ahead import WAITED_SECONDS, Surroundings, advise
from lakefeed.adapters.fuse.blocks import BLOCK_BYTES, FREE_BYTES, fill
from lakefeed.adapters.fuse.pace import PATIENCE, SLOW_SECONDS, Pace
from lakefeed.errors import LakefeedError, NotFound
from lakefeed.feed.buffers import Pool
from lakefeed.format.checksum import crc32c
from lakefeed.format.rows import Codec, Row
from lakefeed.lake.snapshot import Snapshot, is_read_whole
from lakefeed.volume.base import ReadableFile

# A sequential reader gets at most so many blocks ahead: enough for 100 ms at 160 MB/s.
AHEAD_MAX = 16
# Streams remembered, and runs of small files kept, at a time.
STREAMS_MAX = 256
RUNS_MAX = 8
# So many small files in pack order make a run worth fetching, gaps up to this ignored.
RUN_STREAK = 4
RUN_GAP_BYTES = 64 << 10
# Key, object and table take 250 bytes for each payload in the cache: more than tiny ones have.
_ENTRY_BYTES_MIN = 512

Buffer = bytes | memoryview
_Key = tuple[str, int]
_Kept = TypeVar("_Kept", bytes, memoryview)


@dataclass(slots=True)
class CacheStats:
    """What the cache did; read by the metrics."""

    hits: int = 0
    misses: int = 0
    fetched_bytes: int = 0
    ahead_blocks: int = 0
    held_bytes: int = 0


@dataclass(slots=True)
class _Flight:
    done: trio.Event = field(default_factory=trio.Event)
    data: Any = None
    error: Exception | None = None


@dataclass(slots=True)
class _Stream:
    """A reader of one big file: where it will go on, and how far ahead to fetch."""

    expected: int = 0
    depth: int = 0
    fetched: int = 0


@dataclass(slots=True)
class _Run:
    """Neighbouring small payloads of a pack."""

    end: int = 0
    streak: int = 0
    start: int = 0
    data: bytes = b""


class Reads:
    """Reads files of snapshots; `start` runs a task in the background."""

    def __init__(self, pace: Pace, cache_bytes: int) -> None:
        self._pace = pace
        self._cache_bytes = cache_bytes
        self._cache: OrderedDict[_Key, Buffer] = OrderedDict()
        self._flights: dict[_Key, _Flight] = {}
        self._streams: OrderedDict[_Key, _Stream] = OrderedDict()
        self._runs: OrderedDict[str, _Run] = OrderedDict()
        self._pool = Pool(cache_bytes + FREE_BYTES)
        self._surroundings = Surroundings()
        self._memory = memoryview(bytearray(BLOCK_BYTES))
        self.start: Callable[..., Any] | None = None
        self.stats = CacheStats()

    async def read(self, snapshot: Snapshot, row: Row, offset: int, length: int) -> Buffer:
        """Return up to `length` bytes of a file from `offset`; fewer only at its end.

        What comes back is valid until the next call.
        """
        end = min(offset + length, row.size)
        if offset >= end:
            return b""
        is_whole = is_read_whole(row)
        at_once = end - offset == row.size if is_whole else not self._pace.slow
        if at_once and not self._pace.slow and end - offset <= BLOCK_BYTES:
            found = self._pace.here(end - offset, self._direct, snapshot, row, offset, end - offset)
            if found is not None:
                return found
        if is_whole:
            data = await self._whole(snapshot, row, keep=not at_once)
            return data if end - offset == len(data) else memoryview(data)[offset:end]
        is_random = end - offset < BLOCK_BYTES // 8 and not self._flows(row, offset)
        if is_random or not self._pace.slow:
            self._note(row, offset, end)
            self.stats.fetched_bytes += end - offset
            return await self._pace.call(snapshot.read_row_range, row, offset, end - offset)
        return await self._in_blocks(snapshot, row, offset, end)

    def _direct(self, snapshot: Snapshot, row: Row, offset: int, length: int) -> Buffer | None:
        """Read raw bytes that are in place into memory used again and again; None: not so simple.

        Fresh memory costs as much in page faults as the read itself. The bytes are valid until the
        next read, and the kernel has them before that, as nothing is awaited in between.
        """
        info = snapshot.state.packs.get(row.pack)
        end = 0 if info is None or row.codec is not Codec.NONE else info.sealed.payload_end
        if row.offset + row.length > end:
            return None
        view = self._memory[:length]
        ahead = (0, 0) if length == row.size else self._advice(row, offset, offset + length)

        def read(file: ReadableFile) -> None:
            if ahead[1]:
                advise(file, *ahead)
                file.read_into(row.offset + offset, [view])
                return
            began = time.perf_counter()
            file.read_into(row.offset + offset, [view])
            if length == row.size:
                waited = time.perf_counter() - began >= WAITED_SECONDS + length * PATIENCE
                advise(file, *self._around(row, end, waited=waited))

        try:
            snapshot.read_pack(row.pack, read)
        except NotFound:
            return None
        if length == row.size and crc32c(view) != row.crc32c:
            return None
        self.stats.misses += 1
        self.stats.fetched_bytes += length
        return view

    def _around(self, row: Row, end: int, *, waited: bool) -> tuple[int, int]:
        """Return what to fetch around a small payload: nothing if reading it did not have to wait.

        `end` is where the payloads of its pack end.
        """
        if waited:
            return self._surroundings.claim(row.pack, row.offset, row.length, end)
        self._surroundings.found()
        return 0, 0

    def _advice(self, row: Row, offset: int, end: int) -> tuple[int, int]:
        """Return what part of the pack a sequential reader will want next, if it is time to say."""
        stream = self._note(row, offset, end)
        advised = max(stream.fetched * BLOCK_BYTES, end)
        if not stream.depth or end + stream.depth // 2 * BLOCK_BYTES < advised:
            return 0, 0
        stop = min(end + stream.depth * BLOCK_BYTES, row.size)
        stream.fetched = -(-stop // BLOCK_BYTES)
        return row.offset + advised, row.offset + max(stop, advised)

    # -- whole payloads --------------------------------------------------------------------------

    async def _whole(self, snapshot: Snapshot, row: Row, *, keep: bool) -> bytes:
        key = (row.pack, row.offset)
        held = self._held(key)
        if held is not None:
            return cast(bytes, held)
        if not self._pace.slow:
            self.stats.fetched_bytes += row.length
            data = await self._pace.call(fetch_whole, snapshot, row)
        elif (found := await self._from_run(snapshot, row)) is not None:
            return found
        else:
            keep = True
            data = await self._whole_slowly(snapshot, row)
        if keep:
            self._keep(key, data)
        return data

    async def _whole_slowly(self, snapshot: Snapshot, row: Row) -> bytes:
        began = time.perf_counter()
        data = await self._once((row.pack, row.offset), row.length, fetch_whole, snapshot, row)
        waited = time.perf_counter() - began >= SLOW_SECONDS
        info = snapshot.state.packs.get(row.pack)
        if info is None or row.length > BLOCK_BYTES:
            return data
        start, stop = self._around(row, info.sealed.payload_end, waited=waited)
        if start < stop:
            # Where compaction took the pack there is nothing to read ahead in.
            with suppress(NotFound):
                snapshot.read_pack(row.pack, lambda file: advise(file, start, stop))
        return data

    async def _from_run(self, snapshot: Snapshot, row: Row) -> bytes | None:
        """Return a small payload out of a run of neighbours, if it is read in pack order."""
        run = self._runs.get(row.pack)
        if run is None:
            run = self._runs[row.pack] = _Run()
            while len(self._runs) > RUNS_MAX:
                self._runs.popitem(last=False)
        self._runs.move_to_end(row.pack)
        near = 0 <= row.offset - run.end <= RUN_GAP_BYTES
        run.streak = run.streak + 1 if near else 0
        run.end = row.offset + row.length
        if row.codec is not Codec.NONE or row.length > BLOCK_BYTES // 8:
            return None
        if not run.start <= row.offset <= run.end <= run.start + len(run.data):
            if run.streak < RUN_STREAK:
                return None
            await self._fetch_run(snapshot, row, run)
        at = row.offset - run.start
        data = run.data[at : at + row.length]
        return data if len(data) == row.length and crc32c(data) == row.crc32c else None

    async def _fetch_run(self, snapshot: Snapshot, row: Row, run: _Run) -> None:
        info = snapshot.state.packs.get(row.pack)
        if info is None:
            return
        length = min(BLOCK_BYTES, info.sealed.payload_end - row.offset)
        try:
            data = await self._once(
                (f"run {row.pack}", row.offset), length, fetch_run, snapshot, row, length
            )
        except NotFound:
            return  # compaction moved the payloads; each is found by itself
        run.start, run.data = row.offset, data

    # -- blocks of big files ---------------------------------------------------------------------

    def _flows(self, row: Row, offset: int) -> bool:
        stream = self._streams.get((row.pack, row.offset))
        return stream is not None and stream.expected == offset and stream.depth > 0

    def _note(self, row: Row, offset: int, end: int) -> _Stream:
        key = (row.pack, row.offset)
        stream = self._streams.get(key)
        if stream is None:
            stream = self._streams[key] = _Stream()
            while len(self._streams) > STREAMS_MAX:
                self._streams.popitem(last=False)
        self._streams.move_to_end(key)
        if offset == stream.expected:
            stream.depth = min(max(stream.depth * 2, 2), AHEAD_MAX)
        # The kernel sends the requests of one read-ahead together, in any order.
        elif abs(offset - stream.expected) > 4 * BLOCK_BYTES:
            stream.depth = 0
            stream.fetched = 0
        stream.expected = max(end, stream.expected) if stream.depth else end
        return stream

    async def _in_blocks(self, snapshot: Snapshot, row: Row, offset: int, end: int) -> Buffer:
        stream = self._note(row, offset, end)
        first, last = offset // BLOCK_BYTES, (end - 1) // BLOCK_BYTES
        self._fetch_ahead(snapshot, row, last + 1, stream)
        parts: list[memoryview] = []
        for number in range(first, last + 1):
            block = await self._block(snapshot, row, number)
            base = number * BLOCK_BYTES
            parts.append(block[max(offset - base, 0) : end - base])
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _fetch_ahead(self, snapshot: Snapshot, row: Row, start: int, stream: _Stream) -> None:
        stop = min(start + stream.depth, -(-row.size // BLOCK_BYTES))
        budget = self._cache_bytes // 2 // BLOCK_BYTES
        for number in range(max(start, stream.fetched), min(stop, start + budget)):
            key = self._block_key(row, number)
            if key not in self._cache and key not in self._flights and self.start is not None:
                self.stats.ahead_blocks += 1
                self.start(self._ahead, snapshot, row, number)
            stream.fetched = number + 1

    async def _ahead(self, snapshot: Snapshot, row: Row, number: int) -> None:
        try:
            await self._block(snapshot, row, number)
        except LakefeedError:
            return  # whoever needs this block asks again and hears of it

    def _block_key(self, row: Row, number: int) -> _Key:
        return f"block {row.pack} {row.offset}", number

    async def _block(self, snapshot: Snapshot, row: Row, number: int) -> memoryview:
        key = self._block_key(row, number)
        held = self._held(key)
        if held is not None:
            return cast(memoryview, held)
        base = number * BLOCK_BYTES
        length = min(BLOCK_BYTES, row.size - base)
        memory = self._pool.lend(length).data
        block = await self._once(key, length, fill, memory, snapshot, row, base)
        self._keep(key, block)
        return block

    # -- the cache -------------------------------------------------------------------------------

    def _held(self, key: _Key) -> Buffer | None:
        held = self._cache.get(key)
        if held is None:
            self.stats.misses += 1
        else:
            self._cache.move_to_end(key)
            self.stats.hits += 1
        return held

    async def _once(self, key: _Key, length: int, action: Callable[..., _Kept], *of: Any) -> _Kept:
        """Fetch, or wait for who is fetching the same."""
        flight = self._flights.get(key)
        if flight is not None:
            await flight.done.wait()
            if flight.data is not None:
                return cast(_Kept, flight.data)
            if flight.error is not None:
                raise flight.error
        flight = self._flights[key] = _Flight()
        try:
            # Small payloads are all about waiting: whatever they take counts.
            size = length if length >= BLOCK_BYTES // 8 else 0
            data: _Kept = await self._pace.call(action, *of, size_bytes=size)
            flight.data = data
            self.stats.fetched_bytes += length
            return data
        except Exception as error:
            flight.error = error
            raise
        finally:
            del self._flights[key]
            flight.done.set()

    def _keep(self, key: _Key, data: Buffer) -> None:
        if len(data) > self._cache_bytes or key in self._cache:
            return
        self._cache[key] = data
        self.stats.held_bytes += _size(data)
        while self.stats.held_bytes > self._cache_bytes:
            _, old = self._cache.popitem(last=False)
            self.stats.held_bytes -= _size(old)


def _size(data: Buffer) -> int:
    """Return what data takes in the cache."""
    return max(len(data), _ENTRY_BYTES_MIN)


def fetch_whole(snapshot: Snapshot, row: Row) -> bytes:
    """Return a file's verified bytes; one positional read for a raw payload that is in place."""
    info = snapshot.state.packs.get(row.pack)
    end = 0 if info is None or row.codec is not Codec.NONE else info.sealed.payload_end
    if row.offset + row.length <= end:
        try:
            data = snapshot.read_pack(row.pack, lambda file: file.read_at(row.offset, row.length))
        except NotFound:
            return snapshot.read_row(row)
        if crc32c(data) == row.crc32c:
            return data
    # Compressed, moved by compaction, or damaged: the snapshot knows what to do and what to say.
    return snapshot.read_row(row)


def fetch_run(snapshot: Snapshot, row: Row, length: int) -> bytes:
    """Return `length` raw bytes of a pack from where a payload starts."""
    return snapshot.read_pack(row.pack, lambda file: file.read_at(row.offset, length))
