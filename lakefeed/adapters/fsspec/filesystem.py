"""`LakeFileSystem`: a lake for everything that speaks fsspec, the writing half.

Each call is one commit and durable when it returns, however many files it concerns (a big tree from
elsewhere, `put` or copied, commits in parts, so that memory stays bounded). Inside `with
fs.transaction:` all calls are one commit at its end; until then reads, this filesystem's own
included, show the lake without them. Copies and moves inside a lake move no bytes. A path that
names a snapshot is read-only (EROFS).
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from functools import partial
from typing import Any

from fsspec.callbacks import DEFAULT_CALLBACK
from fsspec.compression import compr
from fsspec.core import get_compression, has_magic
from fsspec.utils import isfilelike

from lakefeed.adapters.fsspec.committing import CommittingFileSystem
from lakefeed.adapters.fsspec.entries import info_of, resolve
from lakefeed.adapters.fsspec.files import PackedFile, ReadFile, TextFile, WriteFile
from lakefeed.adapters.fsspec.local import download, store, upload
from lakefeed.adapters.fsspec.moving import Move, kind_at, remove_copied, remove_shallow
from lakefeed.adapters.fsspec.places import Place
from lakefeed.adapters.fsspec.writing import IN_PARTS, Group, Sink
from lakefeed.errors import Invalid, NotFound, SnapshotExpired
from lakefeed.format.paths import parents
from lakefeed.format.rows import Kind, Row
from lakefeed.lake.view import pieces_of

# What text mode takes, as `io.TextIOWrapper` does.
_TEXT = ("encoding", "errors", "newline")


class LakeFileSystem(CommittingFileSystem):
    """Files of a lake (`lakefeed:///mnt/lake/…`) or of a snapshot (`lakefeed:///mnt/lake@v1/…`).

    With `lake` given, paths are relative to it, and `at` may name a snapshot. `refresh_seconds`
    lets calls share a look at the newest snapshot for so long; 0 looks each time.
    """

    # -- open files and bytes --------------------------------------------------------------------

    def open(
        self,
        path: str,
        mode: str = "rb",
        block_size: int | None = None,
        cache_options: dict[str, Any] | None = None,
        compression: str | None = None,
        **options: Any,
    ) -> Any:
        """Return an open file; also text or compressed, one being written is stored whole or not.

        Leaving its `with` block by an exception, or `discard()`, leaves nothing behind.
        """
        if "r" in mode:
            return super().open(path, mode, block_size, cache_options, compression, **options)
        words = {} if "b" in mode else {k: options.pop(k) for k in _TEXT if k in options}
        codec = get_compression(path, compression)
        letter = mode.replace("t", "").replace("b", "")
        inner: Any = super().open(path, f"{letter}b", block_size, cache_options, **options)
        file = inner
        try:
            if codec is not None:
                file = PackedFile(compr[codec](file, mode=letter), file)
            if "b" not in mode:
                file = TextFile(file, **words)
        except BaseException:
            file.discard()
            raise
        files = [] if self._transaction is None else self._transaction.files
        if files and files[-1] is inner:
            files[-1] = file  # or what it has not handed on yet would miss the commit
        return file

    def _open(self, path: str, mode: str = "rb", **options: Any) -> Any:
        shape: dict[str, Any] = {
            key: options[key] for key in ("block_size", "cache_options") if key in options
        }
        if mode == "rb":
            place, snapshot = self._look(path)
            row = resolve(snapshot, place.path)
            if row.kind is Kind.DIR:
                raise IsADirectoryError(errno.EISDIR, "is a directory", path)
            shape["cache_type"] = options.get("cache_type") or "readahead"
            return ReadFile(self, info_of(place.name(place.path), row), (snapshot, row), **shape)
        if mode not in ("wb", "xb", "ab"):
            raise ValueError(f"mode {mode!r}: expected rb, wb, xb or ab")
        place = self._check_target(path, new=mode == "xb")
        before = self._before(place) if mode == "ab" else None
        group, own = self._group(), False
        if group is None and not options.get("autocommit", True):
            group, own = Group(), True
        sink = Sink(place, self._lanes, group, own=own, like=before and before[0])
        file = WriteFile(self, place.name(place.path), mode, sink, **shape)
        try:
            for chunk in before[1] if before else ():
                file.write(chunk)
        except BaseException:
            file.discard()
            raise
        return file

    def reopen(
        self, path: str, version: tuple[int, str, int], position: int, shape: dict[str, Any]
    ) -> ReadFile:
        """Return a file that was pickled while open, as it was; SnapshotExpired if that is gone.

        `version` is the number of the snapshot, and the file's path and `seq` in it.
        """
        number, inside, seq = version
        place = self._place(path)
        try:
            snapshot = place.lake.snapshot(number)
        except SnapshotExpired:
            snapshot = place.lake.snapshot()
            if snapshot.locate([inside])["seq"][0].as_py() != seq:
                raise
        row = snapshot.stat(inside)
        file = ReadFile(self, info_of(place.name(place.path), row), (snapshot, row), **shape)
        file.seek(position)
        return file

    def _before(self, place: Place) -> tuple[Row, Iterable[bytes]] | None:
        """Return the file that is appended to, as the caller's commit has it, and its bytes.

        It is rewritten: payloads never change.
        """
        snapshot, group = self.places.snapshot(place), self._group()
        view = snapshot if group is None else group.writer(place.lake)
        if kind_at(view, place.path) is None:
            return None
        row = view.stat(place.path)
        if row.kind is Kind.SYMLINK:
            row = resolve(snapshot, place.path)
        if row.kind is Kind.DIR:
            raise IsADirectoryError(errno.EISDIR, "is a directory", place.name(place.path))
        # What is not committed yet is in memory.
        return row, pieces_of(snapshot, row) if row.pack else [view.get(place.path)]

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **_: Any) -> None:
        """Store bytes under a path; with mode "create" only where there is nothing."""
        place = self._check_target(path, new=mode == "create")
        Sink(place, self._lanes, self._group()).put(value)
        self.places.forget_newest()

    def pipe(self, path: Any, value: bytes | None = None, **options: Any) -> None:
        """Store bytes under a path, or many files from a dictionary in one commit."""
        if isinstance(path, str):
            self.pipe_file(path, b"" if value is None else value, **options)
            return
        with self._together():
            super().pipe(path, **options)

    def touch(self, path: str, truncate: bool = True, **_: Any) -> None:
        """Make an empty file; without `truncate` an existing one gets a new time instead."""
        if truncate or not self.exists(path):
            self.pipe_file(path, b"")
            return
        found = self._file(path)
        with self._changing(path) as (target, writer):
            store(writer, target, found, None)

    def put_file(
        self, lpath: Any, rpath: str, callback: Any = DEFAULT_CALLBACK, **options: Any
    ) -> None:
        """Store a local file, mode and time included, or make a directory for a local one."""
        if os.path.isdir(lpath):
            self.makedirs(rpath, exist_ok=True)
            return
        place = self._check_target(rpath, new=options.get("mode") == "create")
        os.stat(lpath)  # what is not there is an error before anything is stored
        if self._current.uploads is not None:
            self._current.uploads.append((place, lpath))
            return
        with self._together(IN_PARTS) as group:
            group.will_hold(place)
            upload(group.writer(place.lake), place.path, lpath, callback)

    def put(
        self, lpath: Any, rpath: Any, recursive: bool = False, callback: Any = DEFAULT_CALLBACK,
        **options: Any,
    ) -> None:  # fmt: skip
        """Store local files; a big tree is committed in parts, once all names are looked at."""
        with self._together(IN_PARTS) as group:
            wanted = self._current.uploads = []
            try:
                super().put(lpath, rpath, recursive, **options)
            finally:
                self._current.uploads = None
            group.check_files([place for place, _ in wanted])
            callback.set_size(len(wanted))
            for place, source in callback.wrap(wanted):
                with callback.branched(source, place.name(place.path)) as child:
                    upload(group.writer(place.lake), place.path, source, child)

    def get_file(
        self,
        rpath: str,
        lpath: Any = None,
        callback: Any = DEFAULT_CALLBACK,
        outfile: Any = None,
        **_: Any,
    ) -> None:
        """Copy a file to a local path or an open local file."""
        target = lpath if outfile is None and isfilelike(lpath) else outfile
        if target is None and self._current.downloads is not None:
            self._current.downloads.append((rpath, lpath))
        elif target is None:
            self._download([(rpath, lpath)], callback)
        else:
            for piece in pieces_of(*self._file(rpath)):
                target.write(piece)

    def get(self, rpath: Any, lpath: Any, **options: Any) -> None:
        """Copy files to local paths, many small ones in few reads."""
        callback = options.pop("callback", DEFAULT_CALLBACK)
        wanted = self._current.downloads = []
        try:
            super().get(rpath, lpath, **options)
        finally:
            self._current.downloads = None
        callback.set_size(len(wanted))
        self._download(wanted, callback)

    def _download(self, wanted: list[tuple[str, str]], callback: Any) -> None:
        found = self._rows([remote for remote, _ in wanted], "return")
        download(found, [local for _, local in wanted], callback)

    # -- names -----------------------------------------------------------------------------------

    def mkdir(self, path: str, create_parents: bool = True, **_: Any) -> None:
        """Store a directory, so that it is there while nothing lies below it."""
        self._make_directory(path, create_parents=create_parents, exist_ok=False)

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        """Store a directory; those above it are there because of it."""
        self._make_directory(path, create_parents=True, exist_ok=exist_ok)

    def _make_directory(self, path: str, *, create_parents: bool, exist_ok: bool) -> None:
        with self._changing(path) as (target, writer):
            kind = kind_at(writer, target)
            if kind is Kind.DIR and exist_ok:
                return
            if kind is not None:
                raise FileExistsError(errno.EEXIST, "exists already", path)
            parent = target.rpartition("/")[0]
            if not create_parents and kind_at(writer, parent) is None:
                raise NotFound(f"{parent!r} in the lake", hint="make it first")
            for above in parents(target):
                if kind_at(writer, above) not in (None, Kind.DIR):
                    raise NotADirectoryError(errno.ENOTDIR, "is not a directory", above)
            writer.mkdir(target)

    def rmdir(self, path: str) -> None:
        """Remove an empty directory."""
        with self._changing(path) as (target, writer):
            if writer.stat(target).kind is not Kind.DIR:
                raise NotADirectoryError(errno.ENOTDIR, "is not a directory", path)
            if writer.ls(target) or not target:
                raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY), path)
            writer.delete(target)

    def rm_file(self, path: str) -> None:
        """Remove a file or a link."""
        with self._changing(path) as (target, writer):
            if writer.stat(target).kind is Kind.DIR:
                raise IsADirectoryError(errno.EISDIR, "is a directory", path)
            writer.delete(target)

    def rm(self, path: Any, recursive: bool = False, maxdepth: int | None = None) -> None:
        """Remove files, or with `recursive` whole directories, in one commit."""
        with self._together():
            if not recursive:
                for name in self.expand_path(path):
                    self.rm_file(name)
            elif maxdepth is None:
                self._remove_trees(self.expand_path(path))
            else:
                names = self.expand_path(path, recursive=True, maxdepth=maxdepth)
                self._remove_shallow(names)

    def _remove_trees(self, names: list[str]) -> None:
        gone: set[str] = set()
        for name in sorted(names):
            with self._changing(name) as (target, writer):
                if not gone.isdisjoint(["", *parents(name)]):
                    continue
                gone.add(name)
                for row in writer.ls("") if not target else [writer.stat(target)]:
                    writer.delete_tree(row.path)

    def _remove_shallow(self, names: list[str]) -> None:
        for name in sorted(names, reverse=True):
            with self._changing(name) as (target, writer):
                remove_shallow(writer, target)

    def cp_file(self, path1: str, path2: str, **_: Any) -> None:
        """Show the file of one path under another too; inside a lake no bytes move."""
        source = self._place(path1)
        if source.at is not None or source.lake is not self._writable(path2).lake:
            self._copy_bytes(path1, path2)
            return
        with self._changing(path2) as (target, writer):
            kind = writer.stat(source.path).kind
            if source.path == target:
                return
            if kind is Kind.DIR:
                self.makedirs(path2, exist_ok=True)
            elif kind_at(writer, target) is Kind.DIR:
                raise IsADirectoryError(errno.EISDIR, "is a directory", path2)
            else:
                writer.copy(source.path, target)
        if self._current.move is not None:
            self._current.move.came(source.lake, target)
            self._current.move.went_within(source, path1)

    def _copy_bytes(self, path1: str, path2: str) -> None:
        place, snapshot = self._look(path1)
        row = resolve(snapshot, place.path)
        if self._current.move is not None:
            own = snapshot.stat(place.path)
            # Of a link to a directory only the name is copied: it stays.
            if own.kind is not Kind.SYMLINK or row.kind is not Kind.DIR:
                self._current.move.went_away(place.lake, own)
        target = self._writable(path2)
        if self._current.move is not None:
            self._current.move.came(target.lake, target.path)
        if row.kind is Kind.DIR:
            self.makedirs(path2, exist_ok=True)
            return
        self._bring(target, (snapshot, row))

    def copy(self, path1: Any, path2: Any, *args: Any, **options: Any) -> None:
        """Copy files or trees: inside a lake no bytes move, and it is one commit; bytes of another
        lake or of a snapshot are committed in parts, once all names are looked at."""
        with self._copying(path1, path2):
            super().copy(path1, path2, *args, **options)

    def mv(self, path1: Any, path2: Any, **options: Any) -> None:
        """Move files or a directory; inside a lake that is one commit, and no bytes move.

        To another lake they are copied, and removed once the copies are durable. Conflict, and
        nothing is removed, if one has changed meanwhile.
        """
        with self._together(self._options_for(path1, path2)) as group:
            if self._rename(path1, path2, options.get("maxdepth")) or path1 == path2:
                return
            for path in path1 if isinstance(path1, list) else [path1]:
                self._refuse_inside(self._writable(path), path2)
            if isinstance(path1, str) and not options.get("recursive") and self.isdir(path1):
                raise IsADirectoryError(errno.EISDIR, "is a directory", path1)
            move = self._current.move = Move()
            try:
                self.copy(path1, path2, **{**options, "on_error": "raise"})
            finally:
                self._current.move = None
            self._remove_shallow(list(move.within.values()))
            for lake, rows in move.left_behind():
                group.afterwards(partial(remove_copied, lake, rows))

    def _refuse_inside(self, source: Place, path2: Any) -> None:
        """Refuse to move a directory into itself: what is copied would be copied once more."""
        target = self._writable(path2) if isinstance(path2, str) else source
        inside = source.path and target.path.startswith(f"{source.path}/")
        if inside and target.lake is source.lake:
            raise Invalid(f"move {source.path!r}", expected="a target outside itself",
                          found=target.path)  # fmt: skip

    def _rename(self, path1: Any, path2: Any, maxdepth: int | None) -> bool:
        """Move by renaming; False where that is not what was asked for."""
        if not isinstance(path1, str) or not isinstance(path2, str) or maxdepth is not None:
            return False
        source = self._place(path1)
        elsewhere = source.at is not None or source.lake is not self._writable(path2).lake
        if elsewhere or has_magic(path1) or path1.endswith("/"):
            return False
        with self._changing(path2) as (target, writer):
            kind = writer.stat(source.path).kind
            if path2.endswith("/") or kind_at(writer, target) is Kind.DIR:
                base = source.path.rpartition("/")[2]
                target = f"{target}/{base}" if target else base
            if target == source.path:
                return True
            there = kind_at(writer, target)
            if there is Kind.DIR and kind is not Kind.DIR:
                raise IsADirectoryError(errno.EISDIR, "is a directory", path2)
            if there is Kind.DIR and writer.ls(target):
                raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY), path2)
            if there is not None and there is not Kind.DIR and kind is Kind.DIR:
                raise NotADirectoryError(errno.ENOTDIR, "is not a directory", path2)
            writer.rename(source.path, target)
        return True
