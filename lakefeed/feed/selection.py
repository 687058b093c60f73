"""Which samples a feed serves, by number: a prefix, a glob, a list of paths, a condition.

Samples found by prefix, glob or condition are sorted by path, so equal snapshots give equal
numbers; a list keeps its own order. Only files are samples: directories and symlinks are passed
over by prefix and glob, and refused in a list.

Two kinds of selection look the same from outside. `Indexed` is for a prefix whose rows lie in the
index one behind the other: sample numbers are row numbers, and a group of rows is decoded when the
first of its samples is needed, so that opening costs nothing however many files there are.
`Listed` is for everything else and holds all paths. `resolve` takes the first where it can.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lakefeed.errors import Invalid, NotFound
from lakefeed.feed.content import Content
from lakefeed.feed.indexed import Indexed, index_of
from lakefeed.feed.labels import Classes, Labelling, Labels
from lakefeed.feed.table import Rows, Table
from lakefeed.format import bridge
from lakefeed.format.paths import check_path
from lakefeed.format.rows import Kind
from lakefeed.given import check_fields
from lakefeed.lake.query import Query
from lakefeed.lake.reader import extents_of
from lakefeed.lake.snapshot import Snapshot

# Answers a condition: the paths of the files for which it holds.
Evaluate = Callable[[Snapshot, str], Sequence[str] | pa.Array]


@dataclass(frozen=True, slots=True)
class Where:
    """The files for which a condition holds; `evaluate` knows its language.

    For SQL, `lakefeed.adapters.sql.where` makes one.
    """

    condition: str
    evaluate: Evaluate = field(repr=False)  # its address is another one in each process

    def __post_init__(self) -> None:
        check_fields(self)


Select = str | Sequence[str] | Where


class Selection(Protocol):
    """The samples of a feed by number. Safe for threads."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes in the order of their numbers; empty without labels."""

    @property
    def digest(self) -> str:
        """Tells selections of other bytes apart; the same bytes may have two, see `content`."""

    def __len__(self) -> int: ...

    def rows(self, numbers: NDArray[np.int64]) -> Rows:
        """Return where the payloads of some samples are."""

    def labels(self, numbers: NDArray[np.int64]) -> Labels | None:
        """Return the labels of some samples; call `rows` for them before."""

    def paths(self, numbers: NDArray[np.int64]) -> pa.Array:
        """Return the paths of some samples, in the order asked."""

    def content(self) -> str:
        """Return a checksum of all paths and of their bytes' checksums, by reading the index."""

    def through(self, snapshot: Snapshot) -> Selection:
        """Return the same samples, looked up through another opening of their snapshot."""


_WILDCARDS = frozenset("*?[")
_FILES = frozenset({Kind.FILE})
_COLUMNS = ("pack", "offset", "length", "size", "codec", "crc32c")


class Listed:
    """A selection whose paths are held, some 16 bytes a sample beside them."""

    def __init__(self, snapshot: Snapshot, found: pa.Table, labelling: Labelling) -> None:
        paths = [chunk.cast(pa.large_string()) for chunk in found["path"].chunks]
        self._paths = pa.concat_arrays(paths)
        self._table = Table(snapshot, len(found))
        self._table.put(0, extents_of(found), lambda at: str(self._paths[at].as_py()))
        classes = Classes(labelling.class_names)
        self._labels: Labels | None = None
        if labelling.source is not None:
            self._labels = classes.number(labelling.words(found)).copy()
            classes.sort(self._labels)
        self.class_names = classes.names
        content = Content()
        content.add(found["path"], found["crc32c"])
        self.digest = content.digest

    def __len__(self) -> int:
        return len(self._table)

    def rows(self, numbers: NDArray[np.int64]) -> Rows:
        """Return where the payloads of some samples are."""
        return self._table.rows(numbers)

    def labels(self, numbers: NDArray[np.int64]) -> Labels | None:
        """Return the labels of some samples."""
        return None if self._labels is None else self._labels[numbers]

    def paths(self, numbers: NDArray[np.int64]) -> pa.Array:
        """Return the paths of some samples, in the order asked."""
        return self._paths.take(bridge.numbers(numbers))

    def content(self) -> str:
        """Return a checksum of all paths and of their bytes' checksums."""
        return self.digest

    def through(self, snapshot: Snapshot) -> Listed:
        """Return the same samples: nothing is looked up any more."""
        return self


