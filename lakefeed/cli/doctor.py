"""`lakefeed doctor`: is this directory fit to hold a lake, and what would make it quicker."""

from __future__ import annotations

from typing import Annotated

import typer

from lakefeed.cli.common import JsonOption, exit_codes, settings
from lakefeed.cli.output import print_json, print_line, print_table
from lakefeed.errors import EXIT_BUG, EXIT_NOT_FOUND

commands = typer.Typer()

DirectoryArgument = Annotated[
    str, typer.Argument(metavar="DIR", help="A directory on the volume.", show_default=False)
]


@commands.command("doctor", epilog=exit_codes(EXIT_NOT_FOUND))
def doctor(directory: DirectoryArgument, as_json: JsonOption = False) -> None:
    """Judge how a directory is mounted and what its volume can do.

    It reads the mount's options (hard or soft, rsize, nconnect, lookupcache, read-ahead), tries
    link, rename, exclusive create and fsync on files of its own, and compares clocks, owners and
    free inodes. Exit code 1 if something makes the volume unfit for a lake.

    JSON keys: directory, mount, options, verdicts (name, found, level, advice), level.

    \b
    lakefeed doctor /mnt/nas
    """
    from lakefeed.bench import probing

    facts = probing.examine_in_time(directory, settings.get().timeout_seconds)
    level = probing.worst(facts["verdicts"])
    if as_json:
        print_json({**facts, "level": level})
    else:
        rows = [(v["name"], v["level"], v["found"], v["advice"]) for v in facts["verdicts"]]
        print_table(("check", "verdict", "found", "what to do"), rows)
        print_line()
        print_line(_SUMMARY[level])
    if level == "bad":
        raise typer.Exit(EXIT_BUG)


_SUMMARY = {
    "ok": "fit for a lake",
    "warning": "fit for a lake; the warnings cost speed or freshness",
    "bad": "NOT fit for a lake as it is: see what is bad above",
}
