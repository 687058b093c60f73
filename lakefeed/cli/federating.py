"""`lakefeed federate`: several lakes as one namespace, made, changed and looked at."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lakefeed.cli.common import (
    DryRunOption,
    JsonOption,
    describe,
    exit_codes,
    open_federation,
    volume_at,
)
from lakefeed.cli.output import print_json, print_line, print_table
from lakefeed.cli.units import human_count, human_size
from lakefeed.errors import EXIT_CONFLICT, EXIT_NOT_FOUND, EXIT_VOLUME, NotFound

if TYPE_CHECKING:
    from lakefeed.lake.federation import Health
    from lakefeed.lake.mounts import Mount, Mounts

commands = typer.Typer()


@commands.command("federate", epilog=exit_codes(EXIT_NOT_FOUND, EXIT_CONFLICT))
def federate(
    file: Annotated[
        str,
        typer.Argument(
            metavar="FILE",
            help="The federation file, anywhere; made if missing.",
            show_default=False,
        ),
    ],
    mounts: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[PREFIX=LAKE]...",
            help="Lakes to mount, and under which path.",
            show_default=False,
        ),
    ] = None,
    remove: Annotated[
        list[str] | None,
        typer.Option("--remove", metavar="PREFIX", help="Take a mount out; the lake stays."),
    ] = None,
    fix: Annotated[
        list[str] | None,
        typer.Option("--fix", metavar="PREFIX=TAG", help="Show one snapshot of a mounted lake."),
    ] = None,
    move: Annotated[
        bool, typer.Option("--move", help="Let a new lake take the place of a mounted one.")
    ] = False,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Mount lakes on one or many volumes under path prefixes of one namespace.

    ls, stat, find, cat, get and du take the file in place of a lake. Each lake keeps its own log,
    packs and compactor, and one whose volume is sick leaves the others readable. Without changes,
    says how each lake is, and ends with 6 if one is sick. '--fix PREFIX=' follows the newest again.

    JSON keys: federation, changed, mounts (prefix, lake, at, snapshot, rows, bytes, error).

    \b
    lakefeed federate /mnt/all.json train=/mnt/a/lake cameras/line1=/mnt/b/lake
    lakefeed federate /mnt/all.json --fix train=v1
    lakefeed ls /mnt/all.json train
    """  # fmt: skip
    before = _mounts_of(file, new=bool(mounts))
    after = _changed(before, (mounts or [], remove or [], fix or []), move=move)
    changed = after != before or (bool(mounts) and not os.path.exists(file))
    if changed and not dry_run:
        _save(file, after)
    if changed:
        healths = [_unknown(mount) for mount in after.mounts]
    else:
        with open_federation(file) as federation:
            healths = federation.health()
    _print(file, healths, changed=changed, as_json=as_json)
    if any(health.error is not None for health in healths):
        raise typer.Exit(EXIT_VOLUME)


def _mounts_of(file: str, *, new: bool) -> Mounts:
    from lakefeed.lake.mounts import Mounts, load

    home, name = os.path.split(os.path.abspath(file))
    try:
        return load(volume_at(home), name)
    except NotFound as error:
        if new:
            return Mounts()
        hint = f"make one: lakefeed federate {file} PREFIX=LAKE"
        raise NotFound(f"federation {file}", hint=hint) from error


def _save(file: str, mounts: Mounts) -> None:
    from lakefeed.lake.mounts import save

    home, name = os.path.split(os.path.abspath(file))
    save(volume_at(home), name, mounts)


def _changed(
    mounts: Mounts, wanted: tuple[list[str], list[str], list[str]], *, move: bool
) -> Mounts:
    from dataclasses import replace

    from lakefeed.lake.mounts import Mount

    adding, removing, fixing = wanted
    for prefix in removing:
        mounts = mounts.removing(prefix)
    for text in adding:
        prefix, lake = _pair(text, "LAKE")
        mounts = mounts.adding(Mount(prefix, os.path.abspath(lake)), move=move)
    for text in fixing:
        prefix, tag = _pair(text, "TAG")
        mount = mounts.named(prefix)
        mounts = mounts.adding(replace(mount, at=tag or None), move=True)
    return mounts


def _pair(text: str, what: str) -> tuple[str, str]:
    prefix, mark, value = text.partition("=")
    if not mark or (what == "LAKE" and not value):
        raise typer.BadParameter(f"{text!r} is no PREFIX={what}")
    return prefix, value


def _unknown(mount: Mount) -> Health:
    from lakefeed.lake.federation import Health

    return Health(mount)


def _print(file: str, healths: list[Health], *, changed: bool, as_json: bool) -> None:
    if as_json:
        facts = [_facts(health) for health in healths]
        print_json({"federation": os.path.abspath(file), "changed": changed, "mounts": facts})
        return
    print_table(
        ["PREFIX", "LAKE", "AT", "SNAPSHOT>", "ROWS>", "BYTES>", "STATE"],
        [
            (
                health.mount.prefix or "/",
                health.mount.lake,
                health.mount.at or "newest",
                "" if health.snapshot is None else health.snapshot,
                "" if health.rows is None else human_count(health.rows),
                "" if health.bytes is None else human_size(health.bytes),
                _state(health),
            )
            for health in healths
        ],
    )
    if not healths:
        print_line("no lake is mounted")


def _state(health: Health) -> str:
    if health.error is not None:
        return describe(health.error)
    return "" if health.snapshot is None else "ok"


def _facts(health: Health) -> dict[str, Any]:
    mount, error = health.mount, health.error
    return {
        "prefix": mount.prefix,
        "lake": mount.lake,
        "at": mount.at,
        "snapshot": health.snapshot,
        "rows": health.rows,
        "bytes": health.bytes,
        "error": None if error is None else describe(error),
    }
