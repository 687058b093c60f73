"""Every command, option, error and metric is documented, and the generated page is up to date."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.tidy.documented import error_classes, metrics, missing
from tests.tidy.sources import ROOT, python_files, read


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate_cli", ROOT / "docs/generate_cli.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def commands(generator: ModuleType) -> list[tuple[str, Any]]:
    return list(generator.walk(generator.typer.main.get_command(generator.app), "lakefeed"))


def page(name: str) -> str:
    path = ROOT / "docs" / name
    return path.read_text(encoding="utf-8") if path.exists() else ""


def test_the_command_page_is_up_to_date(generator: ModuleType) -> None:
    assert generator.main(["--check"]) == 0, "run `make docs`"


def test_a_stale_command_page_is_noticed(
    generator: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generator, "PAGE", tmp_path / "CLI.md")
    assert generator.main(["--check"]) == 1
    assert generator.main([]) == 0
    assert generator.main(["--check"]) == 0
    with (tmp_path / "CLI.md").open("a") as stale:
        stale.write("edited by hand\n")
    assert generator.main(["--check"]) == 1


def test_every_command_and_option_is_documented(commands: list[tuple[str, Any]]) -> None:
    options = {o for _, c in commands for p in c.params for o in p.opts if o.startswith("-")}
    assert missing({path for path, _ in commands} | options, page("CLI.md")) == []


def test_every_command_and_option_explains_itself(commands: list[tuple[str, Any]]) -> None:
    mute = [path for path, command in commands if not (command.help or "").strip()]
    mute += [
        f"{path} {parameter.opts[0]}"
        for path, command in commands
        for parameter in command.params
        if not (getattr(parameter, "help", None) or "").strip()
    ]
    assert mute == []


def test_every_error_is_documented() -> None:
    errors = error_classes(read(Path("lakefeed/errors.py")))
    assert errors
    assert missing(errors, page("SEMANTICS.md")) == []


def test_every_metric_is_documented() -> None:
    names = {name for path in python_files("lakefeed") for name in metrics(read(path))}
    assert missing(names, page("METRICS.md")) == []


def test_error_classes_are_found_through_their_bases() -> None:
    source = "class A(Exception): ...\nclass B(A, OSError): ...\nclass Facts: ...\nclass _C(A): ..."
    assert error_classes(source) == {"A", "B"}


def test_metric_names_are_found() -> None:
    source = 'x = Counter("lakefeed_read_bytes_total", "help")\ny = "lakefeed_x"\nz = "a lakefeed"'
    assert metrics(source) == {"lakefeed_read_bytes_total"}


def test_a_missing_name_is_missing() -> None:
    assert missing(["--json", "Corrupt"], "`--json-lines` and Corrupted") == ["--json", "Corrupt"]
    assert missing(["--json", "Corrupt"], "`--json`; raises Corrupt.") == []
