"""Commands that bring bytes out of the lake: cat, get.

Every byte is verified. Small files are read whole and in groups; a big one comes in pieces, and its
checksum is compared before a local file gets its name. `get` writes as `export` does
(`transfer/directory.py`): beside the target and renamed, so an interrupted or failed one leaves
what was there, and never through symbolic links below the target.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
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
from lakefeed.errors import EXIT_CORRUPT, EXIT_NOT_FOUND, Corrupt, Invalid, VolumeFailed

if TYPE_CHECKING:
    import pyarrow as pa

    from lakefeed.format.rows import Row
    from lakefeed.lake.view import View
    from lakefeed.transfer.directory import DirectoryTarget

commands = typer.Typer()

# Files are read in groups of about this much, bigger ones by themselves.
GROUP_BYTES = 32 << 20
GROUP_FILES = 2000


# -- bytes -----------------------------------------------------------------------------------------


def _file_row(snapshot: View, path: str, hint: str = "see get -r") -> Row:
    from lakefeed.format.rows import Kind

    row = snapshot.stat(path)
    if row.kind is Kind.DIR:
        raise Invalid(f"{path!r}", expected="a file", found="a directory", hint=hint)
    return row


def _pieces(snapshot: View, row: Row) -> Iterable[bytes]:
    """Return a file's bytes, verified before anything of them is seen unless the file is big."""
    from lakefeed.lake.view import pieces_of

    return pieces_of(snapshot, row) if row.size > GROUP_BYTES else (snapshot.read_row(row),)


def _copy(snapshot: View, row: Row, target: BinaryIO) -> None:
    for piece in _pieces(snapshot, row):
        target.write(piece)


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
    Of a symbolic link, which no lake follows, the text is written that it holds.

    \b
    lakefeed cat /mnt/lake labels.csv | head
    """
    with open_view(lake, at) as snapshot:
        for row in [_file_row(snapshot, path) for path in paths]:
            _copy(snapshot, row, sys.stdout.buffer)
        sys.stdout.buffer.flush()


# -- files -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Fetch:
    """Files on their way to a local directory, written there by `target`."""

    snapshot: View
    where: Path
    target: DirectoryTarget
    meter: Meter

    def store(self, row: Row, name: str, pieces: Iterable[bytes]) -> None:
        """Write one file, link or directory under a name below the directory."""
        from lakefeed.format.rows import Kind
        from lakefeed.transfer.exporting import Refused

        try:
            self.target.put(row._replace(mode=row.mode & 0o777), name, pieces)
        except Refused as error:
            if isinstance(error.__cause__, Corrupt):
                raise error.__cause__ from None
            hint = "check the path and its permissions"
            raise VolumeFailed(f"write {self.where / name}", found=error, hint=hint) from error
        if row.kind is not Kind.DIR:
            self.meter.add(size_bytes=row.size if row.kind is Kind.FILE else 0)


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
    from lakefeed.transfer.exporting import check_target

    with open_view(lake, at) as snapshot:
        if target == "-":
            hint = "name a local directory, or write an archive with lakefeed export --prefix"
            _copy(snapshot, _file_row(snapshot, path, hint), sys.stdout.buffer)
            sys.stdout.buffer.flush()
            return
        wanted = path.rstrip("/")
        check_target(target or wanted.rpartition("/")[2], lake, snapshot, wanted)
        with metering("get", quiet=quiet) as meter:
            place = _get(snapshot, wanted, target, recursive, meter)
    if as_json:
        facts = {"target": str(place), "files": meter.files, "size": meter.bytes}
        print_json({"snapshot": number_of(snapshot), "path": path, **facts})
    elif recursive:
        print_line(f"{meter.summary()} to {place}")
    else:
        print_line(f"{shown(path)} ({human_size(meter.bytes)}) to {place}")


def _get(snapshot: View, path: str, target: str, recursive: bool, meter: Meter) -> Path:
    """Fetch what was asked for and return where it went."""
    from lakefeed.format.rows import Kind
    from lakefeed.transfer.directory import DirectoryTarget
    from lakefeed.transfer.exporting import check_place

    name = path.rpartition("/")[2]
    place = Path(target or name)
    top = snapshot.stat(path) if recursive else None
    is_tree = top is not None and top.kind is Kind.DIR
    row = None if is_tree else _file_row(snapshot, path)
    if row is not None and target and place.is_dir():
        place /= name
    if row is not None:
        check_place(place)
    where = place if row is None else place.parent
    is_new = row is None and not where.exists()
    # A private directory is private from the beginning.
    where.mkdir(_usable(top.mode) if top and top.pack and is_new else 0o777, True, True)
    fetch = Fetch(snapshot, where, DirectoryTarget(where.resolve()), meter)
    try:
        if row is not None:
            fetch.store(row, place.name, _pieces(snapshot, row))
        else:
            for table in snapshot.scan(path):
                _fetch_table(fetch, table, len(path))
            _dress_directories(fetch, path, is_new)
    finally:
        fetch.target.abandon()
    return place


def _fetch_table(fetch: Fetch, table: pa.Table, cut: int) -> None:
    """Fetch a table's rows, `cut` characters left out of their paths.

    Groups of small files come in few reads, big ones one by one.
    """
    from lakefeed.format.paths import check_path
    from lakefeed.format.rows import Kind, rows_from_table

    group: list[tuple[Row, str]] = []
    held_bytes = 0
    for row in rows_from_table(table):
        name = check_path(row.path)[cut:].lstrip("/")
        if row.kind is Kind.DIR:
            fetch.store(row, name, ())
        elif row.size > GROUP_BYTES:
            fetch.store(row, name, _pieces(fetch.snapshot, row))
        else:
            group.append((row, name))
            held_bytes += row.size
        if len(group) >= GROUP_FILES or held_bytes >= GROUP_BYTES:
            _fetch_group(fetch, group)
            group, held_bytes = [], 0
    _fetch_group(fetch, group)


def _usable(mode: int) -> int:
    """Return the mode of a tree's own directory: what it holds can be brought once more."""
    return mode & 0o777 | 0o700


def _dress_directories(fetch: Fetch, path: str, is_new: bool) -> None:
    """Give a directory, unless it was there before, and those below it the modes and times that
    they have in the lake."""
    import pyarrow.compute as pc

    from lakefeed.format.rows import Kind, rows_from_table

    def directories() -> Iterator[tuple[Row, str]]:
        for table in fetch.snapshot.scan(path):
            for row in rows_from_table(table.filter(pc.equal(table["kind"], int(Kind.DIR)))):
                if row.path != path:
                    yield row._replace(mode=row.mode & 0o777), row.path[len(path) :].lstrip("/")
                elif is_new:
                    yield row._replace(mode=_usable(row.mode)), ""

    def refuse(row: Row, reason: str) -> None:
        raise VolumeFailed(f"directory {row.path!r} below {fetch.where}", found=reason,
                           hint="check its permissions")  # fmt: skip

    fetch.target.finish(directories, refuse)


def _fetch_group(fetch: Fetch, group: list[tuple[Row, str]]) -> None:
    from lakefeed.format.rows import table_from_rows

    if group:
        datas = fetch.snapshot.read_rows(table_from_rows([row for row, _ in group]))
        for (row, name), data in zip(group, datas, strict=True):
            fetch.store(row, name, [data])
