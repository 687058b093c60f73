"""Commands that change what is there: rm, mv, cp, mkdir. Each is one commit, or none at all."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated

import typer

from lakefeed.cli.common import (
    DryRunOption,
    JsonOption,
    LakeArgument,
    MessageOption,
    complete_path,
    exit_codes,
    open_lake,
    open_snapshot,
)
from lakefeed.cli.output import print_json, print_line, shown
from lakefeed.cli.rows import print_rows
from lakefeed.errors import (
    EXIT_CONFLICT,
    EXIT_CORRUPT,
    EXIT_NOT_FOUND,
    Conflict,
    Invalid,
    NotFound,
)

if TYPE_CHECKING:
    import pyarrow as pa

    from lakefeed.format.rows import Kind
    from lakefeed.lake.lake import Lake
    from lakefeed.lake.snapshot import Snapshot
    from lakefeed.lake.writer import Writer

commands = typer.Typer()


SourceArgument = Annotated[
    str,
    typer.Argument(
        metavar="SOURCE", help="Path in the lake.", show_default=False, autocompletion=complete_path
    ),
]
TargetArgument = Annotated[
    str,
    typer.Argument(
        metavar="TARGET",
        help="New path; a directory (or a name ending in '/') takes the source's name.",
        show_default=False,
        autocompletion=complete_path,
    ),
]
PathsArgument = Annotated[
    list[str],
    typer.Argument(metavar="PATH", help="Paths in the lake.", autocompletion=complete_path),
]


@dataclass(slots=True)
class Change:
    """What one command changes; `snapshot` is the number of its commit once the block has ended."""

    lake: Lake
    writer: Writer
    snapshot: int = 0


@contextmanager
def one_commit(
    lake: str, operation: str, message: str | None, codec: str = "NONE"
) -> Iterator[Change]:
    """Give a writer that commits when the block ends well, all at once, and never before."""
    from lakefeed.format.rows import Codec
    from lakefeed.lake.batch import WHEN_TOLD

    options = replace(WHEN_TOLD, codec=Codec[codec])
    with (
        open_lake(lake) as opened,
        opened.writer(options, operation=operation, message=message) as writer,
    ):
        change = Change(opened, writer)
        yield change
        change.snapshot = writer.flush()


# -- removing --------------------------------------------------------------------------------------


@commands.command("rm", epilog=exit_codes(EXIT_NOT_FOUND, EXIT_CONFLICT, EXIT_CORRUPT))
def rm(
    lake: LakeArgument,
    paths: PathsArgument,
    recursive: Annotated[
        bool, typer.Option("--recursive", "-r", help="Remove directories with all below them.")
    ] = False,
    dry_run: DryRunOption = False,
    message: MessageOption = None,
    as_json: JsonOption = False,
) -> None:
    """Remove files from the newest snapshot, all in one commit.

    Older snapshots keep them, and their bytes stay until garbage collection.
    --dry-run prints the paths that would go.

    JSON keys: snapshot, removed; with --dry-run those of ls.

    \b
    lakefeed rm /mnt/lake train/cat/1.jpg
    lakefeed rm -r --dry-run /mnt/lake train/dog
    """
    if dry_run:
        with open_snapshot(lake, None) as snapshot:
            for name in _doomed(snapshot, paths, recursive):
                for table in _rows(snapshot, name, recursive):
                    print_rows(table, as_json=as_json)
        return
    with one_commit(lake, "rm", message) as change:
        snapshot = change.lake.snapshot()
        names = _doomed(snapshot, paths, recursive)
        count = sum(len(table) for name in names for table in _rows(snapshot, name, recursive))
        for name in names:
            remove = change.writer.delete_tree if recursive else change.writer.delete
            remove(name)
    if as_json:
        print_json({"snapshot": change.snapshot, "removed": count})
    else:
        print_line(f"removed {count:,} in snapshot {change.snapshot}")


def _doomed(snapshot: Snapshot, paths: list[str], recursive: bool) -> list[str]:
    """Return what to remove, nothing of it below another; refuse all of it where one cannot be."""
    from lakefeed.format.paths import parents

    names = [path.rstrip("/") for path in paths]
    gone: set[str] = set()
    for name in names:
        _check_doomed(snapshot, name, recursive)
        if not gone.isdisjoint([name, *parents(name)]):
            raise NotFound(f"{name!r} in the lake", found="one that is to be removed already",
                           hint="name each path once")  # fmt: skip
        gone.add(name)
    return [name for name in names if gone.isdisjoint(parents(name))]


def _rows(snapshot: Snapshot, name: str, recursive: bool) -> Iterable[pa.Table]:
    return snapshot.scan(name) if recursive else [snapshot.locate([name])]


def _check_doomed(snapshot: Snapshot, name: str, recursive: bool) -> None:
    from lakefeed.format.rows import Kind

    row = snapshot.stat(name)
    if not name:
        raise Invalid("the root of the lake", expected="a path below it",
                      hint="name what lies in it")  # fmt: skip
    if not recursive and row.kind is Kind.DIR and (not row.pack or snapshot.ls(name)):
        raise Invalid(
            f"{name!r}",
            expected="a file or an empty directory",
            found="a directory that holds files",
            hint="remove all of it with -r",
        )


# -- moving ----------------------------------------------------------------------------------------


@commands.command("mv", epilog=exit_codes(EXIT_NOT_FOUND, EXIT_CONFLICT, EXIT_CORRUPT))
def mv(
    lake: LakeArgument,
    source: SourceArgument,
    target: TargetArgument,
    message: MessageOption = None,
    as_json: JsonOption = False,
) -> None:
    """Rename a file, or a directory with all below it; no bytes move.

    A file at TARGET is replaced; a directory there takes the source in.

    JSON keys: snapshot, source, target.

    \b
    lakefeed mv /mnt/lake train/cta train/cat
    """
    with one_commit(lake, "mv", message) as change:
        source, place = _ends(change.writer, source, target)
        change.writer.rename(source, place)
    _print_moved("moved", change, source, place, as_json=as_json)


@commands.command("cp", epilog=exit_codes(EXIT_NOT_FOUND, EXIT_CONFLICT, EXIT_CORRUPT))
def cp(
    lake: LakeArgument,
    source: SourceArgument,
    target: TargetArgument,
    recursive: Annotated[
        bool, typer.Option("--recursive", "-r", help="Copy a directory with all below it.")
    ] = False,
    message: MessageOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show a file under a second path; no bytes move, and the two go their own ways afterwards.

    A file at TARGET is replaced; a directory there takes the source in.

    JSON keys: snapshot, source, target.

    \b
    lakefeed cp /mnt/lake train/cat/1.jpg probe.jpg
    lakefeed cp -r /mnt/lake train train-2026-01
    """
    with one_commit(lake, "cp", message) as change:
        source, place = _ends(change.writer, source, target)
        copy = change.writer.copy_tree if recursive else change.writer.copy
        copy(source, place)
    _print_moved("copied", change, source, place, as_json=as_json)


