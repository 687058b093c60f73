"""Payloads on their way from old packs into a new one: the same stored bytes, verified.

`Places` remembers where each extent went, so that copies of a file, which share an extent, share it
afterwards too. `Copier` reads in windows of bounded size, a few ahead of the writing, and decodes
every payload to compare its checksum (I7) before its stored bytes go on. A payload too big for a
window is streamed, its checksum computed on the way.

A damaged payload is reported and left out; its row can stay where it points. A volume that fails to
answer is an error that ends everything. What becomes of rows and packs is left to `compactor`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lakefeed.errors import Corrupt
from lakefeed.format import payload
from lakefeed.format.checksum import crc32c
from lakefeed.format.commit import State
from lakefeed.format.pack import PackWriter
from lakefeed.format.rows import Codec, Kind, Row, rows_from_table
from lakefeed.lake import layout
from lakefeed.lake.backoff import Backoff
from lakefeed.lake.files import OpenFiles
from lakefeed.lake.reader import Extents, check_bounds, extents_of, plan_reads
from lakefeed.lake.throttle import Throttle
from lakefeed.volume.base import ReadableFile

WINDOW_BYTES = 4 << 20
WINDOW_FILES = 4096
# Windows being read or waiting to be written: wide enough to hide a filer's latency, 64 MiB in all.
WINDOWS_AHEAD = 16
# Raw payloads from here on are streamed; compressed ones are smaller than 64 MiB and read whole.
STREAM_BYTES = 16 << 20
# A key holds the number of the pack and the offset in it.
_OFFSET_BITS = 44

_Read = bytes | Corrupt


@dataclass(frozen=True, slots=True)
class Damage:
    """A payload that is not what was written, and where it lies."""

    path: str
    pack: str
    expected: str
    found: str


class Places:
    """Where the extents of some packs went: from (pack, offset) to (new pack, new offset)."""

    def __init__(self, packs: Sequence[str]) -> None:
        assert len(packs) < 1 << (63 - _OFFSET_BITS)
        self._packs = pa.array(packs, pa.string())
        self._moved: list[tuple[str, np.ndarray, np.ndarray, np.ndarray]] = []

    def keys(self, table: pa.Table) -> np.ndarray:
        """Return one number for each row's extent, -1 where it has none in these packs."""
        names = table["pack"].unify_dictionaries().combine_chunks()
        known = _index(names.dictionary, self._packs)
        code = np.array([-1 if number is None else number for number in known], np.int64)
        code = code[np.asarray(names.indices)]
        kinds = np.asarray(table["kind"])
        held = (kinds != Kind.TOMBSTONE) & (kinds != Kind.DIR) & (np.asarray(table["length"]) > 0)
        offset = np.asarray(table["offset"]).astype(np.int64)
        return np.where(held & (code >= 0), code << _OFFSET_BITS | offset, -1)

    def touches(self, table: pa.Table) -> np.ndarray:
        """Return which rows name one of these packs, with or without an extent in it."""
        names = table["pack"].unify_dictionaries().combine_chunks()
        inside = [code is not None for code in _index(names.dictionary, self._packs)]
        touched: np.ndarray = np.array(inside, bool)[np.asarray(names.indices)]
        return touched

    def add(self, pack: str, keys: np.ndarray, offsets: np.ndarray, lengths: np.ndarray) -> None:
        """Remember extents that are now in `pack`."""
        order = np.argsort(keys)
        self._moved.append((pack, keys[order], offsets[order], lengths[order]))

    def find(self, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return each key's new pack, as its number in `packs` (-1: none), its offset there, and
        the length of what was moved."""
        pack = np.full(len(keys), -1, np.int64)
        offset, length = np.zeros(len(keys), np.int64), np.zeros(len(keys), np.int64)
        for number, (_, known, places, lengths) in enumerate(self._moved):
            if len(known):
                at = np.minimum(np.searchsorted(known, keys), len(known) - 1)
                hit = known[at] == keys
                pack[hit], offset[hit], length[hit] = number, places[at[hit]], lengths[at[hit]]
        return pack, offset, length

    @property
    def packs(self) -> list[str]:
        """The new packs, in the order they were added."""
        return [pack for pack, *_ in self._moved]

    def fresh(self, keys: np.ndarray) -> np.ndarray:
        """Return which rows are the first of an extent that has not been moved yet."""
        first = np.zeros(len(keys), bool)
        first[np.unique(keys, return_index=True)[1]] = True
        fresh: np.ndarray = first & (keys >= 0) & (self.find(keys)[0] < 0)
        return fresh


def _index(names: pa.Array, packs: pa.Array) -> list[int | None]:
    found: list[int | None] = pc.index_in(names, value_set=packs).to_pylist()
    return found


class Copier:
    """Copies payloads of one state's packs; a context that stops its threads at the end."""

    def __init__(
        self, files: OpenFiles, state: State, throttle: Throttle, backoff: Backoff | None = None
    ) -> None:
        self._files = files
        self._state = state
        self._throttle = throttle
        self._backoff = backoff
        self._pool = ThreadPoolExecutor(WINDOWS_AHEAD, "lakefeed-copy")
        self.damages: list[Damage] = []
        self.copied_bytes = 0
        self.copied_payloads = 0

    def __enter__(self) -> Copier:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def copy(self, writer: PackWriter, table: pa.Table, step: Callable[[], None]) -> np.ndarray:
        """Copy the payloads of these rows in their order; return their new offsets, -1: damaged.

        `step` is called after every window.
        """
        offsets = np.full(len(table), -1, np.int64)
        ahead: deque[tuple[int, pa.Table, Future[list[_Read]] | None]] = deque()

        def write() -> None:
            start, window, future = ahead.popleft()
            if future is None:
                offsets[start] = self._stream(writer, window)
            else:
                offsets[start : start + len(window)] = self._place(writer, window, future.result())
            step()
            if self._backoff is not None:
                self._backoff.rest()

        for start, end in _windows(table):
            window = table.slice(start, end - start)
            future = None if _is_streamed(window) else self._pool.submit(self._read, window)
            ahead.append((start, window, future))
            if len(ahead) > WINDOWS_AHEAD:
                write()
        while ahead:
            write()
        return offsets

    def _place(self, writer: PackWriter, window: pa.Table, payloads: list[_Read]) -> np.ndarray:
        """Append what is sound, note what is not; return the new offsets."""
        offsets = np.full(len(payloads), -1, np.int64)
        sound = [data for data in payloads if isinstance(data, bytes)]
        size = sum(map(len, sound))
        self._throttle.take(size)
        whole = np.array([isinstance(data, bytes) for data in payloads], bool)
        offsets[whole] = writer.add_payloads(sound)
        self.copied_bytes += size
        self.copied_payloads += len(sound)
        for at, data in enumerate(payloads):
            if isinstance(data, Corrupt):
                self._note(window.slice(at, 1), data)
        return offsets

    def leave(self, row: pa.Table, moved_bytes: int) -> None:
        """Note a row whose place, as another row has it, holds fewer or more bytes; it stays."""
        expected, found = f"{row['length'][0]} bytes", f"another file of {moved_bytes} in its place"
        self._note(row, Corrupt(row["path"][0].as_py(), expected=expected, found=found))

    def _note(self, row: pa.Table, error: Corrupt) -> None:
        path, pack = row["path"][0].as_py(), row["pack"][0].as_py()
        self.damages.append(Damage(path, pack, str(error.expected), str(error.found)))

    def _read(self, window: pa.Table) -> list[_Read]:
        """Return the stored bytes of each row, verified, or what is wrong with it."""
        try:
            return list(self._read_all(window))
        except Corrupt as error:
            if len(window) == 1:
                return [error]
        return [data for at in range(len(window)) for data in self._read(window.slice(at, 1))]

    def _read_all(self, window: pa.Table) -> list[bytes]:
        extents = extents_of(window)
        names = window["path"]
        check_bounds(extents, lambda at: str(names[at].as_py()), self._state)
        order, reads = plan_reads(extents)
        places = order.tolist()
        results = [b""] * len(window)
        columns = (reads.pack, reads.offset, reads.length, reads.start, reads.end)
        for pack, base, total, start, end in zip(*columns, strict=True):
            path = layout.pack_path(extents.packs[pack])
            data = self._files.read(path, _reading(base, total))
            for at in places[start:end]:
                begin = int(extents.offset[at]) - base
                stored = data[begin : begin + int(extents.length[at])]
                _verify(stored, extents, at, str(names[at].as_py()))
                results[at] = stored
        return results

    def _stream(self, writer: PackWriter, window: pa.Table) -> int:
        """Copy one big raw payload piece by piece and return its new offset, -1 if it is damaged.

        Damage may show only at the end; the bytes written by then are dead ones of the new pack.
        """
        row = rows_from_table(window)[0]
        try:
            check_bounds(extents_of(window), lambda _: row.path, self._state)
        except Corrupt as error:
            self._note(window, error)
            return -1
        checksum = 0

        def pieces() -> Iterator[bytes]:
            nonlocal checksum
            for data in self._pieces(row):
                checksum = crc32c(data, checksum)
                yield data

        offset = writer.add_payload(pieces(), row.length)
        if checksum != row.crc32c or row.length != row.size:
            expected = f"{row.size} bytes with checksum {row.crc32c:08x}"
            found = f"{row.length} bytes with checksum {checksum:08x}"
            self._note(window, Corrupt(row.path, expected=expected, found=found))
            return -1
        self.copied_bytes += row.length
        self.copied_payloads += 1
        return offset

    def _pieces(self, row: Row) -> Iterator[bytes]:
        path = layout.pack_path(row.pack)
        for at in range(0, row.length, WINDOW_BYTES):
            length = min(WINDOW_BYTES, row.length - at)
            self._throttle.take(length)
            if self._backoff is not None:
                self._backoff.rest()
            yield self._files.read(path, _reading(row.offset + at, length))


def _reading(offset: int, length: int) -> Callable[[ReadableFile], bytes]:
    return lambda file: file.read_at(offset, length)


def _verify(stored: bytes, extents: Extents, at: int, name: str) -> None:
    codec, checksum = int(extents.codec[at]), int(extents.crc32c[at])
    if codec or crc32c(stored) != checksum:
        payload.decode(stored, int(extents.size[at]), codec, checksum, name)


def _windows(table: pa.Table) -> Iterator[tuple[int, int]]:
    """Cut rows into windows of bounded size; a payload that is streamed is one alone."""
    ends = np.cumsum(np.asarray(table["length"]).astype(np.int64))
    alone = np.flatnonzero(_streamed(table))
    start = 0
    while start < len(table):
        base = int(ends[start - 1]) if start else 0
        end = max(int(np.searchsorted(ends, base + WINDOW_BYTES, "right")), start + 1)
        next_alone = int(np.searchsorted(alone, start))
        if next_alone < len(alone):
            end = min(end, max(int(alone[next_alone]), start + 1))
        end = min(end, start + WINDOW_FILES)
        yield start, end
        start = end


def _streamed(table: pa.Table) -> np.ndarray:
    raw = np.asarray(table["codec"]) == Codec.NONE
    streamed: np.ndarray = raw & (np.asarray(table["length"]) > STREAM_BYTES)
    return streamed


def _is_streamed(window: pa.Table) -> bool:
    return len(window) == 1 and bool(_streamed(window)[0])
