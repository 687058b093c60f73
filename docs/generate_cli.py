"""Writes docs/CLI.md from the commands themselves, so that the page cannot drift from the program.

`python docs/generate_cli.py` writes the page; with `--check` it only says whether the page is up to
date (exit 1 if not). Everything comes from the command tree: names, help, exit codes, arguments,
options.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any

import typer.main

from lakefeed.cli import app

PAGE = Path(__file__).with_name("CLI.md")
HEADER = """\
# Command line

<!-- Written by docs/generate_cli.py; edit the help texts in lakefeed/cli/ instead. -->
"""


def render() -> str:
    """The whole page."""
    root = typer.main.get_command(app)
    sections = ["\n".join(section(path, command)) for path, command in walk(root, "lakefeed")]
    return HEADER + "\n" + "\n\n".join(sections) + "\n"


# The command tree is Any: Typer carries its own copy of Click and does not export its types.
def walk(command: Any, path: str) -> Iterator[tuple[str, Any]]:
    """(path, command) for a command and everything below it, parents first."""
    yield path, command
    for name, child in sorted(getattr(command, "commands", {}).items()):
        if not child.hidden:
            yield from walk(child, f"{path} {name}")


def section(path: str, command: Any) -> Iterator[str]:
    """One command: usage, help, a table of its arguments and options."""
    shown = [p for p in command.params if not getattr(p, "hidden", False)]
    arguments = [p for p in shown if p.param_type_name == "argument"]
    options = [p for p in shown if p.param_type_name == "option"]
    children = {n: c for n, c in getattr(command, "commands", {}).items() if not c.hidden}
    words = [path, *(["[OPTIONS]"] if options else []), *(usage(a) for a in arguments)]
    yield f"{'#' * min(len(path.split()) + 1, 4)} `{path}`"
    yield ""
    yield "```\n" + " ".join([*words, *(["COMMAND"] if children else [])]) + "\n```"
    if command.help:
        yield ""
        yield prose(command.help)
    if command.epilog:
        yield ""
        yield sentence(command.epilog)
    if arguments or options:
        yield ""
        yield "| Argument or option | Default | Meaning |"
        yield "|---|---|---|"
        yield from (row(f"`{name(a)}`", a) for a in arguments)
        yield from (row(spelling(o), o) for o in options)
    if children:
        yield ""
        yield from (f"- `{path} {n}`: {summary(c)}" for n, c in sorted(children.items()))


def name(argument: Any) -> str:
    """LAKE of `LAKE...`, PREFIX=LAKE of `[PREFIX=LAKE]...`, DIR[=PREFIX] as it is."""
    word = str(argument.metavar or argument.name).upper().removesuffix("...")
    return word[1:-1] if word.startswith("[") and word.endswith("]") else word


def usage(argument: Any) -> str:
    word = name(argument) + ("..." if argument.nargs == -1 else "")
    return word if argument.required else f"[{word}]"


def spelling(option: Any) -> str:
    """`--pack-size SIZE`, `-j, --json`, `--follow / --no-follow`."""
    flags = ", ".join(f"`{o}`" for o in sorted(option.opts, key=lambda o: o.startswith("--")))
    if option.secondary_opts:
        flags += " / " + ", ".join(f"`{o}`" for o in option.secondary_opts)
    if option.is_flag or option.count:
        return flags
    return f"{flags} {option.metavar or max(option.opts, key=len).strip('-').upper()}"


def row(label: str, parameter: Any) -> str:
    shown = "required" if parameter.required else default(parameter)
    meaning = " ".join((parameter.help or "").split())
    if parameter.envvar:
        meaning += f" Environment: `{parameter.envvar}`."
    return f"| {cell(label)} | {cell(shown)} | {cell(meaning)} |"


def default(parameter: Any) -> str:
    """The default in the words a user would type; nothing for an absent value or an unset flag."""
    value = parameter.default.value if isinstance(parameter.default, Enum) else parameter.default
    if isinstance(value, bool):
        flags = parameter.opts if value else parameter.secondary_opts
        return f"`{flags[0]}`" if flags else ""
    if getattr(parameter, "count", False) or value == "":
        return ""
    return f"`{value}`" if isinstance(value, str | int | float | Path) else ""


def cell(text: str) -> str:
    return text.replace("|", r"\|")


def prose(text: str) -> str:
    """Help as Markdown: Click's `\\b` paragraphs keep their lines, as code."""
    blocks = []
    for block in re.split(r"\n\s*\n", text.strip().replace("\f", "")):
        if block.lstrip().startswith("\b"):
            blocks.append("```\n" + block.replace("\b", "").strip("\n") + "\n```")
        else:
            blocks.append("\n".join(line.strip() for line in block.splitlines()))
    return "\n\n".join(blocks)


def sentence(text: str) -> str:
    words = " ".join(text.split())
    return words[:1].upper() + words[1:].rstrip(".") + "."


def summary(command: Any) -> str:
    lines = (command.help or "").replace("\b", "").strip().splitlines()
    return lines[0].strip() if lines else ""


def main(arguments: list[str]) -> int:
    page = render()
    if arguments == ["--check"]:
        if PAGE.exists() and PAGE.read_text(encoding="utf-8") == page:
            return 0
        print("docs/CLI.md is out of date: run `make docs` and commit it", file=sys.stderr)
        return 1
    PAGE.write_text(page, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
