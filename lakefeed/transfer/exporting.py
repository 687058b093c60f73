"""Files of a snapshot out of a lake: one loop for every kind of target.

1. Scan the rows selected, in path order. 2. Leave out what the target has already. 3. Read the
others together, READ_BYTES at a time; what is bigger comes in pieces. 4. Hand each to the target.

Every byte is verified before a target may call it complete (I7): small files before they are handed
over, big ones with their last piece. A damaged file, or one that the target cannot take, is counted
and named in the report while the rest goes on; a target that is full or broken ends the export. So
is a row that no writer of a lake could have made: its name might lead out of the target.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from glob import escape
from pathlib import PurePath
from typing import Protocol

import numpy as np
import pyarrow as pa

from lakefeed.errors import Corrupt, Invalid
from lakefeed.format.paths import check_path, check_prefix
from lakefeed.format.rows import Kind, Row, rows_from_table
from lakefeed.lake.federated import FederatedSnapshot
from lakefeed.lake.lake import check_outside
from lakefeed.lake.mounts import directory_of
from lakefeed.lake.query import Query
from lakefeed.lake.snapshot import Snapshot
from lakefeed.lake.view import View, pieces_of
from lakefeed.transfer.importing import Progress
from lakefeed.transfer.problems import Problem, Problems

# One round of reads; twice as much may be held while one is written and the next one read.
READ_BYTES = 64 << 20
_ALL = frozenset({Kind.FILE, Kind.SYMLINK, Kind.DIR})


@dataclass(frozen=True, slots=True)
class ExportOptions:
    """What to export: below `prefix` (which is cut off the names), and matching `glob`."""

    prefix: str = ""
    glob: str | None = None


@dataclass(frozen=True, slots=True)
class ExportReport:
    """What an export did. `files` counts symlinks too; `skipped` were there or do not fit in."""

    files: int
    directories: int
    bytes: int
    skipped: int
    errors: int
    problems: tuple[Problem, ...]
    outputs: tuple[str, ...]
    snapshot: int
    seconds: float


Rows = Callable[[], Iterator[tuple[Row, str]]]
Refuse = Callable[[Row, str], None]


class Refused(Exception):
    """The target cannot take this one file; the reason is for the report."""


def check_place(where: str | os.PathLike[str]) -> None:
    """Refuse to put a file where a directory, a device or a pipe is: renaming would replace it."""
    try:
        mode = os.stat(where).st_mode
    except OSError:
        return  # nothing there; whoever writes finds out why that may not be
    if not stat.S_ISREG(mode):
        raise Invalid(
            f"target {os.fspath(where)}",
            expected="a file, or nothing of that name",
            found="a directory" if stat.S_ISDIR(mode) else "a device, pipe or socket",
            hint="choose another name; '-' is standard output",
        )


def check_target(where: str | os.PathLike[str], lake: str, view: View, prefix: str = "") -> None:
    """Refuse a place in a lake's directory, where what is put may take the place of its own files,
    and one from which files come into that of a lake they are read from."""
    check_outside("target", where)
    for own, place in _own_and_place(where, lake, view):
        inside = own.relative_to(place) if own.is_relative_to(place) else None
        if inside is not None and _has(view, str(PurePath(prefix) / inside)):
            raise Invalid(f"target {os.fspath(where)}", expected="a place outside of lakes",
                          found=f"one from which {str(inside)!r} comes into the lake {own}",
                          hint="choose another directory")  # fmt: skip


def _own_and_place(
    where: str | os.PathLike[str], lake: str, view: View
) -> Iterator[tuple[PurePath, PurePath]]:
    """Yield the directory of each lake that is read, and the place to write to."""
    if isinstance(view, FederatedSnapshot):
        # Names alone are compared: whoever asks a volume that is sick may wait for ever.
        home, place = os.path.dirname(os.path.abspath(lake)), PurePath(os.path.abspath(where))
        for mount in view.mounts.mounts:
            yield PurePath(directory_of(mount, home)), place
    else:
        yield PurePath(os.path.realpath(lake)), PurePath(os.path.realpath(where))


def _has(view: View, path: str) -> bool:
    try:
        return view.exists(path)
    except Invalid:
        return False  # no lake takes such a path


class Target(Protocol):
    """Where files go, in path order, from one thread."""

    def wants(self, row: Row, name: str) -> bool:
        """Tell whether a file has to be read and put at all."""

    def put(self, row: Row, name: str, pieces: Iterable[bytes]) -> None:
        """Store one file, directory or symlink; Refused when just this one cannot be."""

    def finish(self, rows: Rows, refuse: Refuse) -> tuple[str, ...]:
        """Complete the output and return its names.

        `rows` gives everything selected once more; `refuse` reports what is not as it should be.
        """

    def abandon(self) -> None:
        """Remove what is incomplete."""


def export(
    snapshot: Snapshot,
    target: Target,
    options: ExportOptions | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> ExportReport:
    """Write the selected files to a target; return what was done and which files were left out.

    NotFound, before anything is written, where there is nothing at the prefix.
    """
    return _Export(snapshot, target, options or ExportOptions(), progress).run()


class _Export:
    def __init__(
        self,
        snapshot: Snapshot,
        target: Target,
        options: ExportOptions,
        progress: Callable[[Progress], None] | None,
    ) -> None:
        self._snapshot = snapshot
        self._target = target
        self._prefix = check_prefix(options.prefix)
        glob = options.glob
        if glob is not None and self._prefix:
            glob = f"{escape(self._prefix)}/{glob}"
        self._query = Query(self._prefix, glob, _ALL)
        self._progress = progress
        self._problems = Problems()
        self._files = self._directories = self._bytes = self._skipped = 0

    def run(self) -> ExportReport:
        """Do it all."""
        began = time.monotonic()
        # A mistyped name must not take the place of a good archive with an empty one.
        self._snapshot.stat(self._prefix)
        try:
            for table in self._snapshot.find(self._query):
                for part in _parts(table):
                    self._export_part(part)
            outputs = self._target.finish(self._rows, self._refuse)
        except BaseException:
            self._target.abandon()
            raise
        return ExportReport(
            files=self._files,
            directories=self._directories,
            bytes=self._bytes,
            skipped=self._skipped,
            errors=self._problems.count,
            problems=self._problems.first(),
            outputs=outputs,
            snapshot=self._snapshot.number,
            seconds=time.monotonic() - began,
        )

    def _refuse(self, row: Row, reason: str) -> None:
        self._problems.add(row.path, reason)

    def _rows(self) -> Iterator[tuple[Row, str]]:
        for table in self._snapshot.find(self._query):
            for row in rows_from_table(table):
                if not self._is_root(row) and (name := self._name_or_none(row)) is not None:
                    yield row, name

    def _name_or_none(self, row: Row) -> str | None:
        try:
            return self._name(row.path)
        except Refused:
            return None  # reported when its turn came

    def _name(self, path: str) -> str:
        """Return what a path is called in the target; Refused for one that is none of a lake."""
        try:
            check_path(path)
        except Invalid as error:
            raise Refused(f"no path for a lake: expected {error.expected}") from error
        if not self._prefix:
            return path
        if path == self._prefix:
            return path.rpartition("/")[2]
        return path[len(self._prefix) + 1 :]

    def _is_root(self, row: Row) -> bool:
        return row.kind is Kind.DIR and row.path == self._prefix

    def _export_part(self, table: pa.Table) -> None:
        rows = rows_from_table(table)
        wanted = []
        for at, row in enumerate(rows):
            try:
                if not self._is_root(row) and self._target.wants(row, self._name(row.path)):
                    wanted.append(at)
                elif not self._is_root(row):
                    self._skipped += 1
            except Refused as error:
                self._refuse(row, str(error))
        for at, pieces in self._read(table, rows, wanted):
            self._put(rows[at], pieces)
        if self._progress is not None:
            errors = self._problems.count
            self._progress(Progress(self._files, self._bytes, self._skipped, errors))

    def _read(
        self, table: pa.Table, rows: list[Row], wanted: list[int]
    ) -> Iterator[tuple[int, Iterable[bytes]]]:
        small = [at for at in wanted if rows[at].kind is not Kind.DIR and not _is_big(rows[at])]
        try:
            data = dict(
                zip(
                    small,
                    self._snapshot.read_rows(table.take(pa.array(small, pa.int64()))),
                    strict=True,
                )
            )
        except Corrupt:
            data = {}  # found again below, one by one
        for at in wanted:
            row = rows[at]
            if row.kind is Kind.DIR:
                yield at, ()
            elif _is_big(row):
                yield at, pieces_of(self._snapshot, row)
            elif at in data:
                yield at, (data.pop(at),)
            else:
                try:
                    yield at, (self._snapshot.read_row(row),)
                except Corrupt as error:
                    self._problems.add(row.path, error)

    def _put(self, row: Row, pieces: Iterable[bytes]) -> None:
        try:
            self._target.put(row, self._name(row.path), pieces)
        except Refused as error:
            self._refuse(row, str(error))
            return
        if row.kind is Kind.DIR:
            self._directories += 1
        else:
            self._files += 1
            self._bytes += row.size


def _is_big(row: Row) -> bool:
    # A compressed payload can only be read whole; the format bounds its size.
    return row.size > READ_BYTES and row.length == row.size


def _parts(table: pa.Table) -> Iterator[pa.Table]:
    """Cut a table so that the files of each part, big ones aside, fit into one round of reads."""
    sizes = np.asarray(table["size"]).astype(np.int64)
    ends = np.cumsum(np.where(sizes > READ_BYTES, 0, sizes))
    start = 0
    while start < len(table):
        before = ends[start - 1] if start else 0
        end = max(int(np.searchsorted(ends, before + READ_BYTES, "right")), start + 1)
        yield table.slice(start, end - start)
        start = end
