"""Commands that look: ls and stat. They print as they read, so memory stays flat."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from lakefeed.cli.common import (
    AtOption,
    JsonOption,
    LongOption,
    ViewArgument,
    complete_path,
    exit_codes,
    open_view,
)
from lakefeed.cli.output import print_facts, print_json, print_line, shown
from lakefeed.cli.rows import long_line, print_rows, row_facts
from lakefeed.cli.units import human_mode, human_size, human_time
from lakefeed.errors import EXIT_CORRUPT, EXIT_NOT_FOUND

if TYPE_CHECKING:
    from lakefeed.format.rows import Row
    from lakefeed.lake.view import View

commands = typer.Typer()


@commands.command("ls", epilog=exit_codes(EXIT_NOT_FOUND, EXIT_CORRUPT))
def ls(
    lake: ViewArgument,
    path: Annotated[
        str,
        typer.Argument(
            metavar="PATH",
            help="Directory or file in the lake.",
            show_default=False,
            autocompletion=complete_path,
        ),
    ] = "",
    long: LongOption = False,
    recursive: Annotated[
        bool,
        typer.Option("--recursive", "-R", help="List everything below, full paths, as stored."),
    ] = False,
    at: AtOption = None,
    as_json: JsonOption = False,
) -> None:
    """List a directory of the lake.

    Directories end in '/'. With -R, directories appear only where they were stored as such.

    JSON keys: path, kind, size, length, codec, crc32c, mtime, mtime_ns, mode, attrs, seq, pack,
    offset. They are the columns of the index; pack and seq are null for a directory that only
    exists because files lie below it.

    \b
    lakefeed ls -l /mnt/lake train
    lakefeed ls -R /mnt/lake --at v1
    """
    with open_view(lake, at) as snapshot:
        if recursive:
            found = False
            for table in snapshot.scan(path):
                found = found or len(table) > 0
                print_rows(table, long=long, as_json=as_json)
            if not found:
                snapshot.stat(path)
            return
        for row, name in _children(snapshot, path):
            if as_json:
                print_json(row_facts(row))
            elif long:
                print_line(long_line(row, name))
            else:
                print_line(shown(name))


def _children(snapshot: View, path: str) -> Iterator[tuple[Row, str]]:
    """Yield a directory's rows with the names to show, or a file's own row."""
    from lakefeed.errors import Invalid
    from lakefeed.format.rows import Kind

    try:
        rows = snapshot.children(path)
    except Invalid:
        if path.endswith("/"):
            raise
        yield snapshot.stat(path), path
        return
    for row in rows:
        yield row, row.path.rpartition("/")[2] + ("/" if row.kind is Kind.DIR else "")


@commands.command("stat", epilog=exit_codes(EXIT_NOT_FOUND, EXIT_CORRUPT))
def stat(
    lake: ViewArgument,
    paths: Annotated[
        list[str],
        typer.Argument(metavar="PATH", help="Files or directories.", autocompletion=complete_path),
    ],
    at: AtOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what the index knows of a path: size, time, checksum, pack and offset.

    JSON keys: those of ls.

    \b
    lakefeed stat /mnt/lake train/cat/1.jpg
    """
    with open_view(lake, at) as snapshot:
        rows = [snapshot.stat(path) for path in paths]
    for number, row in enumerate(rows):
        if as_json:
            print_json(row_facts(row))
            continue
        if number:
            print_line()
        print_facts(_facts(row))


def _facts(row: Row) -> list[tuple[str, object]]:
    kind = row.kind.name.lower()
    facts: list[tuple[str, object]] = [
        ("path", shown(row.path) or "/"),
        ("kind", kind),
        ("mode", f"{human_mode(kind, row.mode)} ({row.mode:04o})"),
        ("modified", human_time(row.mtime_ns)),
    ]
    if not row.pack:
        return [*facts, ("stored", "no; it exists because files lie below it")]
    stored = f"{row.length:,} bytes ({row.codec.name.lower()})"
    return [
        *facts,
        ("size", f"{row.size:,} bytes ({human_size(row.size)})"),
        ("stored", stored),
        ("crc32c", f"{row.crc32c:08x}"),
        ("pack", row.pack),
        ("offset", f"{row.offset:,}"),
        ("since", f"snapshot {row.seq}"),
        *((f"attr {name}", value) for name, value in sorted((row.attrs or {}).items())),
    ]
