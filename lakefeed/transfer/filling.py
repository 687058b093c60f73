"""Items into a pack until it is full: whole blocks at once where they fit, else one by one.

A file from memory takes some microseconds to read, so what Python does for each one counts. A block
that surely fits becomes rows by one call for each column; only the items around the end of a pack,
and files that are streamed, are looked at singly.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from lakefeed.format.pack import ALIGNMENT_BYTES, Meta, PackWriter
from lakefeed.format.payload import COMPRESS_BYTES_MAX, encode
from lakefeed.format.rows import Codec, Kind
from lakefeed.transfer.problems import Problems
from lakefeed.transfer.reading import Changed, Item, ReadOptions
from lakefeed.transfer.streaming import PIECES_AHEAD, SourceStream, Unreadable


@dataclass(slots=True)
class Counts:
    """What an import, or one worker's share of it, has done so far."""

    files: int = 0
    directories: int = 0
    bytes: int = 0
    skipped: int = 0
    packs: int = 0
    excluded: int = 0

    def add(self, items: Sequence[Item]) -> None:
        """Count items that are in the lake now, or would be."""
        directories = sum([item.kind is Kind.DIR for item in items])
        self.directories += directories
        self.files += len(items) - directories
        self.bytes += sum([item.size for item in items if item.kind is not Kind.DIR])


@dataclass(frozen=True, slots=True)
class Full:
    """When a pack is full. Names are held until it is sealed, so long ones end it earlier."""

    payload_bytes: int
    rows: int
    names_bytes: int


class Filling:
    """What goes into the packs of one import; `counts` says what went in."""

    def __init__(
        self, prefix: str, full: Full, reading: ReadOptions, counts: Counts, problems: Problems
    ) -> None:
        self._prefix = prefix
        self._above = f"{prefix}/" if prefix else ""
        self._full = full
        self._reading = reading
        self._counts = counts
        self._problems = problems
        self._streams = ThreadPoolExecutor(PIECES_AHEAD, "lakefeed-stream")
        self._names_bytes = 0

    def close(self) -> None:
        """Stop the threads. Works twice."""
        self._streams.shutdown()

    def begin(self) -> None:
        """Take notice that the next items go into an empty pack."""
        self._names_bytes = 0

    def add(self, writer: PackWriter, items: Sequence[Item]) -> int:
        """Add items until the pack is full; return how many were taken."""
        if self._fits(writer, items):
            self._add_all(writer, items)
            return len(items)
        for at, item in enumerate(items, 1):
            self._add(writer, item)
            if self.is_full(writer):
                return at
        return len(items)

    def is_full(self, writer: PackWriter) -> bool:
        """Tell whether a pack takes no more."""
        full = self._full
        return (
            writer.payload_end >= full.payload_bytes
            or writer.rows >= full.rows
            or self._names_bytes >= full.names_bytes
        )

    def _fits(self, writer: PackWriter, items: Sequence[Item]) -> bool:
        """Tell whether items surely leave a pack unfilled, and none has to be streamed."""
        payload_bytes = names_bytes = 0
        for item in items:
            if item.payload is None:
                return False
            payload_bytes += len(item.payload.stored)
            names_bytes += len(item.path)
        count, full = len(items), self._full
        return (
            writer.rows + count < full.rows
            and writer.payload_end + payload_bytes + count * ALIGNMENT_BYTES < full.payload_bytes
            and self._names_bytes + names_bytes + count * len(self._above) < full.names_bytes
        )

    def _path(self, item: Item) -> str:
        return self._above + item.path if item.path else self._prefix

    def _add_all(self, writer: PackWriter, items: Sequence[Item]) -> None:
        paths = [self._path(item) for item in items]
        writer.add_all(
            paths,
            [item.payload for item in items if item.payload is not None],
            [Meta(item.mtime_ns, item.mode, item.attrs) for item in items],
            [item.kind for item in items],
        )
        self._names_bytes += sum(map(len, paths))
        self._counts.add(items)

    def _add(self, writer: PackWriter, item: Item) -> None:
        path = self._path(item)
        self._names_bytes += len(path)
        if item.payload is not None:
            meta = Meta(item.mtime_ns, item.mode, item.attrs)
            writer.add(path, item.payload, meta, item.kind)
            self._counts.add((item,))
            return
        for last_try in (False, True):
            try:
                self._counts.add((self._add_big(writer, path, item),))
                return
            except Changed:
                if last_try:
                    self._problems.add(item.path, "it changed each time it was read")
            except Unreadable as error:
                self._problems.add(item.path, error.reason)
                return

    def _add_big(self, writer: PackWriter, path: str, item: Item) -> Item:
        """Stream a file into the pack; what a failed try left there is dead space."""
        full = f"{self._reading.root}/{item.path}"
        with SourceStream(full, self._reading.flags, self._streams) as stream:
            facts = stream.open()
            meta = Meta(facts.mtime_ns, facts.mode, item.attrs)
            if self._reading.codec is Codec.NONE or facts.size > COMPRESS_BYTES_MAX:
                writer.add_stream(path, stream.pieces(facts), meta)
            else:
                data = bytearray()
                for piece in stream.pieces(facts):
                    data += piece
                writer.add(path, encode(data, self._reading.codec), meta)
        return item._replace(size=facts.size)
