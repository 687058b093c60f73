"""The requests of a writable mount that change something.

Names and bytes change in the nodes at once, visible to every program on this mount; `Pending`
commits them. Between an `await` and its end everything may change, so each handler looks first
(awaiting) and then does all of its change in one go. What a lake cannot hold is refused: hard
links and device files (EPERM), other owners (EPERM), names that are not UTF-8 (EILSEQ), attributes
outside `user.` (EOPNOTSUPP).
"""

from __future__ import annotations

import errno
import os
import stat
import time

import pyfuse3
import trio

from lakefeed.adapters.fuse.answers import attr_key, attrs_of, attrs_with, to_text, walled
from lakefeed.adapters.fuse.moving import Moves
from lakefeed.adapters.fuse.nodes import Directory, Draft, Node
from lakefeed.adapters.fuse.operations import NAME_BYTES_MAX, ReadOperations
from lakefeed.adapters.fuse.pending import Pending
from lakefeed.adapters.fuse.spool import COPY_BYTES, Spool
from lakefeed.adapters.fuse.tree import TIMELINE
from lakefeed.format.paths import PATH_BYTES_MAX
from lakefeed.format.rows import TIMES_NS, Kind

Error = pyfuse3.FUSEError


class WriteOperations(ReadOperations):
    """All handlers."""

    pending: Pending
    moves: Moves

    def use(self, pending: Pending) -> None:
        """Take the changes of the mount; before it is mounted."""
        self.pending = pending
        self.moves = Moves(self.tree, pending)
        self._copying = trio.Lock()

    # -- looking before a change -----------------------------------------------------------------

    async def _parent(self, ino: int, name: bytes) -> Directory:
        """Return a directory that `name` may be made or removed in."""
        await self.moves.settled()
        directory = self.directory(ino)
        self._changeable(directory)
        if len(name) > NAME_BYTES_MAX:
            raise Error(errno.ENAMETOOLONG)
        try:
            name.decode()
        except UnicodeDecodeError:
            raise Error(errno.EILSEQ) from None
        if not directory.is_named():
            raise Error(errno.ENOENT)
        return directory

    def _changeable(self, node: Node) -> None:
        directory = node if isinstance(node, Directory) else node.parent
        if directory is None or directory.view is not self.tree.view or node is self.tree.timeline:
            raise Error(errno.EROFS)

    async def _free(self, ino: int, name: bytes, taken: int = errno.EEXIST) -> Directory:
        """Return a directory in which `name` is free; `taken` is the errno where it is not."""
        directory = await self._parent(ino, name)
        if directory is self.tree.root and name == TIMELINE:
            raise Error(errno.EEXIST)
        if len(directory.path().encode()) + 1 + len(name) > PATH_BYTES_MAX:
            raise Error(errno.ENAMETOOLONG)
        if await self.tree.lookup(directory, name) is not None:
            raise Error(taken)
        return directory

    async def _existing(self, ino: int, name: bytes) -> tuple[Directory, Node]:
        directory = await self._parent(ino, name)
        node = await self.tree.lookup(directory, name)
        if node is None:
            raise Error(errno.ENOENT)
        if node is self.tree.timeline:
            raise Error(errno.EROFS)
        return directory, node

    # -- making ----------------------------------------------------------------------------------

    def _new(self, parent: Directory, name: bytes, kind: Kind, mode: int) -> Node:
        """Put a new node under a free name."""
        node: Node
        if kind is Kind.DIR:
            node = Directory(parent.view, parent, name, None, 0)
            node.complete = True
            mode |= parent.mode & stat.S_ISGID  # which, on Linux, is the file system's to do
        else:
            node = Node(parent, name, None, 0)
        now_ns = time.time_ns()
        node.be(kind, mode & 0o7777, now_ns)
        draft = node.draft = Draft()
        draft.ctime_ns = now_ns
        draft.fresh = name not in parent.gone
        draft.committed = -1
        parent.children[name] = node
        parent.touch()
        self.pending.mark(node)
        self.tree.inodes.meet(node)
        return node

    @walled
    async def mkdir(
        self, parent: int, name: bytes, mode: int, ctx: object
    ) -> pyfuse3.EntryAttributes:
        """Make a directory."""
        directory = await self._free(parent, name)
        return self.attributes(self._new(directory, name, Kind.DIR, mode))

    @walled
    async def create(
        self, parent: int, name: bytes, mode: int, flags: int, ctx: object
    ) -> tuple[pyfuse3.FileInfo, pyfuse3.EntryAttributes]:
        """Make a file and open it."""
        if self.pending.is_full():
            await self.pending.room()
        # Another writer's, which the kernel does not know yet: ESTALE has it look, and open that.
        taken = errno.EEXIST if flags & os.O_EXCL else errno.ESTALE
        directory = await self._free(parent, name, taken)
        node = self._new(directory, name, Kind.FILE, mode)
        return self.opened(node, writes=True), self.attributes(node)

    @walled
    async def mknod(
        self, parent: int, name: bytes, mode: int, rdev: int, ctx: object
    ) -> pyfuse3.EntryAttributes:
        """Make a file; a lake holds no devices, pipes or sockets."""
        if not stat.S_ISREG(mode):
            raise Error(errno.EPERM)
        directory = await self._free(parent, name)
        return self.attributes(self._new(directory, name, Kind.FILE, mode))

    @walled
    async def symlink(
        self, parent: int, name: bytes, target: bytes, ctx: object
    ) -> pyfuse3.EntryAttributes:
        """Make a symbolic link."""
        try:
            target.decode()
        except UnicodeDecodeError:
            raise Error(errno.EILSEQ) from None
        directory = await self._free(parent, name)
        node = self._new(directory, name, Kind.SYMLINK, 0o777)
        spool = node.changed().spool = Spool(self.pending.budget)
        spool.write(0, target)
        self._content_changed(node, spool)
        return self.attributes(node)

    @walled
    async def link(
        self, inode: int, new_parent: int, new_name: bytes, ctx: object
    ) -> pyfuse3.EntryAttributes:
        """Refuse: in a lake a path is a file."""
        raise Error(errno.EPERM)

    # -- removing and renaming -------------------------------------------------------------------

    @walled
    async def unlink(self, parent: int, name: bytes, ctx: object) -> None:
        """Remove a file or symbolic link."""
        directory, node = await self._existing(parent, name)
        if isinstance(node, Directory):
            raise Error(errno.EISDIR)
        self.moves.detach(directory, node)

    @walled
    async def rmdir(self, parent: int, name: bytes, ctx: object) -> None:
        """Remove an empty directory."""
        directory, node = await self._existing(parent, name)
        if not isinstance(node, Directory):
            raise Error(errno.ENOTDIR)
        await self.tree.load(node)
        if node.children:
            raise Error(errno.ENOTEMPTY)
        self.moves.detach(directory, node)

    @walled
    async def rename(
        self,
        parent_inode_old: int,
        name_old: bytes,
        parent_inode_new: int,
        name_new: bytes,
        flags: int,
        ctx: object,
    ) -> None:
        """Move a file, or a directory with everything below it."""
        there = False
        while not there:  # while the one is looked up, another writer may change the other
            directory, node = await self._existing(parent_inode_old, name_old)
            target_directory = await self._parent(parent_inode_new, name_new)
            if target_directory is self.tree.root and name_new == TIMELINE:
                raise Error(errno.EROFS)
            target = await self.tree.lookup(target_directory, name_new)
            there = directory.children.get(name_old) is node
        if len(target_directory.path().encode()) + 1 + len(name_new) > PATH_BYTES_MAX:
            raise Error(errno.ENAMETOOLONG)
        if flags & ~(pyfuse3.RENAME_NOREPLACE | pyfuse3.RENAME_EXCHANGE):
            raise Error(errno.EINVAL)
        if flags & pyfuse3.RENAME_NOREPLACE and target is not None:
            raise Error(errno.EEXIST)
        if flags & pyfuse3.RENAME_EXCHANGE:
            if target is None:
                raise Error(errno.ENOENT)
            self.moves.exchange(node, target)
        elif target is not node:
            await self.moves.move(node, target_directory, name_new, target)

    # -- bytes -----------------------------------------------------------------------------------

    async def open_for_writing(self, node: Node, flags: int) -> None:
        """Let a file be written, emptied first if so asked."""
        self._changeable(node)
        if isinstance(node, Directory):
            raise Error(errno.EISDIR)
        if flags & os.O_TRUNC:
            await self._truncate(node, 0)

    @walled
    async def write(self, fh: int, off: int, buf: bytes) -> int:
        """Write into an open file."""
        node = self.node(fh)
        draft = node.draft
        if draft is None or draft.freezing or self.pending.is_full():
            draft = await self._writable(node)
        elif draft.spool is None and not node.size:
            draft.spool = Spool(self.pending.budget)
        elif draft.spool is None:
            draft = await self._writable(node)
        spool = draft.spool
        assert spool is not None
        spool.write(off, buf)
        self._content_changed(node, spool)
        return len(buf)

    def _content_changed(self, node: Node, spool: Spool) -> None:
        draft = node.changed()
        draft.content += 1
        node.size = spool.size
        node.mtime_ns = draft.ctime_ns = time.time_ns()
        self.pending.mark(node)

    async def _writable(self, node: Node) -> Draft:
        """Return the draft of a node once its bytes are in a spool that may change."""
        self._changeable(node)
        while True:
            await self.pending.room()
            await self.pending.thaw(node)
            draft = node.changed()
            if draft.spool is not None:
                if not draft.freezing:
                    return draft
                continue
            async with self._copying:
                if draft.spool is None:
                    await self._copy(node, draft)

    async def _copy(self, node: Node, draft: Draft) -> None:
        """Give a node a spool with its committed bytes, unless they are changed meanwhile."""
        spool, content = Spool(self.pending.budget), draft.content
        try:
            while spool.size < node.size:
                data = await self.content(node, spool.size, COPY_BYTES)
                # Emptied, for instance, which needs no copy: what was read is of no use any more.
                if draft.content != content or not data:
                    break
                spool.write(spool.size, bytes(data))
        except BaseException:
            spool.close()
            raise
        if draft.content == content:
            draft.spool = spool
        else:
            spool.close()

    async def _truncate(self, node: Node, size: int) -> None:
        draft = node.changed()
        if size == 0 and draft.spool is None:
            draft.spool = Spool(self.pending.budget)
        while draft.spool is None or draft.freezing:
            draft = await self._writable(node)
        draft.spool.truncate(size)
        self._content_changed(node, draft.spool)

    # -- attributes ------------------------------------------------------------------------------

    @walled
    async def setattr(
        self,
        ino: int,
        attr: pyfuse3.EntryAttributes,
        fields: pyfuse3.SetattrFields,
        fh: int | None,
        ctx: object,
    ) -> pyfuse3.EntryAttributes:
        """Change size, mode or times; owners are those of the mount."""
        node = self.node(ino)
        await self.moves.settled()
        await self.tree.make_sure(node)
        self._changeable(node)
        own = self._attr
        if fields.update_uid and attr.st_uid != own.st_uid:
            raise Error(errno.EPERM)
        if fields.update_gid and attr.st_gid != own.st_gid:
            raise Error(errno.EPERM)
        if fields.update_size:
            if isinstance(node, Directory):
                raise Error(errno.EISDIR)
            await self._truncate(node, attr.st_size)
        draft = node.changed()
        if fields.update_mode:
            node.mode = attr.st_mode & 0o7777
        if fields.update_mtime:
            # What a row cannot hold becomes the nearest that it can, as on any file system.
            node.mtime_ns = min(max(attr.st_mtime_ns, TIMES_NS[0]), TIMES_NS[-1])
        if fields.update_mode or fields.update_mtime or fields.update_uid or fields.update_gid:
            draft.ctime_ns = time.time_ns()
        if fields.update_mode or fields.update_mtime:
            self.pending.mark(node)
        return self.attributes(node)

    @walled
    async def setxattr(self, ino: int, name: bytes, value: bytes, ctx: object) -> None:
        """Keep an attribute with a file or directory."""
        node, key = await self._attribute(ino, name)
        attrs = attrs_with(node, key, to_text(value))
        draft = node.changed()
        draft.attrs = attrs
        draft.ctime_ns = time.time_ns()
        self.pending.mark(node)

    @walled
    async def removexattr(self, ino: int, name: bytes, ctx: object) -> None:
        """Remove an attribute."""
        node, key = await self._attribute(ino, name)
        attrs = dict(attrs_of(node))
        if attrs.pop(key, None) is None:
            raise Error(errno.ENODATA)
        draft = node.changed()
        draft.attrs = attrs
        draft.ctime_ns = time.time_ns()
        self.pending.mark(node)

    async def _attribute(self, ino: int, name: bytes) -> tuple[Node, str]:
        node = self.node(ino)
        await self.tree.make_sure(node)
        self._changeable(node)
        try:
            text = name.decode()
        except UnicodeDecodeError:
            raise Error(errno.EILSEQ) from None
        if not text.startswith("user."):
            raise Error(errno.EOPNOTSUPP)
        key = attr_key(text)
        if key is None or node.parent is None:
            raise Error(errno.EPERM)
        return node, key

    # -- durability ------------------------------------------------------------------------------

    @walled
    async def fsync(self, fh: int, datasync: bool) -> None:
        """Return once a file is committed."""
        node = self.held(fh)
        if node is not None:
            await self.pending.commit_file(node)

    @walled
    async def fsyncdir(self, fh: int, datasync: bool) -> None:
        """Return once everything is committed."""
        await self.pending.commit()

    @walled
    async def flush(self, fh: int) -> None:
        """With `sync_close`, return once a file is committed; else the kernel need not ask."""
        if not self.pending.options.sync_close:
            raise Error(errno.ENOSYS)
        node = self.held(fh)
        if node is not None:
            await self.pending.commit_file(node)

    def closed(self, node: Node) -> None:
        """Give the spool of a committed or removed file back."""
        self.pending.closed(node)

    def own_xattr(self, name: bytes) -> bytes | None:
        """Return what the root tells about the mount itself."""
        if name == b"user.lakefeed.pending":
            return str(self.pending.count).encode()
        return super().own_xattr(name)
