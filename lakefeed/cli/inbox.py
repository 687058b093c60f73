"""The command that takes an inbox in once: inbox."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lakefeed.cli.common import (
    DryRunOption,
    JsonOption,
    LakeArgument,
    QuietOption,
    exit_codes,
    open_lake,
    settings,
)
from lakefeed.cli.output import metering, print_json, print_line, shown
from lakefeed.cli.units import human_count, human_size
from lakefeed.errors import EXIT_CONFLICT, EXIT_NOT_FOUND, NotFound

if TYPE_CHECKING:
    from lakefeed.lake.lake import Lake
    from lakefeed.lake.snapshot import Snapshot
    from lakefeed.service.options import InboxOptions
    from lakefeed.service.waiting import Bad, Candidate

commands = typer.Typer()


@commands.command("inbox", epilog=exit_codes(EXIT_NOT_FOUND, EXIT_CONFLICT))
def inbox(
    lake: LakeArgument,
    directory: Annotated[
        str, typer.Argument(metavar="DIR[=PREFIX]", help="The inbox, and where its files go.")
    ],
    inbox_quiet: Annotated[
        str | None,
        typer.Option(
            "--inbox-quiet", metavar="DURATION", help="A file untouched for so long is complete."
        ),
    ] = "5s",
    keep_inbox: Annotated[
        bool, typer.Option("--keep-inbox", help="Leave files there; remember what was taken.")
    ] = False,
    dry_run: DryRunOption = False,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Take in, once, what is complete in an inbox, as compactd does all the time.

    Files are committed and then removed; what a lake cannot hold is moved to .rejected/. A compactd
    that looks after the same inbox does no harm: each file is in one commit.

    JSON keys: dry_run, files, bytes, early, rejected and left (path, reason), snapshot.

    \b
    lakefeed inbox /mnt/lake /mnt/drop=cameras --dry-run
    """
    from lakefeed.cli.service_settings import load

    given = {"lakes": [lake], "inbox": [directory], "inbox_quiet": inbox_quiet,
             "keep_inbox": keep_inbox or None}  # fmt: skip
    # A table of inboxes in the environment is meant for compactd.
    alone = load(given, None).model_copy(update={"inboxes": {}})
    (found,) = alone.options(settings.get().timeout_seconds).lakes[0].inboxes
    silent = quiet or as_json
    with open_lake(lake) as opened:
        facts = _look(found, opened, quiet=silent) if dry_run else _take(opened, found, silent)
    for kind in ("rejected", "left"):
        facts[kind] = [_reported(*one) for one in facts[kind]]
    if as_json:
        print_json({"dry_run": dry_run, **facts})
        return
    for one in facts["rejected"]:
        print_line(f"{'would move' if dry_run else 'moved'} aside {shown(one['path'])}: "
                   f"{one['reason']}")  # fmt: skip
    for one in facts["left"]:
        print_line(f"left alone {shown(one['path'])}: {one['reason']}")
    amount = f"{human_count(facts['files'])} files, {human_size(facts['bytes'])}"
    verb = "would take in" if dry_run else "took in"
    print_line(f"{verb} {amount}; {human_count(facts['early'])} are not complete yet")


def _look(
    options: InboxOptions, lake: Lake | None = None, *, quiet: bool = False
) -> dict[str, Any]:
    """Return what a walk finds, changing nothing; with a lake also what it has no place for, and
    without what it was given before."""
    from lakefeed.service.records import Records, digest
    from lakefeed.service.waiting import Rules, Walk, check_root

    check_root(options.directory)
    snapshot = None if lake is None else lake.snapshot()
    kept: frozenset[bytes] = frozenset()
    if lake is not None and options.keep:
        kept = Records(options.directory).kept(lake.read_id())
    prefix = f"{options.prefix}/" if options.prefix else ""
    # A look leaves no file in the inbox to ask its server; the lake's is the same most often.
    # Without a lake, nobody asks what is complete.
    now_ns = time.time_ns() if lake is None else lake.refs.about_now_ns()
    rules = Rules(now_ns, int(options.quiet_seconds * 1e9), prefix, frozenset())
    walk = Walk(options.directory, rules, tidy=False)
    facts: dict[str, Any] = {"early": 0, "rejected": [], "left": [], "snapshot": None}
    try:
        with metering("looking", quiet=quiet) as meter:
            while (seen := walk.next_slice()) is not None:
                new = [file for file in seen.complete if not kept or digest(file) not in kept]
                refused = {} if snapshot is None else _refused(snapshot, prefix, new)
                taken = [file.size for file in new if prefix + file.path not in refused]
                meter.add(len(taken), sum(taken))
                facts["early"] += len(seen.early)
                facts["rejected"] += seen.bad
                facts["rejected"] += [
                    (path.removeprefix(prefix), refused[path]) for path in refused
                ]
                facts["left"] += seen.left
    except FileNotFoundError as error:
        hint = "make the directory, or check its name and that its volume is mounted"
        raise NotFound(f"inbox {options.directory}", hint=hint) from error
    return {"files": meter.files, "bytes": meter.bytes, **facts}


def _refused(snapshot: Snapshot, prefix: str, files: list[Candidate]) -> dict[str, str]:
    """Return why the lake has no place for some of what is complete, by path in the lake."""
    from lakefeed.service.ingest import without_place

    paths = [prefix + file.path for file in files]
    kinds = snapshot.locate(paths, ("kind", "seq"))["kind"].to_pylist() if paths else []
    return without_place(snapshot, paths, kinds)


def _take(lake: Lake, options: InboxOptions, quiet: bool) -> dict[str, Any]:
    """Take in what is complete, and return what was done."""
    import asyncio
    import os
    import sys
    from dataclasses import replace

    from lakefeed.service.inbox import Inbox
    from lakefeed.service.ingest import Outcome
    from lakefeed.service.threads import Guard

    before = _look(options, quiet=quiet)
    snapshot: int | None = None
    refused: list[Bad] = []

    def count(outcome: Outcome) -> None:
        # Not kept: it names each file of its batch.
        nonlocal snapshot
        meter.add(outcome.files, outcome.bytes)
        snapshot = outcome.snapshot or snapshot
        refused.extend(outcome.refused)

    guard = Guard()
    guard.allow(True)
    inbox = Inbox(lake, replace(options, names_max=sys.maxsize), guard, count)

    async def drain() -> None:
        while await inbox.run(everything=True):
            guard.check()

    # What is kept there was taken in before, most of it; nobody has counted what is new.
    total = None if options.keep else before["files"]
    try:
        with metering("taking in", total_files=total, quiet=quiet) as meter:
            asyncio.run(drain())
    finally:
        inbox.close()
    gone = [
        bad
        for bad in before["rejected"] + refused
        if not os.path.lexists(os.path.join(options.directory, bad.path))
    ]
    return {"files": meter.files, "bytes": meter.bytes, "snapshot": snapshot,
            "early": inbox.backlog.early, "rejected": gone, "left": inbox.left}  # fmt: skip


def _reported(path: str, reason: str) -> dict[str, str]:
    return {"path": path.encode(errors="surrogateescape").decode(errors="backslashreplace"),
            "reason": reason}  # fmt: skip
