"""The files that an archive export writes: one, several of a target size, or standard output.

An archive is written under a temporary name beside its place and renamed when it is complete and
durable, so a name never shows half an archive; what is no file is not replaced. `out.tar` in shards
is `out-000000.tar`, `out-000001.tar`, ...

What an export that was killed has left goes with the next one of that name, once it is old.

As one archive takes the place of another, so do all shards of a name: when the last new one is
complete, shards beyond it are removed. They are of an older export, and whoever reads `out-*.tar`
would take their files for this one's.
"""

from __future__ import annotations

import os
import re
import sys
import uuid
from collections.abc import Callable
from contextlib import suppress
from typing import BinaryIO

from lakefeed.errors import from_local_error
from lakefeed.transfer.exporting import check_place
from lakefeed.transfer.leftovers import remove_leftovers

STDOUT = "-"


class Shards:
    """Opens one output after the other. `shard_bytes` is None for a single one."""

    def __init__(self, where: str, shard_bytes: int | None = None) -> None:
        self._where = where
        self._shard_bytes = None if where == STDOUT else shard_bytes
        self._file: BinaryIO | None = None
        self._tmp = ""
        self._looked = False  # for what others have left
        self._abandoned = False
        self.written_bytes = 0
        self.names: list[str] = []

    def is_full(self) -> bool:
        """Tell whether the next group of files should go to a new shard."""
        return self._shard_bytes is not None and self.written_bytes >= self._shard_bytes

    def open(self) -> None:
        """Start the next output."""
        self.written_bytes = 0
        if self._where == STDOUT:
            self._file = sys.stdout.buffer
            return
        name = os.path.abspath(self._where)
        if self._shard_bytes is not None:
            stem, suffix = os.path.splitext(name)
            name = f"{stem}-{len(self.names):06d}{suffix}"
        check_place(name)
        self.names.append(name)
        tmp = f"{name}.{uuid.uuid4().hex}.tmp"
        self._guard(lambda: self._create(tmp))

    def _create(self, tmp: str) -> None:
        self._file = open(tmp, "xb", buffering=1 << 20)  # noqa: SIM115 - kept open
        self._tmp = tmp
        if not self._looked:
            self._looked = True
            self._remove_left(os.fstat(self._file.fileno()).st_ctime_ns)

    def write(self, data: bytes | memoryview) -> int:
        """Append bytes to the current output; after `abandon` they go nowhere."""
        file = self._file
        if not self._abandoned:
            assert file is not None, "open first"
            self._guard(lambda: file.write(data))
        self.written_bytes += len(data)
        return len(data)

    def close(self) -> None:
        """Complete the current output and give it its name."""
        file, self._file = self._file, None
        if file is None:
            return
        if self._where == STDOUT:
            self._guard(file.flush)
            return
        try:
            self._guard(lambda: _sync(file))
            self._guard(lambda: os.replace(self._tmp, self.names[-1]))
            self._tmp = ""
        finally:
            with suppress(OSError):  # what it may say, syncing has said
                file.close()

    def finish(self) -> tuple[str, ...]:
        """Return the names of all outputs, which are now the only shards of their name."""
        if self._shard_bytes is not None:
            self._guard(self._remove_older)
        return tuple(self.names)

    def _remove_older(self) -> None:
        directory, ours = os.path.dirname(os.path.abspath(self._where)), re.compile(self._pattern())
        for name in os.listdir(directory):
            found = ours.fullmatch(name)
            if found and int(found[1]) >= len(self.names):
                os.unlink(os.path.join(directory, name))

    def _remove_left(self, now_ns: int) -> None:
        unfinished = re.compile(self._pattern() + r"\.[0-9a-f]{32}\.tmp")
        with suppress(PermissionError):  # a directory that may be written to and not looked at
            directory = os.open(os.path.dirname(self._tmp), os.O_RDONLY | os.O_CLOEXEC)
            try:
                remove_leftovers(directory, unfinished, now_ns)
            finally:
                os.close(directory)

    def _pattern(self) -> str:
        """Return what all names of outputs match, those of shards with their number."""
        last = os.path.basename(os.path.abspath(self._where))
        if self._shard_bytes is None:
            return re.escape(last)
        stem, suffix = map(re.escape, os.path.splitext(last))
        return f"{stem}-([0-9]{{6}}|[1-9][0-9]{{6,}}){suffix}"

    def abandon(self) -> None:
        """Remove the incomplete output. Works after `close` too."""
        self._abandoned = True
        file, self._file = self._file, None
        if file is not None and self._where != STDOUT:
            with suppress(OSError):
                file.close()
        # Also where closing it, or giving it its name, has failed.
        tmp, self._tmp = self._tmp, ""
        if tmp:
            with suppress(FileNotFoundError):
                os.unlink(tmp)

    def _guard(self, action: Callable[[], object]) -> None:
        try:
            action()
        except BrokenPipeError:
            raise
        except OSError as error:
            raise from_local_error(
                error, f"write {self.names[-1] if self.names else STDOUT}"
            ) from error


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())
