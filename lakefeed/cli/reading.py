"""Commands that bring bytes out of the lake: cat, get.

Every byte is verified. Small files are read whole and in groups; a big one is streamed in parts
with its checksum computed along the way, and compared before a local file gets its name. `get`
writes beside the target and renames, so an interrupted or failed one leaves what was there.
Symbolic links are made last and never written through. Trees for other programs are `export`'s.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO

import typer

from lakefeed.cli.common import (
    AtOption,
    JsonOption,
    PathArgument,
    QuietOption,
    ViewArgument,
    complete_path,
    exit_codes,
    number_of,
    open_view,
)
from lakefeed.cli.output import Meter, metering, print_json, print_line, shown
from lakefeed.cli.units import human_size
from lakefeed.errors import EXIT_CORRUPT, EXIT_NOT_FOUND, Corrupt, Invalid

if TYPE_CHECKING:
    import pyarrow as pa

    from lakefeed.format.rows import Row
    from lakefeed.lake.view import View

commands = typer.Typer()

# Files are read in groups of about this much, and bigger ones streamed in parts of it.
GROUP_BYTES = 32 << 20
GROUP_FILES = 2000


# -- bytes -----------------------------------------------------------------------------------------


def stream(snapshot: View, row: Row) -> Iterator[bytes]:
    """Yield a file's bytes in parts; Corrupt after the last one when the checksum disagrees."""
    from crc32c import crc32c

    from lakefeed.format.rows import Codec

    if row.size <= GROUP_BYTES or row.codec is not Codec.NONE:
        yield snapshot.read_row(row)
        return
    found = 0
    for offset in range(0, row.size, GROUP_BYTES):
        part = snapshot.read_row_range(row, offset, GROUP_BYTES)
        found = crc32c(part, found)
        yield part
    if found != row.crc32c:
        raise Corrupt(f"{row.path!r}", expected=f"checksum {row.crc32c:08x}", found=f"{found:08x}")


def _file_row(snapshot: View, path: str) -> Row:
    from lakefeed.format.rows import Kind

    row = snapshot.stat(path)
    if row.kind is Kind.DIR:
        raise Invalid(f"{path!r}", expected="a file", found="a directory", hint="see get -r")
    return row


def _copy(snapshot: View, row: Row, target: BinaryIO) -> None:
    for part in stream(snapshot, row):
        target.write(part)


@commands.command("cat", epilog=exit_codes(EXIT_NOT_FOUND, EXIT_CORRUPT))
def cat(
    lake: ViewArgument,
    paths: Annotated[
        list[str],
        typer.Argument(metavar="PATH", help="Files in the lake.", autocompletion=complete_path),
    ],
    at: AtOption = None,
) -> None:
    """Write the bytes of files to stdout, one after the other.

    A big file is verified as it goes: exit code 5 says that what was written is not right.

    \b
    lakefeed cat /mnt/lake labels.csv | head
    """
    with open_view(lake, at) as snapshot:
        for row in [_file_row(snapshot, path) for path in paths]:
            _copy(snapshot, row, sys.stdout.buffer)
        sys.stdout.buffer.flush()


# -- files -----------------------------------------------------------------------------------------


@dataclass(slots=True)
class Fetch:
    """Where the files below `directory` go, how many did, and the links still to be made."""

    snapshot: View
    directory: str
    target: Path
    meter: Meter
    links: list[tuple[Path, Row]] = field(default_factory=list)

    def place(self, path: str) -> Path:
        """Return the local name of a path, never outside the target."""
        from lakefeed.format.paths import check_path

        return self.target / check_path(path)[len(self.directory) :].lstrip("/")


