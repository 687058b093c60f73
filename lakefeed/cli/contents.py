"""The table of contents that `lakefeed --help` ends with: every command under a heading."""

from __future__ import annotations

from typing import Any

from lakefeed.cli.common import Wall

SECTIONS = {
    "Lakes and snapshots": ("create", "log", "show", "tag", "diff", "federate"),
    "Files": ("ls", "stat", "find", "du", "sql", "cat", "get", "put", "mkdir", "cp", "mv", "rm"),
    "Trees and archives": ("import", "export"),
    "Programs that only know paths": ("mount", "umount"),
    "The packing service": ("compactd", "inbox", "top"),
    "Upkeep by hand": ("merge", "compact", "gc", "fsck", "scrub", "repair"),
    "Training": ("warm", "bench", "doctor", "demo"),
    "Shell": ("completion",),
}
# Between names and what they do, and in front of names.
_GAPS = 6


class Root(Wall):
    """The root command, whose help lists its commands by what they are for, none cut off."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write a section for each heading."""
        widest = max(map(len, self.commands))
        for heading, names in SECTIONS.items():
            rows = [(f"{name:{widest}}", _what(self.commands[name])) for name in names]
            with formatter.section(heading):
                formatter.write_dl(rows, col_max=widest + _GAPS)


def _what(command: Any) -> str:
    """Return what a command does; what comes behind a semicolon is for its own help."""
    first = str(command.help).strip().splitlines()[0]
    return first.partition(";")[0].removesuffix(".") + "."
