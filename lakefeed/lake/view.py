"""What can be read like a snapshot: one lake's, or that of several lakes under one roof; and how a
file of any size is read out of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Protocol, TypeVar

import pyarrow as pa

from lakefeed.errors import Corrupt
from lakefeed.format.checksum import crc32c
from lakefeed.format.rows import COLUMNS, Row
from lakefeed.lake.query import Query
from lakefeed.lake.reader import Extents
from lakefeed.volume.base import ReadableFile

if TYPE_CHECKING:
    import builtins

# Held of a big file at a time.
PIECE_BYTES = 8 << 20

_Result = TypeVar("_Result")


class View(Protocol):
    """An immutable view of paths, rows and bytes. What each does, `Snapshot` says."""

    @property
    def name(self) -> str:
        """Where it is."""

    @property
    def number(self) -> int:
        """Which one it is, among those of the same name."""

    def locate(self, paths: Sequence[str] | pa.Array, columns: Sequence[str] = COLUMNS) -> pa.Table:
        """Return one row for each path in the order asked; all nulls where there is none."""

    def stat(self, path: str) -> Row:
        """Return a path's row."""

    def exists(self, path: str) -> bool:
        """Tell whether a path is there."""

    def ls(self, directory: str = "") -> builtins.list[Row]:
        """Return the rows directly below a directory."""

    def children(self, directory: str = "") -> Iterator[Row]:
        """Return what `ls` does, each row made as it is taken."""

    def scan(self, prefix: str = "") -> Iterator[pa.Table]:
        """Yield all rows in and below a prefix, sorted."""

    def find(self, query: Query | str = "") -> Iterator[pa.Table]:
        """Yield the rows that a query selects, sorted."""

    def get(self, path: str) -> bytes:
        """Return a file's verified bytes."""

    def get_many(self, paths: Sequence[str]) -> builtins.list[bytes]:
        """Return the verified bytes of many files in the order asked."""

    def read_rows(self, table: pa.Table) -> builtins.list[bytes]:
        """Return the verified bytes of rows that came from this view."""

    def read_row(self, row: Row) -> bytes:
        """Return the verified bytes of one row."""

    def read_row_range(self, row: Row, offset: int, length: int) -> bytes:
        """Return part of a row's file."""

    def check_extents(self, extents: Extents, name: Callable[[int], str]) -> None:
        """Raise Corrupt unless each extent lies among the payloads of its pack."""

    def read_pack(self, pack: str, action: Callable[[ReadableFile], _Result]) -> _Result:
        """Return what `action` reads from a pack."""

    def has_open(self, pack: str) -> bool:
        """Tell whether `read_pack` would not have to open the pack."""

    def use_pack(self, pack: str) -> AbstractContextManager[ReadableFile]:
        """Lend a pack's open file for the time of a block."""


def pieces_of(view: View, row: Row) -> Iterator[bytes]:
    """Yield a file's bytes, those of a big one in pieces of bounded size.

    Pieces have no checksums of their own: Corrupt comes after the last one, where all of them
    together are not what was written. Whoever has stored them by then has to undo it.
    """
    if row.length != row.size:
        yield view.read_row(row)  # a compressed payload can only be read whole
        return
    checksum = 0
    for start in range(0, row.size, PIECE_BYTES):
        piece = view.read_row_range(row, start, PIECE_BYTES)
        checksum = crc32c(piece, checksum)
        yield piece
    if checksum != row.crc32c:
        raise Corrupt(
            f"{row.path!r}",
            expected=f"checksum {row.crc32c:08x}",
            found=f"{checksum:08x}",
            hint='run "lakefeed fsck --deep" to find every damaged file',
        )
