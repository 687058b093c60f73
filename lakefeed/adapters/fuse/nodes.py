"""Inodes: what the kernel knows, and what it takes to answer it.

A `Node` is one file, symlink or directory; a `Directory` also holds its children by name. Numbers
are never reused. The kernel counts its look-ups of each inode and forgets them under memory
pressure; the table holds a node exactly while that count is above zero. A directory's children stay
cached beyond that, up to `IDLE_MAX` nodes in directories of which the kernel knows no child; the
least recently used ones are dropped first. So memory follows the kernel's own caches (some 400
bytes here for about a kilobyte there), not the size of the lake. Of older snapshots, of which there
may be any number, nothing is cached beyond what the kernel knows.

A node with a `draft` was changed through this mount and is never dropped while the change is not
committed. All of it belongs to the trio thread.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from itertools import count

from lakefeed.adapters.fuse.spool import Spool
from lakefeed.adapters.fuse.view import Columns, View
from lakefeed.format.rows import Kind, Row

ROOT = 1
IDLE_MAX = 200_000

_numbers = count(ROOT + 1)


class Draft:
    """What this mount changed about a node since the row it came from."""

    __slots__ = ("attrs", "closed_bytes", "committed", "content", "ctime_ns", "freezing", "fresh",
                 "held_seconds", "held_until", "marked", "marked_at", "removed", "spool", "writers",
                 )  # fmt: skip

    def __init__(self) -> None:
        # The bytes as written here; None: those of the node's row, or none at all.
        self.spool: Spool | None = None
        self.attrs: dict[str, str] | None = None
        self.ctime_ns = 0
        # Counts changes of the bytes; a commit compares it before and after.
        self.content = 0
        # What `content` was when the bytes were committed last.
        self.committed = 0
        # How many bytes a commit gives back: what is counted of the spool while nobody has it open.
        self.closed_bytes = 0
        # Waiting for the next commit, and since when; `Node.dirty` also covers the one under way.
        self.marked = False
        self.marked_at = 0.0
        # There was no room for it: for how long it is left out of commits, and until when.
        self.held_seconds = 0.0
        self.held_until = 0.0
        # How many handles may write to it.
        self.writers = 0
        # Made here under a name that was free, and no commit was tried with it yet.
        self.fresh = False
        # True while a commit reads the spool file: it must not change under its reader.
        self.freezing = False
        # It lost its name; it lives while somebody has it open.
        self.removed = False


class Node:
    """A file or symlink; `columns` and `at`, or `row`, say where its bytes are."""

    __slots__ = ("at", "columns", "dirty", "draft", "ino", "kind", "lookups", "mode", "mtime_ns",
                 "name", "opens", "parent", "size", "unsure")  # fmt: skip

    def __init__(
        self, parent: Directory | None, name: bytes, columns: Columns | None, at: int
    ) -> None:
        self.ino = next(_numbers)
        self.parent = parent
        self.name = name
        self.columns: Columns | Row | None = columns
        self.at = at
        self.lookups = 0
        self.opens = 0
        self.dirty = False
        # The lake may have changed it: what stands under its name now is to be looked up.
        self.unsure = False
        self.draft: Draft | None = None
        if columns is not None:
            self.kind = columns.kinds[at]
            self.size = columns.sizes[at]
            self.mtime_ns = columns.mtimes[at]
            self.mode = columns.modes[at]

    def be(self, kind: Kind, mode: int, mtime_ns: int, size: int = 0) -> None:
        """Set the facts of a node that no row describes."""
        self.kind, self.mode, self.mtime_ns, self.size = int(kind), mode, mtime_ns, size

    @property
    def row(self) -> Row | None:
        """The row that holds the node's committed bytes, if it has any."""
        found = self.columns
        return found.row(self.at) if isinstance(found, Columns) else found

    def adopt(self, row: Row | None) -> None:
        """Stand for another row from now on."""
        self.columns, self.at = row, 0

    def path(self) -> str:
        """Return the path in the lake."""
        parts = []
        node: Node = self
        while node.parent is not None:
            parts.append(node.name)
            node = node.parent
        return b"/".join(reversed(parts)).decode()

    def is_named(self) -> bool:
        """Tell whether the path leads here: no name on it went away or stands for another."""
        node: Node = self
        while (above := node.parent) is not None:
            if above.children.get(node.name) is not node:
                return False
            node = above
        return True

    def changed(self) -> Draft:
        """Return the node's draft, a new one if nothing was changed yet."""
        if self.draft is None:
            self.draft = Draft()
        return self.draft


