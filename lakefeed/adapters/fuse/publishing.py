"""The part of a mount's commit that runs on a thread: items become a pack and a commit.

The lake's Writer makes one pack and one commit of them; big files get a pack of their own. A file
whose bytes did not change is a row that refers to them, by the path at which the lake has them.
Keeps I2 by using the Writer. Changes no node: what became of the items is the outcome.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

from lakefeed.adapters.fuse.changes import Committing, Item, Outcome
from lakefeed.adapters.fuse.spool import COPY_BYTES, Spool
from lakefeed.adapters.fuse.tree import changed_paths
from lakefeed.adapters.fuse.view import locate_rows
from lakefeed.errors import Conflict, NotFound
from lakefeed.format import payload
from lakefeed.format.pack import Meta, PackWriter
from lakefeed.format.rows import Codec, Kind, Row
from lakefeed.lake.batch import Delete, Operation, Put, Refer, Sealed
from lakefeed.lake.lake import Lake
from lakefeed.lake.packing import new_pack
from lakefeed.lake.snapshot import Snapshot
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

        `again` says that the commit before failed. It may have been made, and then the path that a
        renamed file had is that of another one by now: its bytes are taken, not referred to.
        """
        try:
            number = self._write(items, old, _is_moved if again else _is_nothing)
        except Conflict as error:
            # Somebody else deleted what a row refers to: take its bytes while there are any.
            _logger.info("committing bytes instead of references: %s", error)
            number = self._write(items, old, _refers)
        snapshot = self._lake.snapshot(number)
        rows = locate_rows(snapshot, [item.path for item in items])
        changed: list[str] | None = []
        if number != old.number + 1:
            changed = changed_paths(old, snapshot)
        return Outcome(snapshot, rows, changed)

    def _write(self, items: list[Item], old: Snapshot, takes: Callable[[Item], bool]) -> int:
        """Commit the items; of those that `takes` chooses, the bytes."""
        changes: dict[str, Operation] = {}
        for item in items:
            if takes(item):
                assert item.row is not None
                try:
                    item.data = old.read_row(item.row)
                except NotFound as error:
                    _logger.error("%r is lost: another writer deleted its bytes: %s",
                                  item.path, error)  # fmt: skip
                    continue
            changes[item.path] = self._operation(item, old)
        if changes:
            self._writer.apply(changes)
        return self._writer.flush()

    def _operation(self, item: Item, old: Snapshot) -> Operation:
        meta, data = item.meta, item.data
        if item.node is None:
            return Delete()
        if isinstance(data, Spool) and data.size > self._options.big_bytes:
            return self._sealed(item.path, data, meta, old)
        if isinstance(data, Spool):
            data = data.read(0, data.size)
        if item.refers:
            assert item.row is not None
            return Refer(item.row.path, item.row, meta)
        codec = self._options.codec if item.kind is Kind.FILE else Codec.NONE
        stored = payload.encode(data or b"", codec)
        return Put(stored, item.kind, meta.mtime_ns, meta.mode, meta.attrs)

    def _sealed(self, path: str, spool: Spool, meta: Meta, old: Snapshot) -> Operation:
        """Stream a big file into a pack of its own."""
        rows: list[Row] = []

        def chunks() -> Iterator[bytes]:
            for offset in range(0, spool.size, COPY_BYTES):
                yield spool.read(offset, COPY_BYTES)

        def fill(writer: PackWriter, now_ns: int) -> None:
            rows.append(writer.add_stream(path, chunks(), meta))

        pack = new_pack(self._lake.volume, old.number, fill)
        return Sealed(pack, rows[0])


def _refers(item: Item) -> bool:
    return item.refers


def _is_moved(item: Item) -> bool:
    return item.refers and item.row is not None and item.row.path != item.path


def _is_nothing(item: Item) -> bool:
    return False
