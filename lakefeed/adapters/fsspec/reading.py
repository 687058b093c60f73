"""The reading half of the filesystem: every call looks at one snapshot.

A call that concerns many files (`find`, `walk`, `cat`, `cat_ranges`) asks the volume for the newest
snapshot once, locates all paths together and reads them through the lake's reader, which merges
neighbours and works in parallel. Loops over single calls ask once a call; name a snapshot, or set
`refresh_seconds`, where that matters.

A path that cannot be in a lake is simply not there for `exists`, `isfile` and `isdir`; a volume
that fails is an error for them too.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from hashlib import sha256
from typing import Any

import numpy as np
import pyarrow.compute as pc
from fsspec import AbstractFileSystem

from lakefeed.adapters.fsspec.entries import Info, info_of, infos_of, resolve
from lakefeed.adapters.fsspec.places import Place, Places
from lakefeed.adapters.fsspec.ranges import GAP_BYTES, Wanted, bounds, read_ranges
from lakefeed.errors import Invalid, NotFound, SnapshotExpired
from lakefeed.format.paths import subtree_range
from lakefeed.format.rows import Kind, Row, rows_from_table
from lakefeed.lake.listing import implied_directory
from lakefeed.lake.snapshot import Snapshot

# What may be wrong with one file while the others can be had.
FAILURES = (OSError, ValueError)
Found = tuple[Snapshot, Row]


class ReadingFileSystem(AbstractFileSystem):  # type: ignore[misc, unused-ignore]
    """What a lake answers without being changed."""

    protocol = "lakefeed"
    root_marker = ""

    def __init__(
        self,
        lake: str | None = None,
        at: str | int | None = None,
        refresh_seconds: float = 0.0,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.lake = None if lake is None else self._strip_protocol(lake)
        self.at = None if at is None else str(at)
        self.places = Places(refresh_seconds)

    # -- where -----------------------------------------------------------------------------------

    def _place(self, path: str) -> Place:
        path = self._strip_protocol(path)
        if self.lake is None and path.startswith("/"):
            return self.places.find(path, self.at)
        if self.lake is None:
            # Some libraries make two slashes of three: lakefeed://mnt/lake is /mnt/lake as well.
            place = self.places.find(f"/{path}", self.at)
            return replace(place, prefix=place.prefix[1:])
        root = self.places.find(self.lake, self.at)
        if root.path:
            raise NotFound(f"lake {self.lake!r}", expected="the directory of a lake")
        # A path comes back as it was asked for: with a leading '/' or without.
        prefix = "/" if path.startswith("/") else ""
        return Place(root.lake, root.at, prefix, path[len(prefix) :])

    def _look(self, path: str, snapshot: Snapshot | None = None) -> tuple[Place, Snapshot]:
        place = self._place(path)
        return place, snapshot or self.places.snapshot(place)

    def invalidate_cache(self, path: str | None = None) -> None:
        """Look up tags and newest snapshots again; there is no other cache."""
        super().invalidate_cache(path)
        if path is None:
            self.places.forget()
        else:
            self.places.forget_newest()

    def close(self) -> None:
        """Close the lakes; the next use opens them again. Works twice."""
        self.places.close()

    @property
    def fsid(self) -> str:
        """What tells this filesystem from others, across processes."""
        return f"lakefeed-{self.lake or ''}@{self.at or ''}"

    # -- facts -----------------------------------------------------------------------------------

    def info(self, path: str, snapshot: Snapshot | None = None, **_: Any) -> Info:
        """Return the facts of a file or directory; NotFound if there is none."""
        place, snapshot = self._look(path, snapshot)
        try:
            row = snapshot.stat(place.path)
        except SnapshotExpired:
            raise
        except NotFound:
            row = resolve(snapshot, place.path)
        return infos_of(snapshot, [row], [place.name(place.path)])[0]

    def _type(self, path: str) -> str | None:
        try:
            return str(self.info(path)["type"])
        except SnapshotExpired:
            raise
        except (NotFound, Invalid):
            return None

    def exists(self, path: str, **_: Any) -> bool:
        """Tell whether there is a file, a directory or a link."""
        return self._type(path) is not None

    def isfile(self, path: str) -> bool:
        """Tell whether there is a file, or a link to one."""
        return self._type(path) == "file"

    def isdir(self, path: str) -> bool:
        """Tell whether there is a directory."""
        return self._type(path) == "directory"

    def _file(self, path: str) -> Found:
        """Return the row of a file, links followed, and the snapshot it is of."""
        place, snapshot = self._look(path)
        row = resolve(snapshot, place.path)
        if row.kind is Kind.DIR:
            raise IsADirectoryError(errno.EISDIR, "is a directory", path)
        return snapshot, row

    def created(self, path: str) -> datetime:
        """Return when this version of the file came into the lake, by the file server's clock."""
        place, _ = self._look(path)
        _, row = self._file(path)
        try:
            time_ns = place.lake.log.read(row.seq).time_ns
        except NotFound:
            time_ns = row.mtime_ns
        return datetime.fromtimestamp(time_ns / 1e9, tz=timezone.utc)

    def modified(self, path: str) -> datetime:
        """Return the file's modification time."""
        return datetime.fromtimestamp(self.info(path)["mtime"], tz=timezone.utc)

    def checksum(self, path: str) -> int:
        """Return a number that changes whenever the file's bytes do."""
        return int(self.ukey(path), 16)

    def ukey(self, path: str) -> str:
        """Return a name for this version of the file."""
        facts = self.info(path)
        parts = [facts["name"], facts["size"], facts.get("crc32c"), facts.get("seq")]
        return sha256(repr(parts).encode()).hexdigest()

    # -- listings --------------------------------------------------------------------------------

    def ls(
        self, path: str, detail: bool = True, snapshot: Snapshot | None = None, **_: Any
    ) -> list[Any]:
        """Return what lies directly below a directory, or the file of that name itself."""
        place, snapshot = self._look(path, snapshot)
        base = resolve(snapshot, place.path)
        if base.kind is not Kind.DIR:
            name = place.name(place.path)
            return [self.info(path, snapshot=snapshot)] if detail else [name]
        rows = snapshot.ls(base.path)
        names = _names(place, base.path, [row.path for row in rows])
        return infos_of(snapshot, rows, names) if detail else names

    def walk(self, path: str, *args: Any, **kwargs: Any) -> Iterator[Any]:
        """Yield (directory, directories, files) like `os.walk`, all of one snapshot."""
        _, kwargs["snapshot"] = self._look(path, kwargs.get("snapshot"))
        walked: Iterator[Any] = super().walk(path, *args, **kwargs)
        return walked

    def find(
        self,
        path: str,
        maxdepth: int | None = None,
        withdirs: bool = False,
        detail: bool = False,
        **kwargs: Any,
    ) -> Any:
        """Return the files below a directory, sorted; one scan of the index when unbounded."""
        place, snapshot = self._look(path, kwargs.get("snapshot"))
        if maxdepth is not None:
            return super().find(path, maxdepth, withdirs, detail, snapshot=snapshot)
        try:
            base = resolve(snapshot, place.path)
        except SnapshotExpired:
            raise
        except NotFound:
            return {} if detail else []
        name = place.name(place.path)
        if base.kind is not Kind.DIR:
            return {name: self.info(path, snapshot=snapshot)} if detail else [name]
        found: dict[str, Info] = {}
        if withdirs and name:
            found[name] = info_of(name, base)
        if not detail and not withdirs:
            return _file_names(snapshot, place, base.path)
        for rows in _below(snapshot, base.path, withdirs):
            names = _names(place, base.path, [row.path for row in rows])
            infos = infos_of(snapshot, rows, names) if detail else [{}] * len(names)
            found.update(zip(names, infos, strict=True))
        ordered = sorted(found)
        return {name: found[name] for name in ordered} if detail else ordered

    def du(
        self,
        path: str,
        total: bool = True,
        maxdepth: int | None = None,
        withdirs: bool = False,
        **kwargs: Any,
    ) -> Any:
        """Return the bytes of all files below a path, or of each; links count what they lead to."""
        place, snapshot = self._look(path, kwargs.get("snapshot"))
        if not total or maxdepth is not None:
            found = self.find(path, maxdepth, withdirs, detail=True, snapshot=snapshot)
            sizes = {name: info["size"] for name, info in found.items()}
            return sum(sizes.values()) if total else sizes
        base = resolve(snapshot, place.path)
        if base.kind is not Kind.DIR:
            return base.size
        sum_bytes = 0
        for table in snapshot.scan_range(*subtree_range(base.path)):
            is_link = pc.equal(table["kind"], int(Kind.SYMLINK))
            sum_bytes += pc.sum(table.filter(pc.invert(is_link))["size"]).as_py() or 0
            links = rows_from_table(table.filter(is_link))
            sum_bytes += sum(i["size"] for i in infos_of(snapshot, links, [""] * len(links)))
        return sum_bytes

    # -- bytes -----------------------------------------------------------------------------------

    def cat_file(
        self, path: str, start: int | None = None, end: int | None = None, **_: Any
    ) -> bytes:
        """Return a file's bytes, or a slice of them."""
        snapshot, row = self._file(path)
        first, last = bounds(start, end, row.size)
        if last - first == row.size:
            return snapshot.read_row(row)
        return snapshot.read_row_range(row, first, last - first)

    def cat(
        self, path: Any, recursive: bool = False, on_error: str = "raise", **kwargs: Any
    ) -> Any:
        """Return one file's bytes, or those of many by name, read together."""
        paths = self.expand_path(path, recursive=recursive)
        one = not isinstance(path, list) and paths == [self._strip_protocol(path)]
        if one and not recursive:
            return self.cat_file(paths[0], **kwargs)
        wanted = [(kwargs.get("start"), kwargs.get("end"))] * len(paths)
        values = dict(zip(paths, self._read(paths, wanted, "return"), strict=True))
        if not isinstance(path, list) or recursive:
            # Only files were meant: directories are in the way of the expansion.
            values = {n: v for n, v in values.items() if not isinstance(v, IsADirectoryError)}
        failed = {name: v for name, v in values.items() if not isinstance(v, bytes)}
        if failed and on_error == "raise":
            raise next(iter(failed.values()))
        return {n: v for n, v in values.items() if on_error == "return" or n not in failed}

    def cat_ranges(
        self, paths: list[str], starts: Any, ends: Any, max_gap: int | None = None, **options: Any
    ) -> list[Any]:
        """Return bytes of many ranges, neighbours (up to `max_gap` bytes apart) read together."""
        if not isinstance(paths, list):
            raise TypeError("paths must be a list")
        firsts = list(starts) if isinstance(starts, Iterable) else [starts] * len(paths)
        lasts = list(ends) if isinstance(ends, Iterable) else [ends] * len(paths)
        if not len(paths) == len(firsts) == len(lasts):
            raise ValueError("as many starts and ends as paths")
        wanted = list(zip(firsts, lasts, strict=True))
        gap_bytes = GAP_BYTES if max_gap is None else max_gap
        return self._read(paths, wanted, options.get("on_error", "return"), gap_bytes)

    def _read(
        self,
        names: Sequence[str],
        slices: Sequence[tuple[int | None, int | None]],
        on_error: str,
        gap_bytes: int = GAP_BYTES,
    ) -> list[Any]:
        """Return the bytes of each slice; with `on_error` other than "raise" also exceptions."""
        found = self._rows(names, on_error)
        results: list[Any] = list(found)
        groups: dict[int, list[int]] = {}
        for at, item in enumerate(found):
            if isinstance(item, tuple):
                groups.setdefault(id(item[0]), []).append(at)
        for ats in groups.values():
            rows = [found[at][1] for at in ats]
            wanted = [
                Wanted(row, *bounds(*slices[at], row.size))
                for row, at in zip(rows, ats, strict=True)
            ]
            values = _values(found[ats[0]][0], wanted, on_error, gap_bytes)
            for at, value in zip(ats, values, strict=True):
                results[at] = value
        return results

    def _rows(self, names: Sequence[str], on_error: str = "raise") -> list[Any]:
        """Return (snapshot, row) of each file, or what is wrong; one look-up for each lake."""
        results: list[Any] = [None] * len(names)
        groups: dict[tuple[str, str | None], list[tuple[int, Place]]] = {}
        for at, name in enumerate(names):
            place = self._place(name)
            groups.setdefault((place.lake.name, place.at), []).append((at, place))
        for members in groups.values():
            snapshot = self.places.snapshot(members[0][1])
            table = snapshot.locate([place.path for _, place in members])
            plain = np.asarray(pc.fill_null(pc.equal(table["kind"], int(Kind.FILE)), False))
            rows = iter(rows_from_table(table.filter(plain)))
            for (at, place), is_plain in zip(members, plain.tolist(), strict=True):
                results[at] = (snapshot, next(rows)) if is_plain else None
                if not is_plain:
                    results[at] = self._row(snapshot, place, on_error)
        return results

    def _row(self, snapshot: Snapshot, place: Place, on_error: str) -> Any:
        try:
            row = resolve(snapshot, place.path)
            if row.kind is Kind.DIR:
                raise IsADirectoryError(errno.EISDIR, "is a directory", place.name(place.path))
        except FAILURES as error:
            if on_error == "raise":
                raise
            return error
        return snapshot, row


