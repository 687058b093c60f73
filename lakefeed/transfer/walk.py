"""A source tree's names in path order, listed ahead by threads where the source is slow.

Order is that of the lake: by the bytes of the whole path, so 'a.txt' comes before 'a/b'. Only names
and kinds are gathered here (a listing has both); sizes and times come with reading. Directories are
listed one by one while that is quick, and up to LISTINGS_AHEAD at once when each takes long, as on
a filer. What cannot be imported (names that are no UTF-8, sockets, pipes, devices, directories that
cannot be listed, loops of symlinks) goes to the problems, never silently away.

Memory: the names of the directories from the root to the current one, about 50 bytes a name in a
huge directory; listings made ahead give up at NAMES_AHEAD names and are made again in turn.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lakefeed.errors import Invalid
from lakefeed.format.paths import COMPONENT_BYTES_MAX, PATH_BYTES_MAX, check_path
from lakefeed.format.rows import Kind
from lakefeed.transfer.exclude import Exclude
from lakefeed.transfer.problems import Problems

# Enough to hide a filer's millisecond behind the reading of some hundred files.
LISTINGS_AHEAD = 32
NAMES_AHEAD = 10_000
# A listing from memory takes some 50 microseconds, and 2 a name.
_SLOW_SECONDS = 500e-6
_SLOW_NAME_SECONDS = 10e-6
# From here on a directory's names are kept in Arrow, at a third of the size.
_COMPACT_NAMES = 65_536
_SLICE_NAMES = 8192

_PLAIN_BYTES = PATH_BYTES_MAX - COMPONENT_BYTES_MAX

# A name's kind rides behind it, after a NUL, which no name holds and which sorts first.
_FILE, _DIR, _SYMLINK = "\0f", "\0d", "\0l"
_KINDS = {"f": Kind.FILE, "d": Kind.DIR, "l": Kind.SYMLINK}


class Found(NamedTuple):
    """A name in the source: its path from the root, and whether it is file, dir or symlink."""

    path: str
    kind: Kind


@dataclass(frozen=True, slots=True)
class WalkOptions:
    """What to leave out and what to follow; `lake` is the real path of a directory to leave out."""

    exclude: tuple[str, ...] = ()
    follow_symlinks: bool = False
    skip_special: bool = False
    lake: str = ""


@dataclass(slots=True)
class _Listing:
    """A directory's names, sorted, each with its kind; 'name/' stands for what is below it."""

    directory: str
    identity: tuple[int, int] | None
    slices: Iterator[list[str]]
    problems: Problems
    excluded: int
    names: list[str] = field(default_factory=list)
    at: int = 0
    ahead: int = 0

    def next(self) -> str | None:
        """Return the next name, None at the end."""
        while self.at >= len(self.names):
            names = next(self.slices, None)
            if names is None:
                return None
            self.names, self.at, self.ahead = names, 0, 0
        name = self.names[self.at]
        self.at += 1
        return name

    def next_below(self) -> str | None:
        """Return the next directory to list ahead, as far as this slice knows."""
        self.ahead = max(self.ahead, self.at)
        while self.ahead < len(self.names):
            name = self.names[self.ahead]
            self.ahead += 1
            if name[-1] == "/":
                return name[:-1]
        return None


