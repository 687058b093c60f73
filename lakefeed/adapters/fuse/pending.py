"""What was changed through this mount and is not committed yet, and its group commit.

Changes are marks on nodes and on names that went away; what a mark means is read off the nodes when
a commit is planned, so a file written ten times and renamed twice is one row. A commit is due when
the oldest mark is old enough, when there are many or it would free much of the spool, or when
somebody waits for it (fsync). One runs at a time; those who come meanwhile wait for the next one,
together. The spool of an open file stays, so it makes no commit due and nobody wait; what open
files hold is bounded by the spool itself (ENOSPC). A big file that is being written is left out,
for a while, of commits that are not for it (`changes.ready_at`), and so is one for which the volume
has no room (`room`).

1. Plan, on the trio thread: take the marks, copy small contents, freeze big ones.
2. Publish, on a thread (`publishing`).
3. Finish, on the trio thread, in one step: nodes stand for their new rows, the view shows the new
   snapshot.

A commit that failed puts its marks back: nothing is lost, whoever waits hears of it (ENOSPC,
EDQUOT, EIO), and it is tried again, ever more slowly. It may have been made all the same, and only
its answer got lost; so its names count as names that the lake has.
"""

from __future__ import annotations

import errno
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, field

import trio

from lakefeed.adapters.fuse.changes import Committing, Item, item_of, ready_at
from lakefeed.adapters.fuse.nodes import Directory, Node, is_nameless
from lakefeed.adapters.fuse.publishing import Publishing
from lakefeed.adapters.fuse.room import BACKOFF_MAX_SECONDS, Room
from lakefeed.adapters.fuse.spool import Budget
from lakefeed.adapters.fuse.tree import Tree
from lakefeed.errors import Conflict, LakefeedError, VolumeFailed, from_os_error
from lakefeed.format.rows import Row
from lakefeed.lake.lake import Lake
from lakefeed.lake.writer import Writer

_logger = logging.getLogger(__name__)


@dataclass(slots=True)
class _Waiter:
    # Tells of a node whether its commit is waited for, too, when it may come later.
    wants: Callable[[Node], bool]
    done: trio.Event = field(default_factory=trio.Event)
    error: LakefeedError | None = None


