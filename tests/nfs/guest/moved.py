"""A reader with open handles whose packs another client removes: moved files are found again.

c2 holds a snapshot and has its packs open. c1 copies every payload into a new pack, commits that,
gives the snapshot up and deletes the old packs, as compaction and garbage collection do. c2 must
read the same bytes. Then c1 replaces the files by newer ones and deletes what held the older: c2
must say that its snapshot expired, for its handles may still give bytes, but only right ones. So
must programs on c2 that hold the snapshot, too, and have not opened any pack yet.
"""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
from content import content, read_all
from world import World

from lakefeed.format import rows as rows_format
from lakefeed.format.columns import MAGIC, ColumnsWriter
from lakefeed.format.commit import Changes, PackInfo, SegmentInfo
from lakefeed.format.pack import Meta, PackWriter
from lakefeed.format.payload import encode
from lakefeed.format.rows import rows_from_table, table_from_rows
from lakefeed.lake import layout
from lakefeed.lake.catalogue import pack_source
from lakefeed.lake.lake import Lake
from lakefeed.lake.log import Draft
from lakefeed.lake.packing import new_pack
from lakefeed.lake.snapshot import Snapshot

PATHS = [f"a/{number:03d}" for number in range(100)]
read = partial(read_all, PATHS)


def compact(lake: Lake) -> list[str]:
    """Move every payload into one new pack, in one commit; return the packs that went away."""
    snapshot = lake.snapshot()
    old = rows_from_table(pa.concat_tables(snapshot.find("")))

    def fill(writer: PackWriter, now_ns: int) -> None:
        for row, data in zip(old, snapshot.get_many([row.path for row in old]), strict=True):
            writer.add(row.path, encode(data), Meta(row.mtime_ns, row.mode))

    pack = new_pack(lake.volume, snapshot.number, fill)
    placed = rows_from_table(lake.catalogue.rows(pack_source(PackInfo(pack, 0)), 0, 1))
    rows = [new._replace(seq=row.seq) for row, new in zip(old, placed, strict=True)]
    segment_id = layout.new_id()
    with lake.volume.create(layout.segment_path(segment_id)) as file:
        file.write([MAGIC])
        columns = ColumnsWriter(file.write, len(MAGIC), {"kind": "segment", "id": segment_id})
        columns.add(rows_format.to_file(table_from_rows(rows), "", None))
        written = columns.close()
        file.sync()
        segment = SegmentInfo(
            segment_id, file.tell(), written.footer_bytes, written.rows, 0,
            written.first, written.last, 1, snapshot.number,
        )  # fmt: skip
    gone = sorted(snapshot.state.packs)
    changes = Changes(
        add_packs=(pack,), index_packs=(pack.id,), remove_packs=tuple(gone),
        add_segments=(segment,), remove_segments=tuple(snapshot.state.segments),
    )  # fmt: skip
    lake.log.commit(Draft("compact"), lambda state: changes)
    return gone


def delete(root: Path, packs: list[str]) -> None:
    """Give up all but the newest snapshot and delete packs, which this client has not open: else
    NFS would only rename them."""
    with Lake.open(root) as lake:
        lake.log.commit(Draft("gc"), lambda state: Changes(horizon=state.number))
    for pack in packs:
        (root / layout.pack_path(pack)).unlink()
    # The server's cache of open files keeps a deleted one for some milliseconds.
    time.sleep(0.5)


def put(root: Path, version: str) -> Snapshot:
    with Lake.open(root) as lake:
        with lake.writer() as writer:
            for path in PATHS:
                writer.put(path, content(path, version))
        return lake.snapshot()


def main(world: World) -> dict[str, Any]:
    near, far = world.c1.root / "moved", world.c2.root / "moved"
    facts: dict[str, Any] = {}
    Lake.create(near).close()
    with Lake.open(far) as reader, Lake.open(far) as idle, Lake.open(far) as later:
        put(near, "first")
        first, unread, unread_longer = reader.snapshot(), idle.snapshot(), later.snapshot()
        facts["before"] = read(first, "first")
        with Lake.open(near) as lake:
            gone = compact(lake)
        delete(near, gone)
        facts["moved"] = read(first, "first")
        facts["moved, nothing open"] = read(unread, "first")
        second = put(near, "second")
        delete(near, [p for p, info in second.state.packs.items() if info.seq < second.number])
        facts["replaced"] = read(first, "first")
        facts["replaced, nothing open"] = read(unread_longer, "first")
        facts["newest"] = read(later.snapshot(), "second")
    return facts
