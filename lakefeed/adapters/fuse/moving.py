"""Names that go away or change: unlink, rename, exchange, and whole directories.

A file moves in memory: a mark on the node and one on the name it had. So does a directory that was
made here and never committed, with all that was made in it. Any other directory is renamed by the
Writer in one commit, durable on return: what is pending is committed first, changing requests wait
meanwhile, and the nodes below then stand for their new rows.

A directory that exists only through its files is stored before it could vanish with the last one.
"""

from __future__ import annotations

import errno
import time

import pyfuse3
import trio

from lakefeed.adapters.fuse.changes import Outcome, same_bytes
from lakefeed.adapters.fuse.nodes import Directory, Node
from lakefeed.adapters.fuse.pending import Pending
from lakefeed.adapters.fuse.tree import Tree, changed_paths
from lakefeed.adapters.fuse.view import locate_rows
from lakefeed.errors import NotFound
from lakefeed.format.paths import PATH_BYTES_MAX
from lakefeed.format.rows import Row
from lakefeed.lake.batch import Delete
from lakefeed.lake.snapshot import Snapshot


class Moves:
    """Renames and removals of one mount."""

    def __init__(self, tree: Tree, pending: Pending) -> None:
        self._tree = tree
        self._pending = pending
        self._lake = pending.lake
        self._renaming: trio.Event | None = None

    async def settled(self) -> None:
        """Return while no directory is being renamed."""
        while self._renaming is not None:
            await self._renaming.wait()

    def detach(self, parent: Directory, node: Node) -> None:
        """Take a node's name away."""
        self._lose(parent, node)
        self._pending.unmark(node)
        node.changed().ctime_ns = time.time_ns()
        self._pending.trim(node)

    def _lose(self, parent: Directory, node: Node) -> None:
        del parent.children[node.name]
        parent.touch()
        self._pending.removed(parent, node.name, node)
        if not parent.stored and parent.parent is not None:
            self._pending.mark(parent)

    def exchange(self, one: Node, other: Node) -> None:
        """Let two files swap names."""
        if isinstance(one, Directory) or isinstance(other, Directory):
            raise pyfuse3.FUSEError(errno.EINVAL)
        places = (one.parent, one.name), (other.parent, other.name)
        for node, (parent, name) in zip((other, one), places, strict=True):
            assert parent is not None
            self._settle(node, parent, name)
            node.changed().fresh = False

    def _settle(self, node: Node, parent: Directory, name: bytes) -> None:
        """Give a node that has no name (any more) a place, and mark it."""
        self._place(node, parent, name)
        self._pending.mark(node)

    def _place(self, node: Node, parent: Directory, name: bytes) -> None:
        inodes = self._tree.inodes
        # What the kernel knows and what is dirty each hold the place; both move with the node.
        holds = int(node.lookups > 0) + int(node.dirty)
        for _ in range(holds):
            inodes.release(node)
        node.parent, node.name = parent, name
        for _ in range(holds):
            inodes.hold(node)
        parent.children[name] = node
        parent.touch()
        node.changed().ctime_ns = parent.mtime_ns

    async def move(self, node: Node, parent: Directory, name: bytes, target: Node | None) -> None:
        """Rename a node, over `target` if there is one."""
        if isinstance(node, Directory):
            await self._check_directory(node, parent, target)
            _check_lengths(node, _path_of(parent, name))
            if not self._is_new(node):
                await self._rename(node, parent, name, target)
                return
        elif isinstance(target, Directory):
            raise pyfuse3.FUSEError(errno.EISDIR)
        self._move_here(node, parent, name, target)

    async def _check_directory(
        self, node: Directory, parent: Directory, target: Node | None
    ) -> None:
        above: Directory | None = parent
        while above is not None:
            if above is node:
                raise pyfuse3.FUSEError(errno.EINVAL)
            above = above.parent
        if target is None:
            return
        if not isinstance(target, Directory):
            raise pyfuse3.FUSEError(errno.ENOTDIR)
        await self._tree.load(target)
        if target.children:
            raise pyfuse3.FUSEError(errno.ENOTEMPTY)

    def _is_new(self, directory: Directory) -> bool:
        """Tell whether a directory and all directories in it were made here, uncommitted."""
        below = (node for node in directory.walk() if isinstance(node, Directory))
        return all(
            node.complete and node.draft is not None and node.draft.fresh
            for node in (directory, *below)
        )

    def _move_here(self, node: Node, parent: Directory, name: bytes, target: Node | None) -> None:
        if target is not None:
            self.detach(parent, target)
        old = node.parent
        assert old is not None
        self._lose(old, node)
        self._settle(node, parent, name)
        if name in parent.gone:
            node.changed().fresh = False
        if isinstance(node, Directory):
            for below in node.walk():
                # Paths changed: rows referred to stay where they are, all the rest is fresh.
                self._pending.mark(below)

    # -- directories that the lake knows ---------------------------------------------------------

    async def _rename(
        self, node: Directory, parent: Directory, name: bytes, target: Node | None
    ) -> None:
        await self.settled()
        done = self._renaming = trio.Event()
        try:
            await self._pending.commit()
            source, goal = node.path(), _path_of(parent, name)
            async with self._tree.moving:
                below = [child for child in node.walk() if child.row is not None]
                skip = len(source)
                paths = [goal + child.path()[skip:] for child in below]
                old = self._tree.view.snapshot
                replaces = target is not None and not node.stored
                outcome = await self._tree.pace.elsewhere(
                    self._publish, source, goal, paths, old, replaces
                )
                if target is not None:
                    self._pending.unmark(target)
                self._renamed(node, parent, name)
                others = _adopt(below, paths, outcome.rows)
                changed = outcome.changed
                if changed is not None:
                    mine = {source, goal, *paths}
                    changed = [path for path in changed if path not in mine] + others
                self._tree.stale += self._tree.turn(outcome.snapshot, changed)
        finally:
            self._renaming = None
            done.set()

    def _renamed(self, node: Directory, parent: Directory, name: bytes) -> None:
        old = node.parent
        assert old is not None
        del old.children[node.name]
        old.touch()
        if not old.stored and old.parent is not None:
            self._pending.mark(old)
        self._place(node, parent, name)
        parent.gone.discard(name)

    def _publish(
        self, source: str, goal: str, paths: list[str], old: Snapshot, replaces: bool
    ) -> Outcome:
        """Rename in one commit; `replaces` says that a row of the goal's own has to go."""
        writer = self._pending.writer
        try:
            writer.rename(source, goal)
        except NotFound as error:
            self._lake.log.head()  # or is it the lake that is gone?
            # Another writer has removed it.
            raise pyfuse3.FUSEError(errno.ENOENT) from error
        if replaces:
            writer.apply({goal: Delete()})
        number = writer.flush()
        snapshot = self._lake.snapshot(number)
        changed: list[str] | None = []
        if number != old.number + 1:
            changed = changed_paths(old, snapshot)
        if changed and not snapshot.exists(source):
            changed = [path for path in changed if not path.startswith(f"{source}/")]
        return Outcome(snapshot, locate_rows(snapshot, paths), changed)


def _path_of(parent: Directory, name: bytes) -> str:
    above = parent.path()
    return f"{above}/{name.decode()}" if above else name.decode()


def _check_lengths(directory: Directory, goal: str) -> None:
    """Refuse a new path of a directory that makes one below it longer than a lake can hold."""
    longer = len(goal.encode()) - len(directory.path().encode())
    if longer > 0 and any(
        len(node.path().encode()) + longer > PATH_BYTES_MAX for node in directory.walk()
    ):
        raise pyfuse3.FUSEError(errno.ENAMETOOLONG)


def _adopt(nodes: list[Node], paths: list[str], rows: list[Row | None]) -> list[str]:
    """Let moved nodes stand for their new rows; return the paths with another writer's bytes."""
    others = []
    for node, path, row in zip(nodes, paths, rows, strict=True):
        if row is None or node.row is None or not same_bytes(row, node.row):
            others.append(path)
        elif not node.dirty:
            node.adopt(row)
    return others
