"""What of a walked source has to be looked at: paths joined with what the lake knows of them.

The lake is asked for PLAN_PATHS paths at once. A path that it knows comes with the size, time, mode
and kind it had, so that the reader can leave it alone when nothing changed, and with its
attributes, of which the source knows nothing: they stay. A file whose name is a directory in the
lake is refused here, because everything below that name would be orphaned; the other way round the
source's directory takes the place of the lake's file.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

from lakefeed.errors import Invalid
from lakefeed.forking import Lazy
from lakefeed.format.paths import PATH_BYTES_MAX, check_path, parents, subtree_range
from lakefeed.format.rows import Kind, attrs_from_column
from lakefeed.lake.snapshot import Snapshot
from lakefeed.transfer.problems import Problems
from lakefeed.transfer.reading import Known, Wanted
from lakefeed.transfer.walk import Found

# Some milliseconds of look-up each, and a megabyte.
PLAN_PATHS = 4096

_HOLDS_BYTES = (Kind.FILE, Kind.SYMLINK)


class Planner:
    """Joins one walk with one snapshot, below `prefix` (checked, without a trailing '/')."""

    def __init__(self, snapshot: Snapshot, prefix: str, problems: Problems) -> None:
        self._snapshot = snapshot
        self._prefix = prefix
        self._above = f"{prefix}/" if prefix else ""
        self._problems = problems

    @property
    def free_bytes(self) -> int:
        """The room that the lake's volume has now."""
        return self._snapshot.volume.space().free_bytes

    @Lazy
    def nothing_there(self) -> bool:
        """Whether the lake has nothing at the prefix or below it."""
        if self._prefix and self._snapshot.locate([self._prefix])["kind"][0].is_valid:
            return False
        low, high = subtree_range(self._prefix)
        return next(self._snapshot.scan_range(low, high), None) is None

    def replaced_above(self, found: Sequence[Found], seen: set[str]) -> list[Found]:
        """Return the directories above `found` and not `seen` whose names are files in the lake.

        They were dealt to another process, which may commit them later than this one commits what
        is below them; so both do.
        """
        if self.nothing_there:
            return []
        seen.update(one.path for one in found if one.kind is Kind.DIR)
        below = {one.path.rpartition("/")[0] for one in found}
        above = {path for one in below if one for path in (*parents(one), one)}
        fresh = sorted(above - seen)
        if not fresh:
            return []
        seen.update(fresh)
        kinds = self._snapshot.locate([self._name(path) for path in fresh])["kind"].to_pylist()
        both = zip(fresh, kinds, strict=True)
        return [Found(path, Kind.DIR) for path, kind in both if kind in _HOLDS_BYTES]

    def check(self) -> None:
        """Raise Invalid when the prefix lies below a file of the lake, or is one."""
        if not self._prefix:
            return
        above = [*parents(self._prefix), self._prefix]
        kinds = self._snapshot.locate(above)["kind"].to_pylist()
        for path, kind in zip(above, kinds, strict=True):
            if kind in _HOLDS_BYTES:
                raise Invalid(
                    f"prefix {self._prefix!r}", expected="a directory", found=f"file {path!r}"
                )

    def plan(self, found: Iterable[Found]) -> Iterator[Wanted]:
        """Yield every path to look at, in order."""
        found = self._fitting(found)
        if self.nothing_there:
            for path, kind in found:
                yield Wanted(path, kind, None)
            return
        while chunk := list(islice(found, PLAN_PATHS)):
            yield from self._join(chunk)

    def known(self, paths: list[str]) -> tuple[list[Known | None], list[dict[str, str] | None]]:
        """Return what the lake has of paths, and with which attributes."""
        table = self._snapshot.locate(paths)
        columns = [table[name].to_pylist() for name in ("kind", "size", "mtime_ns", "mode")]
        rows = zip(*columns, strict=True)
        known = [None if values[0] is None else Known(*values) for values in rows]
        return known, attrs_from_column(table["attrs"])

    def _fitting(self, found: Iterable[Found]) -> Iterator[Found]:
        """Drop what is too long together with the prefix; the walk has checked the rest."""
        room = (PATH_BYTES_MAX - len(self._above.encode())) // 4
        for one in found:
            if len(one.path) > room:
                try:
                    check_path(self._above + one.path)
                except Invalid as error:
                    self._problems.add(one.path, f"expected a path of {error.expected}")
                    continue
            yield one

    def _name(self, path: str) -> str:
        return self._above + path if path else self._prefix

    def _join(self, chunk: Sequence[Found]) -> Iterator[Wanted]:
        known, attrs = self.known([self._name(one.path) for one in chunk])
        refused = self._directories(chunk, known)
        for at, (one, there) in enumerate(zip(chunk, known, strict=True)):
            if at in refused:
                self._problems.add(one.path, "in the lake this is a directory with files below it")
            else:
                same_kind = there is not None and there.kind == one.kind
                yield Wanted(one.path, one.kind, there, attrs[at] if same_kind else None)

    def _directories(self, chunk: Sequence[Found], known: Sequence[Known | None]) -> set[int]:
        """Return which files of a chunk have the name of a directory in the lake."""
        fresh = [
            at
            for at, (one, there) in enumerate(zip(chunk, known, strict=True))
            if one.kind in _HOLDS_BYTES and (there is None or there.kind not in _HOLDS_BYTES)
        ]
        if not fresh:
            return set()
        names = [self._name(chunk[at].path) + "/" for at in fresh]
        refused: set[int] = set()
        for table in self._snapshot.scan_range(min(names), max(names)[:-1] + "0"):
            paths = table["path"].to_pylist()
            for at, name in zip(fresh, names, strict=True):
                place = bisect_left(paths, name)
                if place < len(paths) and paths[place].startswith(name):
                    refused.add(at)
        return refused
