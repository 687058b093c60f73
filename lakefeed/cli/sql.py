"""The sql command: questions about the catalogue of a snapshot, answered by DuckDB."""

from __future__ import annotations

import csv
import json
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from decimal import Decimal
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lakefeed.cli.common import (
    AtOption,
    JsonOption,
    LakeArgument,
    complain,
    exit_codes,
    open_lake,
    snapshot_of,
)
from lakefeed.cli.output import print_lines, print_table
from lakefeed.cli.units import iso_time
from lakefeed.errors import EXIT_CORRUPT, EXIT_NOT_FOUND, Invalid

if TYPE_CHECKING:
    import pyarrow as pa

commands = typer.Typer()

_encode_plain = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode

# A table is for reading by people; widths are only known once all rows are.
SHOWN_ROWS_MAX = 1000


@commands.command("sql", epilog=exit_codes(EXIT_NOT_FOUND, EXIT_CORRUPT))
def sql(
    lake: LakeArgument,
    query: Annotated[str, typer.Argument(metavar="QUERY", help="What to ask, in DuckDB's SQL.")],
    at: AtOption = None,
    as_json: JsonOption = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV with a header line.")] = False,
) -> None:
    """Ask the catalogue of a snapshot a question in SQL; needs the sql extra.

    Table files: path, kind, size, length, codec, crc32c, mtime, mtime_ns, mode, attrs, pack,
    offset, seq, dir, name, ext. Table snapshots: the log. Table packs: what the snapshot consists
    of. People see at most 1,000 rows; --json (one object per line) and --csv print all of them.

    JSON keys: the columns of the query.

    \b
    lakefeed sql /mnt/lake "select ext, count(*), sum(size) from files group by ext"
    lakefeed sql /mnt/lake "from files where size > 1e6 order by size desc" --at v1 --csv
    """
    from lakefeed.adapters.sql import connect

    if as_json and as_csv:
        raise Invalid("--json and --csv", expected="one of them")
    with open_lake(lake) as opened, connect(opened, snapshot_of(opened, at)) as connection:
        schema, batches = connection.stream(query)
        if as_json:
            _print_json(schema, batches)
        elif as_csv:
            _print_csv(schema, batches)
        else:
            _print_table(schema, batches)


def _print_json(schema: pa.Schema, batches: Iterator[pa.RecordBatch]) -> None:
    names = schema.names
    twice = next((name for at, name in enumerate(names) if name in names[:at]), None)
    if twice is not None:
        raise Invalid("--json", expected="columns of different names", found=f"{twice!r} twice",
                      hint="rename one: select path as other")  # fmt: skip
    for batch in batches:
        print_lines(_json_line(dict(zip(names, row, strict=True))) for row in _rows(batch, _values))


def _json_line(facts: dict[str, Any]) -> str:
    try:
        return _encode_plain(facts)
    except (TypeError, ValueError):
        return _json(facts)


def _json(value: Any) -> str:
    """Return JSON also of what the encoder refuses: decimals with all their digits, and null for
    NaN and the infinities, which JSON does not have."""
    if isinstance(value, dict):
        pairs = (f"{_encode_plain(name)}: {_json(part)}" for name, part in value.items())
        return "{" + ", ".join(pairs) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_json, value)) + "]"
    if isinstance(value, Decimal):
        return f"{value:f}"
    if isinstance(value, float) and not math.isfinite(value):
        return "null"
    return _encode_plain(value)


def _print_csv(schema: pa.Schema, batches: Iterator[pa.RecordBatch]) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(schema.names)
    for batch in batches:
        writer.writerows(_rows(batch, _cells))


def _cells(column: pa.Array) -> list[Any]:
    """Return values as tables and CSV show them: decimals in digits, what is nested as JSON."""
    import pyarrow as pa

    values = _values(column)
    plain = not (pa.types.is_decimal(column.type) or pa.types.is_nested(column.type))
    return values if plain else list(map(_cell, values))


def _cell(value: Any) -> Any:
    if isinstance(value, Decimal):
        return f"{value:f}"
    return _json(value) if isinstance(value, dict | list) else value


