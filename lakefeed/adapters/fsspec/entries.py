"""What fsspec is told of a row, and where symbolic links lead.

The lake stores links and never follows them; here they are followed, inside the lake only, because
readers want the file. A link to a file looks like that file (with `islink` and `destination`); one
to a directory, to nothing or out of the lake has the type "link", so that no walk runs in circles.
"""

from __future__ import annotations

import errno
import os
import posixpath
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from lakefeed.errors import Invalid, NotFound, SnapshotExpired
from lakefeed.format.paths import check_path, parents
from lakefeed.format.rows import Kind, Row, rows_from_table, table_from_rows
from lakefeed.lake.snapshot import Snapshot

# Linux gives up after as many.
HOPS_MAX = 40

Info = dict[str, Any]
_TYPES = {Kind.FILE: "file", Kind.DIR: "directory", Kind.SYMLINK: "link"}


def info_of(name: str, row: Row) -> Info:
    """Return fsspec's facts of a row that is no link."""
    info = {
        "name": name,
        "size": row.size,
        "type": _TYPES[row.kind],
        "mtime": row.mtime_ns / 1e9,
        "mtime_ns": row.mtime_ns,
        "mode": row.mode,
        "islink": row.kind is Kind.SYMLINK,
    }
    if row.kind is not Kind.DIR:
        version = f"{row.crc32c:08x}-{row.seq}"
        info |= {"crc32c": row.crc32c, "seq": row.seq, "ETag": version, "attrs": row.attrs}
    return info


def link_info(name: str, row: Row, destination: str, target: Row | None) -> Info:
    """Return fsspec's facts of a link; `target` is the file it leads to, if it leads to one."""
    info = info_of(name, row if target is None else target)
    return {**info, "islink": True, "destination": destination}


def infos_of(snapshot: Snapshot, rows: Sequence[Row], names: Sequence[str]) -> list[Info]:
    """Return fsspec's facts of many rows, links included."""
    links = [row for row in rows if row.kind is Kind.SYMLINK]
    leads = _leads(snapshot, links) if links else {}
    return [
        link_info(name, row, *leads[row.path]) if row.kind is Kind.SYMLINK else info_of(name, row)
        for row, name in zip(rows, names, strict=True)
    ]


def _leads(snapshot: Snapshot, links: list[Row]) -> dict[str, tuple[str, Row | None]]:
    """Return each link's words and the file it leads to; one look-up serves all direct ones."""
    words = [os.fsdecode(data) for data in snapshot.read_rows(table_from_rows(links))]
    targets = [_join(row.path, text, "") for row, text in zip(links, words, strict=True)]
    inside = sorted({target for target in targets if target})
    found: dict[str, Row] = {}
    if inside:
        table = snapshot.locate(inside)
        present = table.filter(table["path"].is_valid())
        found = {row.path: row for row in rows_from_table(present)}
    leads: dict[str, tuple[str, Row | None]] = {}
    for row, text, target in zip(links, words, targets, strict=True):
        direct = found.get(target or "")
        if direct is None or direct.kind is not Kind.FILE:
            direct = _file_or_none(snapshot, row.path)
        leads[row.path] = (text, direct)
    return leads


def _file_or_none(snapshot: Snapshot, path: str) -> Row | None:
    try:
        row = resolve(snapshot, path)
    except SnapshotExpired:
        raise
    except OSError:
        return None
    return row if row.kind is Kind.FILE else None


def resolve(snapshot: Snapshot, path: str) -> Row:
    """Return the row that a path leads to, links followed; NotFound, or OSError for a circle."""
    at = path
    for _ in range(HOPS_MAX):
        try:
            row: Row | None = snapshot.stat(at)
        except SnapshotExpired:
            raise
        except NotFound:
            row = _link_above(snapshot, at)
            if row is None:
                raise
        assert row is not None
        if row.kind is not Kind.SYMLINK:
            return row
        words = os.fsdecode(snapshot.read_row(row))
        target = _join(row.path, words, at[len(row.path) + 1 :])
        if target is None:
            raise NotFound(
                f"{path!r} in snapshot {snapshot.number}",
                expected="a link to a file in the lake",
                found=f"one to {words!r}",
            )
        at = target
    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)


def _link_above(snapshot: Snapshot, path: str) -> Row | None:
    """Return the outermost directory of a path that is a link."""
    above = parents(path)
    if not above:
        return None
    table = snapshot.locate(above)
    links = table.filter(pa.compute.equal(table["kind"], int(Kind.SYMLINK)))
    return rows_from_table(links.slice(0, 1))[0] if len(links) else None


def _join(link: str, words: str, rest: str) -> str | None:
    """Return where a link leads inside the lake, None if it leads where no file can be."""
    if not words or words.startswith("/"):
        return None
    joined = posixpath.normpath(posixpath.join(posixpath.dirname(link), words, rest))
    if joined == ".":
        return ""
    try:
        return check_path(joined)
    except Invalid:
        return None
