"""An immutable numbered view of the lake: from path to row, from row to bytes.

A snapshot never changes, whatever writers and compaction do meanwhile (I3, I5). When a pack that it
needs is gone, the same version of the file (same path, `seq` and checksum) is looked for in the
newest snapshot, where compaction may have moved it; otherwise SnapshotExpired says so. Never wrong
bytes (I7). Thread-safe: all state is in the lake's caches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import pyarrow as pa

from lakefeed.errors import Corrupt, Invalid, NotFound, SnapshotExpired
from lakefeed.forking import Lazy
from lakefeed.format import bridge
from lakefeed.format.columns import ColumnsReader
from lakefeed.format.commit import State
from lakefeed.format.paths import check_path, check_prefix, subtree_range
from lakefeed.format.rows import (
    COLUMNS,
    Kind,
    Row,
    extents_from_file,
    rows_from_table,
    table_from_rows,
)
from lakefeed.lake.catalogue import Catalogue, Source, pack_source, sources_of
from lakefeed.lake.listing import children, implied_directory, listed
from lakefeed.lake.lookup import EXTENT_COLUMNS, below, locate, may_have_below, several
from lakefeed.lake.query import Query, selected
from lakefeed.lake.reader import Extents, Reader, check_bounds, extents_of
from lakefeed.lake.scan import scan
from lakefeed.volume.base import ReadableFile, Volume

if TYPE_CHECKING:
    import builtins

# Up to here a partial read fetches and verifies the whole payload.
VERIFIED_RANGE_BYTES = 4 << 20

_Result = TypeVar("_Result")


def is_read_whole(row: Row) -> bool:
    """Tell whether reading a part of a file reads, and verifies, all of it: a small one, or one
    that is compressed."""
    return row.size <= VERIFIED_RANGE_BYTES or row.length != row.size


@dataclass(frozen=True, slots=True)
class Shared:
    """What all snapshots of an opened lake use together; `newest` asks the volume for the head,
    `at` for a snapshot by number, `sent` for one by number and commit, on first use."""

    volume: Volume
    catalogue: Catalogue
    reader: Reader
    newest: Callable[[], State]
    at: Callable[[int], Snapshot]
    sent: Callable[[int, str | None], Snapshot]


class Snapshot:
    """One numbered view of a lake. Made by `Lake.snapshot`; needs no closing of its own."""

    def __init__(self, shared: Shared, state: State | Callable[[], State]) -> None:
        self._shared = shared
        self._state = state

    def __reduce__(self) -> tuple[Callable[[int, str | None], Snapshot], tuple[int, str | None]]:
        return self._shared.sent, (self.number, self.state.commit_id)

    @property
    def state(self) -> State:
        """What it consists of."""
        if not isinstance(self._state, State):
            self._state = self._state()
        return self._state

    @property
    def name(self) -> str:
        """Where the lake of this view is."""
        return self._shared.volume.name

    @property
    def volume(self) -> Volume:
        """The volume that the lake of this view is on."""
        return self._shared.volume

    @property
    def number(self) -> int:
        """The number of the commit this view ends with."""
        return self.state.number

    @property
    def time_ns(self) -> int:
        """When that commit was made, by the file server's clock."""
        return self.state.time_ns

    @Lazy
    def sources(self) -> list[Source]:
        """The sorted runs whose rows make up this view, newest first."""
        return sources_of(self.state)

    # -- rows ------------------------------------------------------------------------------------

    def locate(self, paths: Sequence[str] | pa.Array, columns: Sequence[str] = COLUMNS) -> pa.Table:
        """Return one row for each path in the order asked; all nulls where there is no such path.

        Directories that exist only through their files are not rows, so they are nulls too.
        `columns` selects what to return; it must hold `kind` and `seq`.
        """
        with self._expiring():
            return locate(self._shared.catalogue, self.sources, several(paths), columns)

    def stat(self, path: str) -> Row:
        """Return a path's row; implied directories included. NotFound if there is none."""
        if not check_prefix(path):
            return implied_directory("", self.time_ns)
        table = self.locate([check_path(path)])
        if table["path"][0].is_valid:
            return rows_from_table(table)[0]
        if self._has_files_below(path):
            return implied_directory(path, self.time_ns)
        raise self._missing(path)

    def exists(self, path: str) -> bool:
        """Tell whether a path is a file, a symlink or a directory."""
        try:
            self.stat(path)
        except SnapshotExpired:
            raise
        except NotFound:
            return False
        return True

    def directories(self, paths: Sequence[str]) -> builtins.list[str]:
        """Return those of these names below which something lies; many cost little more than one.

        A directory of its own, with nothing below it, is a row: `locate` finds it.
        """
        with self._expiring():
            maybe = may_have_below(self._shared.catalogue, self.sources, paths)
        return [path for path in maybe if self._has_files_below(path)]

    def _has_files_below(self, directory: str) -> bool:
        with self._expiring():
            known = below(self._shared.catalogue, self.sources, directory)
        if known is not None:
            return known
        low, high = subtree_range(directory)
        return any(len(table) for table in self.scan_range(low, high))

    def ls(self, directory: str = "") -> builtins.list[Row]:
        """Return the rows directly below a directory, sorted, without scanning its subtree.

        NotFound when nothing of that name exists; Invalid when it is a file.
        """
        return [*self.children(directory)]

    def children(self, directory: str = "") -> Iterator[Row]:
        """Return what `ls` does, each row made as it is taken: for directories of millions."""
        directory = check_prefix(directory)
        with self._expiring():
            rows = children(self._shared.catalogue, self.sources, directory, self.time_ns)
        first = next(rows, None)
        if first is not None:
            return chain((first,), rows)
        if directory:
            row = self.stat(directory)
            if row.kind is not Kind.DIR:
                raise Invalid(f"{directory!r}", expected="a directory", found=row.kind.name.lower())
        return rows

    def listed(self, directory: str) -> tuple[pa.Table, builtins.list[str]]:
        """Return the stored rows directly below a directory, sorted, and the paths of those that
        exist only because files lie below them."""
        with self._expiring():
            return listed(self._shared.catalogue, self.sources, check_prefix(directory))

    def scan(self, prefix: str = "") -> Iterator[pa.Table]:
        """Yield all rows below a directory prefix (or the file of that name), sorted by path."""
        prefix = check_prefix(prefix)
        if prefix:
            own = self.locate([prefix])
            if own["path"][0].is_valid:
                yield own
        yield from self.scan_range(*subtree_range(prefix))

    def scan_range(self, low: str, high: str | None) -> Iterator[pa.Table]:
        """Yield all rows of paths in [low, high), sorted by path."""
        with self._expiring():
            yield from scan(self._shared.catalogue, self.sources, low, high)

    def scan_packs(self, packs: Sequence[str], low: str, high: str | None) -> Iterator[pa.Table]:
        """Yield the newest rows of paths in [low, high) that these packs hold, tombstones too."""
        infos = [self.state.packs[pack] for pack in packs]
        sources = sorted(map(pack_source, infos), key=lambda run: (-run.seq_max, run.first))
        with self._expiring():
            yield from scan(self._shared.catalogue, sources, low, high, tombstones=True)

    def find(self, query: Query | str = "") -> Iterator[pa.Table]:
        """Return the rows that a query (or a plain prefix) selects, sorted by path, in tables."""
        return selected(self.scan, query)

    @property
    def addresses_bytes(self) -> int:
        """The memory that rows of this lake take which look-ups keep ready (`lake/resident.py`)."""
        return self._shared.catalogue.resident.held_bytes

    # -- index files -----------------------------------------------------------------------------

    def columns(self, source: Source) -> ColumnsReader:
        """Return the opened columns file of one of `sources`."""
        with self._expiring():
            return self._shared.catalogue.reader(source)

    def read_columns(
        self, source: Source, start: int, end: int, columns: Sequence[str]
    ) -> pa.Table:
        """Return some columns of groups [start, end) of a source, as they are in the file."""
        with self._expiring():
            return self._shared.catalogue.reader(source).read(start, end, list(columns))

    def read_extents(
        self, source: Source, start: int, end: int, more: Sequence[str] = ()
    ) -> pa.Table:
        """Return kind and extent of each row of groups [start, end), and `more` columns as is."""
        table = self.read_columns(source, start, end, [*EXTENT_COLUMNS[:-1], *more])
        return extents_from_file(table, source.pack_id, source.path)

    def at(self, number: int) -> Snapshot:
        """Return another snapshot of this lake; NotFound or SnapshotExpired if there is none."""
        return self._shared.at(number)

    # -- bytes -----------------------------------------------------------------------------------

    def get(self, path: str) -> bytes:
        """Return a file's bytes, verified. NotFound if there is no such file."""
        return self.get_many([path])[0]

    def get_many(self, paths: Sequence[str]) -> builtins.list[bytes]:
        """Return the bytes of many files in the order asked, read in few coalesced requests."""
        paths = several(paths)
        table = self.locate(paths, EXTENT_COLUMNS)
        if table["kind"].null_count:
            gone = np.flatnonzero(~bridge.valid(table["kind"]))
            raise self._missing(paths[int(gone[0])])
        kinds = bridge.to_numpy(table["kind"])
        bad = np.flatnonzero((kinds != Kind.FILE) & (kinds != Kind.SYMLINK))
        if len(bad):
            raise Invalid(f"{paths[int(bad[0])]!r}", expected="a file", found="a directory")
        return self._read(table, paths.__getitem__)

    def read_rows(self, table: pa.Table) -> builtins.list[bytes]:
        """Return the verified bytes of rows that came from this snapshot, in their order."""
        paths = table["path"]
        return self._read(table, lambda at: str(paths[at].as_py()))

    def check_extents(self, extents: Extents, name: Callable[[int], str]) -> None:
        """Raise Corrupt unless each extent lies among the payloads of its pack."""
        check_bounds(extents, name, self.state)

    def read_pack(self, pack: str, action: Callable[[ReadableFile], _Result]) -> _Result:
        """Return what `action` reads from a pack, for those who place and verify bytes themselves.

        NotFound if the pack is gone: `read_rows` finds its files where compaction has moved them.
        """
        return self._shared.reader.read_pack(pack, action)

    def has_open(self, pack: str) -> bool:
        """Tell whether `read_pack` would not have to open the pack."""
        return self._shared.reader.is_open(pack)

    def use_pack(self, pack: str) -> AbstractContextManager[ReadableFile]:
        """Lend a pack's open file for the time of a block; NotFound if the pack is gone.

        A handle that went stale is not opened anew, as it is by `read_pack`.
        """
        return self._shared.reader.use_pack(pack)

    def _read(self, table: pa.Table, name: Callable[[int], str]) -> builtins.list[bytes]:
        results, gone = self._shared.reader.read(extents_of(table), name, self.state)
        if gone:
            newest = self._shared.newest()
            lacking = table.take(bridge.numbers(np.array(gone)))
            moved = self._resolve(lacking, [name(at) for at in gone], newest)
            found, lost = self._shared.reader.read(moved, lambda at: name(gone[at]), newest)
            if lost:
                raise self._expired(name(gone[lost[0]]))
            for at, data in zip(gone, found, strict=True):
                results[at] = data
        return results

    def read_row(self, row: Row) -> bytes:
        """Return the verified bytes of one row that came from this lake."""
        return self.read_rows(table_from_rows([row]))[0]

    def _resolve(self, table: pa.Table, paths: builtins.list[str], state: State) -> Extents:
        """Return where a newer state keeps these very versions, or raise SnapshotExpired."""
        newest = locate(self._shared.catalogue, sources_of(state), paths, EXTENT_COLUMNS)
        same = bridge.valid(newest["kind"])
        for column in ("seq", "crc32c"):
            same &= bridge.to_numpy(newest[column]) == bridge.to_numpy(table[column])
        if not same.all():
            raise self._expired(paths[int(np.argmin(same))])
        return extents_of(newest)

    def read_range(self, path: str, offset: int, length: int) -> bytes:
        """Return part of a file. Only whole payloads carry a checksum, so this reads and verifies
        the whole file when it is small or compressed, and trusts the volume for part of a big one.
        """
        return self.read_row_range(self.stat(path), offset, length)

    def read_row_range(self, row: Row, offset: int, length: int) -> bytes:
        """Return part of the file of a row that came from this snapshot; see `read_range`."""
        if row.kind not in (Kind.FILE, Kind.SYMLINK):
            raise Invalid(f"{row.path!r}", expected="a file", found="a directory")
        if offset < 0:
            raise Invalid(f"read {row.path!r}", expected="an offset in the file", found=offset)
        end = min(offset + length, row.size)
        if offset >= end:
            return b""
        if is_read_whole(row):
            return self.read_row(row)[offset:end]
        try:
            return self._shared.reader.read_part(row, offset, end - offset, self.state)
        except NotFound:
            newest = self._shared.newest()
        extents = self._resolve(table_from_rows([row]), [row.path], newest)
        if int(extents.length[0]) != row.size:
            return self.read_row(row)[offset:end]
        pack = extents.packs[int(extents.pack[0])]
        moved = row._replace(pack=pack, offset=int(extents.offset[0]))
        with self._expiring(row.path):
            return self._shared.reader.read_part(moved, offset, end - offset, newest)

    @contextmanager
    def _expiring(self, path: str | None = None) -> Iterator[None]:
        """Say SnapshotExpired where a file of this snapshot is gone from the volume; Corrupt where
        it is one of the index (no `path`) and the lake still keeps the snapshot."""
        try:
            yield
        except SnapshotExpired:
            raise
        except NotFound as error:
            # Garbage collection says what it gives up before it deletes anything.
            if path is None and self._is_retained():
                hint = 'open the newest snapshot, whose index "lakefeed repair" rebuilds'
                if error.subject.endswith(".pack"):
                    hint = 'copy it back, or go on without its files: "lakefeed repair --log"'
                raise Corrupt(
                    f"the index of snapshot {self.number} of {self.name}",
                    expected=error.subject,
                    found="none",
                    hint=hint,
                ) from error
            raise self._expired(path or "the index") from error

    # -- errors ----------------------------------------------------------------------------------

    def _missing(self, path: str) -> NotFound:
        return NotFound(f"{path!r} in snapshot {self.number} of {self.name}")

    def _expired(self, path: str) -> SnapshotExpired:
        subject = f"{path!r} in snapshot {self.number} of {self.name}"
        if self._is_retained():
            return SnapshotExpired(
                subject,
                expected="its pack",
                found="none, though garbage collection keeps this snapshot",
                hint='it was lost otherwise; run "lakefeed fsck"',
            )
        return SnapshotExpired(
            subject,
            expected="its pack",
            found="it was garbage collected",
            hint="open a newer snapshot, or tag the ones you need",
        )

    def _is_retained(self) -> bool:
        """Tell whether garbage collection has not given this snapshot up."""
        try:
            return self.number >= self._shared.newest().horizon
        except NotFound as error:
            # Not as it is: it would pass for a path that is not there.
            raise SnapshotExpired(f"snapshot {self.number} of {self.name}", expected="its log",
                                  found="none", hint=error.hint) from error  # fmt: skip
