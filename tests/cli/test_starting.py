"""A command starts quickly: it imports its own module, and no other's; nor pydantic in vain."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from typer.core import TyperArgument, TyperOption

from lakefeed.cli import contents
from lakefeed.cli.sparing import spare_pydantic
from tests.cli.conftest import Run
from tests.support.patience import PATIENCE_SECONDS

BESIDE = Path(contents.__file__).parent


SCRIPT = """
import atexit, sys
atexit.register(lambda: print(*sys.modules, file=sys.stderr))
from lakefeed.cli import main
main()
"""


def imported_by(*words: str | Path) -> set[str]:
    """The modules that a command loads."""
    program = [sys.executable, "-c", SCRIPT, *map(str, words)]
    done = subprocess.run(
        program, capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return set(done.stderr.split())


@pytest.mark.slow
def test_a_command_imports_what_it_needs(lake: Path) -> None:
    loaded = imported_by("ls", lake, "a")
    others = {f"lakefeed.cli.{module}" for module in contents.MODULES.values()}
    assert loaded & others == {"lakefeed.cli.looking"}
    assert not {name for name in loaded if name.partition(".")[0] == "pydantic"}


def test_nothing_of_a_lake_is_imported_for_the_help_of_a_command() -> None:
    loaded = imported_by("find", "--help")
    assert "lakefeed.cli.searching" in loaded
    assert not loaded & {"pydantic", "numpy", "pyarrow"}


@pytest.mark.parametrize("module", sorted(set(contents.MODULES.values())))
def test_a_module_brings_the_commands_that_the_table_says(module: str) -> None:
    listed = {name for name, home in contents.MODULES.items() if home == module}
    assert set(contents.commands_of(module)) == listed


def test_the_table_names_every_module_that_has_commands() -> None:
    sources = {path.stem: path.read_text() for path in BESIDE.glob("*.py")}
    having = {name for name, source in sources.items() if "\ncommands = typer.Typer()" in source}
    assert having == set(contents.MODULES.values())


def test_a_module_that_cannot_be_imported_is_no_unknown_command(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(name: str) -> None:
        raise KeyError(name)

    monkeypatch.setattr(contents, "import_module", fail)
    with pytest.raises(KeyError, match="looking"):
        run("ls", "/nowhere")


def test_words_become_values_as_typer_makes_them(run: Run, lake: Path) -> None:
    done = run("find", lake, "--min-size", "3q")
    assert (done.code, done.out) == (2, "")
    assert "'3q' is no size" in done.err
    done = run("du", lake, "--depth", "x")
    assert (done.code, done.out) == (2, "")
    assert "'--depth'" in done.err and "valid int" in done.err  # words of Typer's
    assert run("cat", lake, "a/b.txt", "top.csv").out == "hello\nx,y\n1,2\n"
    assert len(run("log", lake, "--limit", "1", "--json").lines) == 1


def test_a_typer_that_makes_values_otherwise_does_so(monkeypatch: pytest.MonkeyPatch) -> None:
    class Other:
        more = "more"

        def coerce(self, value: str, *, by: str) -> str:
            return f"{value} {by}"

    for kind in (TyperOption, TyperArgument):
        monkeypatch.setattr(kind, "get_runtime_param", lambda _, by: Other(), raising=False)
    spare_pydantic()
    made = TyperArgument.get_runtime_param(object(), by="x")  # type: ignore[call-arg, arg-type]
    assert made.coerce("a", by="b") == "a b"  # type: ignore[call-arg]
    assert made.more == "more"  # type: ignore[attr-defined]
