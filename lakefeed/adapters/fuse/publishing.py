"""The part of a mount's commit that runs on a thread: items become a pack and a commit.

The lake's Writer makes one pack and one commit of them; big files get a pack of their own. A file
whose bytes did not change is a row that refers to them, by the path at which the lake has them; its
bytes are taken where that path no longer leads to them. Keeps I2 by using the Writer. Changes no
node: what became of the items is the outcome.
"""

from __future__ import annotations

import logging

from lakefeed.adapters.fuse.changes import NO_ROOM, Committing, Item, Outcome, same_bytes
from lakefeed.adapters.fuse.spool import COPY_BYTES, Spool
from lakefeed.adapters.fuse.tree import changed_paths
from lakefeed.adapters.fuse.view import locate_rows
from lakefeed.errors import Conflict, NotFound, VolumeFailed
from lakefeed.format import payload
from lakefeed.format.rows import Codec, Kind
from lakefeed.lake.batch import Delete, Operation, Put, Refer, Sealed
from lakefeed.lake.committing import discard_sealed, streamed
from lakefeed.lake.lake import Lake
from lakefeed.lake.snapshot import Snapshot
from lakefeed.lake.view import pieces_of
from lakefeed.lake.writer import Writer

_logger = logging.getLogger(__name__)


class Publishing:
    """Commits items of one mount."""

    def __init__(self, lake: Lake, writer: Writer, options: Committing) -> None:
        self._lake = lake
        self._writer = writer
        self._options = options

    def publish(self, items: list[Item], old: Snapshot, again: bool) -> Outcome:
        """Return what the commit of the items led to, once it is durable.

        `again` says that the commit before failed. It may have been made, and then what it changed
        is at paths that items refer to.
        """
        if again:
            self._take(items)
        try:
            number = self._write(items, old)
        except Conflict as error:
            # Somebody else deleted what a row refers to: take its bytes while there are any.
            _logger.info("committing bytes instead of references: %s", error)
            self._take(items, gone=True)
            number = self._write(items, old)
        snapshot = self._lake.snapshot(number)
        rows = locate_rows(snapshot, [item.path for item in items])
        changed: list[str] | None = []
        if number != old.number + 1:
            changed = changed_paths(old, snapshot)
        return Outcome(snapshot, rows, changed)

    def _take(self, items: list[Item], *, gone: bool = False) -> None:
        """Let the bytes be taken of those files whose path in the lake shows other ones by now.

        One where there is nothing may be referred to while its pack is there; with `gone`, the
        bytes of these are taken, too.
        """
        paths = {item.path: item.row.path for item in items if item.refers and item.row is not None}
        rows = dict(zip(paths, locate_rows(self._lake.snapshot(), [*paths.values()]), strict=True))
        for item in items:
            if item.path in rows and item.row is not None:
                row = rows[item.path]
                item.taken = gone if row is None else not same_bytes(row, item.row)

    def _write(self, items: list[Item], old: Snapshot) -> int:
        changes: dict[str, Operation] = {}
        try:
            # All of them, so that each for which there is no room is found at once.
            for error in [self._add(changes, item, old) for item in items]:
                if error is not None:
                    raise error
        except BaseException:
            discard_sealed(self._lake.volume, self._lake.log, changes.values())
            raise
        try:
            if changes:
                self._writer.apply(changes)
            return self._writer.flush()
        except VolumeFailed as error:
            for item in items:
                is_big = isinstance(changes.get(item.path), Sealed)
                item.refused = is_big and error.errno in NO_ROOM
            raise

    def _add(self, changes: dict[str, Operation], item: Item, old: Snapshot) -> VolumeFailed | None:
        """Note the operation of an item; return what says that there is no room for it."""
        try:
            changes[item.path] = self._operation(item, old)
        except NotFound as error:
            if not item.taken:
                raise
            item.taken = False
            _logger.error("%r is lost: another writer deleted its bytes: %s", item.path, error)
        except VolumeFailed as error:
            item.refused = error.errno in NO_ROOM
            if not item.refused:
                raise
            return error
        return None

    def _operation(self, item: Item, old: Snapshot) -> Operation:
        meta, data = item.meta, item.data
        if item.node is None:
            return Delete()
        if item.refers:
            assert item.row is not None
            return Refer(item.row.path, item.row, meta)
        big_bytes = self._options.big_bytes
        if item.taken:
            assert item.row is not None
            # A compressed payload can only be read as a whole.
            if item.row.length == item.row.size > big_bytes:
                pieces = pieces_of(old, item.row)
                return streamed(self._lake.volume, old.number, item.path, pieces, meta)
            data = old.read_row(item.row)
        elif isinstance(data, Spool):
            if data.size > big_bytes:
                pieces = (data.read(at, COPY_BYTES) for at in range(0, data.size, COPY_BYTES))
                return streamed(self._lake.volume, old.number, item.path, pieces, meta)
            data = data.read(0, data.size)
        codec = self._options.codec if item.kind is Kind.FILE else Codec.NONE
        stored = payload.encode(data or b"", codec)
        return Put(stored, item.kind, meta.mtime_ns, meta.mode, meta.attrs)