def resolve(snapshot: Snapshot, select: Select, labelling: Labelling | None = None) -> Selection:
    """Return the samples that a prefix, a glob, a list or a condition names in a snapshot.

    NotFound when nothing matches or a listed path is missing; Corrupt for an index that points
    outside of its packs; Invalid for a path without a label, and for what is no selection (a set:
    its order is another one in each process).
    """
    labelling = labelling or Labelling()
    select = _chosen(select)
    prefix = _whole_prefix(select)
    if prefix is not None:
        index = index_of(snapshot, prefix)
        if index is not None and len(index):
            return Indexed(snapshot, index, labelling)
    columns = list(dict.fromkeys(("path", *_COLUMNS, *labelling.columns)))
    tables = [table.select(columns) for table in _tables(snapshot, select)]
    if not sum(map(len, tables)):
        asks = "sql" if isinstance(select, Where) else "find"
        raise NotFound(
            f"files matching {_described(select)} in snapshot {snapshot.number}",
            hint=f'"lakefeed {asks}" shows what matches',
        )
    found = pa.concat_tables(tables).unify_dictionaries()
    return Listed(snapshot, found, labelling)


def _chosen(select: object) -> str | Where | list[str]:
    """Return a path as a prefix, and paths of any kind that have an order as a list."""
    if isinstance(select, os.PathLike):
        select = os.fspath(select)
    if isinstance(select, str | Where):
        return select
    if isinstance(select, pa.Array | pa.ChunkedArray):
        select = select.to_pylist()
    elif isinstance(select, np.ndarray):
        select = select.tolist()
    paths: Sequence[Any] = select if isinstance(select, Sequence) else [select]
    others = {type(path).__name__ for path in paths if not isinstance(path, str | os.PathLike)}
    if others:
        raise Invalid(
            "selection",
            expected="a prefix, a glob, paths in an order that all ranks share, or a Where",
            found=", ".join(sorted(others)),
            hint="list(paths) or, of a set, sorted(paths)",
        )
    return [os.fspath(path) for path in paths]


def _described(select: Select) -> str:
    return select.condition if isinstance(select, Where) else repr(select)


def _whole_prefix(select: Select) -> str | None:
    """Return the prefix that a selection means as a whole: "a", "a/**" and "**" do."""
    if not isinstance(select, str):
        return None
    prefix = select.removesuffix("**")
    if prefix != select and prefix and not prefix.endswith("/"):
        return None
    prefix = prefix.rstrip("/")
    return None if _WILDCARDS & set(prefix) else prefix


def _tables(snapshot: Snapshot, select: Select) -> Iterator[pa.Table]:
    if isinstance(select, str):
        is_glob = bool(_WILDCARDS & set(select))
        query = Query(glob=select, kinds=_FILES) if is_glob else Query(select, kinds=_FILES)
        yield from snapshot.find(query)
    elif isinstance(select, Where):
        paths = select.evaluate(snapshot, select.condition)
        yield _located(snapshot, sorted(str(path) for path in _plain(paths)))
    else:
        yield _located(snapshot, [check_path(path) for path in select])


def _plain(paths: Sequence[str] | pa.Array) -> Sequence[str]:
    if isinstance(paths, pa.Array | pa.ChunkedArray):
        listed: list[str] = paths.to_pylist()
        return listed
    return paths


def _located(snapshot: Snapshot, paths: list[str]) -> pa.Table:
    table = snapshot.locate(paths)
    kinds = table["kind"]
    bad = np.flatnonzero(~bridge.valid(kinds) | (bridge.to_numpy(kinds) != Kind.FILE))
    if len(bad):
        snapshot.stat(paths[int(bad[0])])  # NotFound comes from here
        raise Invalid(f"{paths[int(bad[0])]!r}", expected="a file", found="no file")
    return table
