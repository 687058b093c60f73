"""A prefix of the lake as samples, without reading the index first.

Where the sorted runs of a view that hold a prefix lie one behind the other (one merged run, or
packs of disjoint paths) and hold nothing but files, a sample's number is a row's number. Both are
known from the footers: their group counts, and the least and greatest kind in each group. So a feed
over a billion files opens as quickly as one over a thousand, and decodes a group of rows when the
first of its samples is due. Only the groups at the two ends of the prefix are looked into at once.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lakefeed.errors import Corrupt
from lakefeed.feed.content import Content
from lakefeed.feed.labels import Classes, Labelling, Labels
from lakefeed.feed.table import Rows, Table
from lakefeed.forking import Lazy, new_lock
from lakefeed.format import bridge
from lakefeed.format.checksum import crc32c
from lakefeed.format.paths import check_prefix, subtree_range
from lakefeed.format.rows import Kind
from lakefeed.lake.catalogue import Source, lower_bound
from lakefeed.lake.federated import FederatedSnapshot
from lakefeed.lake.reader import extents_of
from lakefeed.lake.snapshot import Snapshot
from lakefeed.lake.together import in_order

# Groups read with one request: about a megabyte. Twice as many save nothing that can be measured,
# and what is decoded at once stays in the process.
_STRETCH = 8
# Decoded paths are kept up to this size; a million usual ones are 45 MB.
_PATHS_BYTES = 64 << 20
# Groups by their numbers in the index, from one up to another.
_Stretch = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Group:
    """Rows [low, high) of one group of a source are the samples from `start` on."""

    source: Source
    number: int
    low: int
    high: int
    start: int


@dataclass(frozen=True, slots=True)
class Index:
    """The groups that hold the samples of a prefix, in order."""

    low: str
    high: str | None
    groups: list[Group]

    def __len__(self) -> int:
        last = self.groups[-1] if self.groups else None
        return 0 if last is None else last.start + last.high - last.low

    @property
    def digest(self) -> str:
        """Tells indexes apart by the files that hold them, which never change (I1)."""
        parts = [f"{g.source.id}:{g.number}:{g.low}:{g.high}" for g in self.groups]
        return f"{crc32c(';'.join(parts).encode()):08x}"


def index_of(snapshot: Snapshot | FederatedSnapshot, prefix: str) -> Index | None:
    """Return the index of a prefix, or None where row numbers are not sample numbers."""
    if isinstance(snapshot, FederatedSnapshot):
        return None
    prefix = check_prefix(prefix)
    low, high = subtree_range(prefix)
    if prefix and bridge.valid(snapshot.locate([prefix], ("kind", "seq"))["kind"])[0]:
        return None  # the prefix is itself a row: a file, or a directory made by mkdir
    sources = [source for source in snapshot.sources if source.overlaps(low, high)]
    sources.sort(key=lambda source: source.first)
    if any(one.last >= other.first for one, other in itertools.pairwise(sources)):
        return None
    groups: list[Group] = []
    start = 0
    for source, _ in zip(sources, in_order(snapshot.columns, sources), strict=True):
        for group in _covering(snapshot, source, low, high):
            if not _is_files(snapshot, group):
                return None
            if group.high > group.low:
                groups.append(Group(source, group.number, group.low, group.high, start))
                start += group.high - group.low
    return Index(low, high, groups)


def _covering(snapshot: Snapshot, source: Source, low: str, high: str | None) -> Iterator[Group]:
    groups = snapshot.columns(source).groups
    first, end = groups.covering(low, high)
    for number in range(first, end):
        begin, stop = 0, groups.rows[number]
        within = groups.first[number] >= low and (
            high is None or number < end - 1 or (number == len(groups) - 1 and groups.last < high)
        )
        if not within:
            paths = snapshot.read_columns(source, number, number + 1, ["path"])["path"]
            begin = lower_bound(paths, low)
            stop = len(paths) if high is None else lower_bound(paths, high)
        yield Group(source, number, begin, max(begin, stop), 0)


def _is_files(snapshot: Snapshot, group: Group) -> bool:
    kinds = snapshot.columns(group.source).kinds(group.number)
    if kinds is None:
        number = group.number
        table = snapshot.read_columns(group.source, number, number + 1, ["kind"])
        kinds = set(table["kind"].cast(pa.string()).to_pylist()[group.low : group.high])
    return kinds <= {"file"}


class Indexed:
    """The samples of an index; rows, labels and paths are decoded by the group, on demand."""

    def __init__(self, snapshot: Snapshot, index: Index, labelling: Labelling) -> None:
        self._snapshot = snapshot
        self._index = index
        self._labelling = labelling
        self._starts = np.array([group.start for group in index.groups], np.int64)
        self._filled = np.zeros(len(index.groups), np.bool_)
        self._all_filled = False
        self._lock = new_lock()  # guards the three above and the table's filling
        self._paths = _Paths()
        self._table = Table(snapshot, len(index))
        self._classes = Classes(labelling.class_names)
        self._labels: Labels | None = None
        if labelling.source is not None:
            self._labels = np.zeros(len(index), np.int32)
            if labelling.class_names is None:
                self._number_classes(self._labels)

    def __reduce__(self) -> tuple[type[Indexed], tuple[Snapshot, Index, Labelling]]:
        # With the classes that were found: to look for them again is to read every path.
        labelling = replace(self._labelling, class_names=self.class_names or None)
        return Indexed, (self._snapshot, self._index, labelling)

    def __len__(self) -> int:
        return len(self._table)

    @Lazy
    def digest(self) -> str:
        """Tells selections of other index files apart."""
        return self._index.digest

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes in the order of their numbers."""
        return self._classes.names

    # -- filling ---------------------------------------------------------------------------------

    def rows(self, numbers: NDArray[np.int64]) -> Rows:
        """Return where the payloads of some samples are."""
        if not self._all_filled:
            needed = _distinct(np.searchsorted(self._starts, numbers, "right") - 1)
            with self._lock:
                lacking = needed[~self._filled[needed]].tolist()
                stretches = self._stretches(lacking)
                read = in_order(self._read_extents, stretches, attrgetter("nbytes"))
                for stretch, rows in zip(stretches, read, strict=True):
                    self._fill(stretch, rows)
                self._all_filled = bool(self._filled.all())
        return self._table.rows(numbers)

    @property
    def _labels_as_filled(self) -> bool:
        return self._labels is not None and self._labelling.class_names is not None

    def _read_extents(self, stretch: _Stretch) -> pa.Table:
        extra = self._labelling.columns if self._labels_as_filled else []
        return self._snapshot.read_extents(*self._place(stretch), extra)

    def _place(self, stretch: _Stretch) -> tuple[Source, int, int]:
        groups = self._index.groups[slice(*stretch)]
        return groups[0].source, groups[0].number, groups[-1].number + 1

    def _cut(self, stretch: _Stretch, rows: pa.Table) -> Iterator[tuple[int, Group, pa.Table]]:
        """Yield the groups of a stretch, their numbers, and what is theirs of its rows."""
        position = 0
        for at in range(*stretch):
            group = self._index.groups[at]
            yield at, group, rows.slice(position + group.low, group.high - group.low)
            position += self._snapshot.columns(group.source).groups.rows[group.number]

    def _fill(self, stretch: _Stretch, rows: pa.Table) -> None:
        for at, group, table in self._cut(stretch, rows):
            kinds = bridge.to_numpy(table["kind"])
            if (kinds != Kind.FILE).any():
                raise Corrupt(group.source.path, expected=f"only files in group {group.number}")
            self._table.put(group.start, extents_of(table), _Name(self, group.start))
            if self._labels is not None and self._labels_as_filled:
                labels = self._classes.number(self._labelling.words(table))
                self._labels[group.start : group.start + len(table)] = labels
            self._filled[at] = True

    def _number_classes(self, labels: Labels) -> None:
        """Number all samples' classes: names are known only when all of them were seen."""
        groups = range(len(self._index.groups))
        for _, group, table in self._decoded(groups, self._labelling.columns):
            words = self._labelling.words(table)
            labels[group.start : group.start + len(table)] = self._classes.number(words)
        self._classes.sort(labels)

    def _decoded(
        self, groups: Sequence[int], columns: list[str]
    ) -> Iterator[tuple[int, Group, pa.Table]]:
        """Yield groups, ascending, with some columns of their rows; several are read at a time."""

        def read(stretch: _Stretch) -> pa.Table:
            return self._snapshot.read_columns(*self._place(stretch), columns)

        stretches = self._stretches(groups)
        made = in_order(read, stretches, attrgetter("nbytes"))
        for stretch, rows in zip(stretches, made, strict=True):
            yield from self._cut(stretch, rows)

    def _stretches(self, numbers: Sequence[int]) -> list[_Stretch]:
        """Return ascending groups as ranges of neighbours in one source, short enough to read."""
        groups = self._index.groups
        stretches: list[_Stretch] = []
        for number in numbers:
            start, end = stretches[-1] if stretches else (0, -1)
            near = number == end and number - start < _STRETCH
            if near and groups[number].source.id == groups[start].source.id:
                stretches[-1] = (start, number + 1)
            else:
                stretches.append((number, number + 1))
        return stretches

    # -- labels and paths ------------------------------------------------------------------------

    def labels(self, numbers: NDArray[np.int64]) -> Labels | None:
        """Return the labels of some samples whose rows were asked for before."""
        return None if self._labels is None else self._labels[numbers]

    def paths(self, numbers: NDArray[np.int64]) -> pa.Array:
        """Return the paths of some samples, in the order asked."""
        at = np.searchsorted(self._starts, numbers, "right") - 1
        needed = _distinct(at)
        pieces = self._path_groups(needed.tolist())
        bases = np.cumsum([0, *map(len, pieces)])[:-1]
        where = np.searchsorted(needed, at)
        together = pa.concat_arrays(pieces) if pieces else pa.array([], pa.large_string())
        return together.take(bridge.numbers(bases[where] + numbers - self._starts[at]))

    def _path_groups(self, needed: list[int]) -> list[pa.Array]:
        found = self._paths.find(needed)
        lacking = [at for at in needed if at not in found]
        for at, _, table in self._decoded(lacking, ["path"]):
            found[at] = pa.concat_arrays(table["path"].cast(pa.large_string()).chunks)
        self._paths.keep({at: found[at] for at in lacking})
        return [found[at] for at in needed]

    def through(self, snapshot: Snapshot) -> Indexed:
        """Return the same samples, looked up through another opening of their snapshot."""
        other = Indexed.__new__(Indexed)
        other.__dict__.update(self.__dict__, _snapshot=snapshot)
        return other

    def content(self) -> str:
        """Return a checksum of all paths and of their bytes' checksums, by reading the index."""
        content = Content()
        for *_, table in self._decoded(range(len(self._index.groups)), ["path", "crc32c"]):
            content.add(table["path"], table["crc32c"])
        return content.digest


