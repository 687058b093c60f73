"""Every command explains itself: a sentence, an example, the exit codes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import typer.main

from lakefeed import __version__
from lakefeed.cli import app
from lakefeed.cli.common import EXIT_MEANINGS, exit_codes
from lakefeed.cli.contents import SECTIONS
from tests.cli.conftest import Run


def walk(command: Any, path: str) -> Iterator[tuple[str, Any]]:
    """(path, command) for every command that runs something."""
    children = getattr(command, "commands", None)
    if children is None:
        yield path, command
    for name, child in sorted((children or {}).items()):
        yield from walk(child, f"{path} {name}")


COMMANDS = list(walk(typer.main.get_command(app), "lakefeed"))


@pytest.mark.parametrize(("path", "command"), COMMANDS, ids=[path for path, _ in COMMANDS])
def test_a_command_explains_itself(path: str, command: Any) -> None:
    first = command.help.strip().splitlines()[0]
    assert first.endswith("."), "help begins with one sentence on one line"
    examples = [block for block in command.help.split("\b")[1:] if path in block]
    assert examples, f"help has a \\b block with an example of {path}"
    assert command.epilog.startswith("exit codes: 0 done, "), "epilog=exit_codes(...)"


@pytest.mark.parametrize(("path", "command"), COMMANDS, ids=[path for path, _ in COMMANDS])
def test_help_shows_all_of_it(run: Run, path: str, command: Any) -> None:
    done = run(*path.split()[1:], "--help")
    assert (done.code, done.err) == (0, "")
    text = " ".join(done.out.split())
    assert "Usage: lakefeed" in text or "Usage: root" in text
    assert "exit codes: 0 done" in text
    assert path in text
    assert "\b" not in done.out


@pytest.mark.parametrize(("path", "command"), COMMANDS, ids=[path for path, _ in COMMANDS])
def test_json_is_documented(path: str, command: Any) -> None:
    options = {option for parameter in command.params for option in parameter.opts}
    assert ("--json" in options) == ("JSON keys: " in command.help)


def test_the_plain_commands_are_there() -> None:
    names = {path.split()[1] for path, _ in COMMANDS}
    assert names >= {
        "create", "put", "get", "cat", "ls", "find", "stat", "rm", "mv", "cp", "mkdir", "log",
        "tag", "merge", "completion",
    }  # fmt: skip


def test_short_help_and_version(run: Run) -> None:
    assert run("-h").out == run("--help").out
    assert run("--version").out == f"lakefeed {__version__}\n"


def test_no_command_shows_the_help(run: Run) -> None:
    done = run()
    assert done.code == 2
    assert "Trees and archives:" in done.out + done.err


def test_every_command_stands_under_one_heading() -> None:
    listed = [name for names in SECTIONS.values() for name in names]
    assert sorted(listed) == sorted({path.split()[1] for path, _ in COMMANDS})


def test_the_list_of_commands_is_not_cut_off(run: Run) -> None:
    assert "..." not in run("--help").out.partition("Options:")[2]


def test_exit_codes_are_listed_in_order() -> None:
    line = exit_codes(4, 3)
    assert line == (
        "exit codes: 0 done, 1 some files failed or a bug, 2 usage, 3 not found, 4 conflict, "
        "6 volume failed"
    )
    assert sorted(EXIT_MEANINGS) == list(range(7))
