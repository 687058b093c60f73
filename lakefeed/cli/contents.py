"""The table of commands: the module that brings each, and its heading in `lakefeed --help`.

A module is imported when one of its commands is asked for: all of them and what they import take
longer than most commands.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any

import typer
import typer.main

from lakefeed.cli.common import Wall

SECTIONS = {
    "Lakes and snapshots": {
        "create": "snapshots",
        "log": "snapshots",
        "show": "housekeeping",
        "tag": "snapshots",
        "diff": "housekeeping",
        "federate": "federating",
    },
    "Files": {
        "ls": "looking",
        "stat": "looking",
        "find": "searching",
        "du": "housekeeping",
        "sql": "sql",
        "cat": "reading",
        "get": "reading",
        "put": "putting",
        "mkdir": "writing",
        "cp": "writing",
        "mv": "writing",
        "rm": "writing",
    },
    "Trees and archives": {"import": "transfer", "export": "transfer"},
    "Programs that only know paths": {"mount": "mount", "umount": "mount"},
    "The packing service": {"compactd": "compactd", "inbox": "inbox", "top": "top"},
    "Upkeep by hand": {
        "merge": "snapshots",
        "compact": "compaction",
        "gc": "housekeeping",
        "fsck": "housekeeping",
        "scrub": "scrub",
        "repair": "repair",
    },
    "Training": {"warm": "warming", "bench": "bench_volume", "doctor": "doctor", "demo": "demo"},
    "Shell": {"completion": "completion"},
}
MODULES = {name: module for names in SECTIONS.values() for name, module in names.items()}
# Between names and what they do, and in front of names.
_GAPS = 6


class _Commands(Mapping[str, Any]):
    """Every command under its name, made when it is asked for."""

    def __init__(self) -> None:
        self._made: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._made:
            self._made |= commands_of(MODULES[name])
        return self._made[name]

    def get(self, name: str, default: Any = None) -> Any:
        """Return a command, `default` where none has that name; never because of an import."""
        return self[name] if name in MODULES else default

    def __iter__(self) -> Iterator[str]:
        return iter(MODULES)

    def __len__(self) -> int:
        return len(MODULES)


def commands_of(module: str) -> Mapping[str, Any]:
    """Return the commands that a module brings, by name."""
    every = typer.Typer(rich_markup_mode=None, pretty_exceptions_enable=False)
    every.add_typer(import_module(f"lakefeed.cli.{module}").commands)
    return typer.main.get_group(every).commands


class Root(Wall):
    """The root command, whose help lists its commands by what they are for, none cut off."""

    def __init__(self, *, commands: object, **how: Any) -> None:
        super().__init__(commands=_Commands(), **how)  # type: ignore[arg-type]

    def list_commands(self, ctx: Any) -> list[str]:
        """Return all names; nothing is imported for that."""
        return [*self.commands]

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
