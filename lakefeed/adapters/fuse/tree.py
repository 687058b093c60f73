"""Names to nodes, and following the head.

`lookup` and `load` answer from the nodes in memory, else from the view: a few single look-ups in a
directory, then its whole listing. `follow` moves the live view to a newer snapshot: only what
differs is forgotten here and invalidated in the kernel, which may therefore keep everything else
for ever. A file with new content becomes a new inode, so whoever has the old one open goes on
reading the old bytes; a directory stays the one that programs are in while the lake has one there.
What this mount changed and has not committed stays as it is.

When the index of the snapshot in use has been garbage collected, the live view moves at once and
the request is repeated. Belongs to the trio thread; an `await` may see everything change.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import TypeVar
from weakref import WeakValueDictionary

import trio

from lakefeed.adapters.fuse.nodes import ROOT, Directory, Inodes, Node
from lakefeed.adapters.fuse.pace import Pace
from lakefeed.adapters.fuse.view import Child, View, find, load
from lakefeed.errors import Corrupt, Invalid, NotFound, SnapshotExpired
from lakefeed.format.rows import Kind
from lakefeed.lake.difference import diff
from lakefeed.lake.lake import Lake
from lakefeed.lake.snapshot import Snapshot

TIMELINE = b".snapshots"
# Single look-ups cost 0.1 to 0.3 ms each; listing a directory of 10,000 costs about 15 ms.
PROBES_MAX = 32
# Above so many changed paths it is cheaper to forget everything.
CHANGES_MAX = 50_000

_Result = TypeVar("_Result")
_logger = logging.getLogger(__name__)

# What the kernel shall forget: (inode of the directory, name).
Stale = list[tuple[int, bytes]]


class Tree:
    """The nodes of one mount."""

    def __init__(self, lake: Lake, snapshot: Snapshot, pace: Pace, *, follows: bool) -> None:
        self._lake = lake
        self.pace = pace
        self.view = View(snapshot)
        self.inodes = Inodes()
        self.root = Directory(self.view, None, b"", None, 0)
        self.inodes.add_root(self.root, ROOT)
        self.follows = follows
        # `.snapshots`; its children are the tags that were listed last.
        self.timeline: Directory | None = None
        # The roots of older snapshots, by the names under which they were asked for. They are there
        # for as long as the kernel, or the timeline, has them.
        self._snapshots: WeakValueDictionary[bytes, Directory] = WeakValueDictionary()
        if follows:
            self.timeline = Directory(self.view, None, TIMELINE, None, 0)
            self.inodes.add_root(self.timeline)
        # What the kernel still has to forget because a request moved the view.
        self.stale: Stale = []
        self._loading: dict[Directory, trio.Event] = {}
        # Held by whoever is about to move the view, or by all together who have it stay.
        self.moving = trio.Semaphore(1)
        self._stays = 0
        self._staying = trio.Lock()

    # -- names -----------------------------------------------------------------------------------

    async def lookup(self, parent: Directory, name: bytes) -> Node | None:
        """Return what a name in a directory stands for, None if nothing."""
        if name == TIMELINE and parent is self.root and self.timeline is not None:
            return self.timeline
        if parent is self.timeline:
            return await self._tag(name)
        node = parent.children.get(name)
        if parent.complete or (node is not None and not node.unsure):
            return node
        path = _join(parent, name)
        if path is None or name in parent.gone:
            return node
        if self._fill_from_memory(parent) or parent.probes >= PROBES_MAX:
            await self.load(parent)
            return parent.children.get(name)
        parent.probes += 1
        child = await self._current(parent.view, lambda snapshot: find(snapshot, path))
        if _join(parent, name) != path:
            return await self.lookup(parent, name)  # its directory was renamed meanwhile
        return self._take(parent, name, child)

    async def make_sure(self, node: Node) -> None:
        """Look a node up again that may have lost its name to another writer."""
        if node.unsure and node.parent is not None:
            await self.lookup(node.parent, node.name)

    def _take(self, parent: Directory, name: bytes, child: Child | None) -> Node | None:
        """Return the node of a name that was just read, if nobody else was faster."""
        node = parent.children.get(name)
        if parent.complete or name in parent.gone:
            return node
        if node is not None:
            is_same = child is not None and _is_same(node, child)
            if is_same or not node.unsure or _is_changed(node):
                return node
            del parent.children[name]
        if child is None:
            return None
        node = parent.children[name] = _make(parent, child, name)
        return node

    async def load(self, parent: Directory) -> None:
        """Make a directory's children complete."""
        while not parent.complete:
            if parent is self.timeline:
                await self._load_tags()
                return
            if self._fill_from_memory(parent):
                return
            waiting = self._loading.get(parent)
            if waiting is not None:
                await waiting.wait()
                continue
            done = self._loading[parent] = trio.Event()
            try:
                await self._load(parent)
            finally:
                del self._loading[parent]
                done.set()

    async def _load(self, parent: Directory) -> None:
        path = parent.path()
        loaded = await self._current(parent.view, lambda snapshot: load(snapshot, path), long=True)
        if parent.path() != path:
            return  # it was renamed meanwhile: the caller's loop reads again
        if loaded.stretch is not None:
            parent.view.remember(path, loaded.stretch)
        self._fill(parent, loaded.children)

    def _fill_from_memory(self, parent: Directory) -> bool:
        found = parent.view.nearby(parent.path())
        if found is None:
            return False
        self._fill(parent, found)
        return True

    def _fill(self, parent: Directory, children: Iterable[Child]) -> None:
        """Take over a listing; nodes that stand for the same version stay."""
        old, gone = parent.children, parent.gone
        fresh: dict[bytes, Node] = {}
        for child in children:
            name = child.name.encode()
            if name in gone:
                continue
            node = old.get(name) if old else None
            if node is None or not (_is_same(node, child) or _is_changed(node)):
                node = _make(parent, child, name)
            fresh[name] = node
        for name, node in old.items():
            if name not in fresh and _is_changed(node):
                fresh[name] = node
        parent.children = fresh
        parent.complete = True
        parent.probes = 0

    async def _current(
        self, view: View, action: Callable[[Snapshot], _Result], *, long: bool = False
    ) -> _Result:
        """Return what `action` reads from the snapshot that the view shows when it is done.

        If the head moved meanwhile it reads again, and the head has to wait: commits may come
        faster than a long listing ends. Another repetition means that the snapshot was garbage
        collected.
        """
        call = self.pace.elsewhere if long else self.pace.call
        while True:
            snapshot = view.snapshot
            try:
                result = await call(action, snapshot)
                if view.snapshot is not snapshot:
                    async with self._still():
                        snapshot = view.snapshot
                        result = await call(action, snapshot)
                return result
            except SnapshotExpired:
                if view is not self.view or not self.follows:
                    raise
                _logger.info("snapshot %d was collected, moving on", snapshot.number)
                self.stale += await self.follow()
                if view.snapshot is snapshot:
                    raise

    @asynccontextmanager
    async def _still(self) -> AsyncIterator[None]:
        """Have the head stay where it is until everybody who asked for that is done.

        Who asks was overtaken by a move, so while the head stays nobody new comes for ever.
        """
        async with self._staying:
            if not self._stays:
                await self.moving.acquire()
            self._stays += 1
        try:
            yield
        finally:
            self._stays -= 1
            if not self._stays:
                self.moving.release()

    def open_paths(self) -> list[str]:
        """Return the paths of the files that programs have open, and may have mapped."""
        return [
            node.path()
            for node in self.inodes.table.values()
            if node.opens and node.parent is not None and node.parent.view is self.view
        ]

    # -- time travel -----------------------------------------------------------------------------

    async def _tag(self, name: bytes) -> Directory | None:
        """Return the root of the snapshot that a name stands for now, None if for none."""
        try:
            snapshot = await self.pace.elsewhere(self._lake.snapshot, name.decode())
        except (UnicodeDecodeError, NotFound, Invalid, Corrupt) as error:
            _logger.debug("no snapshot %r: %s", name, error)
            if isinstance(error, NotFound):
                # Or is it the lake that is not there?
                await self.pace.elsewhere(self._lake.log.head)
            return None
        known = self._snapshots.get(name)
        if known is not None and known.view.snapshot.number == snapshot.number:
            return known
        node = self._snapshots[name] = Directory(View(snapshot, self.view), None, name, None, 0)
        return node

    async def _load_tags(self) -> None:
        assert self.timeline is not None
        tags: dict[bytes, Node] = {}
        for tag in await self.pace.elsewhere(self._lake.refs.names):
            node = await self._tag(tag.encode())
            if node is not None:
                tags[tag.encode()] = node
        self.timeline.children = tags

    # -- following the head ----------------------------------------------------------------------

    async def follow(self) -> Stale:
        """Move to the newest snapshot; return what the kernel must forget."""
        async with self.moving:
            old = self.view.snapshot
            new = await self.pace.elsewhere(self._lake.snapshot)
            if new.number <= old.number:
                return []
            return self.turn(new, await self.pace.elsewhere(changed_paths, old, new))

    def turn(self, new: Snapshot, changed: list[str] | None) -> Stale:
        """Show another snapshot, which differs in these paths (None: anywhere); under `moving`."""
        if changed is None:
            stale = self._forget_everything()
        else:
            stale = [entry for path in changed for entry in self._forget(path)]
        # Last, so that whoever failed to forget comes again.
        self.view.move(new)
        _logger.info("shows snapshot %d", new.number)
        return stale

    def _forget(self, path: str) -> Stale:
        """Let a path be looked up again, and say which name of the kernel's that concerns."""
        parent: Directory = self.root
        for name in path.encode().split(b"/"):
            parent.complete = False
            child = parent.children.get(name)
            if isinstance(child, Directory):
                parent = child
                continue
            if child is not None and not _is_changed(child):
                del parent.children[name]
            return [(parent.ino, name)]
        # The path of a directory: it appeared, went away, or has another mode.
        parent.unsure = True
        above = parent.parent
        return [] if above is None else [(above.ino, parent.name)]

    def _forget_everything(self) -> Stale:
        stale: Stale = []
        # Also what the kernel has forgotten, which is kept for its next look.
        for node in dict.fromkeys([*self.inodes.table.values(), *self.root.walk()]):
            if isinstance(node, Directory) and node.view is self.view:
                node.complete = False
                for name, child in list(node.children.items()):
                    stale.append((node.ino, name))
                    if isinstance(child, Directory) or child.opens:
                        # One file for all its handles, as long as it is the same version.
                        child.unsure = True
                    elif not child.dirty:
                        del node.children[name]
        return stale


