"""Where the bytes of a window go: every sample straight into its place in its batch.

A read that brings a stretch of a pack scatters it, with one call of the kernel: its samples lie in
several batches, and what lies between samples goes to a few pages that nobody looks at. No step
costs an object or a call for each sample: places are arrays, and the checksum of a stretch of a
batch is compared with what its samples' checksums add up to (`format.joining`). Only big samples
are verified one by one as they come, while they are in the processor's cache.

A sample is known by its number, its place in the window; a member is a sample in the order of the
reads.
"""

from __future__ import annotations

import bisect
import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lakefeed.feed.buffers import Bytes, Pool
from lakefeed.feed.reads import Reads
from lakefeed.feed.table import Rows
from lakefeed.format import payload
from lakefeed.format.checksum import crc32c
from lakefeed.format.joining import joined
from lakefeed.format.rows import Codec
from lakefeed.volume.lists import ReadList
from lakefeed.volume.pieces import Pieces

# Stands for an empty sample in place of one that is left out.
NOTHING = -1
# What lies between payloads is read into the same few pages again and again.
_BIN = np.zeros(16 << 10, np.uint8)
# Up to this mean size samples are verified by the batch: a call for each would cost as much as the
# bytes of small ones do, and a turn at the interpreter's lock for each of the others. In the first,
# small windows that does not matter, and the first batch comes sooner.
_SMALL_BYTES = 512 << 10
_WORTH_BYTES = 4 << 20
# Parts of a batch that are verified at once, each a turn at the interpreter's lock for them too; in
# one that is wrong every sample is looked at.
_STRETCH_BYTES = 8 << 20
_SAMPLE_BYTES_MAX = 1 << 20

Numbers = NDArray[np.int64]
Splits = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Stretches:
    """Samples [first[i], end[i]) lie one behind the other in one batch and have CRC crc32c[i]."""

    first: list[int]
    end: list[int]
    crc32c: list[int]


