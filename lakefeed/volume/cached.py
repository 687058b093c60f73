"""A cache of file blocks on a local disk, shared by every process of a node, around any volume.

Which files may be cached says the caller: those that never change (I1), so that a block is right
for ever. A block is one file, named after its file's path, its size and its number. Nothing in the
cache is trusted and nothing in it can be half there: every 64 KiB of a block carry a checksum that
is compared on the way out (I7), and a block is written under a temporary name and appears by a
rename. One that is torn by a power cut, damaged or of another length is removed and fetched anew,
and so is one that was damaged before it came here, when whoever verifies its bytes says so
(`distrust`). Two processes that fetch one block at once do the work twice and no harm; threads of
one wait for each other (`fetches`).

When the cache nears its bound, blocks are removed until an eighth of it is free, chosen at random:
an epoch reads everything once, and for that any order of age keeps nothing at all. A local disk
that fails costs speed, never a read: the volume answers instead.
"""

from __future__ import annotations

import errno
import hashlib
import os
import random
import struct
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from itertools import groupby

from lakefeed.closing import Closing
from lakefeed.errors import Invalid, LakefeedError, NotFound
from lakefeed.forking import new_lock
from lakefeed.volume.around import AroundVolume
from lakefeed.volume.base import FileStat, ReadableFile, Volume
from lakefeed.volume.fetches import Fetches
from lakefeed.volume.lists import PlainReads
from lakefeed.volume.pieces import deal_out, total_bytes
from lakefeed.volume.posix import PosixVolume

PIECE_BYTES = 64 << 10
BLOCK_BYTES_MIN, BLOCK_BYTES_MAX = PIECE_BYTES, 16 << 20
_HEADER = struct.Struct("<4sIII")  # magic, block length, piece length, CRC of the table behind it
_MAGIC = b"LFB1"
# Recounting the blocks of 100 GiB takes some 50 ms, so each process does it once for every 128th
# of the bound it has written; eight processes then overshoot by a sixteenth, which is left free.
_RECOUNT_SHARE = 128
_FULL_SHARE, _KEPT_SHARE = 15 / 16, 7 / 8
_DIRECTORIES = 256
# What the process or its machine is out of says nothing about a block.
_OUT_OF = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})

Checksum = Callable[[memoryview], int]


def check_bounds(bytes_max: int, block_bytes: int) -> None:
    """Raise Invalid unless there can be a cache of this size, made of such blocks."""
    if not BLOCK_BYTES_MIN <= block_bytes <= BLOCK_BYTES_MAX or block_bytes % PIECE_BYTES:
        expected = f"a multiple of {PIECE_BYTES} up to {BLOCK_BYTES_MAX}"
        raise Invalid("cache block_bytes", expected=expected, found=block_bytes)
    if bytes_max < 16 * block_bytes:
        expected = f"at least 16 blocks of {block_bytes}"
        raise Invalid("cache bytes", expected=expected, found=bytes_max)