def changed_paths(old: Snapshot, new: Snapshot) -> list[str] | None:
    """Return the paths that differ, vanished directories included; None: too many, or unknown."""
    changed: list[str] = []
    parents: set[str] = set()
    try:
        for change in diff(old, new):
            changed.append(change.path)
            if change.new_row is None:
                parents.update(_above(change.path))
            if len(changed) > CHANGES_MAX:
                return None
        # Deepest first: a directory that is gone with all above it is invalidated from the top.
        return changed + [path for path in sorted(parents) if not new.exists(path)]
    except SnapshotExpired:
        return None


def _above(path: str) -> list[str]:
    parts = path.split("/")
    return ["/".join(parts[:count]) for count in range(1, len(parts))]


def _join(parent: Directory, name: bytes) -> str | None:
    """Return the path of a name; None for one that no lake can hold."""
    try:
        text = name.decode()
    except UnicodeDecodeError:
        return None
    above = parent.path()
    path = f"{above}/{text}" if above else text
    return path if len(path.encode()) <= 4096 else None


def _make(parent: Directory, child: Child, name: bytes) -> Node:
    columns, at = child.columns, child.at
    if columns is None or columns.kinds[at] == Kind.DIR:
        return Directory(parent.view, parent, name, columns, at)
    return Node(parent, name, columns, at)


def _is_changed(node: Node) -> bool:
    """Tell whether this mount has changes here that are not committed."""
    if node.dirty:
        return True
    return isinstance(node, Directory) and any(below.dirty for below in node.walk())


def _is_same(node: Node, child: Child) -> bool:
    """Tell whether a node stands for what the index now shows under its name."""
    if node.dirty:
        return True
    columns, at = child.columns, child.at
    if isinstance(node, Directory):
        if columns is not None and columns.kinds[at] != Kind.DIR:
            return False
        node.show(columns, at)
        node.unsure = False
        return True
    row = node.row
    is_same = row is not None and columns is not None and columns.row(at).seq == row.seq
    node.unsure = node.unsure and not is_same
    return is_same
