"""What packs and segments say of themselves, for a lake whose log is lost.

A pack tells its rows, the snapshot that its writer saw, and which other packs it refers to; a
segment tells the `seq` of the rows in it. Everything is verified as it is read. Reads; decides
nothing: that is left to `rebuilding` and `severed`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lakefeed.errors import Corrupt, Invalid, NotFound
from lakefeed.format.columns import MAGIC, ColumnsReader
from lakefeed.format.pack import PackSealed, open_pack
from lakefeed.format.rows import Kind, from_file
from lakefeed.lake import layout
from lakefeed.lake.files import OpenFiles
from lakefeed.lake.findings import Progress
from lakefeed.lake.garbage import stored_files
from lakefeed.volume.base import Volume

_STEP_GROUPS = 16
_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Evidence:
    """A pack as its own bytes describe it. `implied`: it has rows without a `seq`."""

    sealed: PackSealed
    base: int
    mtime_ns: int
    implied: bool

    @property
    def order(self) -> tuple[int, int, str]:
        """Sorts packs by the time at which they were finished."""
        return self.mtime_ns, self.base, self.sealed.id

    @property
    def holds_payloads(self) -> bool:
        """Whether it has bytes of its own, not only names for those of others."""
        return self.sealed.payload_end > len(MAGIC)


def read_packs(
    volume: Volume, files: OpenFiles, progress: Progress
) -> tuple[list[Evidence], list[str]]:
    """Return what every pack on the volume says of itself, and the files that are no packs."""
    paths = sorted(path for path in stored_files(volume) if path.startswith(f"{layout.PACKS}/"))
    found, unreadable = [], []
    for done, path in enumerate(paths, 1):
        try:
            found.append(_read_pack(volume, files, path))
        except (Corrupt, Invalid, NotFound) as error:
            _logger.warning("not taken in: %s", error)
            unreadable.append(path)
        progress("packs", done, len(paths))
    return found, unreadable


def _read_pack(volume: Volume, files: OpenFiles, path: str) -> Evidence:
    id_ = layout.id_of(path)
    reader, size = _opened(files, path)
    payload_end = open_pack(reader, id_, path)
    base = reader.meta.get("lakefeed.base", "")
    if not base.isdecimal():
        raise Corrupt(path, expected="the snapshot that its writer saw", found=repr(base[:80]))
    groups = reader.groups
    tombstones, implied, packs = 0, False, set()
    for stored in _stored(reader):
        implied = implied or stored["seq"].null_count > 0
        rows = from_file(stored, id_, 0, path)
        tombstones += int((np.asarray(rows["kind"]) == Kind.TOMBSTONE).sum())
        packs.update(rows["pack"].cast("string").unique().to_pylist())
    footer_bytes = size - groups.offset[-1] - groups.length[-1]
    sealed = PackSealed(
        id_, size, payload_end, footer_bytes, reader.rows, tombstones,
        groups.first[0], groups.last, tuple(sorted(packs - {id_, ""})),
    )  # fmt: skip
    return Evidence(sealed, int(base), volume.stat(path).mtime_ns, implied)


def rows_of(files: OpenFiles, pack: Evidence) -> Iterator[pa.Table]:
    """Yield the rows of a pack, those without a `seq` with 0; `pack` is a column of strings."""
    id_ = pack.sealed.id
    path = layout.pack_path(id_)
    reader, _ = _opened(files, path)
    for stored in _stored(reader):
        yield _plain(from_file(stored, id_, 0, path))


def least_seqs(files: OpenFiles, path: str) -> Iterator[tuple[str, int]]:
    """Yield the packs of a segment's rows with their least `seq`, more than once maybe."""
    reader, _ = _opened(files, path)
    for stored in _stored(reader):
        rows = from_file(stored, "", 0, path)
        table = _plain(rows.filter(pc.less(rows["kind"], int(Kind.TOMBSTONE))))
        for line in table.group_by("pack").aggregate([("seq", "min")]).to_pylist():
            if line["pack"]:
                yield line["pack"], line["seq_min"]


def look_for_repeated(
    files: OpenFiles, some: Iterable[Evidence], others: Iterable[Evidence]
) -> set[str]:
    """Return the ids of those packs that have a path which one of the others, finished later, put
    or deleted after what their writer saw."""
    owners: dict[str, list[Evidence]] = {}
    for pack in some:
        for rows in rows_of(files, pack):
            for path in rows["path"].to_pylist():
                owners.setdefault(path, []).append(pack)
    found = set[str]()
    if not owners:
        return found
    paths = pa.array(sorted(owners), pa.string())
    for other in others:
        for rows in rows_of(files, other):
            shared = rows.filter(pc.is_in(rows["path"], value_set=paths))
            both = zip(shared["path"].to_pylist(), shared["seq"].to_pylist(), strict=True)
            for path, seq in both:
                found.update(pack.sealed.id for pack in owners[path] if pack.order < other.order
                             and (not seq or seq > pack.base))  # fmt: skip
    return found


def _plain(rows: pa.Table) -> pa.Table:
    at = rows.column_names.index("pack")
    return rows.set_column(at, "pack", rows["pack"].cast("string"))


def _opened(files: OpenFiles, path: str) -> tuple[ColumnsReader, int]:
    size = files.read(path, lambda file: file.size)
    reader = ColumnsReader(
        lambda offset, length: files.read(path, lambda file: file.read_at(offset, length)),
        size, path,
    )  # fmt: skip
    return reader, size


def _stored(reader: ColumnsReader) -> Iterator[pa.Table]:
    for start in range(0, len(reader.groups), _STEP_GROUPS):
        yield reader.read(start, min(start + _STEP_GROUPS, len(reader.groups)))
