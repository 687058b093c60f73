"""Commands on the lake as a whole: create, log, tag, merge."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lakefeed.cli.common import (
    AtOption,
    JsonOption,
    LakeArgument,
    MessageOption,
    exit_codes,
    open_lake,
    snapshot_of,
    volume_at,
)
from lakefeed.cli.output import print_json, print_line, print_table
from lakefeed.cli.units import human_size, human_time, iso_time
from lakefeed.errors import EXIT_CONFLICT, EXIT_CORRUPT, EXIT_NOT_FOUND

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lakefeed.format.commit import Commit
    from lakefeed.lake.lake import Lake
    from lakefeed.lake.refs import Tag

commands = typer.Typer()


@commands.command("create", epilog=exit_codes(EXIT_CONFLICT))
def create(lake: LakeArgument, as_json: JsonOption = False) -> None:
    """Make an empty lake in a directory, which is made if it is missing.

    JSON keys: lake.

    \b
    lakefeed create /mnt/lake
    """
    from lakefeed.lake.lake import Lake

    with Lake.create(volume_at(lake)) as made:
        if as_json:
            print_json({"lake": made.name})
        else:
            print_line(f"created an empty lake in {made.name}")


# -- history ---------------------------------------------------------------------------------------


@commands.command("log", epilog=exit_codes(EXIT_NOT_FOUND, EXIT_CORRUPT))
def log(
    lake: LakeArgument,
    limit: Annotated[
        int | None,
        typer.Option("--limit", "-n", metavar="COUNT", min=0, help="Show at most so many."),
    ] = None,
    at: AtOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show the commits, newest first: number, time, operation, changes, author, message.

    JSON keys: snapshot, time, time_ns, operation, author, message, app, packs_added,
    packs_removed, segments_added, segments_removed, rows_added, tombstones_added, bytes_added,
    id, parent.

    \b
    lakefeed log /mnt/lake --limit 10
    """
    with open_lake(lake) as opened:
        for commit in islice(_history(opened, at), limit):
            if as_json:
                print_json(_commit_facts(commit))
            else:
                print_line(_commit_line(commit))


def _history(lake: Lake, at: str | None) -> Iterator[Commit]:
    return lake.history(snapshot_of(lake, at).number)


def _commit_facts(commit: Commit) -> dict[str, Any]:
    changes = commit.changes
    return {
        "snapshot": commit.number,
        "time": iso_time(commit.time_ns),
        "time_ns": commit.time_ns,
        "operation": commit.operation,
        "author": commit.author,
        "message": commit.message,
        "app": commit.app,
        "packs_added": len(changes.add_packs),
        "packs_removed": len(changes.remove_packs),
        "segments_added": len(changes.add_segments),
        "segments_removed": len(changes.remove_segments),
        "rows_added": sum(pack.rows for pack in changes.add_packs),
        "tombstones_added": sum(pack.tombstones for pack in changes.add_packs),
        "bytes_added": sum(pack.bytes for pack in changes.add_packs),
        "id": commit.id,
        "parent": commit.parent,
    }


def _commit_line(commit: Commit) -> str:
    changes = commit.changes
    gone = sum(pack.tombstones for pack in changes.add_packs)
    come = sum(pack.rows for pack in changes.add_packs) - gone
    parts = [
        f"+{come:,} files" if come else "",
        f"-{gone:,} files" if gone else "",
        human_size(sum(pack.payload_end - 4 for pack in changes.add_packs)) if come else "",
        f"-{len(changes.remove_packs)} packs" if changes.remove_packs else "",
        f"{len(changes.index_packs)} packs indexed" if changes.index_packs else "",
    ]
    what = " ".join(part for part in parts if part)
    message = f"  {' '.join(commit.message.split())}" if commit.message else ""
    line = f"{commit.number:>6}  {human_time(commit.time_ns)}  {commit.operation:<8} {what:<30}"
    return f"{line}  {commit.author}{message}"


# -- tags ------------------------------------------------------------------------------------------


