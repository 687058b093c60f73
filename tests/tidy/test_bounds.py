"""The oldest releases that pyproject.toml allows have what the code uses of them.

The tests run with the newest releases, so an old bound can be untrue for years. Each line here was
seen to fail with the release before.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

TEXT = (Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8")


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
