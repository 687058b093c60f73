"""What pyproject.toml asks for is used, and the oldest releases that it allows have what is used.

The tests run with the newest releases, so an old bound can be untrue for years. Each line of bounds
was seen to fail with the release before.
"""

from __future__ import annotations

import re

import pytest

from tests.tidy.layers import imported
from tests.tidy.sources import ROOT, python_files, read

TEXT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("package", "oldest"),
    [
        ("hatchling", (1, 27)),  # `license-files` as a list (1.26), and the licence in the metadata
        ("pydantic-settings", (2, 7)),  # NoDecode
        ("rich", (13, 8)),  # what this Typer asks for
        # 0.27 takes `--glob GLOB` for `--GLOB`; 0.16 fails for a missing argument; before 0.26
        # it depends on Click, whose releases change usage, help and warnings.
        ("typer", (0, 28)),
    ],
)
def test_the_oldest_release_has_what_is_used(package: str, oldest: tuple[int, ...]) -> None:
    bounds = re.findall(rf'"{package}>=([\d.]+)', TEXT)
    assert bounds
    assert all(tuple(map(int, bound.split("."))) >= oldest for bound in bounds)


def test_what_everybody_has_to_install_is_imported() -> None:
    listed = re.search(r"^dependencies = \[(.*?)^\]", TEXT, re.DOTALL | re.MULTILINE)
    assert listed is not None
    needed = {name.replace("-", "_") for name in re.findall(r'"([\w-]+)>=', listed[1])}
    assert "pyarrow" in needed
    found = [imported("lakefeed", read(path), is_package=True) for path in python_files("lakefeed")]
    used = {target.split(".")[0] for imports in found for _, target in imports}
    assert needed - used == set()
