"""Room: what commits give back of the spool, and files for which the volume has none.

A commit gives back what the spool holds of files that nobody has open. A big file that finds no
room on the volume keeps no other from being committed: it is held back, out of commits that are not
for it, for a while that doubles with each try. It gives nothing back then.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from lakefeed.adapters.fuse.changes import Committing, Item
from lakefeed.adapters.fuse.nodes import Node
from lakefeed.adapters.fuse.spool import Budget, Spool

# Wait between attempts after a failed commit that nobody waited for: doubling up to this.
BACKOFF_MAX_SECONDS = 60.0


class Room:
    """Counts for one mount; each node says its part in its draft."""

    def __init__(self, options: Committing, budget: Budget) -> None:
        self._options = options
        self._budget = budget
        self._closed_bytes = 0

    def frees(self, size_bytes: int) -> bool:
        """Tell whether a commit would give so much back: not what is in spools of open files."""
        return self._closed_bytes >= size_bytes

    def count(self, node: Node) -> None:
        """Count what a commit gives back of a node's spool.

        Of a file that is opened again it may count too much, until the next commit.
        """
        draft = node.draft
        if draft is not None:
            waits = node.dirty and not node.opens and not draft.held_seconds
            size = self._weight(draft.spool) if waits and draft.spool is not None else 0
            self._closed_bytes += size - draft.closed_bytes
            draft.closed_bytes = size

    def _weight(self, spool: Spool) -> int:
        """Return how many bytes a spool counts as: half of the files may hold all of them."""
        least = self._options.held_bytes_max // max(self._budget.files_max // 2, 1)
        return max(spool.size, least) if spool.on_disk else spool.size

    def hold_back(self, items: Sequence[Item]) -> list[Node] | None:
        """Hold those of a failed commit back for which there is no room, until `wait_for` says when
        to try again; return them, none where they were removed meanwhile. None: all would be tried
        again.

        Not one that comes in the place of what the same commit removes, or that was moved.
        """
        held: list[Node] = []
        is_less = False
        for item in items:
            node, row = item.node, item.row
            if node is None or not item.refused:
                continue
            draft = node.changed()
            is_less = is_less or not draft.marked
            if draft.marked and item.removal is None and (row is None or row.path == item.path):
                draft.held_seconds = min(max(2 * draft.held_seconds, 1.0), BACKOFF_MAX_SECONDS)
                draft.held_until = math.inf
                self.count(node)
                held.append(node)
        return held if held or is_less else None

    def wait_for(self, node: Node, now: float) -> float:
        """Return when a node that is held back is tried again."""
        draft = node.changed()
        draft.held_until = now + draft.held_seconds
        return draft.held_until

    def found(self, node: Node) -> None:
        """Take notice that there was room for a node."""
        draft = node.changed()
        draft.held_seconds = draft.held_until = 0.0