class Walk:
    """Iterates over what lies below `root`, once. `close` stops its threads."""

    def __init__(self, root: str, options: WalkOptions, problems: Problems) -> None:
        self._root = root
        self._options = options
        self._exclude = Exclude(options.exclude)
        self._problems = problems
        self._pool = ThreadPoolExecutor(LISTINGS_AHEAD, "lakefeed-walk")
        self._futures: dict[str, Future[_Listing | None]] = {}
        self._slow = False
        self.excluded = 0

    def close(self) -> None:
        """Stop the threads. Works twice."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def __iter__(self) -> Iterator[Found]:
        stack = [self._enter(self._list("", None))]
        last = None
        while stack:
            listing = stack[-1]
            name = listing.next()
            if name is None:
                stack.pop()
            elif name[-1] == "/":
                below = self._descend(listing.directory + name[:-1], stack)
                if below is not None:
                    stack.append(below)
            elif (path := listing.directory + name[:-2]) != last:
                # A name replaced while it is listed may come twice, as a file and a directory.
                yield Found(path, _KINDS[name[-1]])
                last = path

    def _descend(self, path: str, stack: list[_Listing]) -> _Listing | None:
        """Return a directory's names, or None where it leads back to one we are in."""
        future = self._futures.pop(path, None)
        if self._slow:
            self._look_ahead(stack)
        try:
            listing = None if future is None else future.result()
            listing = self._list(path, None) if listing is None else listing
        except OSError as error:
            self._problems.add(path, error)
            return None
        if listing.identity is not None and any(listing.identity == s.identity for s in stack):
            self._problems.add(path, "a symbolic link to a directory above it")
            return None
        return self._enter(listing)

    def _enter(self, listing: _Listing) -> _Listing:
        self._problems.take(listing.problems)
        self.excluded += listing.excluded
        return listing

    def _look_ahead(self, stack: list[_Listing]) -> None:
        for listing in reversed(stack):
            while len(self._futures) < LISTINGS_AHEAD:
                name = listing.next_below()
                if name is None:
                    break
                path = listing.directory + name
                self._futures[path] = self._pool.submit(self._list_ahead, path)

    def _list_ahead(self, path: str) -> _Listing | None:
        try:
            return self._list(path, NAMES_AHEAD)
        except _TooMany:
            return None

    def _list(self, path: str, limit: int | None) -> _Listing:
        began = time.perf_counter()
        full = f"{self._root}/{path}" if path else self._root
        identity = None
        if self._options.follow_symlinks:
            info = os.stat(full)
            identity = (info.st_dev, info.st_ino)
        names = _Names(limit)
        directory = f"{path}/" if path else ""
        # The usual name costs one test: ASCII, nothing to exclude, and room for any component.
        plain = not self._exclude and len(directory.encode(errors="replace")) < _PLAIN_BYTES
        with os.scandir(full) as entries:
            for entry in entries:
                if plain and entry.is_file(follow_symlinks=False) and entry.name.isascii():
                    names.add(entry.name + _FILE)
                else:
                    self._take(entry, directory, names)
        seconds = time.perf_counter() - began
        self._slow = seconds > _SLOW_SECONDS + _SLOW_NAME_SECONDS * names.count
        return _Listing(directory, identity, names.slices(), names.problems, names.excluded)

    def _take(self, entry: os.DirEntry[str], directory: str, names: _Names) -> None:
        name = entry.name
        path = directory + name
        try:
            kind = self._kind(entry)
            is_directory = kind == _DIR
            excluded = self._exclude and self._exclude.matches(path, is_directory=is_directory)
            if excluded or (is_directory and self._is_lake(path)):
                names.excluded += 1
                return
            check_path(path)
        except OSError as error:
            names.problems.add(path, error)
            return
        except Invalid as error:
            names.problems.add(path, f"expected a path with {error.expected}")
            return
        if kind is None:
            if not self._options.skip_special:
                names.problems.add(path, "a socket, pipe or device, not a file")
            return
        names.add(name + kind)
        if kind == _DIR:
            names.add(name + "/")

    def _is_lake(self, path: str) -> bool:
        lake = self._options.lake
        # Only links come to it under another name.
        named = path.rpartition("/")[2] == lake.rpartition("/")[2]
        maybe = bool(lake) and (named or self._options.follow_symlinks)
        return maybe and os.path.realpath(f"{self._root}/{path}") == lake

    def _kind(self, entry: os.DirEntry[str]) -> str | None:
        """Return the letter of an entry's kind, None for what a lake cannot hold."""
        if entry.is_file(follow_symlinks=False):
            return _FILE
        if entry.is_dir(follow_symlinks=False):
            return _DIR
        if not entry.is_symlink():
            return None
        if not self._options.follow_symlinks:
            return _SYMLINK
        mode = os.stat(entry.path).st_mode
        if stat.S_ISDIR(mode):
            return _DIR
        return _FILE if stat.S_ISREG(mode) else None


class _TooMany(Exception):
    """A directory too big to be listed ahead of its turn."""


class _Names:
    """Gathers the names of one directory, and what was wrong with some."""

    def __init__(self, limit: int | None) -> None:
        self._limit = limit
        self._names: list[str] = []
        self._compact: list[pa.Array] = []
        self.count = 0
        self.excluded = 0
        self.problems = Problems()

    def add(self, name: str) -> None:
        """Take a name with its kind."""
        self._names.append(name)
        self.count += 1
        if self._limit is not None and self.count > self._limit:
            raise _TooMany
        if len(self._names) >= _COMPACT_NAMES:
            self._compact.append(pa.array(self._names, pa.large_string()))
            self._names = []

    def slices(self) -> Iterator[list[str]]:
        """Yield the names sorted, in lists; twice the same name (listings may repeat) only once."""
        if not self._compact:
            return iter([sorted(set(self._names))])
        return self._sorted_slices()

    def _sorted_slices(self) -> Iterator[list[str]]:
        self._compact.append(pa.array(self._names, pa.large_string()))
        self._names = []
        array = pa.concat_arrays(self._compact)
        self._compact = []
        order = np.asarray(pc.sort_indices(array)).astype(np.uint32)
        last = None
        for start in range(0, len(order), _SLICE_NAMES):
            chosen = array.take(pa.array(order[start : start + _SLICE_NAMES])).to_pylist()
            names = sorted(set(chosen) - {last})
            last = chosen[-1]
            yield names