def _print_table(schema: pa.Schema, batches: Iterator[pa.RecordBatch]) -> None:
    rows: list[list[Any]] = []
    for batch in batches:
        rows += islice(_rows(batch, _cells), SHOWN_ROWS_MAX + 1 - len(rows))
        if len(rows) > SHOWN_ROWS_MAX:
            complain(f"only the first {SHOWN_ROWS_MAX:,} rows are shown; --csv prints all of them")
            break
    shown = [["" if cell is None else cell for cell in row] for row in rows[:SHOWN_ROWS_MAX]]
    print_table([_title(column) for column in schema], shown)


def _title(column: pa.Field) -> str:
    import pyarrow as pa

    kind = column.type
    number = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
    return f"{column.name}>" if number else str(column.name)


def _rows(batch: pa.RecordBatch, values: Callable[[pa.Array], list[Any]]) -> Iterator[list[Any]]:
    """Yield rows of values that JSON, or with `_cells` people, understand."""
    for row in zip(*map(values, batch.columns), strict=True):
        yield list(row)


def _values(column: pa.Array) -> list[Any]:
    import pyarrow as pa

    kind = column.type
    if pa.types.is_timestamp(kind):
        # datetime ends at microseconds, and would refuse what has more.
        unit_ns = {"s": 10**9, "ms": 10**6, "us": 1000, "ns": 1}[kind.unit]
        times = column.cast(pa.int64()).to_pylist()
        with _years():
            return [None if count is None else iso_time(count * unit_ns) for count in times]
    if pa.types.is_decimal(kind):
        numbers = column.to_pylist()
        return numbers if kind.scale else [None if n is None else int(n) for n in numbers]
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return [None if data is None else _blob(data) for data in column.to_pylist()]
    if pa.types.is_interval(kind):
        return [None if value is None else _interval(*value) for value in column.to_pylist()]
    if pa.types.is_map(kind) and kind.key_type == kind.item_type == pa.string():
        return [None if pairs is None else dict(pairs) for pairs in column.to_pylist()]
    if pa.types.is_nested(kind):
        return list(map(_value, column))
    plain = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)
    if plain or pa.types.is_string(kind):
        return list(column.to_pylist())
    with _years():
        return [None if value is None else str(value) for value in column.to_pylist()]


def _blob(data: bytes) -> str:
    """Return bytes as DuckDB writes them: what is no plain letter as \\x and two digits."""
    return "".join(chr(b) if 32 <= b < 127 and b not in b"\"'\\" else f"\\x{b:02X}" for b in data)


def _interval(months: int, days: int, nanoseconds: int) -> str:
    """Return an interval as DuckDB writes it: 1 year 2 months -3 days 04:05:06.5."""
    sign = -1 if months < 0 else 1
    counts = {"year": sign * (abs(months) // 12), "month": sign * (abs(months) % 12), "day": days}
    words = [f"{n} {unit}{'s' * (abs(n) != 1)}" for unit, n in counts.items() if n]
    if nanoseconds or not words:
        seconds, fraction = divmod(abs(nanoseconds), 10**9)
        clock = f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"
        digits = f".{fraction:09}".rstrip("0") if fraction else ""
        words.append(f"{'-' * (nanoseconds < 0)}{clock}{digits}")
    return " ".join(words)


@contextmanager
def _years() -> Iterator[None]:
    """Refuse times and dates that Python has not."""
    try:
        yield
    except (ValueError, OverflowError) as error:
        raise Invalid("a time in the answer", expected="one of the years 1 to 9999",
                      hint="ask for it as text: cast(… as varchar)") from error  # fmt: skip


def _value(scalar: pa.Scalar) -> Any:
    import pyarrow as pa

    kind = scalar.type
    if not scalar.is_valid:
        return None
    if pa.types.is_union(kind):
        return _value(scalar.value)
    if pa.types.is_struct(kind):
        return {name: _value(part) for name, part in scalar.items()}
    if pa.types.is_map(kind):
        pairs = scalar.values
        names = [str(_cell(key)) for key in _values(pairs.field(0))]
        return dict(zip(names, _values(pairs.field(1)), strict=True))
    if pa.types.is_nested(kind):
        return _values(scalar.values)
    return _values(pa.array([scalar]))[0]
