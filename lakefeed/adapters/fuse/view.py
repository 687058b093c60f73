"""Names of one snapshot, by directory, straight from the index.

`Columns` keeps rows as sorted paths and plain arrays: 60 bytes a row and the path. A directory's
children come out of a *stretch*, the columns of a whole subtree of at most `STRETCH_ROWS` rows,
where they are found by bisection; so `find` over thousands of small directories decodes the index
once. Bigger subtrees are listed one directory at a time (`Snapshot.listed`).

A path that is a file and has files below it (two writers at one moment can make one; `fsck` calls
it shadowed) is shown as a directory, so that most files can be reached.

`find` and `load` do I/O, may block, and may run on any thread: they change nothing. The rest is for
the thread that owns the view. `move` makes it look at another snapshot.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from lakefeed.format import bridge
from lakefeed.format.paths import subtree_range
from lakefeed.format.rows import Codec, Kind, Row
from lakefeed.lake.snapshot import Snapshot

# Decoding so many rows takes some 60 ms, and about 30 MB until the stretch is evicted.
STRETCH_ROWS = 131_072
STRETCHES_MAX = 4

_NUMBERS = ("kind", "offset", "length", "size", "codec", "crc32c", "mtime_ns", "mode", "seq")


class Columns:
    """Rows of the index, sorted by path; `row(i)` gives one as a value."""

    def __init__(self, table: pa.Table) -> None:
        self.paths: list[str] = table["path"].to_pylist()
        self._numbers = {name: bridge.to_numpy(table[name]) for name in _NUMBERS}
        self.kinds: list[int] = self._numbers["kind"].tolist()
        self.sizes: list[int] = self._numbers["size"].tolist()
        self.mtimes: list[int] = self._numbers["mtime_ns"].tolist()
        self.modes: list[int] = self._numbers["mode"].tolist()
        pack = table["pack"].unify_dictionaries().combine_chunks()
        self._pack_names: list[str] = pack.dictionary.to_pylist()
        self._packs = bridge.to_numpy(pack.indices)
        attrs = table["attrs"]
        self._attrs = attrs if attrs.null_count < len(attrs) else None

    def __len__(self) -> int:
        return len(self.paths)

    def row(self, at: int) -> Row:
        """Return one row."""
        numbers = self._numbers
        attrs = None
        if self._attrs is not None and (pairs := self._attrs[at].as_py()) is not None:
            attrs = dict(pairs)
        return Row(
            self.paths[at], Kind(self.kinds[at]), self._pack_names[self._packs[at]],
            int(numbers["offset"][at]), int(numbers["length"][at]), self.sizes[at],
            Codec(int(numbers["codec"][at])), int(numbers["crc32c"][at]),
            self.mtimes[at], self.modes[at], attrs, int(numbers["seq"][at]),
        )  # fmt: skip


class Child(NamedTuple):
    """A name in a directory; without columns it is a directory that only files below it imply."""

    name: str
    columns: Columns | None
    at: int


class Loaded(NamedTuple):
    """A directory's children, and the columns of its whole subtree where that is small."""

    children: list[Child]
    stretch: Columns | None


class View:
    """The names of one snapshot at a time.

    Views of one mount share the room for stretches: the kernel may know hundreds of snapshots.
    """

    def __init__(self, snapshot: Snapshot, beside: View | None = None) -> None:
        self.snapshot = snapshot
        self._stretches: OrderedDict[tuple[View, str], Columns] = (
            OrderedDict() if beside is None else beside._stretches
        )

    def move(self, snapshot: Snapshot) -> None:
        """Look at another snapshot from now on."""
        self.snapshot = snapshot
        for view, root in list(self._stretches):
            if view is self:
                del self._stretches[view, root]

    def nearby(self, directory: str) -> list[Child] | None:
        """Return a directory's children if they are in memory."""
        for view, root in self._stretches:
            is_below = not root or directory == root or directory.startswith(f"{root}/")
            if view is self and is_below:
                self._stretches.move_to_end((view, root))
                return list(_children(self._stretches[view, root], directory))
        return None

    def remember(self, directory: str, stretch: Columns) -> None:
        """Keep the columns of a subtree of the snapshot that is looked at now."""
        self._stretches[self, directory] = stretch
        while len(self._stretches) > STRETCHES_MAX:
            self._stretches.popitem(last=False)


def find(snapshot: Snapshot, path: str) -> Child | None:
    """Return what is at a path, or None."""
    name = path.rpartition("/")[2]
    table = snapshot.locate([path])
    if table["path"][0].is_valid:
        columns = Columns(table)
        if columns.kinds[0] == Kind.DIR or not _has_children(snapshot, path):
            return Child(name, columns, 0)
    elif not _has_children(snapshot, path):
        return None
    return Child(name, None, 0)


def _has_children(snapshot: Snapshot, path: str) -> bool:
    low, high = subtree_range(path)
    return any(len(table) for table in snapshot.scan_range(low, high))


def load(snapshot: Snapshot, directory: str) -> Loaded:
    """Read what lies directly below a directory; with it the whole subtree where that is small."""
    low, high = subtree_range(directory)
    tables = []
    count = 0
    for table in snapshot.scan_range(low, high):
        tables.append(table)
        count += len(table)
        if count > STRETCH_ROWS:
            return Loaded(_list(snapshot, directory), None)
    if not tables:
        return Loaded([], None)
    stretch = Columns(pa.concat_tables(tables))
    return Loaded(list(_children(stretch, directory)), stretch)


def _list(snapshot: Snapshot, directory: str) -> list[Child]:
    table, implied = snapshot.listed(directory)
    skip = len(directory) + 1 if directory else 0
    columns = Columns(table)
    found = [Child(path[skip:], None, 0) for path in implied]
    found += (Child(path[skip:], columns, at) for at, path in enumerate(columns.paths))
    return found


def _children(columns: Columns, directory: str) -> Iterator[Child]:
    prefix = f"{directory}/" if directory else ""
    skip = len(prefix)
    paths, kinds = columns.paths, columns.kinds
    at, end = 0, len(paths)
    if prefix:
        at = bisect_left(paths, prefix)
        end = bisect_left(paths, f"{directory}0", at)
    plain: dict[str, int] = {}
    nested: set[str] = set()
    while at < end:
        path = paths[at]
        slash = path.find("/", skip)
        if slash < 0:
            plain[path[skip:]] = at
            at += 1
        else:
            nested.add(path[skip:slash])
            at = bisect_left(paths, f"{path[:slash]}0", at, end)
    for name in nested:
        own = plain.pop(name, None)
        stored = own is not None and kinds[own] == Kind.DIR
        yield Child(name, columns, own or 0) if stored else Child(name, None, 0)
    for name, own in plain.items():
        yield Child(name, columns, own)


def locate_rows(snapshot: Snapshot, paths: list[str]) -> list[Row | None]:
    """Return the row of each path in one look-up, None where there is none."""
    table = snapshot.locate(paths)
    there = np.flatnonzero(bridge.valid(table["kind"])).tolist()
    columns = Columns(table.filter(pa.array(bridge.valid(table["kind"]))))
    rows: list[Row | None] = [None] * len(paths)
    for at, position in enumerate(there):
        rows[position] = columns.row(at)
    return rows
