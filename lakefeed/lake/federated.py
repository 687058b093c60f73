"""One view over the snapshots of several lakes.

Paths are those of the lakes with their mount's prefix in front; directories above mounts exist
because of them. Whatever concerns one path asks its lake alone. What goes over several lakes gives
everything that the healthy ones hold, in path order, and then raises VolumeFailed that names the
sick ones: never silently less. A lake that was sick once stays so for this view, so nobody waits
for it twice.
"""

from __future__ import annotations

import errno
import hashlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lakefeed.errors import Invalid, LakefeedError, NotFound, VolumeFailed
from lakefeed.format import bridge
from lakefeed.format.paths import PATH_BYTES_MAX, check_path, check_prefix
from lakefeed.format.rows import COLUMNS, Kind, Row, empty_table, table_from_rows
from lakefeed.lake.listing import implied_directory
from lakefeed.lake.lookup import several
from lakefeed.lake.mounts import Mount, Mounts
from lakefeed.lake.once import Once
from lakefeed.lake.query import Query, selected
from lakefeed.lake.reader import Extents
from lakefeed.lake.snapshot import Snapshot
from lakefeed.volume.base import ReadableFile

if TYPE_CHECKING:
    import builtins

# Opening a lake is a few round trips: many wait at once.
_THREADS_MAX = 32

_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class Part:
    """One lake's share of a view."""

    mount: Mount
    once: Once[Snapshot]

    def __reduce__(self) -> tuple[Callable[[Mount, Snapshot], Part], tuple[Mount, Snapshot]]:
        return _sent, (self.mount, self.snapshot())

    def snapshot(self) -> Snapshot:
        """Return the lake's snapshot, or raise why there is none; the same each time."""
        try:
            return self.once.get()
        except LakefeedError as error:
            raise _sick(self.mount, error) from error


def _sent(mount: Mount, snapshot: Snapshot) -> Part:
    """Return the part that another process sent; its lake is asked when somebody wants it."""

    def ask() -> Snapshot:
        _ = snapshot.state
        return snapshot

    return Part(mount, Once(ask))


def _sick(mount: Mount, error: LakefeedError) -> LakefeedError:
    where = f"at {mount.prefix or '/'!r}"
    if isinstance(error, NotFound):
        # The lake, or the tag or snapshot that it has not: the subject says which.
        return type(error)(f"{error.subject} {where}", expected=error.expected,
                           found=error.found or "none", hint=error.hint)  # fmt: skip
    return VolumeFailed(f"lake {mount.lake} {where}", expected="a lake that answers",
                        found=error.text, errno=error.errno)  # fmt: skip


