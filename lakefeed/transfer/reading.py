"""Blocks of neighbouring files, read in order and as wide as the source is slow.

A source that answers from memory is read by the caller's own thread: others would only fight for
the interpreter. Each file that takes longer justifies more threads, up to `threads_max`, so that a
filer's latency is hidden. A block is read into one buffer, taken from a pool and given back by the
caller, so read-ahead has a hard bound and costs no fresh memory; what does not fit becomes the next
block. Files above STREAM_BYTES are only looked at here; whoever takes the block streams them.

A file is read between two looks at its size and time. Where they differ it is read once more, and
reported if it changed again. Names are opened without following a last symlink, and without waiting
for the other end of a pipe that took a file's place.
"""

from __future__ import annotations

import errno
import os
import resource
import stat
import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from typing import NamedTuple

from lakefeed.forking import Lazy
from lakefeed.format.payload import Payload, encode
from lakefeed.format.rows import TIMES_NS, Codec, Kind
from lakefeed.transfer.problems import Problems

# Hides 3.2 ms a file at the 20,000 files/s that one interpreter handles on a busy machine. A
# smaller figure would take its own contention for latency, and answer it with more threads.
THREADS_MAX = 64
_FILE_SECONDS = 50e-6
_BYTE_SECONDS = 0.5e-9
# Below this a file comes from memory, or from a disk that one thread keeps busy.
_SLOW_SECONDS = 200e-6
STREAM_BYTES = 1 << 20
# One for each thread is all there ever is: 64 * 2 MiB and the few being written.
BUFFER_BYTES = 2 << 20
BLOCK_FILES = 64
# What a block should hold: little enough to be written while it still is in the processor's cache.
_BLOCK_BYTES = 384 << 10

_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
_NOTHING = encode(b"")


class Known(NamedTuple):
    """What the lake has of a path already."""

    kind: int
    size: int
    mtime_ns: int
    mode: int


class Wanted(NamedTuple):
    """A path to look at; left alone when it still is what the lake knows. It keeps `attrs`."""

    path: str
    kind: Kind
    known: Known | None
    attrs: dict[str, str] | None = None


class Item(NamedTuple):
    """A path as it was found; no payload where the file is too big to be held."""

    path: str
    kind: Kind
    size: int
    mtime_ns: int
    mode: int
    payload: Payload | None
    attrs: dict[str, str] | None = None


@dataclass(frozen=True)
class ReadOptions:
    """How files are read."""

    root: str
    codec: Codec = Codec.NONE
    follow_symlinks: bool = False
    dry_run: bool = False
    threads_max: int = THREADS_MAX

    @Lazy
    def flags(self) -> int:
        """Flags to open a source file with."""
        return _FLAGS if self.follow_symlinks else _FLAGS | os.O_NOFOLLOW


@dataclass(slots=True, eq=False)
class Block:
    """Neighbouring paths that one thread reads into one buffer; `rest` did not fit."""

    wanted: list[Wanted]
    items: list[Item] = field(default_factory=list)
    rest: list[Wanted] = field(default_factory=list)
    buffer: bytearray = field(default_factory=bytearray)
    bytes: int = 0
    skipped: int = 0
    seconds: float = 0.0
    waits: int = 0


class Changed(Exception):
    """A file was not the same before and after reading it."""


class _Full(Exception):
    """The block's buffer has no room for the next file."""


def read_block(block: Block, options: ReadOptions, problems: Problems) -> None:
    """Read a block's files until its buffer is full."""
    began = time.perf_counter()
    waits = resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw
    view = memoryview(block.buffer)
    for at, wanted in enumerate(block.wanted):
        try:
            item = _look(wanted, options, view[block.bytes :])
        except _Full:
            block.rest = block.wanted[at:]
            break
        except Changed:
            problems.add(wanted.path, "it changed each time it was read")
            continue
        except OSError as error:
            problems.add(wanted.path, _reason(error))
            continue
        if item is None:
            block.skipped += 1
            continue
        if item.mtime_ns not in TIMES_NS:
            problems.add(wanted.path, "its time cannot be kept: it is not between 1677 and 2262")
            continue
        block.items.append(item._replace(attrs=wanted.attrs) if wanted.attrs else item)
        if item.kind is Kind.FILE and item.payload is not None:
            block.bytes += item.size
    block.seconds = time.perf_counter() - began
    block.waits = resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw - waits


def _reason(error: OSError) -> OSError | str:
    return "it became a symbolic link" if error.errno == errno.ELOOP else error


def _look(wanted: Wanted, options: ReadOptions, room: memoryview) -> Item | None:
    """Return what a path holds now, None if the lake knows it already."""
    path, kind, known, _ = wanted
    full = f"{options.root}/{path}" if path else options.root
    if known is not None or kind is not Kind.FILE or options.dry_run:
        info = os.stat(full, follow_symlinks=options.follow_symlinks)
        if known == (kind, _size(info, kind), info.st_mtime_ns, stat.S_IMODE(info.st_mode)):
            return None
        if kind is not Kind.FILE or options.dry_run:
            return _plain(full, wanted, info, dry_run=options.dry_run)
    try:
        return _read(full, path, options, room)
    except Changed:
        return _read(full, path, options, room)
    except OSError as error:
        if error.errno != errno.ESTALE:
            raise
        return _read(full, path, options, room)


