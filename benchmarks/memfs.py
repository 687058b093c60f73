"""A FUSE filesystem that does nothing: the ceiling that pyfuse3 sets for every one written with it.

It mirrors the names and sizes of a directory, keeps them in dictionaries, and answers every read
with a slice of one buffer; what is written to it is kept in memory. Time-outs, kept pages and
read-ahead are those of `lakefeed mount`; the loop is pyfuse3's own.

    python -m benchmarks.memfs SOURCE MOUNTPOINT [rw]
"""

from __future__ import annotations

import errno
import os
import stat
import sys
import time
from typing import Any

import pyfuse3
import trio

BUFFER = memoryview(bytes(64 << 20))
FOREVER = 365 * 86400.0


class Entry:
    """A file or directory."""

    __slots__ = ("children", "data", "mode", "size")

    def __init__(self, mode: int, size: int) -> None:
        self.mode = mode
        self.size = size
        self.children: dict[bytes, int] = {}
        self.data: bytearray | None = None


class Memory(pyfuse3.Operations):
    """Everything in dictionaries."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.entries: dict[int, Entry] = {}
        self.now_ns = time.time_ns()
        self._mirror(source)

    def _add(self, mode: int, size: int) -> int:
        ino = len(self.entries) + 1
        self.entries[ino] = Entry(mode, size)
        return ino

    def _mirror(self, path: str) -> int:
        ino = self._add(stat.S_IFDIR | 0o755, 0)
        with os.scandir(path) as found:
            for item in found:
                if item.is_dir(follow_symlinks=False):
                    child = self._mirror(item.path)
                else:
                    child = self._add(
                        stat.S_IFREG | 0o644, item.stat(follow_symlinks=False).st_size
                    )
                self.entries[ino].children[item.name.encode()] = child
        return ino

    def _attributes(self, ino: int) -> pyfuse3.EntryAttributes:
        entry = self.entries[ino]
        attr = pyfuse3.EntryAttributes()
        attr.st_ino = ino
        attr.st_mode = entry.mode
        attr.st_size = entry.size
        attr.st_mtime_ns = attr.st_atime_ns = attr.st_ctime_ns = self.now_ns
        attr.entry_timeout = attr.attr_timeout = FOREVER
        return attr

    async def lookup(self, parent: int, name: bytes, ctx: Any) -> pyfuse3.EntryAttributes:
        ino = self.entries[parent].children.get(name)
        if ino is None:
            nothing = pyfuse3.EntryAttributes()
            nothing.st_ino = 0
            nothing.entry_timeout = FOREVER
            return nothing
        return self._attributes(ino)

    async def getattr(self, ino: int, ctx: Any) -> pyfuse3.EntryAttributes:
        return self._attributes(ino)

    async def open(self, ino: int, flags: int, ctx: Any) -> pyfuse3.FileInfo:
        return pyfuse3.FileInfo(fh=ino, keep_cache=True)

    async def read(self, fh: int, off: int, size: int) -> Any:
        entry = self.entries[fh]
        size = max(min(size, entry.size - off), 0)
        if entry.data is not None:
            return bytes(memoryview(entry.data)[off : off + size])
        start = off % (len(BUFFER) // 2)
        return BUFFER[start : start + size]

    async def opendir(self, ino: int, ctx: Any) -> int:
        return ino

    async def readdir(self, fh: int, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        children = list(self.entries[fh].children.items()) if start_id == 0 else self._listing
        self._listing = children
        for at in range(start_id, len(children)):
            name, ino = children[at]
            if not pyfuse3.readdir_reply(token, name, self._attributes(ino), at + 1):
                return

    async def create(self, parent: int, name: bytes, mode: int, flags: int, ctx: Any) -> Any:
        ino = self._add(mode, 0)
        self.entries[ino].data = bytearray()
        self.entries[parent].children[name] = ino
        return pyfuse3.FileInfo(fh=ino, keep_cache=True), self._attributes(ino)

    async def mkdir(self, parent: int, name: bytes, mode: int, ctx: Any) -> Any:
        ino = self._add(mode, 0)
        self.entries[parent].children[name] = ino
        return self._attributes(ino)

    async def write(self, fh: int, off: int, buf: bytes) -> int:
        entry = self.entries[fh]
        assert entry.data is not None
        entry.data[off : off + len(buf)] = buf
        entry.size = len(entry.data)
        return len(buf)

    async def setattr(self, ino: int, attr: Any, fields: Any, fh: Any, ctx: Any) -> Any:
        entry = self.entries[ino]
        if fields.update_mode:
            entry.mode = attr.st_mode
        if fields.update_size:
            entry.size = attr.st_size
        return self._attributes(ino)

    async def unlink(self, parent: int, name: bytes, ctx: Any) -> None:
        if self.entries[parent].children.pop(name, None) is None:
            raise pyfuse3.FUSEError(errno.ENOENT)

    async def rmdir(self, parent: int, name: bytes, ctx: Any) -> None:
        await self.unlink(parent, name, ctx)

    async def getxattr(self, ino: int, name: bytes, ctx: Any) -> bytes:
        raise pyfuse3.FUSEError(errno.ENODATA)

    async def statfs(self, ctx: Any) -> pyfuse3.StatvfsData:
        return pyfuse3.StatvfsData()


def main() -> None:
    """Mount and serve until unmounted."""
    source, where, *rest = sys.argv[1:]
    words = {"fsname=memfs", "default_permissions", "noatime", "rw" if "rw" in rest else "ro"}
    pyfuse3.init(Memory(source), where, words)
    try:
        trio.run(pyfuse3.main)
    finally:
        pyfuse3.close()


if __name__ == "__main__":
    main()