class FederatedSnapshot:
    """An immutable view of many lakes; see `Snapshot` for what its methods do. Safe for threads."""

    def __init__(self, name: str, mounts: Mounts, parts: Sequence[Part]) -> None:
        self.name = name
        self.mounts = mounts
        self.parts = tuple(parts)
        self._parts = {part.mount.prefix: part for part in parts}
        self._owners: dict[str, Snapshot] = {}  # by pack, of those that somebody asked for

    @property
    def number(self) -> int:
        """A number that stands for the snapshots of all lakes; VolumeFailed if one is sick."""
        text = "\n".join(f"{part.mount.prefix}\0{part.snapshot().number}" for part in self.parts)
        return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=7).digest(), "big")

    @property
    def time_ns(self) -> int:
        """When the newest of the lakes that were asked so far was changed."""
        known = [snapshot for part in self.parts if (snapshot := part.once.peek()) is not None]
        return max((snapshot.time_ns for snapshot in known), default=0)

    def at(self, number: int) -> FederatedSnapshot:
        """Raise NotFound unless the number is this view's: it does not say which snapshots it
        stands for."""
        if number == self.number:
            return self
        raise NotFound(f"snapshots of {self.name} that {number} stands for")

    def __reduce__(self) -> tuple[type[FederatedSnapshot], tuple[str, Mounts, tuple[Part, ...]]]:
        # Each lake's own snapshot goes along, so all are asked: VolumeFailed if one is sick.
        self.prepare()
        return FederatedSnapshot, (self.name, self.mounts, self.parts)

    def prepare(self) -> None:
        """Take all snapshots at once, so that nobody waits for one lake after the other."""
        if not self.parts:
            return
        with ThreadPoolExecutor(min(len(self.parts), _THREADS_MAX), "lakefeed-open") as pool:
            for future in [pool.submit(part.once.get) for part in self.parts]:
                # Each part remembers its own failure, for whoever needs it.
                with suppress(LakefeedError):
                    future.result()

    def through(self, reopen: Callable[[Snapshot], Snapshot]) -> FederatedSnapshot:
        """Return the same view of snapshots that were opened in another way, each on first need."""

        def part(old: Part) -> Part:
            return Part(old.mount, Once(lambda: reopen(old.once.get())))

        return FederatedSnapshot(self.name, self.mounts, [part(old) for old in self.parts])

    def _part(self, path: str) -> Part | None:
        mount = self.mounts.of(path)
        return None if mount is None else self._parts[mount.prefix]

    def _below(self, directory: str) -> builtins.list[Part]:
        return [self._parts[mount.prefix] for mount in self.mounts.below(directory)]

    # -- rows ------------------------------------------------------------------------------------

    def stat(self, path: str) -> Row:
        """Return a path's row; mounts and what is above them are directories."""
        path = check_prefix(path)
        part = self._part(path)
        if part is not None and part.mount.inside(path):
            row = part.snapshot().stat(part.mount.inside(path))
            return row._replace(path=path)
        if not path or self._below(path):
            return implied_directory(path, self.time_ns)
        raise self._missing(path)

    def exists(self, path: str) -> bool:
        """Tell whether a path is a file, a symlink or a directory."""
        path = check_prefix(path)
        part = self._part(path)
        if part is not None and part.mount.inside(path):
            return part.snapshot().exists(part.mount.inside(path))
        return not path or bool(self._below(path))

    def ls(self, directory: str = "") -> builtins.list[Row]:
        """Return the rows directly below a directory; mounts are listed without asking them."""
        return [*self.children(directory)]

    def children(self, directory: str = "") -> Iterator[Row]:
        """Return what `ls` does, each row made as it is taken: for directories of millions."""
        directory = check_prefix(directory)
        part = self._part(directory)
        if part is not None:
            mount, rows = part.mount, part.snapshot().children(part.mount.inside(directory))
            return (row._replace(path=mount.outside(row.path)) for row in rows)
        skip = len(directory) + 1 if directory else 0
        names = {mount.prefix[skip:].partition("/")[0] for mount in self.mounts.below(directory)}
        if not names and directory:
            raise self._missing(directory)
        above = directory + "/" if directory else ""
        return (implied_directory(above + name, self.time_ns) for name in sorted(names))

    def scan(self, prefix: str = "") -> Iterator[pa.Table]:
        """Yield all rows in and below a prefix, sorted by path."""
        prefix = check_prefix(prefix)
        part = self._part(prefix)
        if part is not None:
            for table in part.snapshot().scan(part.mount.inside(prefix)):
                yield _outside(table, part.mount)
            return
        yield from self._over_all(self._below(prefix), lambda snapshot: snapshot.scan())

    def _over_all(
        self,
        parts: builtins.list[Part],
        rows_of: Callable[[Snapshot], Iterator[pa.Table]],
    ) -> Iterator[pa.Table]:
        self.prepare()
        failures: list[LakefeedError] = []
        for part in parts:
            try:
                snapshot = part.snapshot()
            except LakefeedError as error:
                failures.append(error)
                continue
            try:
                for table in rows_of(snapshot):
                    yield _outside(table, part.mount)
            except VolumeFailed as error:
                failures.append(_sick(part.mount, error))
            except LakefeedError as error:
                failures.append(error)
        if failures:
            raise self._incomplete(failures)

    def find(self, query: Query | str = "") -> Iterator[pa.Table]:
        """Return the rows that a query (or a plain prefix) selects, sorted by path, in tables."""
        return selected(self.scan, query)

    def locate(self, paths: Sequence[str] | pa.Array, columns: Sequence[str] = COLUMNS) -> pa.Table:
        """Return one row for each path in the order asked; all nulls where there is no such one."""
        paths = several(paths)
        names = paths.to_pylist() if isinstance(paths, pa.Array) else paths
        tables, start = [empty_table().select(list(columns))], 0
        at = np.full(len(names), -1, np.int64)
        for part, numbers in self._sorted_out(names):
            inside = [part.mount.inside(names[number]) for number in numbers]
            found = part.snapshot().locate(inside, columns)
            tables.append(_outside(found, part.mount) if "path" in columns else found)
            at[numbers] = start + np.arange(len(numbers))
            start += len(numbers)
        together = pa.concat_tables(tables).unify_dictionaries().combine_chunks()
        return together.take(bridge.numbers(at, at < 0))

    def _sorted_out(self, names: builtins.list[str]) -> Iterator[tuple[Part, builtins.list[int]]]:
        """Yield each lake that paths belong to, with the positions of those paths."""
        found: dict[str, builtins.list[int]] = {}
        for number, name in enumerate(names):
            mount = self.mounts.of(name)
            if mount is not None and mount.inside(name):
                found.setdefault(mount.prefix, []).append(number)
        for prefix, numbers in found.items():
            yield self._parts[prefix], numbers

    # -- bytes -----------------------------------------------------------------------------------

    def get(self, path: str) -> bytes:
        """Return a file's bytes, verified. NotFound if there is no such file."""
        return self.get_many([path])[0]

    def get_many(self, paths: Sequence[str]) -> builtins.list[bytes]:
        """Return the bytes of many files in the order asked."""
        names = [check_path(path) for path in several(paths)]
        results: list[bytes | None] = [None] * len(names)
        for part, numbers in self._sorted_out(names):
            data = part.snapshot().get_many([part.mount.inside(names[n]) for n in numbers])
            for number, one in zip(numbers, data, strict=True):
                results[number] = one
        return self._all_there(results, names)

    def read_rows(self, table: pa.Table) -> builtins.list[bytes]:
        """Return the verified bytes of rows that came from this view, in their order."""
        names = table["path"].to_pylist()
        results: list[bytes | None] = [None] * len(names)
        for part, numbers in self._sorted_out(names):
            rows = _inside(table.take(pa.array(numbers)), part.mount)
            for number, one in zip(numbers, part.snapshot().read_rows(rows), strict=True):
                results[number] = one
        return self._all_there(results, names)

    def _all_there(
        self, results: builtins.list[bytes | None], names: builtins.list[str]
    ) -> builtins.list[bytes]:
        for number, data in enumerate(results):
            if data is None:
                if not names[number] or self._below(names[number]):
                    raise Invalid(f"{names[number]!r}", expected="a file", found="a directory")
                raise self._missing(names[number])
        return [data for data in results if data is not None]

    def read_row(self, row: Row) -> bytes:
        """Return the verified bytes of one row that came from this view."""
        return self.read_rows(table_from_rows([row]))[0]

    def read_range(self, path: str, offset: int, length: int) -> bytes:
        """Return part of a file; see `Snapshot.read_range`."""
        return self.read_row_range(self.stat(path), offset, length)

    def read_row_range(self, row: Row, offset: int, length: int) -> bytes:
        """Return part of the file of a row that came from this view."""
        part = self._part(row.path)
        if part is None or row.kind not in (Kind.FILE, Kind.SYMLINK):
            raise Invalid(f"{row.path!r}", expected="a file", found="a directory")
        inside = row._replace(path=part.mount.inside(row.path))
        return part.snapshot().read_row_range(inside, offset, length)

    # -- for those who place and verify bytes themselves -----------------------------------------

    def check_extents(self, extents: Extents, name: Callable[[int], str]) -> None:
        """Raise Corrupt unless each extent lies among the payloads of its pack."""
        for part in self.parts:
            snapshot = part.once.peek()
            if snapshot is not None:
                # What is another lake's, this one does not know, and so does not judge.
                snapshot.check_extents(extents, name)

    def read_pack(self, pack: str, action: Callable[[ReadableFile], _Result]) -> _Result:
        """Return what `action` reads from a pack, whichever lake has it; NotFound if none has."""
        return self._owner(pack).read_pack(pack, action)

    def use_pack(self, pack: str) -> AbstractContextManager[ReadableFile]:
        """Lend a pack's open file, whichever lake has it; NotFound if none has."""
        return self._owner(pack).use_pack(pack)

    def has_open(self, pack: str) -> bool:
        """Tell whether `read_pack` would not have to open the pack."""
        try:
            return self._owner(pack).has_open(pack)
        except NotFound:
            return False

    def _owner(self, pack: str) -> Snapshot:
        owner = self._owners.get(pack)
        if owner is None:
            opened = (part.once.peek() for part in self.parts)
            having = (one for one in opened if one is not None and pack in one.state.packs)
            owner = next(having, None)
            if owner is None:
                raise NotFound(f"pack {pack} of {self.name}")
            self._owners[pack] = owner
        return owner

    # -- errors ----------------------------------------------------------------------------------

    def _missing(self, path: str) -> NotFound:
        return NotFound(f"{path!r} in {self.name}")

    def _incomplete(self, failures: builtins.list[LakefeedError]) -> LakefeedError:
        first = failures[0]
        if len(failures) == 1:
            return first
        found = "; ".join(failure.text for failure in failures)
        return VolumeFailed(f"{len(failures)} lakes of {self.name}", expected="lakes that answer",
                            found=found, errno=first.errno or errno.EIO)  # fmt: skip


def _outside(table: pa.Table, mount: Mount) -> pa.Table:
    """Return a lake's rows as the federation names them."""
    if not mount.prefix:
        return table
    paths = pc.binary_join_element_wise(mount.prefix, table["path"], "/")
    return table.set_column(table.schema.get_field_index("path"), "path", paths)


def _inside(table: pa.Table, mount: Mount) -> pa.Table:
    """Return rows as the lake itself names them."""
    if not mount.prefix:
        return table
    skip = len(mount.prefix.encode()) + 1
    paths = pc.binary_slice(table["path"].cast(pa.binary()), skip, PATH_BYTES_MAX)
    return table.set_column(table.schema.get_field_index("path"), "path", paths.cast(pa.string()))
