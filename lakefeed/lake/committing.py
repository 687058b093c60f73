"""How a batch becomes one pack and one commit.

A batch is written against a base state. Puts and deletes rebase onto anything: the newest commit of
a path wins. A row that refers to bytes elsewhere (rename, copy) must name where they are *now*:
when another writer got in between and the origin changed or moved, the pack is thrown away and
written again against the newer state. Keeps I2 and I4. What a failed attempt wrote goes again,
unless the commit may have been made after all: then it may be an orphan.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from io import BufferedIOBase
from typing import BinaryIO

import numpy as np
import pyarrow as pa

from lakefeed.errors import Conflict, Invalid, LakefeedError, NotFound
from lakefeed.format.commit import Changes, State
from lakefeed.format.pack import Meta, PackSealed, PackWriter
from lakefeed.format.rows import Codec, Kind, Row, rows_from_table
from lakefeed.lake.batch import Batch, Delete, Operation, Put, Refer, Sealed
from lakefeed.lake.log import Draft, Log
from lakefeed.lake.packing import discard_packs, new_pack
from lakefeed.lake.snapshot import Snapshot
from lakefeed.volume.base import Buffer, Volume

# Each round means that another writer changed one of our origins in the meantime.
ROUNDS_MAX = 100
# A pipe holds no more; and room for much more would be taken for each question.
_PART_BYTES = 64 << 10
_STREAM_BYTES = 4 << 20

Locate = Callable[[State, list[str]], pa.Table]


@dataclass(frozen=True, slots=True)
class Publisher:
    """What a writer needs of its lake."""

    volume: Volume
    log: Log
    publish: Callable[[Batch], Snapshot]
    newest: Callable[[], Snapshot]
    merge: Callable[[], None]


class Committer:
    """Publishes batches of one writer, one at a time."""

    def __init__(self, volume: Volume, log: Log, locate: Locate, draft: Draft) -> None:
        self._volume = volume
        self._log = log
        self._locate = locate
        self._draft = draft

    def publish(self, batch: Batch) -> State:
        """Return the state after the batch is durable; every operation of it, or none."""
        try:
            return self._publish(batch)
        except BaseException as error:
            _let_go(error)
            raise

    def _publish(self, batch: Batch) -> State:
        base = self._log.known() or self._log.head()
        for _ in range(ROUNDS_MAX):
            try:
                return self._attempt(batch.operations, base)
            except _OriginsMoved as moved:
                base = moved.state
        discard_sealed(self._volume, self._log, batch.operations.values())
        raise Conflict("rename", expected="origins that stay", found="writers that change them")

    def _attempt(self, operations: dict[str, Operation], base: State) -> State:
        origins = {path: op for path, op in operations.items() if isinstance(op, Refer)}
        big = [op.pack for op in operations.values() if isinstance(op, Sealed)]
        try:
            self._check_deleted(operations, base)
            current = self._current(origins, base)
            pack = self._write({**operations, **current}, base)
        except _OriginsMoved:
            raise  # and tried again, with the same packs
        except BaseException:
            discard_packs(self._volume, self._log, big)
            raise
        packs = tuple(big if pack is None else [*big, pack])

        def plan(state: State) -> Changes:
            if state.number != base.number:
                self._check_deleted(operations, state)
            if state.number != base.number and self._current(origins, state) != current:
                raise _OriginsMoved(state)
            return Changes(add_packs=packs)

        def undo(error: BaseException) -> None:
            again = isinstance(error, _OriginsMoved)  # with the same packs of big files
            discard_packs(self._volume, self._log, packs[len(big) :] if again else packs)

        return self._log.commit(self._draft, plan, undo)

    def _check_deleted(self, operations: dict[str, Operation], state: State) -> None:
        """Raise Conflict where another version came to what shall go only as it was seen."""
        seen = {path: op.seq for path, op in operations.items()
                if isinstance(op, Delete) and op.seq is not None}  # fmt: skip
        if not seen:
            return
        now = self._look_up(state, list(seen))["seq"].to_pylist()
        for path, found in zip(seen, now, strict=True):
            if found != seen[path]:
                raise Conflict(f"delete {path!r}", expected=f"the version of commit {seen[path]}",
                               found=f"that of commit {found}" if found else "none")  # fmt: skip

    def _current(self, origins: dict[str, Refer], state: State) -> dict[str, Refer]:
        """Return the references with each row as `state` has it."""
        if not origins:
            return {}
        table = self._look_up(state, [op.origin for op in origins.values()])
        there = np.asarray(table["path"].is_valid()).tolist()
        found = iter(rows_from_table(table.filter(table["path"].is_valid())))
        current: dict[str, Refer] = {}
        for (path, op), valid in zip(origins.items(), there, strict=True):
            row = next(found) if valid else op.row
            # Gone since, but its bytes are still in the lake: the rename simply came first.
            if not valid and row.pack not in state.packs:
                raise Conflict(
                    f"{op.origin!r}", expected="the file to rename", found="it was deleted"
                )
            current[path] = replace(op, row=row)
        return current

    def _look_up(self, state: State, paths: list[str]) -> pa.Table:
        """Return the rows of paths; _OriginsMoved where files of the state were replaced, and
        collected, before they were read: then it is the newest no more."""
        try:
            return self._locate(state, paths)
        except NotFound:
            newest = self._log.head()
            if newest.number == state.number:
                raise
            raise _OriginsMoved(newest) from None

    def _write(self, operations: dict[str, Operation], base: State) -> PackSealed | None:
        small = {path: op for path, op in operations.items() if not isinstance(op, Sealed)}
        if not small:
            return None

        def fill(writer: PackWriter, now_ns: int) -> None:
            for path in sorted(small):
                _add(writer, path, small[path], now_ns)

        return new_pack(self._volume, base.number, fill)


def _let_go(error: BaseException | None) -> None:
    """Clear the frames that an error came through: who keeps it for later keeps no payloads."""
    cleared: set[int] = set()
    while error is not None and id(error) not in cleared:
        cleared.add(id(error))
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


def _add(writer: PackWriter, path: str, operation: Operation, now_ns: int) -> None:
    match operation:
        case Put(payload, kind, mtime_ns, mode, attrs):
            stamp = now_ns if mtime_ns is None else mtime_ns
            writer.add(path, payload, Meta(stamp, mode, attrs), kind)
        case Refer():
            writer.add_row(operation.shown(path)._replace(seq=0))
        case Delete():
            writer.add_row(tombstone(path, now_ns))


def read_up_to(stream: BinaryIO, size: int) -> Buffer:
    """Return `size` bytes, fewer only at the end; Invalid where the stream does not wait for them.

    A raw stream gives what has come so far, and a buffered one, too, over one that does not block.
    """
    first = _part(stream, size)
    if len(first) == size or _is_terminal(stream):
        return first  # a person at a terminal would have to end the file once more
    parts, have = [first], len(first)
    while have < size and (part := _part(stream, min(size - have, _PART_BYTES))):
        parts.append(part)
        have += len(part)
    return b"".join(parts)


def _is_terminal(stream: BinaryIO) -> bool:
    try:
        return isinstance(stream, BufferedIOBase) and stream.isatty()
    except AttributeError:
        return False  # a buffer over a reader that has only what it needs, as `tarfile` gives out


def _part(stream: BinaryIO, size: int) -> Buffer:
    part: Buffer | None = stream.read(size)
    if part is None:
        raise Invalid("stream", expected="one that waits for its bytes",
                      found="none yet, and no end", hint="make it blocking")  # fmt: skip
    return part


def after_head(head: Buffer, stream: BinaryIO) -> Iterator[Buffer]:
    """Yield the beginning of a stream, which was read already, and the rest of it."""
    yield head
    while chunk := read_up_to(stream, _STREAM_BYTES):
        yield chunk


def streamed(volume: Volume, base: int, path: str, chunks: Iterable[Buffer], meta: Meta) -> Sealed:
    """Write a file that is too big to wait in memory into a pack of its own."""
    rows: list[Row] = []

    def fill(writer: PackWriter, now_ns: int) -> None:
        rows.append(writer.add_stream(path, chunks, meta))

    return Sealed(new_pack(volume, base, fill), rows[0])


@contextmanager
def handed_on(to: Publisher, big: Sealed) -> Iterator[Sealed]:
    """Lend a big file to a block that takes it, and remove its pack where the block refuses it."""
    try:
        yield big
    except LakefeedError:  # behind an interrupt it may have been taken
        discard_sealed(to.volume, to.log, [big])
        raise


def discard_sealed(volume: Volume, log: Log, operations: Iterable[Operation]) -> None:
    """Remove the packs of big files that will be in no commit: who tries again writes new ones."""
    discard_packs(volume, log, [one.pack for one in operations if isinstance(one, Sealed)])


def drop(of: Publisher, batch: Batch, error: BaseException | None) -> None:
    """Give up a batch that nobody began to commit, and the packs of its big files with it."""
    try:
        discard_sealed(of.volume, of.log, batch.operations.values())
    finally:  # whoever waits hears of it, interrupt or not
        batch.finish(None, error)


def tombstone(path: str, now_ns: int) -> Row:
    """Return the row that says a path is deleted."""
    return Row(path, Kind.TOMBSTONE, "", 0, 0, 0, Codec.NONE, 0, now_ns, 0, None, 0)


class _OriginsMoved(Exception):
    """The plan's origins differ in `state`, or have to be looked up there: write the pack again."""

    def __init__(self, state: State) -> None:
        super().__init__(f"origins moved by commit {state.number}")
        self.state = state