class _Paths:
    """Decoded paths by group, those asked for last. Safe for threads; the lock guards both."""

    def __init__(self) -> None:
        self._lock = new_lock()
        self._groups: OrderedDict[int, pa.Array] = OrderedDict()
        self._held_bytes = 0

    def find(self, groups: list[int]) -> dict[int, pa.Array]:
        """Return the paths of those groups that are here."""
        with self._lock:
            here = [at for at in groups if at in self._groups]
            for at in here:
                self._groups.move_to_end(at)
            return {at: self._groups[at] for at in here}

    def keep(self, paths: dict[int, pa.Array]) -> None:
        """Keep the paths of some groups, as long as there is room."""
        with self._lock:
            for at, array in paths.items():
                self._held_bytes += array.nbytes if at not in self._groups else 0
                self._groups[at] = array
            while self._held_bytes > _PATHS_BYTES and self._groups:
                _, old = self._groups.popitem(last=False)
                self._held_bytes -= old.nbytes


@dataclass(frozen=True, slots=True)
class _Name:
    """The path of the sample at a distance from `start`, for messages."""

    selection: Indexed
    start: int

    def __call__(self, at: int) -> str:
        path = self.selection.paths(np.array([self.start + at], np.int64))
        return str(path[0].as_py())


def _distinct(groups: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return each group once, ascending. `np.unique` would load numpy.ma first, which takes as long
    as all the rest that the first batch waits for."""
    return np.flatnonzero(np.bincount(groups))
