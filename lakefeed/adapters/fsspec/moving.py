"""What a move removes: the files that it has copied, and nothing that came or changed meanwhile.

Inside one lake copies and removals are one commit. A move to another lake takes two: the removal
waits until the copies are durable, and is refused where a file is not the one any more that was
copied. Then both are kept, so that whatever happens every file is in one of the lakes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from lakefeed.adapters.fsspec.places import Place
from lakefeed.adapters.fsspec.writing import OPERATION
from lakefeed.errors import Conflict, NotFound, SnapshotExpired
from lakefeed.format.rows import Kind, Row, rows_from_table
from lakefeed.lake.batch import WHEN_TOLD, Delete
from lakefeed.lake.lake import Lake
from lakefeed.lake.snapshot import Snapshot
from lakefeed.lake.writer import Writer


@dataclass(slots=True)
class Move:
    """What one move has copied: names by their places inside a lake, rows that went to another one,
    and the places where something is now, which stays there."""

    within: dict[tuple[str, str], str] = field(default_factory=dict)
    away: dict[str, tuple[Lake, list[Row]]] = field(default_factory=dict)
    targets: set[tuple[str, str]] = field(default_factory=set)

    def came(self, lake: Lake, path: str) -> None:
        """Remember where something was moved to; it goes away again if it is moved on later."""
        self.targets.add((lake.name, path))
        self.within.pop((lake.name, path), None)

    def went_within(self, source: Place, name: str) -> None:
        """Remember a name that goes away, unless something is moved to it later."""
        self.within[source.lake.name, source.path] = name

    def went_away(self, lake: Lake, row: Row) -> None:
        """Remember a row of `lake` that another lake will hold."""
        self.away.setdefault(lake.name, (lake, []))[1].append(row)

    def left_behind(self) -> list[tuple[Lake, list[Row]]]:
        """Return the rows that went to other lakes and have to go where they were."""
        return [
            (lake, [row for row in rows if (lake.name, row.path) not in self.targets])
            for lake, rows in self.away.values()
        ]


def remove_copied(lake: Lake, rows: Sequence[Row]) -> None:
    """Remove rows that were copied away, in one commit; directories only if they are empty then.

    Conflict, and nothing is removed, if a file has changed since. Who is gone already is no matter.
    """
    copied = {row.path: row.seq for row in rows if row.kind is not Kind.DIR}
    table = lake.snapshot().locate(list(copied))
    there = rows_from_table(table.filter(table["path"].is_valid()))
    for row in there:
        if row.seq != copied[row.path]:
            raise Conflict(f"move of {row.path!r} out of {lake.name}",
                           expected="the file that was copied", found="a newer one",
                           hint="what was copied is in both lakes; move it again")  # fmt: skip
    with lake.writer(WHEN_TOLD, operation=OPERATION) as writer:
        if there:
            writer.apply({row.path: Delete(row.seq) for row in there})
        directories = {row.path for row in rows if row.kind is Kind.DIR}
        for directory in sorted(directories, reverse=True):
            remove_shallow(writer, directory)


def remove_shallow(writer: Writer, path: str) -> None:
    """Remove a file, or a directory that is empty by now; what lies deeper stays."""
    kind = kind_at(writer, path)
    if kind is not None and (kind is not Kind.DIR or not writer.ls(path)) and path:
        writer.delete(path)


def kind_at(view: Snapshot | Writer, path: str) -> Kind | None:
    """Return what is under a path, None if nothing."""
    try:
        return view.stat(path).kind
    except SnapshotExpired:
        raise
    except NotFound:
        return None
