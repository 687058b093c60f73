"""The requests of a read-only mount, answered from tree and volume.

Each handler answers without an `await` whenever nodes and cache know, so that the next request is
taken at once. Files are never direct, and the kernel keeps their pages across opens: an inode is
one version of a file. Changing requests are in `writing`.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Sequence
from typing import Any

import pyfuse3

from lakefeed.adapters.fuse.answers import (
    TYPES,
    XATTR_PREFIX,
    Answers,
    listed_xattrs_of,
    to_bytes,
    walled,
    xattrs_of,
)
from lakefeed.adapters.fuse.nodes import Directory, Node
from lakefeed.adapters.fuse.reading import Buffer, Reads
from lakefeed.adapters.fuse.tree import Tree
from lakefeed.errors import SnapshotExpired
from lakefeed.volume.base import Volume

# Some editors ask for the free space every few milliseconds; a filer need not be asked as often.
SPACE_SECONDS = 5.0
NAME_BYTES_MAX = 255
_BLOCK = 4096
# Added to the number of an inode: the number of a handle that may write to it.
_WRITES = 1 << 62
# "." and "..", which come before all other names of a listing.
_DOTS = 2


class _Listing:
    """An open directory: the names that it had when reading it began, and what they stand for."""

    __slots__ = ("children", "directory", "names", "nodes")

    def __init__(self, directory: Directory) -> None:
        self.directory = directory
        self.children = directory.children
        self.names: list[bytes] = []
        self.nodes: list[Node | None] = []

    def begin(self) -> None:
        """Take all names that there are now."""
        self.children = self.directory.children
        self.names = list(self.children)
        self.nodes = list(self.children.values())

    def renew(self) -> None:
        """Look the names up again if the directory was loaded again: None stands for what is gone.

        What went away without that was removed or renamed here, and its node has a draft.
        """
        if self.children is not self.directory.children:
            self.children = self.directory.children
            self.nodes = [self.children.get(name) for name in self.names]


class ReadOperations(Answers, pyfuse3.Operations):
    """Handlers that change nothing."""

    supports_dot_lookup = False
    enable_writeback_cache = False
    enable_acl = False

    def __init__(self, tree: Tree, reads: Reads, volume: Volume, owner: tuple[int, int]) -> None:
        Answers.__init__(self, *owner)
        self.tree = tree
        self.reads = reads
        self._volume = volume
        self._listings: dict[int, _Listing] = {}
        self._next_listing = 1
        self._space: tuple[float, pyfuse3.StatvfsData] | None = None

    # -- nodes -----------------------------------------------------------------------------------

    def node(self, ino: int) -> Node:
        """Return the node of an inode that the kernel knows."""
        node = self.tree.inodes.table.get(ino) or self.held(ino)
        if node is None:
            raise pyfuse3.FUSEError(errno.ESTALE)
        return node

    def held(self, fh: int) -> Node | None:
        """Return the node of an open file."""
        return self.tree.inodes.table.get(fh & ~_WRITES)

    def directory(self, ino: int) -> Directory:
        """Return the directory of an inode that the kernel knows."""
        node = self.node(ino)
        if not isinstance(node, Directory):
            raise pyfuse3.FUSEError(errno.ENOTDIR)
        return node

    @walled
    async def lookup(self, parent: int, name: bytes, ctx: object) -> pyfuse3.EntryAttributes:
        """Find a name in a directory."""
        if len(name) > NAME_BYTES_MAX:
            raise pyfuse3.FUSEError(errno.ENAMETOOLONG)
        directory = self.directory(parent)
        if directory is self.tree.timeline:
            return await self._snapshot(directory, name)
        node = directory.children.get(name)
        if node is None or node.unsure or isinstance(node, Directory):
            node = await self.tree.lookup(directory, name)
            if node is None:
                return self.nothing()
        self.tree.inodes.meet(node)
        return self.attributes(node)

    async def _snapshot(self, timeline: Directory, name: bytes) -> pyfuse3.EntryAttributes:
        node = await self.tree.lookup(timeline, name)
        if node is not None:
            self.tree.inodes.meet(node)
        return self.passing(node)

    def forget(self, inode_list: Sequence[tuple[int, int]]) -> Any:
        """Let go of inodes that the kernel has forgotten."""
        self.tree.inodes.forget(inode_list)

    @walled
    async def getattr(self, ino: int, ctx: object) -> pyfuse3.EntryAttributes:
        """Return an inode's attributes."""
        return self.attributes(self.node(ino))

    @walled
    async def readlink(self, ino: int, ctx: object) -> bytes:
        """Return where a symbolic link leads."""
        return bytes(await self.content(self.node(ino), 0, 1 << 20))

    # -- bytes -----------------------------------------------------------------------------------

    @walled
    async def open(self, ino: int, flags: int, ctx: object) -> pyfuse3.FileInfo:
        """Open a file."""
        node = self.node(ino)
        writes = flags & os.O_ACCMODE != os.O_RDONLY
        if writes or flags & os.O_TRUNC:
            await self.open_for_writing(node, flags)
        return self.opened(node, writes=writes)

    def opened(self, node: Node, *, writes: bool) -> pyfuse3.FileInfo:
        """Count one more handle of a file and return it."""
        node.opens += 1
        self.stats.open_handles += 1
        if writes:
            node.changed().writers += 1
        return pyfuse3.FileInfo(fh=node.ino | _WRITES if writes else node.ino, keep_cache=True)

    async def open_for_writing(self, node: Node, flags: int) -> None:
        """Refuse; a writable mount does better."""
        raise pyfuse3.FUSEError(errno.EROFS)

    @walled
    async def read(  # type: ignore[override]  # any buffer will do
        self, fh: int, off: int, size: int
    ) -> Buffer:
        """Return bytes of an open file."""
        return await self.content(self.node(fh), off, size)

    async def content(self, node: Node, offset: int, length: int) -> Buffer:
        """Return bytes of a node, from what was written here or from the lake."""
        draft = node.draft
        if draft is not None and draft.spool is not None:
            return draft.spool.read(offset, length)
        row = node.row
        if row is None or offset >= node.size:
            return b""
        view = self.tree.view if node.parent is None else node.parent.view
        try:
            return await self.reads.read(view.snapshot, row, offset, length)
        except SnapshotExpired:
            if view is not self.tree.view or not self.tree.follows:
                raise
            self.tree.stale += await self.tree.follow()
            return await self.reads.read(view.snapshot, row, offset, length)

    @walled
    async def flush(self, fh: int) -> None:
        """Say that closing needs no request of its own; the kernel then stops sending it."""
        raise pyfuse3.FUSEError(errno.ENOSYS)

    @walled
    async def release(self, fh: int) -> None:
        """Take notice that a handle was closed for the last time."""
        self.stats.open_handles -= 1
        node = self.held(fh)
        if node is None:
            return
        node.opens -= 1
        writes = fh & _WRITES
        if writes:
            node.changed().writers -= 1
        if writes or not node.opens:
            self.closed(node)

    def closed(self, node: Node) -> None:
        """Take notice that a handle that could write was closed, or the last of all."""

    # -- directories -----------------------------------------------------------------------------

    @walled
    async def opendir(self, ino: int, ctx: object) -> int:
        """Open a directory; who only syncs it, as `lakefeed umount` does, needs no listing."""
        directory = self.directory(ino)
        if directory is self.tree.timeline:
            await self.tree.load(directory)
        number = self._next_listing
        self._next_listing += 1
        self._listings[number] = _Listing(directory)
        self.stats.open_handles += 1
        return number

    @walled
    async def readdir(self, fh: int, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        """Return names together with their attributes, as many as fit.

        What the kernel is told here it keeps, so a name stands for what it stands for now, and one
        that went away since reading began is left out.
        """
        listing = self._listings[fh]
        directory = listing.directory
        if not directory.complete and directory is not self.tree.timeline:
            await self.tree.load(directory)
        if start_id:
            listing.renew()
        else:
            listing.begin()
        if start_id < _DOTS and not self._dots(directory, start_id, token):
            return
        nodes, names, find = listing.nodes, listing.names, directory.children.get
        attr, reply, meet = self._attr, pyfuse3.readdir_reply, self.tree.inodes.meet
        if directory is self.tree.timeline:
            attr = self.passing(directory)
        mode = mtime_ns = nlink = -1
        for at in range(max(start_id - _DOTS, 0), len(nodes)):
            node = nodes[at]
            if node is None:
                continue
            if node.draft is not None:
                if find(names[at]) is not node:
                    continue
                self.attributes(node)
                mode = mtime_ns = nlink = -1
            else:
                # `attributes`, without a call for each of millions of names, nor a setting again
                # of what neighbours have in common.
                size = node.size
                attr.st_ino = node.ino
                attr.st_size = size
                attr.st_blocks = (size + 511) >> 9
                if nlink != 1:
                    nlink = attr.st_nlink = 1
                if mode != (TYPES[node.kind] | node.mode):
                    mode = attr.st_mode = TYPES[node.kind] | node.mode
                if mtime_ns != node.mtime_ns:
                    mtime_ns = node.mtime_ns
                    attr.st_mtime_ns = attr.st_atime_ns = attr.st_ctime_ns = mtime_ns
            if not reply(token, node.name, attr, at + _DOTS + 1):
                return
            meet(node)

    def _dots(self, directory: Directory, start_id: int, token: pyfuse3.ReaddirToken) -> bool:
        """Return "." and "..", and tell if they fit. The kernel holds no inode for these names."""
        for at, name in enumerate((b".", b"..")[start_id:], start_id):
            node = (at and directory.parent) or directory
            if not pyfuse3.readdir_reply(token, name, self.attributes(node), at + 1):
                return False
        return True

    @walled
    async def releasedir(self, fh: int) -> None:
        """Close a directory."""
        self.stats.open_handles -= 1
        self._listings.pop(fh, None)

    # -- facts -----------------------------------------------------------------------------------

    @walled
    async def statfs(self, ctx: object) -> pyfuse3.StatvfsData:
        """Return the room on the lake's volume."""
        now = time.monotonic()
        if self._space is not None and now - self._space[0] < SPACE_SECONDS:
            return self._space[1]
        space = await self.tree.pace.elsewhere(self._volume.space)
        data = pyfuse3.StatvfsData()
        data.f_bsize = data.f_frsize = _BLOCK
        data.f_blocks = space.total_bytes // _BLOCK
        data.f_bfree = data.f_bavail = space.free_bytes // _BLOCK
        rows = sum(source.rows for source in self.tree.view.snapshot.sources)
        # A lake has no table of inodes that could fill up.
        data.f_ffree = data.f_favail = 1 << 40
        data.f_files = rows + (1 << 40)
        data.f_namemax = NAME_BYTES_MAX
        self._space = (now, data)
        return data

    @walled
    async def getxattr(self, ino: int, name: bytes, ctx: object) -> bytes:
        """Return one extended attribute."""
        if not name.startswith(b"user."):
            raise pyfuse3.FUSEError(errno.ENODATA)
        node = self.node(ino)
        own = self.own_xattr(name) if node.parent is None else None
        if own is not None:
            return own
        found = xattrs_of(node).get(os.fsdecode(name))
        if found is None:
            raise pyfuse3.FUSEError(errno.ENODATA)
        return to_bytes(found)

    def own_xattr(self, name: bytes) -> bytes | None:
        """Return what the root tells about the mount itself."""
        if name == XATTR_PREFIX.encode() + b"pid":
            return str(os.getpid()).encode()
        return None

    @walled
    async def listxattr(self, ino: int, ctx: object) -> list[bytes]:
        """Return the names of the attributes that a node was given."""
        return [name.encode() for name in listed_xattrs_of(self.node(ino))]

    @walled
    async def access(self, ino: int, mode: int, ctx: object) -> bool:
        """Leave it to the kernel, which has the modes."""
        return True
