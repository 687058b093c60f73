"""The index files of a snapshot, and their rows in memory.

A `Source` is one sorted run of rows: a pack whose rows are not merged yet, or a segment.
`sources_of` lists a state's, newest first: packs that are not merged, then level by level. Of two
rows for a path the one with the higher `seq` counts, and of equal ones that of the earlier source.

`Catalogue` opens sources and keeps decoded row groups up to a byte budget, and all rows of the
sources that look-ups come back to in a form of a quarter of the size (`resident`). Index files are
immutable (I1), so nothing here is ever invalidated. Rows are verified before they are believed
(I7).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from operator import attrgetter

import pyarrow as pa

from lakefeed.errors import Corrupt
from lakefeed.forking import new_lock
from lakefeed.format import bridge
from lakefeed.format import rows as rows_format
from lakefeed.format.columns import ColumnsReader
from lakefeed.format.commit import PackInfo, SegmentInfo, State
from lakefeed.format.pack import open_pack
from lakefeed.lake import layout
from lakefeed.lake.addresses import Addresses, Part, part_of
from lakefeed.lake.files import OpenFiles
from lakefeed.lake.resident import Resident
from lakefeed.lake.together import in_order

# Two million rows of the usual shape; a look-up of many random paths then decodes each group once.
CACHE_BYTES = 256 << 20
# Twenty million rows as addresses, in lakes that are too big for the above.
ADDRESSES_BYTES = 640 << 20
# Decoded groups and addresses together: the more addresses there are, the fewer groups are kept,
# down to an eighth of what they may take otherwise.
_TOGETHER_BYTES = 544 << 20
_LEAST_SHARE = 8
READERS_MAX = 1024
# What a column of a decoded group takes beside its bytes: 12 kB for all of a group. Where each
# commit brings a few rows that is nearly everything, and a daemon makes a million of them.
_COLUMN_BYTES = 1 << 10
# What is kept of a group: all its columns, or its paths alone.
_WHOLE, _PATHS = True, False
_BESIDE_PATHS = [name for name in rows_format.COLUMNS if name != "path"]
# Groups decoded in one piece: 4 MB, which memory pools hand out again.
_STEP_GROUPS = 4


@dataclass(frozen=True, slots=True)
class Source:
    """One sorted run of rows; `own_seq` is for rows without one, `pack_id` is "" for segments."""

    id: str
    path: str
    footer_bytes: int
    bytes: int
    rows: int
    tombstones: int
    first: str
    last: str
    seq_max: int
    own_seq: int
    pack_id: str

    def overlaps(self, low: str, high: str | None) -> bool:
        """Tell whether the run may hold paths in [low, high)."""
        return self.rows > 0 and low <= self.last and (high is None or self.first < high)


def sources_of(state: State) -> list[Source]:
    """Return the runs that together are a snapshot's rows, newest first."""
    packs = [pack_source(info) for info in state.packs.values() if not info.indexed]
    packs.sort(key=lambda run: (-run.seq_max, run.first))
    # What has no level yet is a run by its range of seq.
    segments = sorted(
        state.segments.values(),
        key=lambda one: (-one.level, 0 if one.level else -one.seq_max, one.first),
    )
    return packs + [segment_source(info) for info in segments]


def pack_source(info: PackInfo) -> Source:
    """Return a pack's own rows as a run."""
    pack = info.sealed
    return Source(pack.id, layout.pack_path(pack.id), pack.footer_bytes, pack.bytes, pack.rows,
                  pack.tombstones, pack.first, pack.last, info.seq, info.seq, pack.id)  # fmt: skip


def segment_source(info: SegmentInfo) -> Source:
    """Return a segment as a run."""
    return Source(info.id, layout.segment_path(info.id), info.footer_bytes, info.bytes, info.rows,
                  info.tombstones, info.first, info.last, info.seq_max, 0, "")  # fmt: skip