def _ends(writer: Writer, source: str, target: str) -> tuple[str, str]:
    """Return the path to take from and the path to make."""
    from lakefeed.format.rows import Kind

    source = source.rstrip("/")
    is_tree = writer.stat(source).kind is Kind.DIR
    return source, place_at(writer, source.rpartition("/")[2], target, is_tree=is_tree)


def place_at(writer: Writer, name: str, target: str, *, is_tree: bool = False) -> str:
    """Return the path that `name` gets at `target`: that path, or inside if it is a directory.

    Conflict where a file would bury a directory, or a tree a file.
    """
    from lakefeed.format.rows import Kind

    wanted = target.rstrip("/")
    if name and (wanted != target or not wanted or _kind(writer, wanted) is Kind.DIR):
        wanted = f"{wanted}/{name}" if wanted else name
    found = _kind(writer, wanted)
    if found is Kind.DIR or (found is not None and is_tree):
        raise Conflict(
            f"{wanted!r}",
            expected="nothing there" if is_tree else "no directory there",
            found="a directory" if found is Kind.DIR else "a file",
            hint="move it away, or choose another name",
        )
    return wanted


def _kind(writer: Writer, path: str) -> Kind | None:
    try:
        return writer.stat(path).kind
    except NotFound:
        return None


def _print_moved(verb: str, change: Change, source: str, place: str, *, as_json: bool) -> None:
    if as_json:
        print_json({"snapshot": change.snapshot, "source": source, "target": place})
    else:
        where = f"{shown(source)} to {shown(place)}"
        print_line(f"{verb} {where} in snapshot {change.snapshot}")


@commands.command("mkdir", epilog=exit_codes(EXIT_CONFLICT))
def mkdir(
    lake: LakeArgument,
    paths: PathsArgument,
    exist_ok: Annotated[
        bool, typer.Option("--parents", "-p", help="Accept directories that are there already.")
    ] = False,
    message: MessageOption = None,
    as_json: JsonOption = False,
) -> None:
    """Store empty directories, all in one commit; those above them need no storing.

    Files need no directory made for them: `put` suffices.

    JSON keys: snapshot, made.

    \b
    lakefeed mkdir /mnt/lake inbox/today
    """
    from lakefeed.format.rows import Kind

    made = []
    with one_commit(lake, "mkdir", message) as change:
        for path in (path.rstrip("/") for path in paths):
            found = _kind(change.writer, path)
            if found is Kind.DIR and exist_ok:
                continue
            if found is not None:
                raise Conflict(f"{path!r}", expected="nothing there", found=found.name.lower(),
                               hint="choose another name")  # fmt: skip
            change.writer.mkdir(path)
            made.append(path)
    if as_json:
        print_json({"snapshot": change.snapshot, "made": made})
    else:
        print_line(f"made {len(made):,} in snapshot {change.snapshot}")
