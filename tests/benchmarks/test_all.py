"""Every benchmark runs by itself and with the others."""

from __future__ import annotations

import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks import __main__ as all_of_them
from benchmarks import harness, mount

HERE = Path(harness.__file__).parent


def test_arguments_reach_the_benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[list[str]] = []

    def run(command: list[str], **_: Any) -> SimpleNamespace:
        ran.append(command[2:])
        return SimpleNamespace(returncode=command[2] == "benchmarks.mount")

    monkeypatch.setattr(subprocess, "run", run)
    assert all_of_them.main(["--small", "index", "mount"]) == 1
    assert ran == [["benchmarks.index", "--small"], ["benchmarks.mount", "--small"]]
    ran.clear()
    assert all_of_them.main([]) == 1
    assert ran == [[f"benchmarks.{module}"] for module in all_of_them.MODULES]
    with pytest.raises(SystemExit):
        all_of_them.main(["indx"])


@pytest.mark.parametrize("module", all_of_them.MODULES)
def test_every_benchmark_has_a_short_run_and_a_line_in_the_readme(module: str) -> None:
    assert 'add_argument("--small"' in (HERE / f"{module}.py").read_text()
    assert f"| `{module}` |" in (HERE / "README.md").read_text()


def test_ratarmount_is_taken_from_where_it_was_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, elsewhere = tmp_path / "own", tmp_path / "elsewhere"
    for place in (own, elsewhere):
        place.mkdir()
    (elsewhere / "ratarmount").write_text("")
    (elsewhere / "ratarmount").chmod(0o755)
    monkeypatch.setattr("sys.executable", str(own / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert mount.ratarmount() is None
    monkeypatch.setenv("PATH", str(elsewhere))
    assert mount.ratarmount() == str(elsewhere / "ratarmount")
    (own / "ratarmount").write_text("")
    assert mount.ratarmount() == str(own / "ratarmount")
