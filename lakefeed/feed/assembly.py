"""Where the bytes of a window go: straight into their batches, or into one buffer to gather from.

Both know for each read the buffers it fills, tell which payloads of it do not have their checksum,
and hand over a batch's bytes, dense. A sample number in here is its place in the window.
"""

from __future__ import annotations

import bisect
import itertools
from functools import cache
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from lakefeed.feed.buffers import Bytes, Pool
from lakefeed.feed.reads import Reads, Staging, plan_staging
from lakefeed.feed.table import Rows
from lakefeed.format import bridge, payload
from lakefeed.format.checksum import crc32c
from lakefeed.format.rows import Codec

# Stands for an empty sample in place of one that is left out.
NOTHING = -1
# What lies between payloads is read into the same few pages again and again.
_BIN = memoryview(bytearray(16 << 10))

# How long freed batches wait to be used again before they go back to the system: longer than any
# step. Fresh memory costs more in page faults than gathering a batch does.
_DECAY_MS = 60_000

Chosen = NDArray[np.int64]
Splits = NDArray[np.int64]


@cache
def _memory() -> pa.MemoryPool:
    """Return where gathered batches come from: jemalloc keeps what is freed, if it is there."""
    if "jemalloc" not in pa.supported_memory_backends():
        return pa.default_memory_pool()
    pa.jemalloc_set_decay_ms(_DECAY_MS)
    return pa.jemalloc_memory_pool()


class Placing(Protocol):
    """See the module; safe for threads that do different reads."""

    @property
    def extra_bytes(self) -> int:
        """Memory needed beside the batches' own."""

    def open(self, pool: Pool, splits: list[int]) -> None:
        """Lend the buffers for batches of samples [splits[i], splits[i + 1])."""

    def buffers(self, read: int) -> list[memoryview]:
        """Return what a read fills, in order."""

    def accept(self, read: int, own: memoryview) -> None:
        """Take what a read brought into a buffer of its own; its place may still be written to by
        the straggler that it overtook."""

    def damaged(self, start: int, end: int) -> list[int]:
        """Return the samples of reads [start, end) that must be checked one by one."""

    def check(self, at: int, name: str) -> None:
        """Bring a sample into order, or raise Corrupt naming it."""

    def put(self, at: int, data: bytes) -> None:
        """Give a sample its bytes, which are verified already."""

    def gather(self, number: int, chosen: Chosen) -> tuple[Bytes, Splits]:
        """Return the dense bytes of a batch's chosen samples, and where each begins and ends."""