def _values(
    snapshot: Snapshot, wanted: Sequence[Wanted], on_error: str, gap_bytes: int
) -> Sequence[Any]:
    try:
        return read_ranges(snapshot, wanted, gap_bytes)
    except FAILURES:
        if on_error == "raise":
            raise
    # Something among them is bad: one by one, so that the good ones still arrive.
    values: list[Any] = []
    for ask in wanted:
        try:
            values += read_ranges(snapshot, [ask])
        except FAILURES as error:
            values.append(error)
    return values


def _names(place: Place, base: str, paths: Sequence[str]) -> list[str]:
    """Return the fsspec names of paths below the directory `base` that `place` led to."""
    head = f"{place.prefix}{place.path}/" if place.path else place.prefix
    skip = len(base) + 1 if base else 0
    return [head + path[skip:] for path in paths]


def _file_names(snapshot: Snapshot, place: Place, base: str) -> list[str]:
    """Return the names of all files below a directory, in order, without looking at the rest."""
    names: list[str] = []
    for table in snapshot.scan_range(*subtree_range(base)):
        files = table["path"].filter(pc.not_equal(table["kind"], int(Kind.DIR)))
        names += _names(place, base, files.to_pylist())
    return names


def _below(snapshot: Snapshot, base: str, withdirs: bool) -> Iterator[list[Row]]:
    """Yield the rows below a directory; with directories, the implied ones among them."""
    known = {base, ""}
    for table in snapshot.scan_range(*subtree_range(base)):
        if not withdirs:
            yield rows_from_table(table.filter(pc.not_equal(table["kind"], int(Kind.DIR))))
            continue
        rows = rows_from_table(table)
        implied = []
        for row in rows:
            # A stored directory sorts before what lies below it, so it is known by then.
            if row.kind is Kind.DIR:
                known.add(row.path)
            above = row.path.rpartition("/")[0]
            while above not in known:
                known.add(above)
                implied.append(implied_directory(above, snapshot.time_ns))
                above = above.rpartition("/")[0]
        yield rows + implied
