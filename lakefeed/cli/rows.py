"""Rows as lines and as JSON: shared by every command that lists files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lakefeed.cli.output import encode_json, print_lines, shown
from lakefeed.cli.units import human_mode, human_time, iso_time

if TYPE_CHECKING:
    import pyarrow as pa

    from lakefeed.format.rows import Row


def row_facts(row: Row) -> dict[str, Any]:
    """Return a row for `--json`: the index's columns, and `mtime` for people.

    `pack` and `seq` are null for a directory that only exists because files lie below it.
    """
    return {
        "path": row.path,
        "kind": row.kind.name.lower(),
        "size": row.size,
        "length": row.length,
        "codec": row.codec.name.lower(),
        "crc32c": row.crc32c,
        "mtime": iso_time(row.mtime_ns),
        "mtime_ns": row.mtime_ns,
        "mode": row.mode,
        "attrs": row.attrs or {},
        "seq": row.seq or None,
        "pack": row.pack or None,
        "offset": row.offset,
    }


def long_line(row: Row, name: str) -> str:
    """Return mode, size, time and name, aligned as `ls -l` does."""
    mode = human_mode(row.kind.name.lower(), row.mode)
    return f"{mode} {row.size:>12} {human_time(row.mtime_ns)} {shown(name)}"


def print_rows(table: pa.Table, *, long: bool = False, as_json: bool = False) -> None:
    """Print a table's rows, full paths, one a line."""
    from lakefeed.format.rows import rows_from_table

    if as_json:
        print_lines(encode_json(row_facts(row)) for row in rows_from_table(table))
    elif long:
        print_lines(long_line(row, row.path) for row in rows_from_table(table))
    else:
        print_lines(map(shown, table["path"].to_pylist()))
