"""A volume in memory, with a power switch: for tests and for lakes that need not last.

It keeps two pictures of the tree: what a running machine sees, and what would be found after a
power cut. `sync` copies a file's bytes into the second picture, `sync_directory` its names.
`power_cut` returns a volume with the second picture only: bytes never synced are gone, names never
synced too. A closed file answers EBADF, as a descriptor does.

Keeps V1 to V7. The lock guards the dictionaries and the bytes; no call blocks under it.
"""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NoReturn

from lakefeed.closing import Closing
from lakefeed.errors import Conflict, Invalid, NotFound, VolumeFailed
from lakefeed.volume.base import Buffer, FileStat, Listed, Space
from lakefeed.volume.lists import PlainReads


class _Node:
    """A file's bytes apart from its names."""

    def __init__(self, mtime_ns: int) -> None:
        self.data = bytearray()
        self.durable = b""
        self.mtime_ns = mtime_ns
        self.links = 1

    def stat(self) -> FileStat:
        return FileStat(len(self.data), self.mtime_ns, self.mtime_ns, self.links)


class MemoryWritableFile(Closing):
    """A node being written."""

    def __init__(self, node: _Node, volume: MemoryVolume) -> None:
        self._node = node
        self._volume = volume
        self._closed = False

    def write(self, buffers: Sequence[Buffer]) -> int:
        """Append the buffers in order."""
        _check_open(self._closed, "write")
        return self._volume._append(self._node, buffers)

    def tell(self) -> int:
        """Return the bytes written so far."""
        return len(self._node.data)

    def stat(self) -> FileStat:
        """Return the facts of the file."""
        _check_open(self._closed, "stat")
        return self._node.stat()

    def sync(self) -> None:
        """Make the bytes survive `power_cut`."""
        _check_open(self._closed, "sync")
        self._node.durable = bytes(self._node.data)

    def close(self) -> None:
        """End the writing."""
        self._closed = True


class MemoryReadableFile(PlainReads, Closing):
    """A node being read; it stays readable after its name is gone, as on a local disk."""

    def __init__(self, node: _Node, path: str, lock: threading.Lock) -> None:
        self._node = node
        self._path = path
        self._size = len(node.data)
        self._lock = lock
        self._closed = False

    @property
    def size(self) -> int:
        """Bytes in the file when it was opened."""
        return self._size

    def read_at(self, offset: int, length: int) -> bytes:
        """Return exactly `length` bytes at `offset`."""
        _check_open(self._closed, f"read of {self._path} at {offset}")
        if offset < 0 or length < 0:
            raise VolumeFailed(f"read of {self._path} at {offset}", errno=errno.EINVAL)
        with self._lock, memoryview(self._node.data) as view:
            data = bytes(view[offset : offset + length])
        if len(data) != length:
            raise VolumeFailed(
                f"read of {self._path} at {offset}",
                expected=f"{length} bytes",
                found=f"{len(data)} bytes and the end of the file",
            )
        return data

    def read_into(self, offset: int, buffers: Sequence[memoryview]) -> int:
        """Fill the buffers in order from `offset`, wholly."""
        start = offset
        for buffer in buffers:
            buffer[:] = self.read_at(offset, buffer.nbytes)
            offset += buffer.nbytes
        return offset - start

    def will_need(self, ranges: Sequence[tuple[int, int]]) -> bool:
        """Do nothing: everything is here."""
        return False

    def stat(self) -> FileStat:
        """Return the facts of the file."""
        _check_open(self._closed, f"stat of {self._path}")
        return self._node.stat()

    def close(self) -> None:
        """End the reading."""
        self._closed = True


