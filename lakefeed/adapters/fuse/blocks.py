"""Blocks of big files in memory that is used again and again.

A fresh megabyte for each block would cost more in page faults, taken by many threads at once, than
the copy into it. So a block's memory goes back to its pool when the last who holds the block lets
go of it: the cache by evicting it, a reply by being sent.
"""

from __future__ import annotations

import weakref
from collections import deque

from lakefeed.errors import NotFound
from lakefeed.format.rows import Codec, Row
from lakefeed.lake.snapshot import Snapshot
from lakefeed.volume.base import ReadableFile

BLOCK_BYTES = 1 << 20
# More free memory than a reader gets blocks ahead is not worth keeping.
FREE_MAX = 32


class Block:
    """Some bytes of a file; whoever uses `data` holds the block meanwhile."""

    __slots__ = ("__weakref__", "data")

    def __init__(self, data: memoryview) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(self.data)


class Pool:
    """Memory for blocks. A block is taken by the thread that sends replies, so never too early."""

    def __init__(self) -> None:
        self._free: deque[bytearray] = deque(maxlen=FREE_MAX)

    def take(self, length: int) -> Block:
        """Return a block of at most `BLOCK_BYTES`, with anything in it."""
        if length < BLOCK_BYTES:
            # The end of a file: a whole block for it would be more than the cache counts.
            return Block(memoryview(bytearray(length)))
        memory = self._free.pop() if self._free else bytearray(BLOCK_BYTES)
        block = Block(memoryview(memory))
        weakref.finalize(block, self._free.append, memory).atexit = False
        return block


def fill(block: Block, snapshot: Snapshot, row: Row, offset: int) -> Block:
    """Fill a block with part of a big file, as `Snapshot.read_row_range` reads it."""
    info = snapshot.state.packs.get(row.pack)
    end = 0 if info is None or row.codec is not Codec.NONE else info.sealed.payload_end
    if row.offset + row.length <= end:

        def read(file: ReadableFile) -> int:
            return file.read_into(row.offset + offset, [block.data])

        try:
            snapshot.read_pack(row.pack, read)
            return block
        except NotFound:
            pass  # compaction moved it, and the snapshot knows where to look
    block.data[:] = snapshot.read_row_range(row, offset, len(block))
    return block
