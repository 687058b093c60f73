"""Which commit a change through fsspec belongs to.

Each call that changes something is one commit, made when it ends; inside `with fs.transaction:` all
calls are one commit at its end, and a call made of others is one commit as well. What is gathered
and does not come to its end is forgotten.
"""

from __future__ import annotations

import errno
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from fsspec.transaction import Transaction

from lakefeed.adapters.fsspec.local import store
from lakefeed.adapters.fsspec.moving import Move, kind_at
from lakefeed.adapters.fsspec.places import Place
from lakefeed.adapters.fsspec.reading import Found, ReadingFileSystem
from lakefeed.adapters.fsspec.writing import IN_PARTS, Group, Lanes
from lakefeed.format.rows import Kind
from lakefeed.lake.batch import WHEN_TOLD
from lakefeed.lake.writer import Writer, WriterOptions


class LakeTransaction(Transaction):  # type: ignore[misc, unused-ignore]
    """One commit for everything written inside `with fs.transaction:`."""

    fs: Any

    def __init__(self, fs: Any, **options: Any) -> None:
        super().__init__(fs, **options)
        self.group = Group()

    def complete(self, commit: bool = True) -> None:
        """Commit everything, or forget it."""
        fs, done = self.fs, False
        try:
            super().complete(commit)
            if commit:
                self.group.commit()
                done = True
        finally:
            # Older versions of fsspec stay inside a transaction that has failed.
            fs._intrans, fs._transaction, self.fs = False, None, None
            fs.places.forget()
            if not done:
                while self.files:
                    self.files.popleft().discard()
                self.group.drop()


class _Current(threading.local):
    """What the calling thread is in the middle of."""

    group: Group | None = None
    downloads: list[tuple[str, str]] | None = None
    uploads: list[tuple[Place, str]] | None = None
    copies: list[tuple[Place, Found]] | None = None
    move: Move | None = None


class CommittingFileSystem(ReadingFileSystem):
    """What all calls that change a lake share."""

    transaction_type = LakeTransaction

    def __init__(
        self,
        lake: str | None = None,
        at: str | int | None = None,
        refresh_seconds: float = 0.0,
        **options: Any,
    ) -> None:
        super().__init__(lake, at, refresh_seconds, **options)
        self._current = _Current()
        self._lanes = Lanes()

    def _group(self) -> Group | None:
        """Return the commit that the calling thread's operations belong to, if not their own."""
        if self._intrans:
            group: Group = self.transaction.group
            return group
        return self._current.group

    @contextmanager
    def _together(self, options: WriterOptions = WHEN_TOLD) -> Iterator[Group]:
        """Commit what the block does at its end, or with what is around it."""
        outer = self._group()
        if outer is not None:
            yield outer
            return
        group = self._current.group = Group(options)
        done = False
        try:
            yield group
            self._current.group = None
            group.commit()
            done = True
        finally:
            self._current.group = None
            if not done:
                group.drop()
            self.places.forget_newest()

    def _options_for(self, path1: Any, path2: Any) -> WriterOptions:
        """Return how a copy is committed: in parts if nothing but bytes from elsewhere comes in."""
        sources, targets = (
            [self._place(one) for one in (path if isinstance(path, list) else [path])]
            for path in (path1, path2)
        )
        into = {place.lake.name for place in targets}
        from_there = all(place.at is not None or place.lake.name not in into for place in sources)
        return IN_PARTS if from_there else WHEN_TOLD

    @contextmanager
    def _copying(self, path1: Any, path2: Any) -> Iterator[None]:
        """Commit what the block copies. Bytes are read behind the block, so that none of them is
        stored, and perhaps committed, before all names were looked at."""
        options = self._options_for(path1, path2)
        with self._together(options) as group:
            if options is WHEN_TOLD:
                yield
                return
            copies = self._current.copies = []
            try:
                yield
            finally:
                self._current.copies = None
            group.check_files([target for target, _ in copies])
            for target, found in copies:
                _store(group, target, found)

    def _bring(self, target: Place, found: Found) -> None:
        """Store a file from elsewhere under a path, or at the end of the copy it belongs to."""
        if self._current.copies is not None:
            self._current.copies.append((target, found))
            return
        with self._together() as group:
            group.will_hold(target)
            _store(group, target, found)

    @contextmanager
    def _changing(self, path: str) -> Iterator[tuple[str, Writer]]:
        """Yield a path in its lake, and a writer whose work is committed at the end."""
        place = self._writable(path)
        with self._together() as group:
            yield place.path, group.writer(place.lake)

    def _writable(self, path: str) -> Place:
        place = self._place(path)
        if place.at is not None:
            raise OSError(errno.EROFS, f"snapshot {place.at} cannot be changed", path)
        return place

    def _check_target(self, path: str, *, new: bool = False) -> Place:
        """Return where a file may be written; builtin errors say why it may not."""
        place = self._writable(path)
        if self._group() is not None and not new:
            return place  # the group checks all names at once
        kind = kind_at(self.places.snapshot(place), place.path)
        if kind is Kind.DIR:
            raise IsADirectoryError(errno.EISDIR, "is a directory", path)
        if new and kind is not None:
            raise FileExistsError(errno.EEXIST, "exists already", path)
        return place


def _store(group: Group, target: Place, found: Found) -> None:
    store(group.writer(target.lake), target.path, found, found[1].mtime_ns)