class Directory(Node):
    """A directory; `complete` says that `children` are all there are."""

    __slots__ = ("__weakref__", "children", "complete", "gone", "known", "probes", "stored", "view")

    def __init__(
        self, view: View, parent: Directory | None, name: bytes, columns: Columns | None, at: int
    ) -> None:
        super().__init__(parent, name, columns, at)
        self.view = view
        self.children: dict[bytes, Node] = {}
        self.complete = False
        # Children that the kernel knows or that hold changes or are open.
        self.known = 0
        # Look-ups of single names so far: many of them make listing the directory cheaper.
        self.probes = 0
        # Whether the lake has a row for it; other directories are implied by what lies below.
        self.stored = columns is not None
        # Names removed here that the view may still show.
        self.gone: set[bytes] = set()
        if columns is None:
            self._imply()

    def _imply(self) -> None:
        self.be(Kind.DIR, 0o755, self.view.snapshot.time_ns)

    def show(self, columns: Columns | None, at: int) -> None:
        """Show another row of the same directory, or none; it holds no changes of this mount."""
        if columns is not None:
            self.mode, self.mtime_ns = columns.modes[at], columns.mtimes[at]
        elif self.stored:
            self._imply()
        self.columns, self.at, self.stored = columns, at, columns is not None
        if self.draft is not None:
            self.draft.attrs = None

    def touch(self) -> None:
        """Take notice that names in it came or went."""
        self.mtime_ns = time.time_ns()
        if self.draft is not None:
            self.draft.ctime_ns = self.mtime_ns

    def walk(self) -> Iterator[Node]:
        """Yield every node below that is in memory, however deep."""
        waiting = [self]
        while waiting:
            for child in list(waiting.pop().children.values()):
                yield child
                if isinstance(child, Directory):
                    waiting.append(child)


def is_nameless(node: Node) -> bool:
    """Tell whether a file's name went away, or stands for another one by now."""
    if isinstance(node, Directory) or node.parent is None:
        return False
    return node.parent.children.get(node.name) is not node


class Inodes:
    """The table of inodes that the kernel knows."""

    def __init__(self) -> None:
        self.table: dict[int, Node] = {}
        self._roots: set[int] = set()  # that stay, whatever the kernel forgets
        self._views: set[View] = set()  # of these
        self._idle: OrderedDict[Directory, int] = OrderedDict()
        self._idle_nodes = 0

    def __len__(self) -> int:
        return len(self.table)

    def add_root(self, node: Directory, number: int | None = None) -> None:
        """Take in a directory that has no parent; it stays for as long as the table."""
        if number is not None:
            node.ino = number
        node.lookups = 1
        self.table[node.ino] = node
        self._roots.add(node.ino)
        self._views.add(node.view)

    def meet(self, node: Node) -> None:
        """Count one more look-up by the kernel."""
        if not node.lookups:
            self.table[node.ino] = node
            parent = node.parent
            # `hold`, without a call for each name of a listing where its directory is held already.
            if parent is not None and parent.known:
                parent.known += 1
            else:
                self.hold(node)
        node.lookups += 1

    def hold(self, node: Node) -> None:
        """Keep a node and its siblings in memory until `let_go`."""
        parent = node.parent
        if parent is not None:
            parent.known += 1
            if parent.known == 1 and (waiting := self._idle.pop(parent, None)) is not None:
                self._idle_nodes -= waiting

    def release(self, node: Node) -> None:
        """Undo one `hold` of a node that is about to get another parent."""
        if node.parent is not None:
            node.parent.known -= 1

    def let_go(self, node: Node) -> None:
        """Undo one `hold`."""
        parent = node.parent
        if parent is None:
            return
        parent.known -= 1
        is_idle = not self._is_held(node) and not self._has_held(node)
        if is_idle and not parent.complete and parent.children.get(node.name) is node:
            del parent.children[node.name]
        if not parent.known and parent.children:
            self._idle[parent] = len(parent.children)
            self._idle_nodes += len(parent.children)
            if parent.view not in self._views:
                self._drop(parent, self._idle.pop(parent))
            while self._idle_nodes > IDLE_MAX and len(self._idle) > 1:
                self._drop(*self._idle.popitem(last=False))

    def _is_held(self, node: Node) -> bool:
        return node.lookups > 0 or node.dirty or node.opens > 0

    def _has_held(self, node: Node) -> bool:
        return isinstance(node, Directory) and bool(node.children)

    def _drop(self, directory: Directory, counted: int) -> None:
        """Forget a directory's children, but not those that have children of their own."""
        self._idle_nodes -= counted
        kept = {
            name: child
            for name, child in directory.children.items()
            if self._is_held(child) or self._has_held(child)
        }
        directory.children = kept
        directory.complete = False
        directory.probes = 0

    def forget(self, forgotten: Sequence[tuple[int, int]]) -> None:
        """Subtract look-ups that the kernel has forgotten."""
        table = self.table
        for ino, lookups in forgotten:
            node = table.get(ino)
            if node is None or ino in self._roots:
                continue
            node.lookups -= lookups
            if node.lookups <= 0:
                node.lookups = 0
                del table[ino]
                self.let_go(node)
                if node.parent is None:
                    _empty(node)


def _empty(root: Node) -> None:
    """Take a snapshot apart of which the kernel forgot the root, unless a file of it is open.

    What refers to itself waits for a collection of garbage, which is rare in a daemon.
    """
    below = list(root.walk()) if isinstance(root, Directory) else []
    if not any(node.lookups or node.opens for node in below):
        for node in [root, *below]:
            if isinstance(node, Directory):
                node.children, node.complete = {}, False