class BlockCache:
    """The blocks below one local directory. Safe for threads and processes."""

    def __init__(
        self, directory: str | os.PathLike[str], bytes_max: int, block_bytes: int, crc: Checksum
    ) -> None:
        check_bounds(bytes_max, block_bytes)
        self.block_bytes = block_bytes
        self.bytes_max = bytes_max
        # Bytes of a lake that others may not read have nothing else to guard them here.
        self._disk = PosixVolume(directory, root_mode=0o700)
        self._crc = crc
        self.fetches = Fetches()
        self._lock = new_lock()  # guards all below
        self._hits = 0
        self._misses = 0
        self._unusable = 0
        self._refused = 0
        self._filled_bytes = 0
        self._written_bytes = -1  # since the last count; -1: never counted

    def __reduce__(self) -> tuple[type[BlockCache], tuple[str, int, int, Checksum]]:
        return BlockCache, (self.name, self.bytes_max, self.block_bytes, self._crc)

    @property
    def name(self) -> str:
        """Where the cache is."""
        return self._disk.name

    def counts(self) -> tuple[int, int]:
        """Return how many blocks this object found, and how many were fetched for it."""
        with self._lock:
            return self._hits, self._misses

    @property
    def failures(self) -> int:
        """How often the local disk failed or held a damaged block."""
        return self._unusable

    @property
    def refused(self) -> int:
        """How many blocks the local disk did not take."""
        return self._refused

    @property
    def filled_bytes(self) -> int:
        """The most room that blocks took when they were counted, 0 before this object kept one.

        Making room does not lower it: a cache that was full once is full of what it chose to keep.
        """
        return self._filled_bytes

    def _name_of(self, path: str, block: int) -> str:
        # With its size: who cuts files into others would find each of them damaged, and drop it.
        digest = hashlib.blake2b(path.encode(), digest_size=16).hexdigest()
        return f"{digest[:2]}/{digest}.{block}.{self.block_bytes // PIECE_BYTES}"

    def find(self, path: str, block: int, length: int, into: memoryview, start: int) -> bool:
        """Fill `into` from `start` of a block that must have `length` bytes; False: not there."""
        name = self._name_of(path, block)
        found = False
        try:
            with self._disk.open(name) as file:
                found = self._read(file, length, into, start)
            if not found:
                self._drop(name)
        except NotFound:
            found = False
        except LakefeedError as error:
            if error.errno not in _OUT_OF:
                self._drop(name)
        with self._lock:
            self._hits += found
        return found

    def _read(self, file: ReadableFile, length: int, into: memoryview, start: int) -> bool:
        pieces = -(-length // PIECE_BYTES)
        head_bytes = _HEADER.size + 4 * pieces
        if file.size != head_bytes + length:
            return False
        first, end = start // PIECE_BYTES, -(-(start + len(into)) // PIECE_BYTES)
        head = memoryview(file.read_at(0, head_bytes))
        magic, block_length, piece_bytes, table_crc = _HEADER.unpack_from(head)
        table = head[_HEADER.size :]
        sound = (magic, block_length, piece_bytes) == (_MAGIC, length, PIECE_BYTES)
        if not sound or self._crc(table) != table_crc:
            return False
        low, high = first * PIECE_BYTES, min(end * PIECE_BYTES, length)
        data = into
        if (low, high) != (start, start + len(into)):
            data = memoryview(bytearray(high - low))
        file.read_into(head_bytes + low, [data])
        expected = struct.unpack_from(f"<{end - first}I", table, 4 * first)
        for piece, checksum in enumerate(expected):
            if self._crc(data[piece * PIECE_BYTES : (piece + 1) * PIECE_BYTES]) != checksum:
                return False
        if data is not into:
            into[:] = data[start - low : start - low + len(into)]
        return True

    def drop(self, path: str, block: int) -> None:
        """Remove a block whose bytes turned out to be damaged."""
        self._drop(self._name_of(path, block))

    def _drop(self, name: str) -> None:
        with self._lock:
            self._unusable += 1
        try:
            self._disk.unlink(name)
        except LakefeedError:
            return  # somebody else did, or the disk is sick: the block is not used either way

    def keep(self, path: str, block: int, data: memoryview) -> None:
        """Add a block; a disk that refuses it is counted and otherwise ignored."""
        with self._lock:
            self._misses += 1
        pieces = [data[at : at + PIECE_BYTES] for at in range(0, len(data), PIECE_BYTES)]
        table = struct.pack(f"<{len(pieces)}I", *map(self._crc, pieces))
        head = _HEADER.pack(_MAGIC, len(data), PIECE_BYTES, self._crc(memoryview(table)))
        name = self._name_of(path, block)
        temporary = f"{name}.{uuid.uuid4().hex}.tmp"
        try:
            with self._disk.create(temporary) as file:
                file.write([head, table, data])
            self._disk.replace(temporary, name)
        except NotFound:
            return  # whoever made room took it, as it may take any block
        except LakefeedError:
            with self._lock:
                self._refused += 1
            self._drop(temporary)
            return
        try:
            self._make_room(len(data))
        except LakefeedError:
            return  # the disk may take no more soon, and is counted then

    # -- the bound -------------------------------------------------------------------------------

    def _make_room(self, written_bytes: int) -> None:
        with self._lock:
            counted = self._written_bytes >= 0
            self._written_bytes = max(self._written_bytes, 0) + written_bytes
            if counted and self._written_bytes < self.bytes_max // _RECOUNT_SHARE:
                return
            self._written_bytes = 0
        names = list(self._names())
        # Blocks are counted as whole ones: most are, and asking for each size costs as much again.
        sizes = [self._whole_bytes(name) for name in names]
        filled_bytes = sum(sizes)
        with self._lock:
            self._filled_bytes = max(self._filled_bytes, filled_bytes)
        if filled_bytes <= self.bytes_max * _FULL_SHARE:
            return
        blocks = list(zip(names, sizes, strict=True))
        random.shuffle(blocks)
        for name, size in blocks:
            if filled_bytes <= self.bytes_max * _KEPT_SHARE:
                return
            filled_bytes -= size
            with suppress(NotFound):
                self._disk.unlink(name)

    def _whole_bytes(self, name: str) -> int:
        """Return what a block takes if it is whole, by its name; somebody else's file counts as one
        of ours."""
        words = name.split(".")
        told = len(words) > 2 and words[2].isdecimal()
        pieces = int(words[2]) if told else self.block_bytes // PIECE_BYTES
        return _HEADER.size + pieces * (PIECE_BYTES + 4)

    def _names(self) -> Iterator[str]:
        for number in range(_DIRECTORIES):
            directory = f"{number:02x}"
            try:
                entries = list(self._disk.list(directory))
            except NotFound:
                continue
            for entry in entries:
                yield f"{directory}/{entry.name}"

    def held_bytes(self) -> int:
        """Return the bytes of all blocks, by asking for the size of each."""
        total = 0
        for name in self._names():
            try:
                total += self._disk.stat(name).size
            except NotFound:
                continue
        return total


class CachedFile(PlainReads, Closing):
    """An open file whose blocks come from the cache where they are there."""

    def __init__(self, inner: ReadableFile, path: str, cache: BlockCache) -> None:
        self._inner = inner
        self._path = path
        self._cache = cache

    @property
    def size(self) -> int:
        """Bytes in the file when it was opened."""
        return self._inner.size

    def read_at(self, offset: int, length: int) -> bytes:
        """Return exactly `length` bytes at `offset`."""
        data = bytearray(length)
        self.read_into(offset, [memoryview(data)])
        return bytes(data)

    def read_into(self, offset: int, buffers: Sequence[memoryview]) -> int:
        """Fill the buffers in order from `offset`, wholly."""
        total = total_bytes(buffers)
        if offset < 0 or offset + total > self.size:
            return self._inner.read_into(offset, buffers)  # which says what is wrong
        one = buffers[0] if len(buffers) == 1 else memoryview(bytearray(total))
        self._fill(offset, one)
        if len(buffers) != 1:
            deal_out(one, buffers)
        return total

    def will_need(self, ranges: Sequence[tuple[int, int]]) -> bool:
        """Do nothing: what the cache lacks is fetched by the block, what it has lies near."""
        return False

    def _fill(self, offset: int, into: memoryview) -> None:
        """Take what the cache has; fetch each stretch of missing blocks with one read."""
        size, fetches = self._cache.block_bytes, self._cache.fetches
        missing: list[int] = []
        others: dict[int, threading.Event] = {}
        try:
            for block in range(offset // size, -(-(offset + len(into)) // size)):
                ended = fetches.of(self._path, block)
                if ended is None and not self._take(block, offset, into):
                    ended = fetches.begin(self._path, block)
                    if ended is None:
                        missing.append(block)
                if ended is not None:
                    others[block] = ended
            self._fetch_all(missing, offset, into)
        finally:
            fetches.end(self._path, missing)
        if others:
            fetches.wait(self._path, others)
            missing = [block for block in others if not self._take(block, offset, into)]
            self._fetch_all(missing, offset, into)

    def _take(self, block: int, offset: int, into: memoryview) -> bool:
        """Fill what a block holds of `into`, which begins at `offset`; False if it is not there."""
        size = self._cache.block_bytes
        low, high = max(offset, block * size), min(offset + len(into), (block + 1) * size)
        length = min(size, self.size - block * size)
        part = into[low - offset : high - offset]
        return self._cache.find(self._path, block, length, part, low - block * size)

    def _fetch_all(self, blocks: list[int], offset: int, into: memoryview) -> None:
        for _, stretch in groupby(enumerate(blocks), lambda at: at[1] - at[0]):
            self._fetch([block for _, block in stretch], offset, into)

    def _fetch(self, blocks: list[int], offset: int, into: memoryview) -> None:
        size = self._cache.block_bytes
        start, end = blocks[0] * size, min((blocks[-1] + 1) * size, self.size)
        data = memoryview(bytearray(end - start))
        self._inner.read_into(start, [data])
        for number, block in enumerate(blocks):
            self._cache.keep(self._path, block, data[number * size : (number + 1) * size])
        low, high = max(start, offset), min(end, offset + len(into))
        into[low - offset : high - offset] = data[low - start : high - start]

    def distrust(self, offset: int, length: int) -> bool:
        """Drop the blocks with these bytes: they were damaged when they came, and kept so."""
        size = self._cache.block_bytes
        for block in range(offset // size, -(-(offset + length) // size)):
            self._cache.drop(self._path, block)
        return True

    def stat(self) -> FileStat:
        """Return the facts of the open file, fresh from the server."""
        return self._inner.stat()

    def close(self) -> None:
        """Close the file. Works twice."""
        self._inner.close()


class CachedVolume(AroundVolume):
    """`inner`, of whose `chosen` files the blocks are kept in `cache` as they are read."""

    def __init__(self, inner: Volume, cache: BlockCache, chosen: Callable[[str], bool]) -> None:
        super().__init__(inner)
        self._cache = cache
        self._chosen = chosen

    def open(self, path: str) -> ReadableFile:
        """Open a file for reading, revalidated with the server."""
        file = self.inner.open(path)
        return CachedFile(file, path, self._cache) if self._chosen(path) else file
