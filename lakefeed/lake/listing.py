"""The children of a directory, without scanning its subtree.

A row group whose first path and next group's first path lie below the same child needs no reading:
that child exists. So a directory of subtrees costs about two groups a child at most, and a flat one
only its own groups. A child directory exists while a live row lies below it; where a source may
hold tombstones below a child, the child's range is scanned up to its first live row.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain
from operator import attrgetter

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lakefeed.format import bridge
from lakefeed.format.columns import Groups
from lakefeed.format.paths import PATH_BYTES_MAX, subtree_range
from lakefeed.format.rows import Codec, Kind, Row, empty_table, rows_from_table
from lakefeed.lake.catalogue import Catalogue, Source, live, lower_bound
from lakefeed.lake.opening import open_together
from lakefeed.lake.scan import merge, scan

# Some megabytes as values, which take four times as much as a table's rows.
_STEP_ROWS = 16384
_FIRST = bridge.scalar(np.int32(0))


def children(
    catalogue: Catalogue, sources: list[Source], directory: str, time_ns: int
) -> Iterator[Row]:
    """Return the rows directly below `directory`, sorted by path, made as they are taken.

    Directories that exist only because files lie below them appear as rows of mode 0755, without a
    pack, stamped `time_ns`. None at all means that there is nothing below `directory`.
    """
    stored, implied = listed(catalogue, sources, directory)
    steps = (stored.slice(at, _STEP_ROWS) for at in range(0, len(stored), _STEP_ROWS))
    rows = chain.from_iterable(map(rows_from_table, steps))
    made = [implied_directory(child, time_ns) for child in implied]
    return heapq.merge(rows, made, key=attrgetter("path"))


def listed(
    catalogue: Catalogue, sources: list[Source], directory: str
) -> tuple[pa.Table, list[str]]:
    """Return the stored rows directly below `directory`, sorted, and the paths of the directories
    there that exist only because files lie below them, sorted, too."""
    low, high = subtree_range(directory)
    seen = _Seen(directory)
    concerned = [source for source in sources if source.overlaps(low, high)]
    open_together(catalogue, concerned)
    for source in concerned:
        _collect(catalogue, source, (low, high), seen)
    stored = live(merge(seen.direct)) if seen.direct else empty_table()
    seen.direct.clear()
    below = bridge.strings(sorted(seen.below))
    if len(below):
        below = below.filter(pc.invert(pc.is_in(below, stored["path"])))
    implied = below.to_pylist()
    doubtful = seen.doubtful
    return stored, [
        path for path in implied if path not in doubtful or _has_live(catalogue, sources, path)
    ]


def implied_directory(path: str, time_ns: int) -> Row:
    """Return the row of a directory that nobody made but that holds files."""
    return Row(path, Kind.DIR, "", 0, 0, 0, Codec.NONE, 0, time_ns, 0o755, None, 0)


def _has_live(catalogue: Catalogue, sources: list[Source], directory: str) -> bool:
    low, high = subtree_range(directory)
    return any(len(table) for table in scan(catalogue, sources, low, high))


@dataclass(slots=True)
class _Seen:
    """What the sources say so far: rows of direct children, and names that have paths below."""

    directory: str
    direct: list[pa.Table] = field(default_factory=list)
    below: set[str] = field(default_factory=set)
    doubtful: set[str] = field(default_factory=set)


def _collect(
    catalogue: Catalogue, source: Source, bounds: tuple[str, str | None], seen: _Seen
) -> None:
    groups = catalogue.reader(source).groups
    start, end = groups.covering(*bounds)
    reading = []
    for number in range(start, end):
        child = _single_child(groups, number, seen.directory)
        if child is None:
            reading.append(number)
            continue
        seen.below.add(child)
        if source.tombstones:
            seen.doubtful.add(child)
    tables = catalogue.cached_rows(source, reading)
    found = [_split(table, bounds, seen) for table in tables]
    direct = pa.concat_tables([empty_table(), *found])
    if len(direct):
        seen.direct.append(direct)


def _single_child(groups: Groups, number: int, directory: str) -> str | None:
    """Return the child below which all of a group's paths lie, if there is one."""
    first = groups.first[number]
    last = groups.first[number + 1] if number + 1 < len(groups) else groups.last
    skip = len(directory) + 1 if directory else 0
    slash = first.find("/", skip)
    if slash < 0 or first[:skip] != last[:skip] or not last.startswith(first[: slash + 1]):
        return None
    return first[:slash]


def _split(table: pa.Table, bounds: tuple[str, str | None], seen: _Seen) -> pa.Table:
    """Note the names with paths below them, and return the rows of direct children."""
    paths = table["path"]
    low, high = bounds
    start = lower_bound(paths, low)
    end = len(table) if high is None else lower_bound(paths, high)
    table = table.slice(start, max(end - start, 0))
    if not len(table):
        return table
    skip = len(low.encode())
    rest = pc.binary_slice(table["path"].cast(pa.binary()), skip, PATH_BYTES_MAX)
    slash = bridge.to_numpy(pc.find_substring(rest, b"/"))
    nested = slash >= 0
    if nested.any():
        chosen = bridge.truths(nested)
        _note_nested(table.filter(chosen), rest.filter(chosen), seen)
    return table.filter(bridge.truths(~nested)) if nested.any() else table


def _note_nested(table: pa.Table, rest: pa.ChunkedArray, seen: _Seen) -> None:
    names = pc.list_element(pc.split_pattern(rest, b"/", max_splits=1), _FIRST)
    prefix = f"{seen.directory}/" if seen.directory else ""
    seen.below.update(prefix + name.decode() for name in names.unique().to_pylist())
    dead = bridge.to_numpy(table["kind"]) == Kind.TOMBSTONE
    if dead.any():
        gone = names.filter(bridge.truths(dead)).unique().to_pylist()
        seen.doubtful.update(prefix + name.decode() for name in gone)
