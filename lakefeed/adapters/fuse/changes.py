"""The values of a mount's commits: when one is due, what it holds, what it led to."""

from __future__ import annotations

import errno
from dataclasses import dataclass

from lakefeed.adapters.fuse.answers import attrs_of
from lakefeed.adapters.fuse.nodes import Directory, Node
from lakefeed.adapters.fuse.spool import Spool
from lakefeed.format.pack import Meta
from lakefeed.format.rows import Codec, Kind, Row
from lakefeed.lake.snapshot import Snapshot

# A file is stored anew as a whole, so one that programs go on writing is stored at no more than
# this rate while nobody waits for it.
OPEN_BYTES_PER_SECOND = 1 << 20
# What a volume says where other, smaller files may still fit.
NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


@dataclass(frozen=True, slots=True)
class Committing:
    """When changes are committed.

    `held_bytes_max` may be spooled before writers have to wait for a commit. Files above
    `big_bytes` get a pack of their own. With `sync_close`, close waits for the commit.
    """

    age_seconds: float = 1.0
    files: int = 10_000
    bytes: int = 64 << 20
    held_bytes_max: int = 1 << 30
    big_bytes: int = 8 << 20
    codec: Codec = Codec.NONE
    sync_close: bool = False


_NO_META = Meta(0)


@dataclass(slots=True)
class Item:
    """One path of a commit: a node as it was when the commit was planned, or a removal."""

    path: str
    node: Node | None
    removal: tuple[Directory, bytes] | None = None
    kind: Kind = Kind.FILE
    meta: Meta = _NO_META
    data: bytes | Spool | None = None
    row: Row | None = None
    content: int = 0
    # Its bytes are copied from where `row` has them, instead of referred to.
    taken: bool = False
    # There was no room for it.
    refused: bool = False

    @property
    def refers(self) -> bool:
        """True for a file whose bytes are in the lake already and stay where they are."""
        is_stored = self.data is None and self.row is not None and self.kind is not Kind.DIR
        return is_stored and not self.taken

    def is_shown(self, row: Row | None) -> bool:
        """Tell whether a row of the snapshot after the commit shows what was meant.

        Another writer may have come first and have put other bytes where this item refers to.
        """
        if row is None or self.row is None or not self.refers:
            return row is not None
        return same_bytes(row, self.row)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a commit led to."""

    snapshot: Snapshot
    rows: list[Row | None]
    changed: list[str] | None


def item_of(path: str, node: Node, removal: tuple[Directory, bytes] | None) -> Item:
    """Return what a commit takes of a node, which is not marked any more."""
    draft = node.changed()
    meta = Meta(node.mtime_ns, node.mode, dict(attrs_of(node)) or None)
    item = Item(path, node, removal, Kind(node.kind), meta, None, node.row, draft.content)
    spool = draft.spool
    if spool is not None and spool.on_disk:
        item.data = spool
        draft.freezing = True
    elif spool is not None:
        item.data = spool.read(0, spool.size)
    draft.marked = draft.fresh = False
    return item


def ready_at(path: str, node: Node) -> float:
    """Return from when on a commit takes a marked node that nobody waits for; 0: at once.

    A file that is being written waits, where its path is as the lake has it, or free there. One
    that was moved does not: its old name goes away, or shows another file, in the same commit. Nor
    is one taken while it is held back, though only its mode or attributes are new.
    """
    draft, row = node.changed(), node.row
    if row is not None and row.path != path:
        return 0.0
    is_written = draft.writers and draft.content != draft.committed
    if not is_written or (row is None and not draft.fresh):
        return draft.held_until
    return max(draft.marked_at + node.size / OPEN_BYTES_PER_SECOND, draft.held_until)


def same_bytes(one: Row, other: Row) -> bool:
    """Tell whether two rows show the same bytes, wherever they are."""
    return (one.kind, one.size, one.crc32c) == (other.kind, other.size, other.crc32c)
