"""`lakefeed mount` of a federation: each lake by a daemon of its own, below one directory.

A process serves one mount; so a lake whose volume is sick is in nobody's way, and each has a
processor to itself. The directories above the mounts are ordinary ones of the machine.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import typer

from lakefeed.cli.common import complain, report, volume_at
from lakefeed.cli.mount_daemon import Daemon, Daemons
from lakefeed.errors import Invalid, LakefeedError, from_os_error

if TYPE_CHECKING:
    from lakefeed.lake.mounts import Mount


# Each takes half a second of a processor, and all at once they take each other's time to start.
STARTING_MAX = 16


@dataclass(frozen=True, slots=True)
class Wanted:
    """How the lakes are mounted: `options` are words for all of them."""

    options: Sequence[str]
    at: str | None
    writable: bool
    log: str | None


def words_of(**options: object) -> list[str]:
    """Return options as words of a command line, but those that are None or False."""
    given = ((name.replace("_", "-"), value) for name, value in options.items())
    return [
        f"--{name}" if value is True else f"--{name}={value}"
        for name, value in given
        if value is not None and value is not False
    ]


def mount_federation(
    file: str, mountpoint: str, wanted: Wanted, stay: Callable[[], None] | None
) -> None:
    """Mount each lake of a federation that is not mounted yet.

    What keeps one from being mounted is said; the others are mounted all the same, and the exit
    code is that of the first one that is not. SIGTERM and Ctrl-C end them. With `stay`, calls it
    when all are up, and returns when all have ended.
    """
    from lakefeed.lake.mounts import load

    if wanted.at is not None and wanted.at.isdecimal():
        raise Invalid(f"--at {wanted.at}", expected="a tag that each lake has",
                      found="a number, which each has of its own")  # fmt: skip
    if not os.path.isdir(mountpoint):
        raise Invalid(f"mount point {mountpoint}", expected="a directory", found="none",
                      hint="make it first")  # fmt: skip
    home, name = os.path.split(os.path.abspath(file))
    mounts = load(volume_at(home), name).mounts
    running = Daemons()
    codes: list[int] = []
    try:
        with running:
            up = 0
            for mount in mounts:
                if len(running) - up == STARTING_MAX:
                    codes.append(_up(running[up]))
                    up += 1
                try:
                    _start(running, mount, home, os.path.join(mountpoint, mount.prefix), wanted)
                except (LakefeedError, OSError) as error:
                    codes.append(_told(error, f"mount of {mount.prefix}"))
            codes += map(_up, running[up:])
            codes = [code for code in codes if code]
            if codes:
                complain(f"{len(mounts) - len(codes)} of {len(mounts)} lakes are mounted")
            if stay is not None and len(codes) < len(mounts):
                stay()
                codes += [code for code in [daemon.ended() for daemon in running] if code]
    finally:
        if stay is not None:
            for daemon in running:
                daemon.ended()
    if codes:
        raise typer.Exit(codes[0])


def _start(running: Daemons, mount: Mount, home: str, where: str, wanted: Wanted) -> None:
    """Start the daemon of one lake; nothing where it is mounted already."""
    from lakefeed.adapters.fuse import kernel
    from lakefeed.lake.mounts import directory_of

    found = kernel.mounted_at(where)
    if found is None or found.kind != kernel.FUSE_TYPE:
        os.makedirs(where, exist_ok=True)
    elif not kernel.is_dead(found):
        complain(f"{where} is mounted already")
        return
    fixed = mount.at or wanted.at
    words = ["mount", directory_of(mount, home), where, *wanted.options]
    if fixed is not None:
        words.append(f"--at={fixed}")
    elif wanted.writable:
        words.append("--rw")
    running.begin(words, wanted.log, mountpoint=where)


def _told(error: LakefeedError | OSError, subject: str) -> int:
    return report(error if isinstance(error, LakefeedError) else from_os_error(error, subject))


def _up(daemon: Daemon) -> int:
    try:
        return daemon.wait()
    except LakefeedError as error:
        return report(error)
