"""Bytes between a lake and files beside it: local ones, and those of other lakes."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO, cast

from lakefeed.adapters.fsspec.ranges import batches
from lakefeed.adapters.fsspec.reading import Found
from lakefeed.format.pack import Meta
from lakefeed.format.rows import table_from_rows
from lakefeed.lake.view import pieces_of
from lakefeed.lake.writer import Writer
from lakefeed.volume.base import Buffer

HELD_BYTES = 64 << 20


def upload(writer: Writer, path: str, source: str, callback: Any) -> None:
    """Store a local file, mode and time included; `callback` hears of its bytes."""
    size = os.path.getsize(source)
    callback.set_size(size)
    writer.put_file(path, source)
    callback.relative_update(size)


def download(found: Sequence[Any], targets: Sequence[str], callback: Any) -> None:
    """Write files to local paths, many small ones in few reads; directories are made.

    `found` holds (snapshot, row) or what is wrong with a path, which is raised unless it only says
    that the path is a directory.
    """
    files: dict[int, list[tuple[Found, str]]] = {}
    for item, target in zip(found, targets, strict=True):
        if isinstance(item, IsADirectoryError):
            os.makedirs(target, exist_ok=True)
            callback.relative_update(1)
        elif isinstance(item, Exception):
            raise item
        else:
            os.makedirs(os.path.dirname(target) or ".", exist_ok=True)
            files.setdefault(id(item[0]), []).append((item, target))
    for members in files.values():
        _download_files(members, callback)


def _download_files(members: Sequence[tuple[Found, str]], callback: Any) -> None:
    snapshot = members[0][0][0]
    targets = iter([target for _, target in members])
    for batch in batches([row for (_, row), _ in members], HELD_BYTES):
        if batch[0].size > HELD_BYTES:
            _write(next(targets), pieces_of(snapshot, batch[0]))
            callback.relative_update(1)
            continue
        for data in snapshot.read_rows(table_from_rows(batch)):
            _write(next(targets), [data])
            callback.relative_update(1)


def _write(target: str, pieces: Sequence[bytes] | Iterator[bytes]) -> None:
    stream = open(target, "wb")  # noqa: SIM115 - what could not be opened must stay
    try:
        with stream:
            for piece in pieces:
                stream.write(piece)
    except BaseException:
        if os.path.isfile(target):
            os.unlink(target)
        raise


def store(writer: Writer, target: str, found: Found, mtime_ns: int | None) -> None:
    """Store the bytes of a file under a path, mode and attributes kept; None: a new time."""
    snapshot, row = found
    if row.size <= HELD_BYTES:
        data = snapshot.read_row(row)
        writer.put(target, data, mtime_ns=mtime_ns, mode=row.mode, attrs=row.attrs)
        return
    stream = cast(BinaryIO, _Stream(found))
    stamp_ns = time.time_ns() if mtime_ns is None else mtime_ns
    writer.put_file(target, stream, meta=Meta(stamp_ns, row.mode, row.attrs))


class _Stream:
    """A file of a lake as the stream that a writer pulls from."""

    def __init__(self, found: Found) -> None:
        self._pieces = pieces_of(*found)
        self._rest = memoryview(b"")

    def read(self, size: int) -> Buffer:
        """Return the next bytes; fewer than `size` only at the end, or Corrupt there."""
        parts = []
        while size and (self._rest or self._next()):
            parts.append(self._rest[:size])
            self._rest = self._rest[len(parts[-1]) :]
            size -= len(parts[-1])
        return b"".join(parts)

    def _next(self) -> bool:
        self._rest = memoryview(next(self._pieces, b""))
        return bool(self._rest)
