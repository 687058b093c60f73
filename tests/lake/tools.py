"""What the tests of the lake share: quiet options, quick lakes, brute-force views."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from lakefeed.format import columns
from lakefeed.format.columns import MAGIC, ColumnsWriter
from lakefeed.format.commit import Changes, PackInfo, SegmentInfo
from lakefeed.format.pack import Meta, PackWriter
from lakefeed.format.payload import encode
from lakefeed.format.rows import Kind, Row, rows_from_table, to_file
from lakefeed.lake import lake as lake_module
from lakefeed.lake import layout, leveling
from lakefeed.lake.catalogue import pack_source
from lakefeed.lake.garbage import stored_files
from lakefeed.lake.lake import Lake
from lakefeed.lake.log import Draft
from lakefeed.lake.packing import new_pack
from lakefeed.lake.scan import scan
from lakefeed.lake.snapshot import Snapshot
from lakefeed.lake.writer import WriterOptions
from lakefeed.volume.base import Volume, read_file
from lakefeed.volume.memory import MemoryVolume

# Commits only when told to, merges never: what a test does not ask for does not happen.
QUIET = WriterOptions(flush_age_seconds=1e9, merge_after=0)


@contextmanager
def new_lake(volume: Volume | None = None) -> Iterator[Lake]:
    """Make an empty lake, in memory unless told otherwise."""
    with Lake.create(volume or MemoryVolume()) as lake:
        yield lake


@contextmanager
def small_groups() -> Iterator[None]:
    """Make tiny row groups, segments and merges: boundaries everywhere."""
    with (
        patch.object(columns, "GROUP_ROWS", 3),
        patch.object(leveling, "SEGMENT_ROWS", 5),
        patch.object(leveling, "MERGE_ROWS", 24),
        patch.object(leveling, "SPREAD", 2),
    ):
        yield


@contextmanager
def big_lakes() -> Iterator[None]:
    """Make lakes opened meanwhile too big to stay decoded: rows are looked up by fingerprint."""
    with patch.object(lake_module, "CACHE_BYTES", 0):
        yield


def write(lake: Lake, files: Mapping[str, bytes], *, delete: Iterable[str] = ()) -> int:
    """Commit files and deletions as one pack; return the snapshot's number."""
    with lake.writer(QUIET) as writer:
        for path in delete:
            writer.delete(path)
        for path, data in files.items():
            writer.put(path, data, mtime_ns=1)
        return writer.flush()


def made_older(lake: Lake) -> None:
    """Let the packs in a directory be older than those to come, whatever the ticks of the clock."""
    for path in filter(layout.is_pack, stored_files(lake.volume)):
        whole = f"{lake.volume.name}/{path}"
        stamp_ns = os.stat(whole).st_mtime_ns - 10**9
        os.utime(whole, ns=(stamp_ns, stamp_ns))


def contents(snapshot: Snapshot, prefix: str = "") -> dict[str, bytes]:
    """Return every file of a snapshot with its bytes."""
    found: dict[str, bytes] = {}
    for table in snapshot.find(prefix):
        rows = rows_from_table(table)
        found.update(zip([row.path for row in rows], snapshot.read_rows(table), strict=True))
    return found


def all_rows(snapshot: Snapshot, prefix: str = "") -> list[Row]:
    """Return the rows of a scan."""
    return [row for table in snapshot.scan(prefix) for row in rows_from_table(table)]


def children_of(paths: Iterable[str], directory: str) -> list[str]:
    """Return the paths directly below a directory, those that are implied included."""
    prefix = f"{directory}/" if directory else ""
    below = {path[len(prefix) :].split("/", 1)[0] for path in paths if path.startswith(prefix)}
    return sorted(prefix + name for name in below)


def unmerged(snapshot: Snapshot) -> int:
    """Return how many packs of a snapshot have no rows in segments."""
    return sum(not info.indexed for info in snapshot.state.packs.values())


def put_bytes(volume: Volume, path: str, data: bytes) -> None:
    """Overwrite a file of a lake, as damage does."""
    volume.unlink(path)
    with volume.create(path) as file:
        file.write([data])
        file.sync()


def damage(volume: Volume, path: str, at: int) -> None:
    """Change one byte of a file; `at` may count from the end."""
    data = bytearray(read_file(volume, path))
    data[at] ^= 0xFF
    put_bytes(volume, path, bytes(data))


class GatedVolume:
    """A volume whose commits wait at a gate: `closed` from the start, opened by the test."""

    def __init__(self, inner: Volume) -> None:
        self.inner = inner
        self.gate = threading.Event()
        self.reached = threading.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def link(self, source: str, target: str) -> None:
        """Publish a commit once the gate is open."""
        if target.startswith(f"{layout.LOG}/"):
            self.reached.set()
            assert self.gate.wait(60), "the test never opened the gate"
        self.inner.link(source, target)


def compact(lake: Lake) -> None:
    """Rewrite every live payload into one new pack and drop the old ones; `seq` stays (I5)."""
    snapshot = lake.snapshot()
    rows = all_rows(snapshot)
    seqs = {row.path: row.seq for row in rows}

    def fill(writer: PackWriter, now_ns: int) -> None:
        for row in rows:
            data = snapshot.read_row(row) if row.kind is not Kind.DIR else b""
            writer.add(row.path, encode(data), Meta(row.mtime_ns, row.mode, row.attrs), row.kind)
        writer._rows = [row._replace(seq=seqs[row.path]) for row in writer._rows]

    pack = new_pack(lake.volume, snapshot.number, fill)
    source = pack_source(PackInfo(pack, snapshot.number))
    segment_id = layout.new_id()
    with lake.volume.create(layout.segment_path(segment_id)) as file:
        file.write([MAGIC])
        index = ColumnsWriter(file.write, len(MAGIC), {"kind": "segment", "id": segment_id})
        for table in scan(lake.catalogue, [source]):
            index.add(to_file(table, "", None))
        written = index.close()
        file.sync()
        size = file.tell()
    segment = SegmentInfo(segment_id, size, written.footer_bytes, written.rows, 0, written.first,
                          written.last, min(seqs.values()), max(seqs.values()))  # fmt: skip
    changes = Changes(
        add_packs=(pack,),
        remove_packs=tuple(snapshot.state.packs),
        index_packs=(pack.id,),
        add_segments=(segment,),
        remove_segments=tuple(snapshot.state.segments),
    )
    lake.log.commit(Draft("compact"), lambda state: changes)