class Catalogue:
    """Opens sources and caches decoded groups. Safe for threads; the lock guards the two tables."""

    def __init__(
        self, files: OpenFiles, cache_bytes: int = CACHE_BYTES, addresses_bytes: int = 0
    ) -> None:
        self._files = files
        self._cache_bytes = cache_bytes
        self.resident = Resident(addresses_bytes)
        self._lock = new_lock()
        self._readers: OrderedDict[str, ColumnsReader] = OrderedDict()
        # By source, number, and whether all columns are there.
        self._groups: OrderedDict[tuple[str, int, bool], pa.Table] = OrderedDict()
        self._held_bytes = 0

    def reader(self, source: Source) -> ColumnsReader:
        """Return the opened columns file of a source."""
        with self._lock:
            found = self._readers.get(source.id)
            if found is not None:
                self._readers.move_to_end(source.id)
                return found
        size = self._files.read(source.path, lambda file: file.size)
        if size != source.bytes:
            raise Corrupt(
                source.path,
                expected=f"{source.bytes} bytes",
                found=f"{size}",
                hint='run "lakefeed fsck"',
            )
        reader = ColumnsReader(
            lambda offset, length: self._files.read(
                source.path, lambda file: file.read_at(offset, length)
            ),
            size,
            source.path,
            source.footer_bytes,
        )
        self._check_kind(reader, source)
        with self._lock:
            self._readers[source.id] = reader
            while len(self._readers) > READERS_MAX:
                self._readers.popitem(last=False)
        return reader

    def not_open(self, sources: Sequence[Source]) -> list[Source]:
        """Return those of these sources that take calls to the volume to be opened."""
        with self._lock:
            found = [source for source in sources if source.id not in self._readers]
        return [source for source in found if self.resident.get(source.id) is None]

    def _check_kind(self, reader: ColumnsReader, source: Source) -> None:
        if source.pack_id:
            open_pack(reader, source.pack_id, source.path)
        elif reader.meta.get("lakefeed.kind") != "segment":
            raise Corrupt(source.path, expected="a segment", found=reader.meta.get("lakefeed.kind"))

    def rows(self, source: Source, start: int, end: int) -> pa.Table:
        """Return the rows of groups [start, end), without touching the cache: for long scans."""
        table = self.reader(source).read(start, end)
        return rows_format.from_file(table, source.pack_id, source.own_seq, source.path)

    def addresses(
        self, source: Source, groups: list[int], admitted: Callable[[], frozenset[str]]
    ) -> Addresses | None:
        """Return a source's addresses for a look-up in these groups, if that is the better way.

        Where they are not in memory, they are taken in when it pays and the source is `admitted`.
        """
        found = self.resident.get(source.id)
        if found is not None:
            return found
        with self._lock:
            missing = sum((source.id, number, _WHOLE) not in self._groups for number in groups)
        if not missing or source.id not in admitted():
            return None
        count = len(self.reader(source).groups)
        if not self.resident.due(source.id, missing, count):
            return None
        made = self.resident.take_in(source, lambda: self._parts(source, count))
        with self._lock:
            self._trim()
        return made

    def admitted(self, sources: Sequence[Source]) -> frozenset[str]:
        """Return which sources of a snapshot may have addresses."""
        return self.resident.admitted(sources, self._cache_bytes)

    def _parts(self, source: Source, groups: int) -> Iterator[Part]:
        """Yield all rows as they become addresses, some of them made ahead."""

        def part(run: tuple[int, int]) -> Part:
            return part_of(self.rows(source, *run), self.resident.prints, source.path)

        return in_order(part, _runs(range(groups)), attrgetter("nbytes"))

    def passing_rows(self, source: Source, groups: Sequence[int]) -> Iterator[pa.Table]:
        """Yield the rows of these groups, a few groups at a time, and keep none: there are so many
        that they would only drive out others."""
        return in_order(
            lambda run: self._decoded(source, *run), _runs(groups), attrgetter("nbytes")
        )

    def cached_rows(self, source: Source, groups: Sequence[int]) -> list[pa.Table]:
        """Return the rows of each of these groups, from the cache or read in runs and kept."""
        found = {number: self._held(source, number, _WHOLE) for number in groups}
        runs = _runs([number for number, table in found.items() if table is None])
        made = in_order(lambda run: self._decoded(source, *run), runs, attrgetter("nbytes"))
        for (start, end), table in zip(runs, made, strict=True):
            position = 0
            for number in range(start, end):
                count = self.reader(source).groups.rows[number]
                found[number] = table.slice(position, count)
                position += count
                self._keep((source.id, number, _WHOLE), found[number])
        return [found[number] for number in groups]

    def cached_paths(self, source: Source, group: int) -> pa.ChunkedArray:
        """Return the paths of a group, which are a third of what decoding all of it takes."""
        table = self._held(source, group, _WHOLE)
        if table is None:
            table = self._held(source, group, _PATHS)
        if table is None:
            table = self.reader(source).read(group, group + 1, ["path"])
            self._keep((source.id, group, _PATHS), table)
        return table["path"]

    def _decoded(self, source: Source, start: int, end: int) -> pa.Table:
        """Return what `rows` does; of a group whose paths are here, the rest is decoded."""
        paths = self._held(source, start, _PATHS) if end - start == 1 else None
        if paths is None:
            return self.rows(source, start, end)
        rest = self.reader(source).read(start, end, _BESIDE_PATHS)
        table = rest.add_column(0, "path", paths["path"])
        return rows_format.from_file(table, source.pack_id, source.own_seq, source.path)

    def _held(self, source: Source, group: int, whole: bool) -> pa.Table | None:
        key = (source.id, group, whole)
        with self._lock:
            table = self._groups.get(key)
            if table is not None:
                self._groups.move_to_end(key)
            return table

    def _keep(self, key: tuple[str, int, bool], table: pa.Table) -> None:
        source_id, group, whole = key
        with self._lock:
            if key not in self._groups:
                self._groups[key] = table
                self._held_bytes += _size(table)
            if whole and (paths := self._groups.pop((source_id, group, _PATHS), None)) is not None:
                self._held_bytes -= _size(paths)
            self._trim()

    def clear(self) -> None:
        """Give all memory back; whoever goes on reading fills it anew."""
        with self._lock:
            self._readers.clear()
            self._groups.clear()
            self._held_bytes = 0
        self.resident.clear()

    def _trim(self) -> None:
        left = max(_TOGETHER_BYTES - self.resident.held_bytes, self._cache_bytes // _LEAST_SHARE)
        while self._held_bytes > min(left, self._cache_bytes) and self._groups:
            _, old = self._groups.popitem(last=False)
            self._held_bytes -= _size(old)


def _size(table: pa.Table) -> int:
    """Return what a decoded group takes in memory."""
    size_bytes: int = table.nbytes + table.num_columns * _COLUMN_BYTES
    return size_bytes


def _runs(numbers: Iterable[int]) -> list[tuple[int, int]]:
    """Return ascending numbers as half-open runs of a few groups each."""
    runs: list[tuple[int, int]] = []
    for number in numbers:
        if runs and runs[-1][1] == number and number - runs[-1][0] < _STEP_GROUPS:
            runs[-1] = (runs[-1][0], number + 1)
        else:
            runs.append((number, number + 1))
    return runs


def lower_bound(paths: pa.ChunkedArray | pa.Array, key: str) -> int:
    """Return how many of these sorted paths come before `key`."""
    low, high = 0, len(paths)
    while low < high:
        middle = (low + high) // 2
        if paths[middle].as_py() < key:
            low = middle + 1
        else:
            high = middle
    return low


def live(table: pa.Table) -> pa.Table:
    """Return the rows that are not tombstones."""
    dead = bridge.to_numpy(table["kind"]) == rows_format.Kind.TOMBSTONE
    return table.filter(bridge.truths(~dead)) if dead.any() else table