class Pending:
    """The changes of one mount."""

    def __init__(
        self, tree: Tree, lake: Lake, writer: Writer, options: Committing, budget: Budget
    ) -> None:
        self._tree = tree
        self._publishing = Publishing(lake, writer, options)
        self.lake = lake
        self.writer = writer
        self.options = options
        self.budget = budget
        self._nodes: dict[Node, None] = {}
        self._removals: dict[tuple[Directory, bytes], None] = {}
        self._in_flight: list[Item] = []
        self._room = Room(options, budget)
        self._failed: list[Item] = []
        self._waiters: list[_Waiter] = []
        self._kick = trio.Event()
        self._thawed = trio.Event()
        self._due_at = math.inf
        # How many nodes the last commit left out.
        self._left_out = 0
        self._patience = 0.0
        # Seconds of the last commit: the next one is not due sooner, or a slow volume would have
        # commits all the time.
        self._took = 0.0
        self.commits = 0
        self.failed_commits = 0

    # -- marks -----------------------------------------------------------------------------------

    @property
    def count(self) -> int:
        """How many names wait for a commit."""
        return len(self._nodes) + len(self._removals) + len(self._in_flight)

    @property
    def held_bytes(self) -> int:
        """How many bytes wait in memory and in the local spool."""
        return self.budget.memory_bytes + self.budget.disk_bytes

    def mark(self, node: Node) -> None:
        """Take notice that a node was made or changed."""
        draft = node.changed()
        if draft.marked and not node.opens:
            self._room.count(node)
        if draft.marked or draft.removed or node.parent is None:
            return
        if not node.is_named() and not self._reclaim(node):
            return
        draft.marked = True
        draft.marked_at = trio.current_time()
        if not node.dirty:
            node.dirty = True
            self._tree.inodes.hold(node)
        self._nodes[node] = None
        self._room.count(node)
        self._noted()

    def _reclaim(self, node: Node) -> bool:
        """Give a file its name back that another version took while it was open.

        The later commit wins, and that will be this one; directories that went away come back with
        it. False for a file of which no bytes wait for a commit, where another directory, or a
        file in place of one above, is by now, and where one above was removed here.
        """
        draft, each = node.changed(), node
        if draft.content == draft.committed:
            return False
        lost: list[tuple[Directory, Node, Node | None]] = []
        while (above := each.parent) is not None:
            there = above.children.get(each.name)
            if there is not each:
                is_other = there is not None and each is not node
                if is_other or isinstance(there, Directory) or each.changed().removed:
                    return False
                lost.append((above, each, there))
            each = above
        for above, each, there in lost:
            above.children[each.name] = each
            if there is not None:
                self._unlist(there)
            above.complete = False
            self._tree.stale.append((above.ino, each.name))
        return True

    def unmark(self, node: Node) -> None:
        """Take notice that a node needs no commit any more: it was removed."""
        node.changed().removed = True
        self._unlist(node)

    def _unlist(self, node: Node) -> None:
        draft = node.changed()
        if draft.marked:
            draft.marked = False
            del self._nodes[node]
            if not any(item.node is node for item in self._in_flight):
                self._clean(node)

    def removed(self, parent: Directory, name: bytes, node: Node) -> None:
        """Take notice that a name went away (removed, renamed) that stood for `node`."""
        draft = node.changed()
        if not draft.fresh:
            parent.gone.add(name)
            self._removals[parent, name] = None
            self._noted()

    def _noted(self) -> None:
        patience = max(self.options.age_seconds, self._took, self._patience)
        due_at = trio.current_time() + patience
        if due_at < self._due_at or self._is_much():
            self._due_at = min(self._due_at, due_at)
            self._kick.set()

    def _is_much(self) -> bool:
        count = len(self._nodes) + len(self._removals) - self._left_out
        return count >= self.options.files or self._room.frees(self.options.bytes)

    def closed(self, node: Node) -> None:
        """Take notice that a handle that could write was closed, or the last of all.

        So a commit may free a spool now, and may have no reason to leave the node out any more.
        """
        self._room.count(node)
        self.trim(node)
        if node.dirty:
            self._noted()

    def _clean(self, node: Node) -> None:
        node.dirty = False
        self._room.count(node)
        self._tree.inodes.let_go(node)
        self.trim(node)

    def trim(self, node: Node) -> None:
        """Give the spool of a node back when nobody needs it."""
        draft = node.draft
        if draft is None or draft.spool is None or node.dirty or node.opens:
            return
        if node.row is not None or is_nameless(node):
            draft.spool.close()
            draft.spool = None

    # -- waiting ---------------------------------------------------------------------------------

    async def commit(self) -> None:
        """Return once everything marked so far is durable, or raise what is in the way."""
        if self.count:
            await self._commit(lambda node: True)

    async def _commit(self, wants: Callable[[Node], bool]) -> None:
        waiter = _Waiter(wants)
        self._waiters.append(waiter)
        self._kick.set()
        await waiter.done.wait()
        if waiter.error is not None:
            raise waiter.error

    async def commit_file(self, node: Node) -> None:
        """Return once a file is durable as it is now, or raise what is in the way.

        Conflict (ESTALE) where another version took its name before a commit.
        """
        draft = node.draft
        if draft is None:
            return
        content = draft.content
        while node.dirty:
            await self._commit(lambda each: each is node)
            if draft.committed >= content:
                return
        if draft.committed < content and not draft.removed:
            raise Conflict(f"{node.path()!r}", expected="the file that was written",
                           found="another one", errno=errno.ESTALE)  # fmt: skip

    async def room(self) -> None:
        """Return once there is room for more changes."""
        while self.is_full():
            await self._commit(lambda node: False)

    def is_full(self) -> bool:
        """Tell whether writers have to wait for a commit, which then frees something."""
        return self._room.frees(self.options.held_bytes_max)

    async def thaw(self, node: Node) -> None:
        """Return once no commit reads the spool of a node."""
        while node.draft is not None and node.draft.freezing:
            await self._thawed.wait()

    async def run(self) -> None:
        """Commit whenever it is due, for ever."""
        while True:
            await self._until_due()
            waiters, self._waiters = self._waiters, []
            await self._try_for(waiters)
            for waiter in waiters:
                waiter.done.set()

    async def _try_for(self, waiters: list[_Waiter]) -> None:
        """Commit, without the files for which there is no room, and note what failed for whom."""
        held: list[Node] = []
        while error := await self._try(waiters, again=self._patience > 0 or bool(held)):
            refused = self._room.hold_back(self._failed)
            for waiter in waiters:
                if refused is None or any(map(waiter.wants, refused)):
                    waiter.error = error
            if refused is None:
                self._postpone(error)
                break
            _logger.warning("no room for %d files, held back: %s", len(refused), error)
            self.failed_commits += 1
            waiters = [waiter for waiter in waiters if waiter.error is None]
            held += refused
        now = trio.current_time()
        self._due_at = min([self._due_at, *(self._room.wait_for(node, now) for node in held)])

    async def _try(self, waiters: list[_Waiter], *, again: bool) -> LakefeedError | None:
        self._failed = []
        try:
            await self._round(waiters, again=again)
        except LakefeedError as failure:
            return failure
        except OSError as failure:
            return from_os_error(failure, "commit of the mount's changes")
        except Exception as failure:
            _logger.exception("a commit failed in a way nobody foresaw")
            return VolumeFailed("commit of the mount's changes", found=repr(failure))
        self._patience = 0.0
        return None

    def _postpone(self, error: LakefeedError) -> None:
        self.failed_commits += 1
        self._patience = min(max(self._patience * 2, 1.0), BACKOFF_MAX_SECONDS)
        self._due_at = trio.current_time() + self._patience
        _logger.warning(
            "%d changes not committed, next attempt in %.0f s: %s",
            self.count, self._patience, error,
        )  # fmt: skip

    async def _until_due(self) -> None:
        while not self._waiters:
            self._kick = trio.Event()
            much = self._is_much() and not self._patience
            if trio.current_time() >= self._due_at or much:
                return
            with trio.move_on_at(self._due_at):
                await self._kick.wait()

    # -- a commit --------------------------------------------------------------------------------

    async def _round(self, waiters: list[_Waiter], *, again: bool) -> None:
        began = trio.current_time()
        async with self._tree.moving:
            old = self._tree.view.snapshot
            items = self._in_flight = self._plan(waiters)
            if not items:
                return
            self._thawed = trio.Event()
            try:
                outcome = await self._tree.pace.elsewhere(
                    self._publishing.publish, items, old, again
                )
            except BaseException:
                self._in_flight, self._failed = [], items
                self._restore(items)
                raise
            finally:
                self._thaw(items)
            self._in_flight = []
            others = self._finish(items, outcome.rows)
            changed = outcome.changed
            if changed is not None:
                mine = {item.path for item in items}
                changed = [path for path in changed if path not in mine] + others
            self._tree.stale += self._tree.turn(outcome.snapshot, changed)
            for item in items:
                if item.removal is not None and item.removal not in self._removals:
                    item.removal[0].gone.discard(item.removal[1])
            self.commits += 1
            self._took = trio.current_time() - began

    def _plan(self, waiters: list[_Waiter]) -> list[Item]:
        """Take the marks and return what they mean now, but for nodes that are left out."""
        now, self._due_at = trio.current_time(), math.inf
        nodes, self._nodes = self._nodes, {}
        removals, self._removals = self._removals, {}
        items: dict[str, Item] = {}
        for parent, name in removals:
            above = parent.path()
            path = f"{above}/{name.decode()}" if above else name.decode()
            items[path] = Item(path, None, removal=(parent, name))
        for node in nodes:
            path = node.path()
            removal = items[path].removal if path in items else None
            ready = 0.0 if removal is not None else ready_at(path, node)
            if ready > now and not any(waiter.wants(node) for waiter in waiters):
                self._nodes[node] = None
                self._room.count(node)
                self._due_at = min(self._due_at, ready)
            else:
                items[path] = item_of(path, node, removal)
        self._left_out = len(self._nodes)
        return list(items.values())

    def _thaw(self, items: list[Item]) -> None:
        for item in items:
            if item.node is not None and item.node.draft is not None:
                item.node.draft.freezing = False
        self._thawed.set()

    def _restore(self, items: list[Item]) -> None:
        """Put the marks of a failed commit back, but for what was changed again meanwhile."""
        for item in items:
            if item.removal is not None:
                self._removals[item.removal] = None
            if item.node is not None:
                draft = item.node.changed()
                if draft.removed or is_nameless(item.node):
                    self._clean(item.node)
                elif not draft.marked:
                    draft.marked = True
                    self._nodes[item.node] = None

    def _finish(self, items: list[Item], rows: list[Row | None]) -> list[str]:
        """Let nodes stand for their new rows; return the paths that show another writer's bytes."""
        others = []
        for item, row in zip(items, rows, strict=True):
            node = item.node
            if node is None:
                continue
            draft = node.changed()
            if not item.is_shown(row):
                others.append(item.path)
            else:
                draft.committed = item.content
                self._room.found(node)
                if draft.content == item.content:
                    node.adopt(row)
            if isinstance(node, Directory):
                node.stored = True
            if not draft.marked:
                self._clean(node)
        return others