class MemoryVolume:
    """A tree of nodes; `capacity_bytes` makes a disk that can be full."""

    def __init__(
        self,
        name: str = "memory",
        *,
        capacity_bytes: int | None = None,
        clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._name = name
        self._capacity_bytes = capacity_bytes
        self._clock_ns = clock_ns
        self._lock = threading.Lock()
        self._names: dict[str, _Node] = {}
        self._durable_names: dict[str, _Node] = {}
        self._directories: set[str] = {""}

    @property
    def name(self) -> str:
        """The name it was given."""
        return self._name

    def __reduce__(self) -> NoReturn:
        raise Invalid(
            self._name,
            expected="a lake in a directory, to be opened by another process",
            hint="give the path of the lake, or start the workers by fork",
        )

    def power_cut(self) -> MemoryVolume:
        """Return the volume that a machine would find after losing power now."""
        after = MemoryVolume(
            self._name, capacity_bytes=self._capacity_bytes, clock_ns=self._clock_ns
        )
        with self._lock:
            after._directories = set(self._directories)
            copies: dict[int, _Node] = {}
            for path, node in self._durable_names.items():
                copy = copies.get(id(node))
                if copy is None:
                    copy = copies[id(node)] = _Node(node.mtime_ns)
                    copy.data = bytearray(node.durable)
                    copy.durable = node.durable
                    copy.links = 0
                copy.links += 1
                after._names[path] = after._durable_names[path] = copy
        return after

    def create(self, path: str) -> MemoryWritableFile:
        """Create a new file, its parent directories included."""
        self.make_directory(_parent(path))
        node = _Node(self._clock_ns())
        with self._lock:
            if path in self._names or path in self._directories:
                raise Conflict(f"create {path}", found="a file of that name already")
            self._names[path] = node
        return MemoryWritableFile(node, self)

    def _append(self, node: _Node, buffers: Sequence[Buffer]) -> int:
        total = sum(map(len, buffers))
        with self._lock:
            if self._capacity_bytes is not None and self._used() + total > self._capacity_bytes:
                raise VolumeFailed(f"write to {self._name}", found="full", errno=errno.ENOSPC)
            for buffer in buffers:
                node.data += buffer
            node.mtime_ns = self._clock_ns()
        return total

    def _used(self) -> int:
        nodes = {id(node): node for node in self._names.values()}
        return sum(len(node.data) for node in nodes.values())

    def open(self, path: str) -> MemoryReadableFile:
        """Open a file for reading."""
        with self._lock:
            return MemoryReadableFile(self._node(path), path, self._lock)

    def stat(self, path: str) -> FileStat:
        """Return the facts of a file."""
        with self._lock:
            node = self._node(path)
        return node.stat()

    def _node(self, path: str) -> _Node:
        node = self._names.get(path)
        if node is None:
            raise NotFound(f"{self._name}/{path}")
        return node

    def link(self, source: str, target: str) -> None:
        """Give a file an additional name."""
        with self._lock:
            node = self._node(source)
            self._check_directory(_parent(target))
            if target in self._names or target in self._directories:
                raise Conflict(f"link {target}", found="a file of that name already")
            self._names[target] = node
            node.links += 1

    def replace(self, source: str, target: str) -> None:
        """Rename over the target."""
        with self._lock:
            node = self._node(source)
            self._check_directory(_parent(target))
            old = self._names.get(target)
            if old is node:
                return  # two names of one file: rename(2) does nothing
            if old is not None:
                old.links -= 1
            self._names[target] = node
            del self._names[source]

    def unlink(self, path: str) -> None:
        """Remove a name."""
        with self._lock:
            self._node(path).links -= 1
            del self._names[path]

    def list(self, directory: str) -> Iterator[Listed]:
        """Yield the names in a directory."""
        with self._lock:
            self._check_directory(directory)
            found = [Listed(_base(p), False) for p in self._names if _parent(p) == directory]
            found += [
                Listed(_base(p), True) for p in self._directories if p and _parent(p) == directory
            ]
        yield from sorted(found, key=lambda entry: entry.name)

    def make_directory(self, path: str) -> None:
        """Make a directory and its parents."""
        with self._lock:
            while path:
                if path in self._names:
                    raise Conflict(f"mkdir {path}", found="a file of that name already")
                self._directories.add(path)
                path = _parent(path)

    def sync_directory(self, path: str) -> None:
        """Make the names in a directory survive `power_cut`, the missing ones as missing."""
        with self._lock:
            self._check_directory(path)
            for gone in [p for p in self._durable_names if _parent(p) == path]:
                if self._names.get(gone) is not self._durable_names[gone]:
                    del self._durable_names[gone]
            for name, node in self._names.items():
                if _parent(name) == path:
                    self._durable_names[name] = node

    def refresh(self, directory: str) -> None:
        """Nothing is cached here."""
        with self._lock:
            self._check_directory(directory)

    def _check_directory(self, path: str) -> None:
        if path not in self._directories:
            raise NotFound(f"{self._name}/{path}")

    def space(self) -> Space:
        """Return the room left."""
        with self._lock:
            used = self._used()
        total = self._capacity_bytes if self._capacity_bytes is not None else 1 << 62
        return Space(total, total - used)


def _check_open(closed: bool, subject: str) -> None:
    if closed:
        raise VolumeFailed(subject, found="a closed file", errno=errno.EBADF)


def _parent(path: str) -> str:
    return path.rpartition("/")[0]


def _base(path: str) -> str:
    return path.rpartition("/")[2]
