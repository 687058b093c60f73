"""Packs that refer to bytes which are no longer there, in a lake whose log is lost.

A rename or copy refers to the pack of its bytes. Where compaction moved those, and garbage
collection took the old pack, the rows of the rename lead nowhere; in a whole log the moved rows,
which keep their `seq`, stand in for them. Without the log a number that is guessed too high would
have them hide what is there. So of such a pack

1. the number is that of the rows of its own which compaction moved;
2. where there are none of these it is out if it holds no payload: it could only hide something. One
   that does is out if its bytes were moved under another name, and no segment shows a row of it:
   compaction merges what is committed, so this never was, or nothing is left of it.

Reads; changes nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from lakefeed.format.rows import Kind
from lakefeed.lake.evidence import Evidence, rows_of
from lakefeed.lake.files import OpenFiles

# What stays of a row wherever its payload goes, and whatever its path becomes.
_CONTENT = ("kind", "size", "crc32c", "mtime_ns")


@dataclass(frozen=True, slots=True)
class Moved:
    """Of severed packs: the numbers of those of which compaction moved a row under its own path,
    and the ids of those of which it has the bytes, under whatever path."""

    numbers: dict[str, int] = field(default_factory=dict)
    elsewhere: set[str] = field(default_factory=set)


def severed_of(packs: Iterable[Evidence], there: Collection[str]) -> list[Evidence]:
    """Return the packs that refer to others than those which are `there`."""
    return [pack for pack in packs if pack.implied and not {*pack.sealed.refs} <= {*there}]


def look_for_moved(files: OpenFiles, packs: Iterable[Evidence], severed: list[Evidence]) -> Moved:
    """Return which of the severed packs' bytes are in the packs of compaction among `packs`."""
    owners: dict[tuple[Any, ...], list[tuple[str, Evidence]]] = {}
    for pack in severed:
        for path, *content in _lines(_referring(files, pack), ("path", *_CONTENT)):
            owners.setdefault(tuple(content), []).append((path, pack))
    moved = Moved()
    if not owners:
        return moved
    checksums = pa.array(sorted({content[2] for content in owners}), pa.uint32())
    for pack in packs:
        for rows in () if pack.implied else rows_of(files, pack):
            some = rows.filter(pc.is_in(rows["crc32c"], value_set=checksums))
            for path, seq, *content in _lines(some, ("path", "seq", *_CONTENT)):
                for own_path, owner in owners.get(tuple(content), ()):
                    id_ = owner.sealed.id
                    moved.elsewhere.add(id_)
                    if path == own_path and seq > owner.base:
                        moved.numbers[id_] = min(seq, moved.numbers.get(id_, seq))
    return moved


def _referring(files: OpenFiles, pack: Evidence) -> pa.Table:
    """Return the rows of a pack whose bytes are in others."""
    own = pa.array([pack.sealed.id])
    found = []
    for rows in rows_of(files, pack):
        held = pc.less(rows["kind"], int(Kind.TOMBSTONE))
        others = pc.invert(pc.is_in(rows["pack"], value_set=own))
        found.append(rows.filter(pc.and_(held, others)))
    return pa.concat_tables(found)


def _lines(rows: pa.Table, names: tuple[str, ...]) -> Iterator[tuple[Any, ...]]:
    return zip(*(rows[name].to_pylist() for name in names), strict=True)


def never_there(
    severed: Iterable[Evidence], moved: Moved, numbered: Collection[str], shown: Collection[str]
) -> set[str]:
    """Return which severed packs are out: not those that are `numbered` or `shown` by segments."""
    out = set[str]()
    for pack in severed:
        id_ = pack.sealed.id
        is_over = not pack.holds_payloads or (shown and id_ in moved.elsewhere)
        if is_over and id_ not in numbered and id_ not in shown:
            out.add(id_)
    return out
