"""What a writer sees: operations not committed yet, laid over a snapshot.

Layers are dictionaries from path to operation, newest first; the snapshot is the oldest layer. The
newest layer may grow meanwhile, so whoever walks it takes its items at once. A snapshot that was
given up, because nobody looked here for long, makes way for the newest one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeVar

import pyarrow as pa

from lakefeed.errors import Invalid, NotFound, SnapshotExpired
from lakefeed.format import payload
from lakefeed.format.paths import check_path, check_prefix, subtree_range
from lakefeed.format.rows import Kind, Row, rows_from_table
from lakefeed.lake.batch import Delete, Operation, Put, Refer
from lakefeed.lake.listing import implied_directory
from lakefeed.lake.snapshot import Snapshot

_Answer = TypeVar("_Answer")


class Overlay:
    """A read-only view of layers over a snapshot; `renew` asks the volume for the newest one."""

    def __init__(
        self,
        layers: Sequence[Mapping[str, Operation]],
        snapshot: Snapshot,
        renew: Callable[[], Snapshot],
    ) -> None:
        self._layers = layers
        self._snapshot = snapshot
        self._renew = renew

    def _ask(self, question: Callable[[Snapshot], _Answer]) -> _Answer:
        """Return what the snapshot says, the newest one where this one was given up."""
        try:
            return question(self._snapshot)
        except SnapshotExpired:
            newest = self._renew()
            if newest.number == self._snapshot.number:
                raise
        self._snapshot = newest
        return question(newest)

    def _operation(self, path: str) -> Operation | None:
        for layer in self._layers:
            operation = layer.get(path)
            if operation is not None:
                return operation
        return None

    def get(self, path: str) -> bytes:
        """Return a file's bytes."""
        operation = self._operation(path)
        if operation is None:
            return self._ask(lambda snapshot: snapshot.get(path))
        if isinstance(operation, Delete):
            raise NotFound(f"{path!r} in the lake", found="it was deleted")
        if isinstance(operation, Put):
            if operation.kind is Kind.DIR:
                raise Invalid(f"{path!r}", expected="a file", found="a directory")
            held = operation.payload
            return payload.decode(bytes(held.stored), held.size, held.codec, held.crc32c, path)
        return self._snapshot.read_row(operation.row)

    def stat(self, path: str) -> Row:
        """Return a path's row, implied directories included; NotFound if there is none."""
        if not check_prefix(path):
            return self._snapshot.stat("")
        operation = self._operation(check_path(path))
        if operation is None:
            try:
                row = self._ask(lambda snapshot: snapshot.stat(path))
            except SnapshotExpired:
                raise
            except NotFound:
                return self._implied(path)
            return row if row.pack else self._implied(path)
        if isinstance(operation, Delete):
            return self._implied(path)
        return _row(path, operation)

    def _implied(self, path: str) -> Row:
        if not self.has_children(path):
            raise NotFound(f"{path!r} in the lake")
        return implied_directory(path, self._snapshot.time_ns)

    def is_file(self, path: str) -> bool:
        """Tell whether a path is something that cannot hold other paths."""
        operation = self._operation(path)
        if operation is None:
            table = self._ask(lambda snapshot: snapshot.locate([path]))
            return table["kind"][0].as_py() in (Kind.FILE, Kind.SYMLINK)
        return not isinstance(operation, Delete) and _row(path, operation).kind is not Kind.DIR

    def has_children(self, directory: str) -> bool:
        """Tell whether anything lies below a directory; the first path that does is enough."""
        low, high = subtree_range(directory)
        gone: set[str] = set()
        for layer in self._layers:
            for path, operation in tuple(layer.items()):
                if low <= path and (high is None or path < high) and path not in gone:
                    if not isinstance(operation, Delete):
                        return True
                    gone.add(path)
        return self._ask(lambda snapshot: _shows_other(snapshot.scan_range(low, high), gone))

    def ls(self, directory: str = "") -> list[Row]:
        """Return the rows directly below a directory, sorted by path."""
        directory = check_prefix(directory)
        try:
            rows = {row.path: row for row in self._ask(lambda snapshot: snapshot.ls(directory))}
        except SnapshotExpired:
            raise
        except (NotFound, Invalid):
            # A file in the snapshot may be a directory here; the end of this function decides.
            rows = {}
        prefix = f"{directory}/" if directory else ""
        touched = {
            prefix + path[len(prefix) :].split("/", 1)[0]
            for layer in self._layers
            for path in tuple(layer)
            if path.startswith(prefix)
        }
        for path in touched:
            rows.pop(path, None)
            try:
                rows[path] = self.stat(path)
            except SnapshotExpired:
                raise
            except NotFound:
                continue
        if not rows and directory and self.stat(directory).kind is not Kind.DIR:
            raise Invalid(f"{directory!r}", expected="a directory", found="a file")
        return sorted(rows.values(), key=lambda row: row.path)

    def subtree(self, path: str) -> list[Row]:
        """Return the stored row of a path and of everything below it, sorted by path."""
        own = self._operation(path)
        rows = []
        if own is None:
            table = self._ask(lambda snapshot: snapshot.locate([path]))
            rows = rows_from_table(table.filter(table["path"].is_valid()))
        elif not isinstance(own, Delete):
            rows = [_row(path, own)]
        return rows + self._below(path)

    def _below(self, directory: str) -> list[Row]:
        low, high = subtree_range(directory)
        tables = self._ask(lambda snapshot: list(snapshot.scan_range(low, high)))
        rows = {row.path: row for table in tables for row in rows_from_table(table)}
        for layer in reversed(self._layers):
            for path, operation in tuple(layer.items()):
                if low <= path and (high is None or path < high):
                    if isinstance(operation, Delete):
                        rows.pop(path, None)
                    else:
                        rows[path] = _row(path, operation)
        return [rows[path] for path in sorted(rows)]


def _shows_other(tables: Iterator[pa.Table], gone: set[str]) -> bool:
    return any(path not in gone for table in tables for path in table["path"].to_pylist())


def _row(path: str, operation: Operation) -> Row:
    if isinstance(operation, Put):
        held = operation.payload
        return Row(path, operation.kind, "", 0, len(held.stored), held.size, held.codec,
                   held.crc32c, operation.mtime_ns or 0, operation.mode,
                   operation.attrs, 0)  # fmt: skip
    assert not isinstance(operation, Delete)
    if isinstance(operation, Refer):
        return operation.shown(path)
    return operation.row._replace(path=path)
