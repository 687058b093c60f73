"""`lakefeed find`: the files of a snapshot that fulfil all conditions, printed as they come."""

from __future__ import annotations

import sys
from enum import Enum
from glob import escape
from typing import TYPE_CHECKING, Annotated

import typer

from lakefeed.cli.common import (
    AtOption,
    JsonOption,
    LongOption,
    ViewArgument,
    complete_path,
    exit_codes,
    number_of,
    open_view,
)
from lakefeed.cli.output import print_json, print_line
from lakefeed.cli.rows import print_rows
from lakefeed.cli.units import human_size, size_option, time_option
from lakefeed.errors import EXIT_CORRUPT

if TYPE_CHECKING:
    from lakefeed.lake.query import Query
    from lakefeed.lake.view import View

commands = typer.Typer()


class KindName(str, Enum):
    """What `find --type` accepts."""

    FILE = "file"
    DIR = "dir"
    SYMLINK = "symlink"


PrefixArgument = Annotated[
    str,
    typer.Argument(
        metavar="PREFIX",
        help="Look only below this directory.",
        show_default=False,
        autocompletion=complete_path,
    ),
]
GlobOption = Annotated[
    str | None,
    typer.Option(
        metavar="GLOB",
        help="Match the path below PREFIX: * and ? stay inside a name, ** crosses directories.",
    ),
]
NameOption = Annotated[
    str | None, typer.Option(metavar="GLOB", help="Match the last name of the path.")
]
TypeOption = Annotated[
    list[KindName] | None,
    typer.Option(
        "--type", metavar="KIND", help="file, dir or symlink; repeatable. Default: no dir."
    ),
]
MinSizeOption = Annotated[
    str | None, typer.Option(metavar="SIZE", help="At least this big: 4096, 64KiB, 1GB.")
]
MaxSizeOption = Annotated[str | None, typer.Option(metavar="SIZE", help="At most this big.")]
NewerOption = Annotated[
    str | None, typer.Option(metavar="TIME", help="Modified after a time, or in the last '7d'.")
]
OlderOption = Annotated[
    str | None,
    typer.Option(metavar="TIME", help="Modified before a time, or not in the last '7d'."),
]
Print0Option = Annotated[
    bool, typer.Option("--print0", "-0", help="End paths with NUL, for xargs -0.")
]
CountOption = Annotated[
    bool, typer.Option("--count", help="Print only how many there are, and their bytes.")
]


@commands.command("find", epilog=exit_codes(EXIT_CORRUPT))
def find(
    lake: ViewArgument,
    prefix: PrefixArgument = "",
    glob: GlobOption = None,
    name: NameOption = None,
    kind: TypeOption = None,
    min_size: MinSizeOption = None,
    max_size: MaxSizeOption = None,
    newer: NewerOption = None,
    older: OlderOption = None,
    long: LongOption = False,
    print0: Print0Option = False,
    count: CountOption = False,
    at: AtOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print the paths of files that fulfil all conditions, sorted; none is no error.

    Sizes and times are the files' own; --newer and --older with a duration count back from now.

    JSON keys: those of ls; with --count: snapshot, files, size.

    \b
    lakefeed find /mnt/lake train --name '*.jpg' --min-size 1MiB
    lakefeed find /mnt/lake --glob 'train/*/*.png' --newer 7d --json
    """
    _refuse_together(("--glob", glob), ("--name", name))
    _refuse_together(("--print0", print0), ("--long", long), ("--count", count))
    _refuse_together(("--print0", print0), ("--long", long), ("--json", as_json))
    from lakefeed.format.rows import Kind
    from lakefeed.lake.query import Query

    query = Query(
        prefix=prefix.rstrip("/"),
        glob=_whole_glob(prefix, glob, name),
        kinds=frozenset(Kind[k.name] for k in kind) if kind else Query().kinds,
        size_min=None if min_size is None else size_option(min_size),
        size_max=None if max_size is None else size_option(max_size),
        newer_than_ns=None if newer is None else time_option(newer),
        older_than_ns=None if older is None else time_option(older),
    )
    with open_view(lake, at) as snapshot:
        if count:
            _print_count(snapshot, query, as_json=as_json)
            return
        for table in snapshot.find(query):
            if print0:
                sys.stdout.write("".join(f"{path}\0" for path in table["path"].to_pylist()))
            else:
                print_rows(table, long=long, as_json=as_json)


def _refuse_together(*options: tuple[str, object]) -> None:
    """Raise a usage error when more than one of the options was given."""
    given = [flag for flag, value in options if value]
    if len(given) > 1:
        raise typer.BadParameter(f"{' and '.join(given)} exclude each other")


def _whole_glob(prefix: str, glob: str | None, name: str | None) -> str | None:
    """Return the pattern for whole paths: what people give is relative to the prefix."""
    if name is not None:
        if "/" in name:
            raise typer.BadParameter("--name is one name without '/'; use --glob for a path")
        glob = f"**/{name}"
    if glob is None or not prefix.rstrip("/"):
        return glob
    return f"{escape(prefix.rstrip('/'))}/{glob}"


def _print_count(snapshot: View, query: Query, *, as_json: bool) -> None:
    import pyarrow.compute as pc

    files = size = 0
    for table in snapshot.find(query):
        files += len(table)
        size += pc.sum(table["size"]).as_py() or 0
    if as_json:
        print_json({"snapshot": number_of(snapshot), "files": files, "size": size})
    else:
        print_line(f"{files:,} files, {human_size(size)}")
