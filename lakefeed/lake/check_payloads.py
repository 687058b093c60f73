"""Are the bytes of every live file what was written?

Live rows are read in pieces of bounded size, a few at a time, and each payload's checksum is
compared (I7). A piece that holds a damaged payload is read again file by file, so every damaged
file is named. Payloads too big for a piece are streamed through the checksum. Memory stays below
`PIECE_BYTES` times the number of threads, whatever the lake holds.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import partial

import numpy as np
import pyarrow as pa

from lakefeed.errors import Corrupt, NotFound
from lakefeed.format.checksum import crc32c
from lakefeed.format.commit import State
from lakefeed.format.rows import Codec, Kind, Row, rows_from_table
from lakefeed.lake import layout
from lakefeed.lake.files import OpenFiles
from lakefeed.lake.findings import Collector, Progress
from lakefeed.lake.reader import Reader, extents_of
from lakefeed.lake.throttle import SharedThrottle

PIECE_BYTES = 16 << 20
PIECE_FILES = 8192
# Enough to overlap waiting for the volume with checksums; each reads with the reader's own pool.
THREADS = 4

_STREAM_BYTES = 4 << 20
# So often who runs the check is asked, however long a file takes.
_ASK_SECONDS = 1.0
_Damage = tuple[str, str, str]


class PayloadCheck:
    """Reads the payloads of one state's live rows, each piece once `throttle` lets it pass."""

    def __init__(
        self,
        files: OpenFiles,
        state: State,
        damaged: set[str],
        throttle: SharedThrottle | None = None,
    ) -> None:
        self._throttle = throttle or SharedThrottle(None)
        self._files = files
        self._reader = Reader(files)
        self._state = state
        self._damaged = damaged

    def run(self, tables: Iterator[pa.Table], found: Collector, progress: Progress) -> None:
        """Verify the payloads of the rows in `tables`; what is wrong goes to `found`.

        `progress` is called every second at least, and may raise to end it.
        """
        total = sum(info.sealed.payload_end for info in self._state.packs.values())
        done = 0
        waiting: deque[tuple[int, int, Future[list[_Damage]]]] = deque()

        def collect() -> None:
            nonlocal done
            count, size, future = waiting.popleft()
            while not wait((future,), _ASK_SECONDS).done:
                progress("payloads", done, max(total, done))
            for path, expected, what in future.result():
                found.add("payload", path, expected, what, "restore the file and put it again")
            found.count("payloads", count)
            found.count("payload_bytes", size)
            done += size
            progress("payloads", done, max(total, done))

        pool = ThreadPoolExecutor(THREADS, "lakefeed-check")
        try:
            for piece, size in self._pieces(tables):
                waiting.append((len(piece), size, pool.submit(self._verify, piece)))
                if len(waiting) > THREADS:
                    collect()
            while waiting:
                collect()
        except BaseException:
            self._throttle.end()
            raise
        finally:
            pool.shutdown(cancel_futures=True)
            self._reader.close()

    def _pieces(self, tables: Iterator[pa.Table]) -> Iterator[tuple[pa.Table, int]]:
        """Cut tables into pieces of at most `PIECE_BYTES` or one file, without lost packs."""
        for table in tables:
            table = table.filter(pa.array(self._readable(table)))
            lengths = np.maximum(np.asarray(table["length"]), np.asarray(table["size"]))
            ends = np.cumsum(lengths.astype(np.int64))
            start = 0
            while start < len(table):
                base = int(ends[start - 1]) if start else 0
                end = int(np.searchsorted(ends, base + PIECE_BYTES, "right"))
                end = min(max(end, start + 1), start + PIECE_FILES)
                yield table.slice(start, end - start), int(ends[end - 1]) - base
                start = end

    def _readable(self, table: pa.Table) -> np.ndarray:
        """Return which rows have bytes in a pack that is there; lost packs are findings already."""
        kinds = np.asarray(table["kind"])
        packs = table["pack"].unify_dictionaries().combine_chunks()
        names = packs.dictionary.to_pylist()
        sound = [name in self._state.packs and name not in self._damaged for name in names]
        readable: np.ndarray = (kinds != Kind.DIR) & np.array(sound, bool)[
            np.asarray(packs.indices)
        ]
        return readable

    def _verify(self, table: pa.Table) -> list[_Damage]:
        rows = rows_from_table(table) if len(table) == 1 else []
        if rows and rows[0].codec is Codec.NONE and rows[0].length > PIECE_BYTES:
            return self._attempt(rows[0].path, partial(self._stream, rows[0]))
        if not self._attempt("", partial(self._read, table)):
            return []
        damages = []
        for at, path in enumerate(table["path"].to_pylist()):
            damages += self._attempt(path, partial(self._read, table.slice(at, 1)))
        return damages

    def _read(self, table: pa.Table) -> None:
        self._throttle.take(int(np.asarray(table["length"]).astype(np.int64).sum()))
        names = table["path"].to_pylist()
        _, gone = self._reader.read(extents_of(table), names.__getitem__, self._state)
        if gone:
            raise NotFound(names[gone[0]], expected="its pack", found="none")

    def _stream(self, row: Row) -> None:
        checksum = 0
        with self._files.use(layout.pack_path(row.pack)) as file:
            for at in range(0, row.length, _STREAM_BYTES):
                length = min(_STREAM_BYTES, row.length - at)
                self._throttle.take(length)
                checksum = crc32c(file.read_at(row.offset + at, length), checksum)
        if checksum != row.crc32c or row.length != row.size:
            raise Corrupt(row.path, expected=f"checksum {row.crc32c:08x}", found=f"{checksum:08x}")

    def _attempt(self, path: str, read: Callable[[], None]) -> list[_Damage]:
        try:
            read()
        except (Corrupt, NotFound) as error:
            return [(path, str(error.expected), str(error.found))]
        return []
