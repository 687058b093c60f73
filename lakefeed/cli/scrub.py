"""The command that verifies payloads bit by bit: scrub."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lakefeed.cli.common import JsonOption, LakeArgument, QuietOption, exit_codes, open_lake
from lakefeed.cli.output import print_json, print_line, shown, stages
from lakefeed.cli.units import (
    duration_option,
    human_count,
    human_seconds,
    human_size,
    human_time,
    rate_option,
)
from lakefeed.errors import EXIT_CORRUPT, EXIT_NOT_FOUND

if TYPE_CHECKING:
    from lakefeed.lake.scrub import Damaged, Scrubbed

commands = typer.Typer()


@commands.command("scrub", epilog=exit_codes(EXIT_NOT_FOUND, EXIT_CORRUPT))
def scrub(
    lake: LakeArgument,
    max_duration: Annotated[
        float | None,
        typer.Option(
            "--max-duration",
            metavar="DURATION",
            parser=duration_option,
            help="Stop after this, and go on there next time; by default at the end of a round.",
        ),
    ] = None,
    rate: Annotated[
        float | None,
        typer.Option(
            "--rate",
            metavar="RATE",
            parser=rate_option,
            help="Read at most so much, such as 200MB/s.",
        ),
    ] = None,
    restart: Annotated[
        bool, typer.Option("--restart", help="Begin a new round at the oldest pack.")
    ] = False,
    show: Annotated[
        bool, typer.Option("--show", help="Read nothing: print what earlier runs have found.")
    ] = False,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Verify the payloads of a lake in the background, oldest packs first.

    Where a run stands and what it found is kept on the volume, so runs on any machine go on where
    the last one ended. The exit code is 5 while a payload is known to be damaged, found in this run
    or earlier, that the newest snapshot, a tag or a pin still reaches. A damaged file: restore it
    and put it again, or delete it. Ctrl-C loses nothing.

    JSON keys: round, complete, packs, payloads, verified_bytes, seconds, damaged (pack, path,
    expected, found, time_ns).

    \b
    lakefeed scrub /mnt/lake --max-duration 1h --rate 200MB/s
    lakefeed scrub /mnt/lake --show
    """
    from lakefeed.lake.scrub import ScrubOptions, known_damage
    from lakefeed.lake.scrub import scrub as scrub_lake

    with open_lake(lake) as opened:
        if show:
            _print_known(known_damage(opened), as_json)
            return
        options = ScrubOptions(max_duration, rate, restart)
        with stages(quiet=quiet or as_json) as progress:
            done = scrub_lake(
                opened, options, lambda count, total, size: progress("packs", count, total)
            )
        _print_done(done, as_json)


def _print_known(found: tuple[Damaged, ...], as_json: bool) -> None:
    if as_json:
        print_json({"damaged": [asdict(one) for one in found]})
    else:
        _print_damage(found)
        print_line(f"{human_count(len(found))} damaged payloads known")
    if found:
        raise typer.Exit(EXIT_CORRUPT)


def _print_done(done: Scrubbed, as_json: bool) -> None:
    if as_json:
        print_json(_facts(done))
    else:
        _print_damage(done.damaged)
        print_line(
            f"verified {human_count(done.payloads)} payloads, {human_size(done.verified_bytes)} "
            f"in {human_seconds(done.seconds)}; round {done.round} "
            f"{'is complete' if done.complete else 'goes on next time'}; "
            f"{human_count(len(done.damaged))} damaged payloads known"
        )
    if done.damaged:
        raise typer.Exit(EXIT_CORRUPT)


def _print_damage(found: tuple[Damaged, ...]) -> None:
    for one in found:
        print_line(
            f"damaged: {shown(one.path)} in pack {one.pack}: expected {one.expected}, found "
            f"{one.found}, on {human_time(one.time_ns)}"
        )


def _facts(done: Scrubbed) -> dict[str, Any]:
    facts = asdict(done)
    del facts["state"]
    return {"round": done.round, **facts}
