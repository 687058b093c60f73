"""What one group commit will hold: the operations by path, when it is due, and who waits for it."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

from lakefeed.errors import LakefeedError, VolumeFailed
from lakefeed.format.pack import Meta, PackSealed
from lakefeed.format.payload import Payload
from lakefeed.format.rows import Codec, Kind, Row, attrs_bytes
from lakefeed.given import check_fields


@dataclass(frozen=True, slots=True)
class Put:
    """New bytes for a path; without `mtime_ns` the commit's time is taken."""

    payload: Payload
    kind: Kind
    mtime_ns: int | None
    mode: int
    attrs: dict[str, str] | None


@dataclass(frozen=True, slots=True)
class Refer:
    """The file that `origin` names shall appear under this path too; no bytes move.

    `meta` gives it other times, mode and attributes than the origin has.
    """

    origin: str
    row: Row
    meta: Meta | None = None

    def shown(self, path: str) -> Row:
        """Return the row of the file under `path`."""
        row = self.row._replace(path=path)
        if self.meta is None:
            return row
        mtime_ns, mode, attrs = self.meta
        return row._replace(mtime_ns=mtime_ns, mode=mode, attrs=attrs)


@dataclass(frozen=True, slots=True)
class Delete:
    """The path goes away; with `seq`, only if it is of that version when this is committed."""

    seq: int | None = None


@dataclass(frozen=True, slots=True)
class Sealed:
    """A file too big to wait in memory; its pack is complete already."""

    pack: PackSealed
    row: Row


class Overtaken(Exception):
    """Another thread changed what an operation was to move: look again."""


Operation = Put | Refer | Delete | Sealed


@dataclass(frozen=True, slots=True)
class WriterOptions:
    """When a batch is committed, and how payloads are stored.

    A batch is committed at `flush_bytes`, `flush_files` or `flush_age_seconds`, whichever comes
    first. Files above `big_bytes` get a pack of their own, streamed. `merge_after` unmerged packs
    start an index merge after a commit; 0 leaves merging to others.
    """

    flush_bytes: int = 64 << 20
    flush_files: int = 10_000
    flush_age_seconds: float = 0.5
    big_bytes: int = 64 << 20
    codec: Codec = Codec.NONE
    merge_after: int = 64

    def __post_init__(self) -> None:
        check_fields(self)


# All at once, and only when told to: no threshold commits a part of it.
WHEN_TOLD = WriterOptions(flush_bytes=1 << 62, flush_files=1 << 62, flush_age_seconds=1e9)


@dataclass(slots=True)
class Batch:
    """Operations that will be committed together; the newest one for a path stands."""

    opened_seconds: float
    operations: dict[str, Operation] = field(default_factory=dict)
    held_bytes: int = 0
    finished: threading.Event = field(default_factory=threading.Event)
    snapshot: int | None = None
    error: BaseException | None = None
    reported: bool = False

    def add(self, changes: dict[str, Operation]) -> None:
        """Take operations in; an older one for the same path is replaced."""
        self.operations.update(changes)
        for op in changes.values():
            if isinstance(op, Put):
                self.held_bytes += len(op.payload.stored) + attrs_bytes(op.attrs)
            elif isinstance(op, Refer):
                self.held_bytes += attrs_bytes((op.meta or op.row).attrs)

    def is_full(self, options: WriterOptions) -> bool:
        """Tell whether nothing more should be gathered before a commit."""
        return self.held_bytes >= options.flush_bytes or len(self.operations) >= options.flush_files

    def clashes(self, changes: dict[str, Operation]) -> bool:
        """Tell whether the batch would hold a path in two packs with these."""
        for path, operation in changes.items():
            held = self.operations.get(path)
            if held is not None and (isinstance(held, Sealed) or isinstance(operation, Sealed)):
                return True
        return False

    def finish(self, snapshot: int | None, error: BaseException | None) -> None:
        """Wake everybody who waits, with the commit's number or with what went wrong."""
        self.snapshot = snapshot
        self.error = error
        self.operations = {}  # a batch is kept by its handles, and for its error, never for bytes
        self.finished.set()

    def wait(self, timeout_seconds: float | None = None) -> int:
        """Return the snapshot number once durable, or raise what went wrong."""
        if not self.finished.wait(timeout_seconds):
            raise TimeoutError(f"not durable after {timeout_seconds} s")
        if self.error is not None:
            self.reported = True
            raise _again(self.error)
        assert self.snapshot is not None
        return self.snapshot


def _again(error: BaseException) -> BaseException:
    # Each waiter gets an error of its own: one object raised in many threads mixes up tracebacks.
    if isinstance(error, LakefeedError):
        copy = type(error)(error.subject, expected=error.expected, found=error.found,
                           hint=error.hint, errno=error.errno)  # fmt: skip
        copy.__cause__ = error
        return copy
    failure = VolumeFailed("group commit", found=repr(error), hint="repeat the write")
    failure.__cause__ = error
    return failure


class PutHandle:
    """A promise of durability for one operation."""

    __slots__ = ("_batch", "path")

    def __init__(self, path: str, batch: Batch) -> None:
        self.path = path
        self._batch = batch

    def done(self) -> bool:
        """Tell whether `wait` would return at once."""
        return self._batch.finished.is_set()

    def wait(self, timeout_seconds: float | None = None) -> int:
        """Return the number of the snapshot that holds the change, once it is durable.

        Raises what made the commit fail (then nothing of it is visible, or VolumeFailed says that
        this is unknown), or TimeoutError.
        """
        return self._batch.wait(timeout_seconds)
