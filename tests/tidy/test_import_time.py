"""`import lakefeed` loads no framework and no command line: those cost seconds."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from lakefeed import Lake
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


def test_reading_a_lake_loads_no_pandas(tmp_path: Path) -> None:
    """Arrow loads it where it is installed, 0.2 s and 40 MB, for the first Python value it gets."""
    paths = [f"a/{number % 3}/{number:03d}" for number in range(60)]
    with Lake.create(tmp_path / "lake") as lake:
        for part in (paths[:40], paths[20:]):
            with lake.writer() as writer:
                for path in part:
                    writer.put(path, path.encode())
                writer.delete(part[0])
    statement = f"""if True:
        from lakefeed import Feed, FeedOptions, Lake
        with Lake.open({str(tmp_path / "lake")!r}) as lake:
            snapshot, paths = lake.snapshot(), {paths[1:20]}
            assert len(snapshot.get_many(paths)) == len(snapshot.locate(paths)) == 19
            assert snapshot.get(paths[1]) and snapshot.ls("a") and snapshot.ls("a/1")
            assert sum(map(len, snapshot.scan("a"))) == 58
            for select in ("", "a/1", "a/*/*", paths):
                with Feed(lake, select, FeedOptions(batch_size=8)) as feed:
                    assert len(next(iter(feed)).paths) == 8
            lake.catalogue._cache_bytes = 0
            lake.catalogue.clear()
            assert [len(snapshot.locate(paths)) for _ in range(5)] == [19] * 5
            assert lake.catalogue.resident.held_bytes
    """
    assert not loaded_by(statement) & {"pandas"}
