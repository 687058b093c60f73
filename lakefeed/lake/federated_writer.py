"""A writer over several lakes: each change goes to the lake that its path belongs to.

Each lake has its own batches and commits, so what was put into two lakes becomes durable and
visible in each on its own. A rename or copy stays within one lake: no bytes move, and it is one
commit; between lakes it is Invalid, because it could be neither.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextlib import ExitStack
from types import TracebackType
from typing import BinaryIO

from lakefeed.closing import Staying
from lakefeed.errors import Invalid, LakefeedError
from lakefeed.format.pack import Meta
from lakefeed.format.paths import check_prefix
from lakefeed.format.rows import Row
from lakefeed.lake.batch import PutHandle
from lakefeed.lake.federated import FederatedSnapshot
from lakefeed.lake.lake import Lake
from lakefeed.lake.mounts import Mount
from lakefeed.lake.writer import Writer
from lakefeed.volume.base import Buffer

LakeFor = Callable[[str], tuple[Mount, Lake]]


class FederatedWriter(Staying):
    """Collects changes for many lakes; see `Writer`. The lock guards the table of writers, and
    whether more may come to it."""

    def __init__(
        self, above: FederatedSnapshot, lake_for: LakeFor, writer_of: Callable[[Lake], Writer]
    ) -> None:
        # Asked for what no lake holds: the directories above them.
        self._above = above
        self._lake_for = lake_for
        self._writer_of = writer_of
        self._lock = threading.Lock()
        self._writers: dict[str, Writer] = {}
        self._closed = False

    def _writer(self, path: str) -> tuple[Writer, str]:
        """Return the writer of the lake that holds a path, and what that lake calls it."""
        writer, inside = self._writer_at(path)
        if not inside:
            raise Invalid(f"path {path!r}", expected="a path in a lake", found="the lake's root")
        return writer, inside

    def _writer_at(self, path: str) -> tuple[Writer, str]:
        """Return the same, also for the root of a lake, which it calls ""."""
        mount, lake = self._lake_for(path)
        with self._lock:
            writer = self._writers.get(mount.prefix)
            if writer is None:
                if self._closed:
                    raise Invalid("writer", expected="an open one", found="it is closed")
                writer = self._writers[mount.prefix] = self._writer_of(lake)
        return writer, mount.inside(path)

    def put(
        self, path: str, data: Buffer, *, mtime_ns: int | None = None, mode: int = 0o644,
        attrs: dict[str, str] | None = None,
    ) -> PutHandle:  # fmt: skip
        """Store bytes under a path, replacing what is there."""
        writer, inside = self._writer(path)
        return writer.put(inside, data, mtime_ns=mtime_ns, mode=mode, attrs=attrs)

    def put_file(
        self, path: str, source: str | os.PathLike[str] | BinaryIO, *, meta: Meta | None = None
    ) -> PutHandle:
        """Store a local file or a binary stream under a path; mode and mtime are kept."""
        writer, inside = self._writer(path)
        return writer.put_file(inside, source, meta=meta)

    def symlink(self, path: str, target: str) -> PutHandle:
        """Store a symbolic link; its target is kept as it is."""
        writer, inside = self._writer(path)
        return writer.symlink(inside, target)

    def mkdir(self, path: str, mode: int = 0o755, *, mtime_ns: int | None = None) -> PutHandle:
        """Store a directory."""
        writer, inside = self._writer(path)
        return writer.mkdir(inside, mode, mtime_ns=mtime_ns)

    def delete(self, path: str) -> PutHandle:
        """Remove a file, a symlink or an empty stored directory. NotFound if it is not there."""
        writer, inside = self._writer(path)
        return writer.delete(inside)

    def delete_tree(self, directory: str) -> PutHandle:
        """Remove a file, or a directory with everything below it, in one commit."""
        writer, inside = self._writer(directory)
        return writer.delete_tree(inside)

    def copy(self, source: str, target: str) -> PutHandle:
        """Let `target` show the file that `source` shows now; both are in one lake."""
        writer, origin, goal = self._within("copy", source, target)
        return writer.copy(origin, goal)

    def copy_tree(self, source: str, target: str) -> PutHandle:
        """Let `target` show the file, or all of the directory, that `source` shows now; both are in
        one lake."""
        writer, origin, goal = self._within("copy", source, target)
        return writer.copy_tree(origin, goal)

    def rename(self, source: str, target: str) -> PutHandle:
        """Move a file or a directory inside its lake, in one commit."""
        writer, origin, goal = self._within("rename", source, target)
        return writer.rename(origin, goal)

    def _within(self, verb: str, source: str, target: str) -> tuple[Writer, str, str]:
        writer, origin = self._writer(source)
        other, goal = self._writer(target)
        if other is not writer:
            raise Invalid(f"{verb} {source!r}", expected="a target in the same lake", found=target,
                          hint="read it and put it there")  # fmt: skip
        return writer, origin, goal

    def get(self, path: str) -> bytes:
        """Return a file's bytes as this writer left them."""
        writer, inside = self._writer(path)
        return writer.get(inside)

    def stat(self, path: str) -> Row:
        """Return a path's row as this writer left it; mounts and what is above them are
        directories."""
        path = check_prefix(path)
        mount = self._above.mounts.of(path)
        if mount is None or not mount.inside(path):
            return self._above.stat(path)
        writer, inside = self._writer(path)
        return writer.stat(inside)._replace(path=path)

    def ls(self, directory: str = "") -> list[Row]:
        """Return a directory's children as this writer left them; mounts are listed without asking
        them."""
        directory = check_prefix(directory)
        mount = self._above.mounts.of(directory)
        if mount is None:
            return self._above.ls(directory)
        writer, inside = self._writer_at(directory)
        return [row._replace(path=mount.outside(row.path)) for row in writer.ls(inside)]

    def flush(self) -> dict[str, int]:
        """Commit what is gathered; return each lake's snapshot that holds it, by prefix.

        Every lake is flushed, also after another has failed; the first failure is raised then.
        """
        with self._lock:
            writers = dict(self._writers)
        numbers: dict[str, int] = {}
        failures: list[LakefeedError] = []
        for prefix, writer in writers.items():
            try:
                numbers[prefix] = writer.flush()
            except LakefeedError as error:
                failures.append(error)
        if failures:
            raise failures[0]
        return numbers

    def close(self) -> None:
        """Commit what is gathered, in every lake, and stop. Works twice."""
        with ExitStack() as stack:
            for writer in self._last():
                stack.callback(writer.close)

    def _last(self) -> list[Writer]:
        """Return the writers of all lakes; there will be no others."""
        with self._lock:
            self._closed = True
            return list(self._writers.values())

    def __enter__(self) -> FederatedWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.close()
            return
        with ExitStack() as stack:
            for writer in self._last():
                stack.callback(writer.__exit__, kind, error, trace)