def stretches_of(rows: Rows, start: Numbers, batches: Numbers) -> Stretches:
    """Cut raw samples, which lie at `start` in the batches that begin with `batches`."""
    fresh = np.zeros(len(rows), np.bool_)
    fresh[1:] = np.diff(start // _STRETCH_BYTES) > 0
    fresh[batches[batches < len(rows)]] = True
    first = np.flatnonzero(fresh)
    checksums = np.where(rows.length > 0, rows.crc32c, np.uint32(0))
    sums = joined(checksums, start + rows.length, first)
    return Stretches(first.tolist(), [*first[1:].tolist(), len(rows)], sums.tolist())


class Places:
    """The places of a window's samples; compressed ones are read beside theirs and expanded.

    What overtook a straggler lies elsewhere, and a batch with such a sample is put together anew:
    the place that the straggler still writes to is given up. Safe for threads that do different
    reads or make different batches.
    """

    def __init__(self, rows: Rows, reads: Reads) -> None:
        self._rows = rows
        self._reads = reads
        self._any_packed = bool(rows.packed.any())
        length = rows.length
        self.by_batch = (
            not self._any_packed
            and _WORTH_BYTES <= int(length.sum()) <= _SMALL_BYTES * len(length)
            and int(length.max()) <= _SAMPLE_BYTES_MAX
        )
        self._which = self._start = np.zeros(0, np.int64)  # where each sample is in `_memory`
        self._memory: list[memoryview] = []  # of the batches, then of compressed samples
        self._batches: list[tuple[Bytes, Splits]] = []
        self._first: list[int] = []  # each batch's first sample, and the end
        self._moved: dict[int, memoryview] = {}  # what overtook a straggler, by sample
        self._pool: Pool | None = None

    @property
    def extra_bytes(self) -> int:
        """Memory needed beside the batches': compressed samples, held while they are expanded."""
        return int(self._rows.length[self._rows.packed].sum()) if self._any_packed else 0

    def open(self, pool: Pool, splits: list[int]) -> None:
        """Lend the buffers for batches of samples [splits[i], splits[i + 1])."""
        ends = np.concatenate([np.zeros(1, np.int64), np.cumsum(self._rows.size)])
        for first, last in itertools.pairwise(splits):
            dense = ends[first : last + 1] - ends[first]
            self._batches.append((pool.lend(int(dense[-1])), dense))
        edges = np.array(splits, np.int64)
        counts = np.diff(edges)
        which = np.repeat(np.arange(len(counts)), counts)
        start = ends[:-1] - np.repeat(ends[edges[:-1]], counts)
        buffers = [data for data, _ in self._batches]
        if self._any_packed:
            stored = np.where(self._rows.packed, self._rows.length, 0)
            which = np.where(self._rows.packed, len(buffers), which)
            start = np.where(self._rows.packed, np.cumsum(stored) - stored, start)
            buffers.append(np.empty(self.extra_bytes, np.uint8))
        self._which, self._start = which, start
        self._memory = [buffer.data for buffer in buffers]
        self._first, self._pool = splits, pool
        if self.by_batch:
            self._stretches = stretches_of(self._rows, self._start, edges[:-1])
        else:
            self._targets = self._brought(self._reads.order)
            self._expected: list[int] = self._rows.crc32c[self._reads.order].tolist()
        self._aim(buffers)

    def _aim(self, buffers: list[Bytes]) -> None:
        """List the reads with what they fill: members, and bins for what is between."""
        order, begin = self._reads.order, np.array(self._reads.start, np.int64)
        offset, length = self._rows.offset[order], self._rows.length[order]
        gap = np.zeros(len(order), np.int64)
        gap[1:] = offset[1:] - (offset + length)[:-1]
        gap[begin] = 0
        bins = -(-gap // len(_BIN))
        at = np.arange(len(order)) + np.cumsum(bins)  # where each member is among the pieces
        count = int(at[-1]) + 1 if len(at) else 0
        which = np.full(count, len(buffers), np.int64)
        start, size = np.zeros(count, np.int64), np.full(count, len(_BIN), np.int64)
        which[at], start[at], size[at] = self._which[order], self._start[order], length
        ragged = bins > 0
        size[at[ragged] - 1] = gap[ragged] - (bins[ragged] - 1) * len(_BIN)
        pieces = Pieces([*buffers, _BIN], which, start, size)
        edges, places = np.append(at[begin], count), np.array(self._reads.offset, np.int64)
        self.read_list = ReadList(pieces, edges, places)

    def accept(self, read: int, own: memoryview) -> None:
        """Take what a read brought into a buffer of its own; its places may still be written to by
        the straggler that it overtook."""
        for member in range(self._reads.start[read], self._reads.end[read]):
            at = int(self._reads.order[member])
            start = int(self._rows.offset[at]) - self._reads.offset[read]
            self._moved[at] = own[start : start + int(self._rows.length[at])]
            if not self.by_batch:
                self._targets[member] = self._moved[at]

    def _brought(self, samples: Numbers) -> list[memoryview]:
        """Return what reads brought for some samples, stored as it is."""
        start = self._start[samples]
        end = start + self._rows.length[samples]
        columns = (self._which[samples].tolist(), start.tolist(), end.tolist())
        memory = self._memory
        found = [memory[which][low:high] for which, low, high in zip(*columns, strict=True)]
        if self._moved:
            found = [self._moved.get(at, view)
                     for at, view in zip(samples.tolist(), found, strict=True)]  # fmt: skip
        return found

    def damaged(self, start: int, end: int) -> list[int]:
        """Return the samples of reads [start, end) to check: without their checksum, and compressed
        ones."""
        first, last = self._reads.start[start], self._reads.end[end - 1]
        if not self._any_packed:
            found = list(map(crc32c, self._targets[first:last]))
            if found == self._expected[first:last]:
                return []
        return self._suspicious(self._reads.order[first:last])

    def _suspicious(self, samples: Numbers) -> list[int]:
        samples = samples[self._rows.length[samples] > 0]  # `settle` sees to the empty ones
        found = np.array(list(map(crc32c, self._brought(samples))), np.uint32)
        wrong = found != self._rows.crc32c[samples]
        suspicious: list[int] = samples[wrong | self._rows.packed[samples]].tolist()
        return suspicious

    def damaged_in(self, number: int) -> list[int]:
        """Return the samples of a batch without their checksum."""
        first, last = self._first[number], self._first[number + 1]
        if not self._moved.keys().isdisjoint(range(first, last)):
            return self._suspicious(np.arange(first, last))
        (data, splits), sums = self._batches[number], self._stretches
        suspicious: list[int] = []
        low = bisect.bisect_left(sums.first, first)
        for at in range(low, bisect.bisect_left(sums.first, last)):
            start, end = sums.first[at], sums.end[at]
            begin, stop = splits[[start - first, end - first]].tolist()
            if crc32c(data[begin:stop]) != sums.crc32c[at]:
                suspicious += self._suspicious(np.arange(start, end))
        return suspicious

    def _place(self, at: int) -> memoryview:
        """Return the sample's place in its batch, or where it is instead."""
        moved = self._moved.get(at)
        if moved is not None and not self._rows.packed[at]:
            return moved
        number = bisect.bisect_right(self._first, at) - 1
        data, splits = self._batches[number]
        low, high = splits[at - self._first[number] : at - self._first[number] + 2].tolist()
        return data.data[low:high]

    def check(self, at: int, name: str, stored: bytes | None = None) -> None:
        """Expand a compressed sample into its place; raise Corrupt for what does not verify.

        `stored` is what to look at instead of what a read brought.
        """
        rows = self._rows
        if stored is None:
            (brought,) = self._brought(np.array([at]))
            stored = bytes(brought)
        codec = Codec.ZSTD if rows.packed[at] else Codec.NONE
        size, checksum = int(rows.size[at]), int(rows.crc32c[at])
        data = payload.decode(stored, size, codec, checksum, name)
        self.put(at, data)

    def put(self, at: int, data: bytes) -> None:
        """Give a sample its bytes, which are verified already."""
        self._place(at)[:] = data

    def gather(self, number: int, chosen: Numbers) -> tuple[Bytes, Splits]:
        """Return the dense bytes of a batch's chosen samples, and where each begins and ends."""
        data, splits = self._batches[number]
        first = self._first[number]
        complete = len(chosen) == len(splits) - 1 and (not len(chosen) or int(chosen.min()) >= 0)
        if complete and self._moved.keys().isdisjoint(range(first, first + len(chosen))):
            return data, splits
        pieces = [self._place(at) for at in chosen.tolist() if at != NOTHING]
        sizes = np.where(chosen == NOTHING, 0, self._rows.size[np.maximum(chosen, first)])
        dense = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        assert self._pool is not None
        whole = self._pool.lend(int(dense[-1]))
        whole[:] = np.frombuffer(b"".join(pieces), np.uint8)
        return whole, dense