class Direct:
    """Every sample has its place in its batch; compressed ones are read beside it.

    What overtook a straggler lies elsewhere, and a batch with such a sample is put together anew:
    the place that the straggler still writes to is given up.
    """

    def __init__(self, rows: Rows, reads: Reads) -> None:
        self._rows = rows
        self._reads = reads
        self._order: list[int] = reads.order.tolist()
        self._offset: list[int] = rows.offset[reads.order].tolist()
        self._length: list[int] = rows.length[reads.order].tolist()
        self._expected: list[int] = rows.crc32c[reads.order].tolist()
        self._any_packed = bool(rows.packed.any())
        self._stored: dict[int, memoryview] = {}
        self._places: list[memoryview] = []
        self._batches: list[tuple[Bytes, Splits]] = []
        self._first: list[int] = []
        self._moved: set[int] = set()
        self._pool: Pool | None = None

    @property
    def extra_bytes(self) -> int:
        """The stored bytes of compressed samples, held while they are expanded."""
        return int(self._rows.length[self._rows.packed].sum())

    def open(self, pool: Pool, splits: list[int]) -> None:
        """Lend a buffer for each batch."""
        places: list[memoryview] = []
        for start, end in itertools.pairwise(splits):
            dense = np.zeros(end - start + 1, np.int64)
            np.cumsum(self._rows.size[start:end], out=dense[1:])
            data = pool.lend(int(dense[-1]))
            whole, bounds = data.data, dense.tolist()
            places += [whole[a:b] for a, b in itertools.pairwise(bounds)]
            self._batches.append((data, dense))
        self._places = places
        self._first = splits
        self._pool = pool

    def buffers(self, read: int) -> list[memoryview]:
        """Return what a read fills, in order."""
        first, last = self._reads.start[read], self._reads.end[read]
        if last - first == 1 and not self._any_packed:
            return [self._places[self._order[first]]]
        buffers: list[memoryview] = []
        end = self._offset[first]
        for member in range(first, last):
            gap = self._offset[member] - end
            buffers += [_BIN] * (gap // len(_BIN))
            if gap % len(_BIN):
                buffers.append(_BIN[: gap % len(_BIN)])
            buffers.append(self._target(member))
            end = self._offset[member] + self._length[member]
        return buffers

    def _target(self, member: int) -> memoryview:
        at = self._order[member]
        if self._any_packed and self._rows.packed[at]:
            stored = self._stored.get(at)
            if stored is None:
                stored = self._stored[at] = memoryview(bytearray(self._length[member]))
            return stored
        return self._places[at]

    def accept(self, read: int, own: memoryview) -> None:
        """Show the samples of a read where they are now."""
        first, last = self._reads.start[read], self._reads.end[read]
        for member in range(first, last):
            at, start = self._order[member], self._offset[member] - self._offset[first]
            view = own[start : start + self._length[member]]
            if self._any_packed and self._rows.packed[at]:
                self._stored[at] = view
            else:
                self._places[at] = view
                self._moved.add(at)

    def damaged(self, start: int, end: int) -> list[int]:
        """Return the samples without their checksum, and the compressed ones."""
        first, last = self._reads.start[start], self._reads.end[end - 1]
        order, places = self._order, self._places
        found = list(map(crc32c, [places[at] for at in order[first:last]]))
        if found == self._expected[first:last] and not self._any_packed:
            return []
        return [
            order[member]
            for member, checksum in enumerate(found, first)
            if checksum != self._expected[member] or order[member] in self._stored
        ]

    def check(self, at: int, name: str) -> None:
        """Expand a compressed sample into its place; raise Corrupt for what does not verify."""
        rows = self._rows
        stored = self._stored.pop(at, None)
        raw = stored is None
        data = bytes(self._places[at] if stored is None else stored)
        if len(data) != rows.length[at]:
            data = b""
        codec = Codec.NONE if raw else Codec.ZSTD
        size, checksum = int(rows.size[at]), int(rows.crc32c[at])
        self._places[at][:] = payload.decode(data, size, codec, checksum, name)

    def put(self, at: int, data: bytes) -> None:
        """Give a sample its bytes, which are verified already."""
        self._stored.pop(at, None)
        self._places[at][:] = data

    def gather(self, number: int, chosen: Chosen) -> tuple[Bytes, Splits]:
        """Return the batch as it is, or without what is left out."""
        data, splits = self._batches[number]
        first = self._first[number]
        complete = len(chosen) == len(splits) - 1 and (not len(chosen) or int(chosen.min()) >= 0)
        if complete and self._moved.isdisjoint(range(first, first + len(chosen))):
            return data, splits
        pieces = [self._places[at] for at in chosen.tolist() if at != NOTHING]
        sizes = np.where(chosen == NOTHING, 0, self._rows.size[np.maximum(chosen, first)])
        dense = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        assert self._pool is not None
        whole = self._pool.lend(int(dense[-1]))
        whole[:] = np.frombuffer(b"".join(pieces), np.uint8)
        return whole, dense


class Staged:
    """Reads land one behind the other in one buffer; Arrow takes each batch out of it.

    What overtook a straggler stays where it is, and is copied over what Arrow took from the place
    that the straggler still writes to.
    """

    def __init__(self, rows: Rows, reads: Reads) -> None:
        self._rows = rows
        self._reads = reads
        self._plan: Staging = plan_staging(rows, reads)
        # The payloads and the gaps between them are the elements of one Arrow array: payload j is
        # element 2j, and behind the last one stands an element without bytes.
        members = len(reads.order)
        bounds = np.empty(2 * members + 1, np.int64)
        bounds[0:-1:2], bounds[1::2] = self._plan.starts, self._plan.ends
        bounds[-1] = self._plan.ends[-1] if members else 0
        self._bounds = bounds
        self._element = np.full(len(rows) + 1, 2 * members - 1, np.int64)
        self._element[reads.order] = 2 * np.arange(members)
        self._whole = memoryview(b"")
        self._moved: dict[int, memoryview] = {}  # what overtook a straggler, by read
        self._array: pa.Array = None

    @property
    def extra_bytes(self) -> int:
        """The staging buffer."""
        return self._plan.size

    def open(self, pool: Pool, splits: list[int]) -> None:
        """Lend the staging buffer; the batches' own come from Arrow."""
        data = pool.lend(self._plan.size)
        self._whole = data.data
        buffers = [None, pa.py_buffer(self._bounds), pa.py_buffer(data)]
        count = len(self._bounds) - 1
        self._array = pa.LargeBinaryArray.from_buffers(pa.large_binary(), count, buffers)

    def buffers(self, read: int) -> list[memoryview]:
        """Return what a read fills."""
        place = self._plan.places[read]
        return [self._whole[place : place + self._reads.length[read]]]

    def _brought(self, read: int) -> memoryview:
        """Return what a read brought, wherever it is."""
        moved = self._moved.get(read)
        return self.buffers(read)[0] if moved is None else moved

    def accept(self, read: int, own: memoryview) -> None:
        """Remember where a read's bytes are instead of in their place."""
        self._moved[read] = own

    def damaged(self, start: int, end: int) -> list[int]:
        """Return the samples without their checksum; most stretches need one look."""
        plan = self._plan
        damaged: list[int] = []
        for read in range(start, end):
            brought, place = self._brought(read), plan.places[read]
            for span in range(plan.span[read], plan.span[read + 1]):
                low, high = plan.low[span] - place, plan.high[span] - place
                if crc32c(brought[low:high]) != plan.crc32c[span]:
                    damaged += self._damaged_of(span)
        return damaged

    def _damaged_of(self, span: int) -> list[int]:
        member = self._plan.member
        last = member[span + 1] if span + 1 < len(member) else len(self._plan.starts)
        samples = self._reads.order[member[span] : last].tolist()
        return [at for at in samples if crc32c(self._view(at)) != self._rows.crc32c[at]]

    def _view(self, at: int) -> memoryview:
        element = int(self._element[at])
        start, end = int(self._bounds[element]), int(self._bounds[element + 1])
        if not self._moved:
            return self._whole[start:end]
        read = bisect.bisect_right(self._reads.start, element // 2) - 1
        place = self._plan.places[read]
        return self._brought(read)[start - place : end - place]

    def check(self, at: int, name: str) -> None:
        """Raise Corrupt for a sample that does not verify."""
        rows = self._rows
        checksum, size = int(rows.crc32c[at]), int(rows.size[at])
        payload.decode(bytes(self._view(at)), size, Codec.NONE, checksum, name)

    def put(self, at: int, data: bytes) -> None:
        """Give a sample its bytes, which are verified already."""
        self._view(at)[:] = data

    def gather(self, number: int, chosen: Chosen) -> tuple[Bytes, Splits]:
        """Copy the chosen samples out of the staging buffer."""
        elements = self._element[chosen]  # NOTHING is the last element, the one without bytes
        taken = pc.take(
            self._array, bridge.numbers(elements), boundscheck=False, memory_pool=_memory()
        )
        _, splits, data = taken.buffers()
        bounds = np.frombuffer(splits, np.int64)[: len(chosen) + 1]
        if data is None:
            return np.empty(0, np.uint8), bounds
        dense = np.frombuffer(data, np.uint8)[: int(bounds[-1])]
        return self._mended(dense, bounds, chosen) if self._moved else dense, bounds

    def _mended(self, dense: Bytes, bounds: Splits, chosen: Chosen) -> Bytes:
        """Return a batch with the samples of overtaken reads from where those brought them."""
        whole, edges = dense.copy(), bounds.tolist()
        for at, (start, end) in zip(chosen.tolist(), itertools.pairwise(edges), strict=True):
            if at != NOTHING and end > start:
                whole[start:end] = self._view(at)
        return whole
