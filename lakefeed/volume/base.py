"""What lakefeed asks of a volume, and what a volume promises in return.

A volume is one directory tree with a handful of verbs. Paths are relative, '/'-separated names made
by `lakefeed.lake.layout`; a volume never sees names chosen by users.

The promises, which `tests/volume` checks on every implementation:

V1  `create` makes a new file or raises Conflict; two creators never share one file.
V2  After `sync()` of a file and `sync_directory()` of its parent, its bytes and its name survive
    a power cut.
V3  `link` gives a complete, synced file a second name, atomically, or raises Conflict when the name
    is taken. Any other error is ambiguous: the name may exist afterwards.
V4  `replace` moves a file over another name atomically; readers see the old bytes or the new.
V5  A file opened after its writer closed it shows what was written (close-to-open). A name is found
    by every client that calls `refresh` after `sync_directory` of its parent returned.
V6  `read_at` returns exactly what was asked or raises; a short file is VolumeFailed, never a short
    result. Readers are safe from any thread.
V7  Every failure is one of lakefeed's five errors. NotFound means that the name does not exist.
V8  `will_need` is a hint: bytes may come sooner, all of them at the same time, to whoever reads
    them next. It does not wait for them, changes nothing else, and never fails.
V9  After `distrust` said True, bytes come from further away than those that were read before.

Left to others: names (`lake.layout`), checksums (`format`), retries and ambiguity (`lake.log`).
"""

from __future__ import annotations

import errno
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from lakefeed.errors import Corrupt, VolumeFailed
from lakefeed.volume.lists import ReadList

Buffer = bytes | bytearray | memoryview  # a memoryview is of single bytes (format "B")

# A checkpoint of a million packs is below this; what is bigger is not one of ours, and its size,
# which a hole gives it for nothing, becomes no memory.
SMALL_FILE_BYTES_MAX = 1 << 30


@dataclass(frozen=True, slots=True)
class FileStat:
    """Facts about one file; the times are of the file server's clock, never the client's.

    `mtime_ns` is when its bytes were written, `changed_ns` when anything of it was. How old a file
    of somebody else is only `changed_ns` tells: an NFS server may keep the verifier of an exclusive
    CREATE in the mtime until the client has set it (RFC 1813, 3.3.8), so that for a moment a new
    file looks decades old.
    """

    size: int
    mtime_ns: int
    changed_ns: int
    links: int


@dataclass(frozen=True, slots=True)
class Listed:
    """One name in a directory listing. Listings may miss or repeat names under change (NFS)."""

    name: str
    is_directory: bool


@dataclass(frozen=True, slots=True)
class Space:
    """Room on the volume."""

    total_bytes: int
    free_bytes: int


class WritableFile(Protocol):
    """A new file being written front to back by one owner."""

    def write(self, buffers: Sequence[Buffer]) -> int:
        """Append the buffers in order and return the bytes written (all of them)."""

    def tell(self) -> int:
        """Return the bytes written so far."""

    def stat(self) -> FileStat:
        """Return the facts of the file as the server has them."""

    def sync(self) -> None:
        """Return once everything written is on stable storage (V2)."""

    def close(self) -> None:
        """Close the file; an error that the server reports only now is raised. Works twice."""

    def __enter__(self) -> WritableFile: ...

    def __exit__(self, *_: object) -> None: ...


class ReadableFile(Protocol):
    """An open file; `read_at` and `read_into` are safe from any thread until `close`."""

    @property
    def size(self) -> int:
        """Bytes in the file when it was opened."""

    def read_at(self, offset: int, length: int) -> bytes:
        """Return exactly `length` bytes at `offset` (V6)."""

    def read_into(self, offset: int, buffers: Sequence[memoryview]) -> int:
        """Fill the buffers in order from `offset`, wholly (V6); return the bytes read."""

    def read_list(self, reads: ReadList, start: int, end: int) -> None:
        """Do reads [start, end) of a list, each wholly (V6); after an error, any of them."""

    @property
    def descriptor(self) -> int | None:
        """By which the kernel reads these bytes together with those of other files (`lists`), as
        long as the file is open; None where something else has to see each read."""

    @property
    def counted(self) -> bool:
        """Whether the kernel counts what it fetches for a thread: `ru_inblock` of getrusage(2)."""

    def cached_share(self, ranges: Sequence[tuple[int, int]]) -> float | None:
        """Return which share of these bytes, each (offset, length), lies in memory already, or is
        being fetched; None where nobody tells."""

    def will_need(self, ranges: Sequence[tuple[int, int]]) -> bool:
        """Have these bytes, each (offset, length), fetched; False if nobody here does that (V8)."""

    def distrust(self, offset: int, length: int) -> bool:
        """Forget copies of these bytes, which turned out to be damaged; False if none are kept on
        the way here, so that reading them again brings nothing else (V9)."""

    def stat(self) -> FileStat:
        """Return the facts of the open file, fresh from the server."""

    def close(self) -> None:
        """Close the file. Works twice."""

    def __enter__(self) -> ReadableFile: ...

    def __exit__(self, *_: object) -> None: ...


@runtime_checkable
class Volume(Protocol):
    """One directory tree on a mounted volume."""

    @property
    def name(self) -> str:
        """Where the tree is, for messages."""

    def create(self, path: str) -> WritableFile:
        """Create a new file for writing, parent directories included; Conflict if it exists."""

    def open(self, path: str) -> ReadableFile:
        """Open a file for reading, revalidated with the server."""

    def stat(self, path: str) -> FileStat:
        """Return the facts of a file; on NFS they may be as old as the attribute cache allows."""

    def link(self, source: str, target: str) -> None:
        """Give `source` the additional name `target` (V3)."""

    def replace(self, source: str, target: str) -> None:
        """Rename `source` over `target` (V4). Only for tiny hint files and refs."""

    def unlink(self, path: str) -> None:
        """Remove a name; NotFound when there is none."""

    def list(self, directory: str) -> Iterator[Listed]:
        """Yield the names in a directory; NotFound when there is no such directory."""

    def make_directory(self, path: str) -> None:
        """Make a directory and its parents durably; an existing one is fine."""

    def sync_directory(self, path: str) -> None:
        """Make the names in a directory durable (V2) and known to whoever refreshes it (V5)."""

    def refresh(self, directory: str) -> None:
        """Forget cached misses below a directory, so that the next look-up asks the server."""

    def space(self) -> Space:
        """Return how much room is left."""


def read_file(volume: Volume, path: str) -> bytes:
    """Return the bytes of a small file, also if it is replaced meanwhile; Corrupt if it is none."""
    try:
        return _read_whole(volume, path)
    except VolumeFailed as error:
        if error.errno != errno.ESTALE:
            raise
    # Replaced by another client after it was opened: on NFS the old bytes are gone at once.
    volume.refresh(path.rpartition("/")[0])
    return _read_whole(volume, path)


def _read_whole(volume: Volume, path: str) -> bytes:
    with volume.open(path) as file:
        if file.size > SMALL_FILE_BYTES_MAX:
            expected = f"at most {SMALL_FILE_BYTES_MAX} bytes"
            raise Corrupt(f"{volume.name}/{path}", expected=expected, found=file.size)
        return file.read_at(0, file.size)


def write_file(volume: Volume, path: str, data: Buffer) -> None:
    """Create a file with these bytes and sync it; syncing the directory is left to the caller."""
    with volume.create(path) as file:
        file.write([data])
        file.sync()
