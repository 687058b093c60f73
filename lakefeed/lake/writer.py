"""Many small files in, one pack and one commit out.

Operations from any thread gather in a batch. When the batch is big, numerous or old enough, or when
somebody calls `flush`, one background thread writes it as one pack, links one commit, and only then
acknowledges every operation in it. A failed commit is raised to all who wait for it; if nobody
does, by the next `flush` or `close`. Group commit is the only durability mechanism: no journal, and
after a crash nothing to repair. While a batch is being written, or the index merged behind it, the
next one gathers; when that one is full too, `put` waits (backpressure), so memory stays bounded.

The writer reads its own writes: `get`, `stat` and `ls` see the gathered operations over the newest
snapshot that this writer knows. What changes a whole tree looks for a newer one first. One lock
guards the batches and that snapshot; no I/O happens under it.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from lakefeed.closing import Staying
from lakefeed.errors import Invalid, NotFound
from lakefeed.format import payload as payload_format
from lakefeed.format.pack import Meta
from lakefeed.format.paths import check_path
from lakefeed.format.rows import Kind, Row
from lakefeed.lake.batch import (
    Batch,
    Delete,
    Operation,
    Overtaken,
    Put,
    PutHandle,
    Refer,
    WriterOptions,
)  # fmt: skip
from lakefeed.lake.committing import Publisher, after_head, drop, handed_on, read_up_to, streamed
from lakefeed.lake.names import Names, check_facts, text_bytes
from lakefeed.lake.overlay import Overlay
from lakefeed.lake.snapshot import Snapshot
from lakefeed.volume.base import Buffer

__all__ = ["Writer", "WriterOptions"]


class Writer(Staying):
    """Collects operations and commits them in groups. Use it in a `with` block.

    Leaving the block commits what is gathered; by an exception, drops what is not acknowledged.
    """

    def __init__(self, publisher: Publisher, options: WriterOptions) -> None:
        self._publisher = publisher
        self._options = options
        self._changed = threading.Condition()
        self._pending = Batch(time.monotonic())
        self._in_flight: Batch | None = None
        self._failed: list[Batch] = []
        self._flush_wanted = False
        self._closed = False
        self._thread: threading.Thread | None = None
        self._pid = os.getpid()
        self._snapshot: Snapshot | None = None
        self._names = Names(self._view)

    # -- changes ---------------------------------------------------------------------------------

    def put(
        self, path: str, data: Buffer, *, mtime_ns: int | None = None, mode: int = 0o644,
        attrs: dict[str, str] | None = None,
    ) -> PutHandle:  # fmt: skip
        """Store bytes under a path, replacing what is there. `data` must not change until durable.

        Invalid for a path, time, mode or attribute that a lake cannot hold, or a path below a file.
        """
        self._names.check_file(path)
        mode = check_facts(path, Meta(mtime_ns or 0, mode, attrs))
        stored = payload_format.encode(data, self._options.codec)
        return self._add(path, Put(stored, Kind.FILE, mtime_ns, mode, attrs))

    def put_file(
        self, path: str, source: str | os.PathLike[str] | BinaryIO, *, meta: Meta | None = None
    ) -> PutHandle:
        """Store a local file or a binary stream under a path; mode and mtime are kept.

        Above `big_bytes` it is streamed into a pack of its own and never held in memory.
        """
        self._names.check_file(path)
        if isinstance(source, str | os.PathLike):
            info = Path(source).stat()
            meta = meta or Meta(info.st_mtime_ns, info.st_mode & 0o7777)
            with open(source, "rb") as stream:
                return self._put_stream(path, stream, meta)
        return self._put_stream(path, source, meta or Meta(time.time_ns()))

    def _put_stream(self, path: str, stream: BinaryIO, meta: Meta) -> PutHandle:
        head = read_up_to(stream, self._options.big_bytes + 1)
        if len(head) <= self._options.big_bytes:
            return self.put(path, head, mtime_ns=meta.mtime_ns, mode=meta.mode, attrs=meta.attrs)
        meta = meta._replace(mode=check_facts(path, meta))
        to, base, chunks = self._publisher, self._newest().number, after_head(head, stream)
        with handed_on(to, streamed(to.volume, base, path, chunks, meta)) as big:
            return self._add(path, big)

    def symlink(self, path: str, target: str, *, meta: Meta | None = None) -> PutHandle:
        """Store a symbolic link; its target is kept as it is and never followed by the lake."""
        self._names.check_file(path)
        stored = payload_format.encode(text_bytes(f"target of {path!r}", target))
        mtime_ns, mode, attrs = meta or (None, 0o777, None)
        mode = check_facts(path, Meta(mtime_ns or 0, mode, attrs))
        return self._add(path, Put(stored, Kind.SYMLINK, mtime_ns, mode, attrs))

    def mkdir(
        self, path: str, mode: int = 0o755, *, mtime_ns: int | None = None,
        attrs: dict[str, str] | None = None,
    ) -> PutHandle:  # fmt: skip
        """Store a directory, so that it exists while nothing lies below it, or for its mode."""
        self._names.check_directory(path)
        mode = check_facts(path, Meta(mtime_ns or 0, mode, attrs))
        stored = payload_format.encode(b"")
        return self._add(path, Put(stored, Kind.DIR, mtime_ns, mode, attrs))

    def delete(self, path: str) -> PutHandle:
        """Remove a file, a symlink or an empty stored directory. NotFound if it is not there."""
        self._names.check_delete(path)
        return self._add(path, Delete())

    def delete_tree(self, directory: str) -> PutHandle:
        """Remove a file, or a directory with everything below it, in one commit."""
        self._renew()
        rows = self._view().subtree(check_path(directory))
        if not rows:
            raise NotFound(f"{directory!r} in the lake")
        return self._add_all(directory, {row.path: Delete() for row in rows})

    def copy(self, source: str, target: str) -> PutHandle:
        """Let `target` show the file that `source` shows now; no bytes move."""
        self._names.check_file(target)
        row = self.stat(source)
        if row.kind is Kind.DIR:
            raise Invalid(f"copy {source!r}", expected="a file", found="a directory",
                          hint='copy_tree and "lakefeed cp -r" take it all')  # fmt: skip
        return self._add(target, self._reference(row, self._gathered(row.path)))

    def copy_tree(self, source: str, target: str) -> PutHandle:
        """Let `target` show the file, or all of the directory, that `source` shows now."""
        self._renew()
        rows = self._names.check_move(source, target)
        changes: dict[str, Operation] = {}
        for row in rows:
            path = check_path(target + row.path[len(source) :])
            changes[path] = self._reference(row, self._gathered(row.path))
        return self._add_all(target, changes)

    def rename(self, source: str, target: str) -> PutHandle:
        """Move a file, or a directory with all below it, in one commit. No bytes move."""
        self._renew()
        while True:
            rows = self._names.check_move(source, target)
            seen: dict[str, Operation | None] = {}
            changes: dict[str, Operation] = {}
            for row in rows:
                seen[row.path] = self._gathered(row.path)
                changes[row.path] = Delete()
                path = check_path(target + row.path[len(source) :])
                changes[path] = self._reference(row, seen[row.path])
            try:
                return self._add_all(target, changes, seen)
            except Overtaken:
                continue

    def _gathered(self, path: str) -> Operation | None:
        with self._changed:
            return self._pending.operations.get(path)

    def _reference(self, row: Row, held: Operation | None) -> Operation:
        """Return the operation that shows the file of `row` under another path; `held` is what is
        gathered for its own."""
        if isinstance(held, Put | Refer):
            return held
        if held is not None or not row.pack:
            self.flush()
            row = self.stat(row.path)
        return Refer(row.path, row)

    def apply(self, changes: dict[str, Operation]) -> PutHandle:
        """Gather operations whose names the caller has checked; one commit holds them all."""
        return self._add_all(next(iter(changes)), changes)

    # -- what this writer sees -------------------------------------------------------------------

    def get(self, path: str) -> bytes:
        """Return a file's bytes as this writer left them."""
        return self._view().get(path)

    def stat(self, path: str) -> Row:
        """Return a path's row as this writer left it; `pack` is "" while it is not committed."""
        return self._view().stat(path)

    def ls(self, directory: str = "") -> list[Row]:
        """Return a directory's children as this writer left them."""
        return self._view().ls(directory)

    def directories(self, paths: Sequence[str]) -> list[str]:
        """Return those of these names below which others have files, after a look at the newest
        snapshot, that this writer has not removed; many cost little more than one."""
        newest = self._renew()
        view = self._view()
        return [path for path in newest.directories(paths) if view.has_children(path)]

    def _view(self) -> Overlay:
        with self._changed:
            layers = [self._pending.operations]
            if self._in_flight is not None:
                layers.append(self._in_flight.operations)
        return Overlay(layers, self._newest(), self._renew)

    def _newest(self) -> Snapshot:
        return self._snapshot or self._renew()

    def _renew(self) -> Snapshot:
        return self._saw(self._publisher.newest())

    def _saw(self, snapshot: Snapshot) -> Snapshot:
        with self._changed:
            if self._snapshot is None or self._snapshot.number < snapshot.number:
                self._snapshot = snapshot
            return self._snapshot

    # -- batches ---------------------------------------------------------------------------------

    def _add(self, path: str, operation: Operation) -> PutHandle:
        return self._add_all(path, {path: operation})

    def _add_all(
        self, path: str, changes: dict[str, Operation],
        seen: dict[str, Operation | None] | None = None,
    ) -> PutHandle:  # fmt: skip
        """Gather operations that must be committed together.

        They rest on what was `seen` gathered for some paths: Overtaken where that has changed.
        """
        self._check_process()
        with self._changed:
            self._check_usable()
            while self._must_wait(changes):
                self._changed.notify_all()
                self._changed.wait()
                self._check_usable()
            batch = self._pending
            if seen and any(batch.operations.get(name) is not was for name, was in seen.items()):
                raise Overtaken
            if not batch.operations:
                batch.opened_seconds = time.monotonic()
                self._start_thread()
                self._changed.notify_all()
            batch.add(changes)
            if batch.is_full(self._options):
                self._changed.notify_all()
            return PutHandle(path, batch)

    def _check_usable(self) -> None:
        if self._closed:
            raise Invalid("writer", expected="an open one", found="it is closed")

    def _check_process(self) -> None:
        # Before the lock: in a forked child its holder may not exist.
        if self._pid != os.getpid():
            raise Invalid("writer", expected="the process that made it", found="a forked child")

    def _must_wait(self, changes: dict[str, Operation]) -> bool:
        """Backpressure, and the rule that a commit holds a path in one pack only."""
        if self._pending.operations and self._pending.is_full(self._options):
            return True
        clash = self._pending.clashes(changes)
        self._flush_wanted = self._flush_wanted or clash
        return clash

    def _start_thread(self) -> None:
        if self._thread is None:
            thread = threading.Thread(target=self._run, name="lakefeed-commit", daemon=True)
            thread.start()
            self._thread = thread

    def _run(self) -> None:
        try:
            while (batch := self._next_batch()) is not None:
                self._publish(batch)
        except BaseException as failure:
            # Nobody commits any more: whoever waits must hear of it, and nobody may come.
            with self._changed:
                self._closed = True
                dropped, self._pending = self._pending, Batch(time.monotonic())
                if dropped.operations:
                    self._failed.append(dropped)
                self._changed.notify_all()
            drop(self._publisher, dropped, failure)
            raise

    def _next_batch(self) -> Batch | None:
        with self._changed:
            if threading.current_thread() is not self._thread:
                return None  # whoever started it was interrupted, and another one is started
            while not self._is_due():
                if self._closed and not self._pending.operations:
                    return None
                self._changed.wait(self._patience_seconds())
            self._in_flight, self._pending = self._pending, Batch(time.monotonic())
            self._flush_wanted = False
            self._changed.notify_all()
            return self._in_flight

    def _is_due(self) -> bool:
        if not self._pending.operations:
            return False
        wanted = self._flush_wanted or self._closed or self._pending.is_full(self._options)
        return wanted or self._patience_seconds() == 0

    def _patience_seconds(self) -> float | None:
        if not self._pending.operations:
            return None
        due = self._pending.opened_seconds + self._options.flush_age_seconds
        return max(due - time.monotonic(), 0.0)

    def _publish(self, batch: Batch) -> None:
        snapshot: Snapshot | None = None
        error: BaseException | None = None
        try:
            snapshot = self._publisher.publish(batch)
        except BaseException as failure:  # noqa: BLE001 - it goes to everybody who waits
            error = failure
        with self._changed:
            if snapshot is not None:
                self._saw(snapshot)
            batch.finish(None if snapshot is None else snapshot.number, error)
            if error is not None:
                self._failed = [old for old in self._failed if not old.reported] + [batch]
            self._in_flight = None
            self._changed.notify_all()
        if snapshot is not None and self._merge_is_due(snapshot):
            self._publisher.merge()

    def _merge_is_due(self, snapshot: Snapshot) -> bool:
        unmerged = sum(not info.indexed for info in snapshot.state.packs.values())
        return 0 < self._options.merge_after <= unmerged

    # -- the end ---------------------------------------------------------------------------------

    def flush(self) -> int:
        """Commit what is gathered; return the number of the snapshot that holds all of it.

        Raises what made a commit fail, also an earlier one that nobody waited for; the operations
        of that batch are then dropped.
        """
        self._check_process()
        with self._changed:
            waiting = [one for one in self._failed if not one.reported]
            waiting += [one for one in (self._in_flight, self._pending) if one and one.operations]
            self._flush_wanted = bool(self._pending.operations)
            self._changed.notify_all()
        for batch in waiting:
            batch.wait()
        return self._newest().number

    def close(self) -> None:
        """Commit what is gathered and stop the thread. Works twice."""
        if self._pid != os.getpid():
            return
        try:
            if not self._closed or any(not batch.reported for batch in self._failed):
                self.flush()
        finally:
            self._stop()

    def _stop(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()

    def __enter__(self) -> Writer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        if kind is None:
            self.close()
            return
        with self._changed:
            dropped, self._pending, self._closed = self._pending, Batch(time.monotonic()), True
            self._changed.notify_all()
        drop(self._publisher, dropped, error)
        self._stop()
