"""`import lakefeed` loads no framework and no command line: those cost seconds."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from tests.support.patience import PATIENCE_SECONDS

HEAVY = ("tensorflow", "keras", "torch", "jax", "pandas", "polars", "duckdb", "matplotlib")
NEVER = {*HEAVY, "datasets", "sklearn", "PIL", "trio", "aiohttp", "prometheus_client"}
TOOLS = {"typer", "click", "rich", "fsspec"}


def loaded_by(statement: str) -> set[str]:
    """The top-level modules that a fresh interpreter loads to run one statement."""
    command = [sys.executable, "-X", "importtime", "-c", statement]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    names = re.findall(r"^import time:.*\|\s+([\w.]+)$", done.stderr, flags=re.MULTILINE)
    return {name.split(".")[0] for name in names}


def test_importing_the_package_loads_nothing_heavy() -> None:
    modules = loaded_by("import lakefeed")
    assert "lakefeed" in modules
    assert not modules & (NEVER | TOOLS)


@pytest.mark.slow
def test_the_command_line_starts_without_a_framework() -> None:
    assert not loaded_by("import lakefeed.cli") & NEVER


def test_the_probe_sees_what_is_loaded() -> None:
    assert "sqlite3" in loaded_by("import sqlite3")
    assert "sqlite3" not in loaded_by("import json")