def _size(info: os.stat_result, kind: Kind) -> int:
    return 0 if kind is Kind.DIR else info.st_size


def _plain(full: str, wanted: Wanted, info: os.stat_result, *, dry_run: bool) -> Item:
    """Return a directory or a symlink, or what a dry run would import."""
    path, kind, *_ = wanted
    data = b""
    if kind is Kind.SYMLINK and not dry_run:
        data = os.fsencode(os.readlink(full))
    if kind is Kind.DIR and not stat.S_ISDIR(info.st_mode):
        raise NotADirectoryError(errno.ENOTDIR, "")
    payload = encode(data) if data else _NOTHING
    size = _size(info, kind)
    return Item(path, kind, size, info.st_mtime_ns, stat.S_IMODE(info.st_mode), payload)


def _read(full: str, path: str, options: ReadOptions, room: memoryview) -> Item:
    fd = os.open(full, options.flags)
    try:
        before = os.fstat(fd)
        mode, size, mtime_ns = before.st_mode, before.st_size, before.st_mtime_ns
        if not stat.S_ISREG(mode):
            raise Changed
        if size > STREAM_BYTES:
            return Item(path, Kind.FILE, size, mtime_ns, mode & 0o7777, None)
        # One byte more than promised: a full read then shows that the file has grown.
        if size >= len(room):
            raise _Full
        have = os.readv(fd, (room[: size + 1],))
        while have < size and (more := os.readv(fd, (room[have : size + 1],))):
            have += more
        after = os.fstat(fd)
        if have != size or after.st_size != size or after.st_mtime_ns != mtime_ns:
            raise Changed
    finally:
        os.close(fd)
    payload = encode(room[:size], options.codec)
    return Item(path, Kind.FILE, size, mtime_ns, mode & 0o7777, payload)


class Blocks:
    """Reads blocks and hands them out in order; `close` stops its threads.

    Iterated by one thread at a time, which also does the planning. `give_back` may be called from
    any thread; a deque's ends need no lock.
    """

    def __init__(self, wanted: Iterable[Wanted], options: ReadOptions, problems: Problems) -> None:
        self._wanted = iter(wanted)
        self._options = options
        self._problems = problems
        self._pool = ThreadPoolExecutor(THREADS_MAX, "lakefeed-import")
        self._buffers: deque[bytearray] = deque()
        self._width = 1
        self._files_each = BLOCK_FILES
        self._seconds_each = 0.0
        self._stopped = False

    def __iter__(self) -> Iterator[Block]:
        window: deque[tuple[Block, Future[None] | None]] = deque()
        while not self._stopped:
            while len(window) < self._width and (wanted := self._next_wanted()):
                window.append(self._begin(wanted))
            if not window:
                return
            block, future = window.popleft()
            if future is None:
                read_block(block, self._options, self._problems)
            else:
                future.result()
            self._adapt(block)
            if block.rest:
                window.appendleft(self._begin(block.rest))
            yield block

    def stop(self) -> None:
        """Hand out nothing more; blocks already taken stay valid."""
        self._stopped = True

    def give_back(self, block: Block) -> None:
        """Take a block's buffer for another one: nobody needs its payloads any more."""
        self._buffers.append(block.buffer)

    def close(self) -> None:
        """Stop and wait for the threads. Works twice."""
        self.stop()
        self._pool.shutdown(cancel_futures=True)

    def _next_wanted(self) -> list[Wanted]:
        return list(islice(self._wanted, self._files_each))

    def _begin(self, wanted: list[Wanted]) -> tuple[Block, Future[None] | None]:
        try:
            buffer = self._buffers.pop()
        except IndexError:
            buffer = bytearray(BUFFER_BYTES)
        block = Block(wanted, buffer=buffer)
        if self._width == 1:
            return block, None
        return block, self._pool.submit(read_block, block, self._options, self._problems)

    def _adapt(self, block: Block) -> None:
        """Let the time a file takes decide how many are read at once, and in blocks of how many.

        A busy machine makes every file slow, but only a slow source makes the thread wait for most
        of them, so that decides about the first additional thread. Waiting for the interpreter
        grows with the threads and divides out, so a source that turns fast brings the width down
        again; only true latency holds it up.
        """
        count = len(block.wanted) - len(block.rest)
        if not count:
            return
        bytes_each = block.bytes / count
        self._seconds_each += (block.seconds / count - self._seconds_each) * 0.2
        wanted = self._seconds_each / (_FILE_SECONDS + _BYTE_SECONDS * bytes_each)
        if self._width == 1 and (self._seconds_each < _SLOW_SECONDS or block.waits < count // 2):
            wanted = 1
        self._width = int(min(max(wanted, 1), self._options.threads_max))
        fitting = _BLOCK_BYTES / max(bytes_each, 1)
        self._files_each = int(min(max(fitting, 1), BLOCK_FILES))