@commands.command("tag", epilog=exit_codes(EXIT_NOT_FOUND, EXIT_CONFLICT))
def tag(
    lake: LakeArgument,
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME", help="Tag to create; without it, list them.", show_default=False
        ),
    ] = None,
    at: AtOption = None,
    move: Annotated[bool, typer.Option("--move", help="Point an existing tag elsewhere.")] = False,
    delete: Annotated[bool, typer.Option("--delete", "-d", help="Remove the tag.")] = False,
    message: MessageOption = None,
    as_json: JsonOption = False,
) -> None:
    """Name a snapshot, so that it is kept and --at finds it; or list the names.

    A damaged tag can be moved and deleted; what it named is null then.

    JSON keys: tag, snapshot, message.

    \b
    lakefeed tag /mnt/lake v1 --message "first complete set"
    lakefeed tag /mnt/lake v1 --at 12 --move
    lakefeed tag /mnt/lake
    """
    if name is None and (move or delete or at is not None or message is not None):
        raise typer.BadParameter("NAME is missing: which tag?")
    if delete and (move or at is not None or message is not None):
        raise typer.BadParameter("--delete goes with NAME alone")
    with open_lake(lake) as opened:
        if name is None:
            _print_tags(opened.refs.tags(), as_json=as_json)
        elif delete:
            _print_deleted(name, opened.refs.delete(name), as_json=as_json)
        else:
            number = snapshot_of(opened, at).number
            made = opened.tag(name, number, move=move, message=message)
            _print_tag("tagged", made, as_json=as_json)


def _tag_facts(tag: Tag) -> dict[str, Any]:
    return {"tag": tag.name, "snapshot": tag.snapshot, "message": tag.message}


def _print_tags(tags: list[Tag], *, as_json: bool) -> None:
    if as_json:
        for tag in tags:
            print_json(_tag_facts(tag))
    elif tags:
        rows = [(tag.name, tag.snapshot, tag.message or "") for tag in tags]
        print_table(["tag", "snapshot>", "message"], rows)


def _print_tag(verb: str, tag: Tag, *, as_json: bool) -> None:
    if as_json:
        print_json(_tag_facts(tag))
    else:
        print_line(f"{verb} {tag.name} at snapshot {tag.snapshot}")


def _print_deleted(name: str, tag: Tag | None, *, as_json: bool) -> None:
    if tag is not None:
        _print_tag("deleted tag", tag, as_json=as_json)
    elif as_json:
        print_json({"tag": name, "snapshot": None, "message": None})
    else:
        print_line(f"deleted tag {name}, which was damaged")


# -- the index -------------------------------------------------------------------------------------


@commands.command("merge", epilog=exit_codes(EXIT_NOT_FOUND, EXIT_CONFLICT, EXIT_CORRUPT))
def merge(
    lake: LakeArgument,
    everything: Annotated[
        bool, typer.Option("--all", help="Merge the whole index into one sorted run.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Merge the rows of new packs into the index, so that reading stays quick.

    Writers do this by themselves now and then; payloads are not touched.

    JSON keys: snapshot, changed, packs_merged, segments, rows, index_bytes.

    \b
    lakefeed merge /mnt/lake --all
    """
    with open_lake(lake) as opened:
        before = opened.snapshot().number
        after = opened.merge_index(everything=everything).state
        done = _merges(opened, before, after.number)
    facts = {
        "snapshot": after.number,
        "changed": bool(done),
        "packs_merged": sum(len(commit.changes.index_packs) for commit in done),
        "segments": len(after.segments),
        "rows": sum(segment.rows for segment in after.segments.values()),
        "index_bytes": sum(segment.bytes for segment in after.segments.values()),
    }
    if as_json:
        print_json(facts)
    elif not facts["changed"]:
        print_line("nothing to merge")
    else:
        size = human_size(float(facts["index_bytes"]))
        print_line(
            f"merged {facts['packs_merged']} packs in snapshot {facts['snapshot']}: the index has "
            f"{facts['rows']:,} rows in {facts['segments']} segments, {size}"
        )


def _merges(lake: Lake, before: int, after: int) -> list[Commit]:
    """Return this process's own merges among these commits: others may have been at work, too."""
    from lakefeed.lake.log import Draft

    own = Draft("merge")
    commits = map(lake.log.read, range(before + 1, after + 1))
    return [one for one in commits if (one.operation, one.author) == (own.operation, own.author)]
