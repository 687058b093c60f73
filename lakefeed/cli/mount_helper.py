"""The program that mount(8) runs: `mount -t fuse.lakefeed LAKE DIR -o OPTIONS`, and lines in fstab.

Installed as `mount.fuse.lakefeed`; mount(8) looks for it in /sbin, so link it there. It translates
and runs `lakefeed mount`: `rw` and `ro`, `allow_other`, and every option of `lakefeed mount` as
`name=value` or `name`. What the kernel or systemd alone understand is left to them.
"""

from __future__ import annotations

import sys

from lakefeed.cli.app import main as run_lakefeed

# Options of `lakefeed mount` that may stand in `-o`, and whether they take a value.
_OURS = {
    "at": True, "refresh": True, "sync": True, "commit-age": True, "cache": True, "spool": True,
    "spool-size": True, "owner": True, "watchdog": True, "listen": True, "log": True,
    "log-level": True, "allow-other": False,
}  # fmt: skip


def arguments_of(words: list[str]) -> list[str]:
    """Return the arguments of `lakefeed` for those that mount(8) gives."""
    places: list[str] = []
    options: list[str] = []
    rest = iter(words)
    for word in rest:
        if word == "-o":
            options += next(rest, "").split(",")
        elif word in ("-t", "-N"):
            next(rest, None)
        elif not word.startswith("-"):
            places.append(word)
    translated = ["--rw"] if "rw" in options else []
    for option in options:
        name, _, value = option.partition("=")
        name = name.replace("_", "-")
        if name in _OURS:
            translated += [f"--{name}", value] if _OURS[name] else [f"--{name}"]
    return ["mount", *places, *translated]


def main() -> None:
    """Mount, as mount(8) asked."""
    sys.argv = ["lakefeed", *arguments_of(sys.argv[1:])]
    run_lakefeed()
