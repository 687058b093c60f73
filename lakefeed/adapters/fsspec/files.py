"""Open files: readers that keep the version they opened, writers that appear whole or not at all.

A reader holds the row it was opened with, so a later commit changes nothing under it. Files up to
4 MiB and compressed ones are read whole and verified, once; bigger ones are read ahead in blocks.

A writer gathers up to one block in memory and hands the file to a lake's writer when it is closed;
a bigger file streams into a pack of its own meanwhile. Nothing is visible before `close`, and
after it (or after the transaction) the file is durable. Leaving a `with` block by an exception, or
`discard`, leaves nothing behind. What text mode and compression lay over a writer does the same.
"""

from __future__ import annotations

import io
from types import TracebackType
from typing import IO, Any, Protocol, cast

from fsspec.spec import AbstractBufferedFile

from lakefeed.adapters.fsspec.entries import Info
from lakefeed.adapters.fsspec.writing import Sink, Upload
from lakefeed.format.rows import Row
from lakefeed.lake.snapshot import Snapshot, is_read_whole

READ_BLOCK_BYTES = 8 << 20
WRITE_BLOCK_BYTES = 8 << 20


class ReadFile(AbstractBufferedFile):  # type: ignore[misc, unused-ignore]
    """A file of one snapshot, open for reading."""

    DEFAULT_BLOCK_SIZE = READ_BLOCK_BYTES

    def __init__(self, fs: Any, info: Info, held: tuple[Snapshot, Row], **options: Any) -> None:
        self._snapshot, self._row = held
        self._shape = options
        self._data: bytes | None = None
        row = self._row
        self._whole = is_read_whole(row)
        if self._whole:
            options = {**options, "cache_type": "none", "cache_options": None}
        super().__init__(fs, info["name"], "rb", size=row.size, **options)
        self.details = info

    def _fetch_range(self, start: int, end: int) -> bytes:
        if not self._whole:
            return self._snapshot.read_row_range(self._row, start, end - start)
        if self._data is None:
            self._data = self._snapshot.read_row(self._row)
        return self._data[start:end]

    def __reduce__(self) -> tuple[Any, ...]:
        version = (self._snapshot.number, self._row.path, self._row.seq)
        return self.fs.reopen, (self.path, version, self.loc, self._shape)

    def close(self) -> None:
        """Let go of the bytes. Works twice."""
        super().close()
        self._data = None


class _Storing(Protocol):
    def close(self) -> None: ...

    def discard(self) -> None: ...


class Discarding:
    """A file whose `with` block, left by an exception, leaves nothing behind."""

    def __exit__(
        self: _Storing,
        kind: type[BaseException] | None = None,
        error: BaseException | None = None,
        trace: TracebackType | None = None,
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.discard()


class WriteFile(Discarding, AbstractBufferedFile):  # type: ignore[misc, unused-ignore]
    """A file being written; `sink` says into which commit."""

    DEFAULT_BLOCK_SIZE = WRITE_BLOCK_BYTES

    def __init__(self, fs: Any, path: str, mode: str, sink: Sink, **options: Any) -> None:
        self._sink = sink
        self._upload: Upload | None = None
        super().__init__(fs, path, mode, **options)

    def _upload_chunk(self, final: bool = False) -> bool:
        data = self.buffer.getvalue()
        if self._upload is None and final:
            self._sink.put(data)
            return True
        if self._upload is None:
            self._upload = self._sink.upload()
        if data:
            self._upload.write(data)
        if final:
            self._sink.finish(self._upload)
        return True

    def close(self) -> None:
        """Store the file; durable on return unless a transaction waits. Works twice."""
        if self.closed:
            return
        try:
            super().close()
        except BaseException:
            self.discard()
            raise

    def commit(self) -> None:
        """Store what a transaction deferred; the transaction itself commits the group."""
        self.close()
        self._sink.commit()

    def discard(self) -> None:
        """Leave nothing behind. Works twice."""
        self.closed = True
        if self._upload is not None:
            self._upload.abandon()
        self._sink.drop()


class PackedFile(Discarding, io.BufferedIOBase):
    """A file that `codec` compresses into another one; both are closed as one."""

    def __init__(self, codec: Any, file: WriteFile) -> None:
        self._codec = codec
        self._file = file

    @property
    def closed(self) -> bool:
        """Whether the file is stored or given up."""
        return bool(self._file.closed)

    def writable(self) -> bool:
        """It is for writing only."""
        return True

    def write(self, data: Any) -> int:
        """Compress bytes; return how many."""
        return int(self._codec.write(data))

    def flush(self) -> None:
        """Hand on what the codec holds."""
        self._codec.flush()

    def tell(self) -> int:
        """Return how many bytes came, before compression."""
        return int(self._codec.tell())

    def close(self) -> None:
        """Store the file as `WriteFile.close` does. Works twice."""
        if self.closed:
            return
        try:
            self._codec.close()
            self._file.close()
        except BaseException:
            self._file.discard()
            raise

    def commit(self) -> None:
        """Store it at the end of its transaction, whole even if nobody closed it."""
        self.close()
        self._file.commit()

    def discard(self) -> None:
        """Leave nothing behind. Works twice."""
        try:
            if not self.closed:
                self._codec.close()
        finally:
            self._file.discard()


class TextFile(Discarding, io.TextIOWrapper):
    """A file written as text."""

    def __init__(self, file: WriteFile | PackedFile, **options: Any) -> None:
        super().__init__(cast(IO[bytes], file), **options)
        self._file = file

    def close(self) -> None:
        """Store the file, with all that was written. Works twice."""
        if self.closed:
            return
        try:
            self.flush()
        except BaseException:
            self.discard()
            raise
        super().close()

    def commit(self) -> None:
        """Store it at the end of its transaction, whole even if nobody closed it."""
        self.close()
        self._file.commit()

    def discard(self) -> None:
        """Leave nothing behind. Works twice."""
        self._file.discard()
