"""Blocks of big files, read into memory that is used again and again.

A fresh megabyte for each block would cost more in page faults, taken by many threads at once, than
the copy into it. So blocks are lent by the feed's pool (`feed.buffers`), which takes one back when
nobody can see its bytes any more: neither the cache nor a reply.
"""

from __future__ import annotations

from lakefeed.errors import NotFound
from lakefeed.format.rows import Codec, Row
from lakefeed.lake.snapshot import Snapshot
from lakefeed.volume.base import ReadableFile

BLOCK_BYTES = 1 << 20
# More free memory than a reader gets blocks ahead is not worth keeping beside the cache.
FREE_BYTES = 32 * BLOCK_BYTES


def fill(block: memoryview, snapshot: Snapshot, row: Row, offset: int) -> memoryview:
    """Fill a block with part of a big file, as `Snapshot.read_row_range` reads it."""
    info = snapshot.state.packs.get(row.pack)
    end = 0 if info is None or row.codec is not Codec.NONE else info.sealed.payload_end
    if row.offset + row.length <= end:

        def read(file: ReadableFile) -> int:
            return file.read_into(row.offset + offset, [block])

        try:
            snapshot.read_pack(row.pack, read)
            return block
        except NotFound:
            pass  # compaction moved it, and the snapshot knows where to look
    block[:] = snapshot.read_row_range(row, offset, len(block))
    return block