@commands.command("get", epilog=exit_codes(EXIT_NOT_FOUND, EXIT_CORRUPT))
def get(
    lake: ViewArgument,
    path: PathArgument,
    target: Annotated[
        str,
        typer.Argument(
            metavar="TARGET",
            help="Local file or directory; '-' is stdout. Default: the same name here.",
            show_default=False,
        ),
    ] = "",
    recursive: Annotated[
        bool, typer.Option("--recursive", "-r", help="Bring a directory and all below it.")
    ] = False,
    at: AtOption = None,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Copy a file out of the lake, or with -r a directory; mode and time are kept.

    A local file of that name is replaced, and only once all bytes are there and verified.

    JSON keys: snapshot, path, target, files, size.

    \b
    lakefeed get /mnt/lake train/cat/1.jpg cat.jpg
    lakefeed get -r /mnt/lake train /tmp/train --at v1
    """
    with open_view(lake, at) as snapshot:
        if target == "-":
            _copy(snapshot, _file_row(snapshot, path), sys.stdout.buffer)
            sys.stdout.buffer.flush()
            return
        with metering("get", quiet=quiet) as meter:
            place = _get(Fetch(snapshot, path.rstrip("/"), Path(target), meter), target, recursive)
    if as_json:
        facts = {"target": str(place), "files": meter.files, "size": meter.bytes}
        print_json({"snapshot": number_of(snapshot), "path": path, **facts})
    elif recursive:
        print_line(f"{meter.summary()} to {place}")
    else:
        print_line(f"{shown(path)} ({human_size(meter.bytes)}) to {place}")


def _get(fetch: Fetch, target: str, recursive: bool) -> Path:
    """Fetch what was asked for and return where it went."""
    from lakefeed.format.rows import Kind

    directory = fetch.directory
    name = directory.rpartition("/")[2]
    if not recursive or fetch.snapshot.stat(directory).kind is not Kind.DIR:
        row = _file_row(fetch.snapshot, directory)
        if not target or fetch.target.is_dir():
            fetch.target = fetch.target / name
        _write_one(fetch, fetch.target, row)
    else:
        fetch.target = fetch.target if target else Path(name or ".")
        fetch.target.mkdir(parents=True, exist_ok=True)
        for table in fetch.snapshot.scan(directory):
            _fetch_table(fetch, table)
    for place, row in fetch.links:
        _link(place, fetch.snapshot.read_row(row))
        fetch.meter.add()
    return fetch.target


def _fetch_table(fetch: Fetch, table: pa.Table) -> None:
    """Fetch a table's rows: groups of small files in few reads, big ones one by one."""
    from lakefeed.format.rows import Kind, rows_from_table

    group: list[Row] = []
    held_bytes = 0
    for row in rows_from_table(table):
        if row.kind is Kind.DIR:
            fetch.place(row.path).mkdir(parents=True, exist_ok=True)
        elif row.kind is Kind.SYMLINK or row.size > GROUP_BYTES:
            _write_one(fetch, fetch.place(row.path), row)
        else:
            group.append(row)
            held_bytes += row.size
        if len(group) >= GROUP_FILES or held_bytes >= GROUP_BYTES:
            _write_group(fetch, group)
            group, held_bytes = [], 0
    _write_group(fetch, group)


def _write_group(fetch: Fetch, group: list[Row]) -> None:
    from lakefeed.format.rows import table_from_rows

    if not group:
        return
    for row, data in zip(group, fetch.snapshot.read_rows(table_from_rows(group)), strict=True):
        with _replacing(fetch.place(row.path), row) as file:
            file.write(data)
        fetch.meter.add(size_bytes=row.size)


def _write_one(fetch: Fetch, place: Path, row: Row) -> None:
    from lakefeed.format.rows import Kind

    if row.kind is Kind.SYMLINK:
        fetch.links.append((place, row))
        return
    with _replacing(place, row) as file:
        _copy(fetch.snapshot, row, file)
    fetch.meter.add(size_bytes=row.size)


@contextmanager
def _replacing(place: Path, row: Row) -> Iterator[BinaryIO]:
    """Give a new local file that gets its name, mode and time when the block ends well."""
    place.parent.mkdir(parents=True, exist_ok=True)
    handle, tmp = tempfile.mkstemp(prefix=".lakefeed-", dir=place.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            os.fchmod(file.fileno(), row.mode & 0o777)
        os.utime(tmp, ns=(row.mtime_ns, row.mtime_ns))
        os.replace(tmp, place)
    except BaseException:
        os.unlink(tmp)
        raise


def _link(place: Path, target: bytes) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    if place.is_symlink() or place.is_file():
        place.unlink()
    os.symlink(os.fsdecode(target), place)
